"""The private pieces of pylibsrtp are where we look for them, and we notice when they are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pylibsrtp

from triosfu.srtp import SrtpProfile, binding
from triosfu.srtp.binding import CopyingSession, Direction, InPlaceSession, open_session

if TYPE_CHECKING:
    import pytest

KEY = bytes(28)


def test_this_pylibsrtp_allows_the_in_place_path() -> None:
    """Red means: a new pylibsrtp moved its binding; media still flows, slower. Mend `srtp/binding.py`."""
    assert binding.in_place_available()
    session = open_session(SrtpProfile.AEAD_AES_128_GCM, KEY, Direction.OUTBOUND)
    assert isinstance(session, InPlaceSession)


def test_the_error_texts_we_know_are_those_of_pylibsrtp() -> None:
    names = {"auth": "authentication failure", "replay": "replay check failed (bad index)"}
    for reason, text in names.items():
        assert text in pylibsrtp.ERRORS
        assert binding.REASONS[pylibsrtp.ERRORS.index(text)] == reason
        assert binding._reason(text) == reason


def test_the_public_path_can_be_forced() -> None:
    session = open_session(SrtpProfile.AEAD_AES_128_GCM, KEY, Direction.OUTBOUND, copying=True)
    assert isinstance(session, CopyingSession)


def test_without_the_private_binding_the_public_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(pylibsrtp, "_binding")
    monkeypatch.setattr(binding, "in_place_available", binding.in_place_available.__wrapped__)  # which looks again
    assert not binding.in_place_available()
    session = open_session(SrtpProfile.AEAD_AES_128_GCM, KEY, Direction.OUTBOUND)
    assert isinstance(session, CopyingSession)
