"""What the compiled kernel makes of outgoing RTP is what libsrtp makes of it, bit for bit, or refuses."""

from __future__ import annotations

from random import Random

import pylibsrtp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.srtp.test_core import keys_for, rtp
from triosfu.kernel import installed
from triosfu.rtp.wire import build_rtp
from triosfu.srtp import Outbound, SrtpError, SrtpKeys, SrtpProfile, gcm
from triosfu.srtp.gcm import compiled_gcm

pytestmark = pytest.mark.skipif(installed() is None, reason="the kernel is not installed")

PROFILES = SrtpProfile.AEAD_AES_128_GCM, SrtpProfile.AEAD_AES_256_GCM
PAYLOAD = Random(1).randbytes(1200)


def test_this_pylibsrtp_has_what_the_kernel_needs() -> None:
    """Red means: a new pylibsrtp hides its OpenSSL; media still flows through libsrtp, slower. Mend `srtp/gcm.py`."""
    assert compiled_gcm() is not None
    for profile in SrtpProfile:
        one = Outbound(keys_for(profile))
        assert (one.gcm is not None) == profile.is_aead
        assert (one.address == 0) == profile.is_aead


def both(keys: SrtpKeys) -> tuple[Outbound, Outbound]:
    ours, libsrtp = Outbound(keys), Outbound(keys, compiled=False)
    assert ours.gcm is not None
    assert libsrtp.gcm is None
    return ours, libsrtp


def outcome(one: Outbound, packet: bytes) -> bytes | str:
    try:
        return one.protect(packet)
    except SrtpError as error:
        return error.reason


class Numbers:
    """Sequence numbers that go on, leap, come late, wrap, and start anywhere."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def next(self, ssrc: int, start: int, step: int) -> int:
        number = self._last[ssrc] = (self._last[ssrc] + step if ssrc in self._last else start) & 0xFFFF
        return number


steps = st.tuples(
    st.integers(0, 2) | st.integers(0, 30),  # which SSRC
    st.integers(0, 0xFFFF) | st.sampled_from([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF]),  # where it starts
    st.sampled_from([1, 1, 1, 2, 0, -1, -5, 1000, -1022, -1023, -1024, -1025, 0x4000, 0x7FFF, 0x8000, 0x8001])
    | st.integers(-0x8000, 0x8000),
    st.integers(0, 3),  # contributing sources
    st.none() | st.binary(min_size=1, max_size=16),  # an extension
    st.sampled_from([0, 1, 15, 16, 17, 80, 1200]),  # bytes of payload
)


@given(profile=st.sampled_from(PROFILES), steps=st.lists(steps, max_size=60))
def test_packet_after_packet_is_what_libsrtp_makes_of_it(profile: SrtpProfile, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    ours, libsrtp = both(keys_for(profile))
    numbers = Numbers()
    for ssrc, start, step, csrcs, extension, size in steps:
        packet = build_rtp(
            ssrc=ssrc * 0x01000193,
            payload_type=96,
            sequence=numbers.next(ssrc, start, step),
            timestamp=ssrc,
            payload=PAYLOAD[:size],
            csrcs=tuple(range(csrcs)),
            extensions=None if extension is None else {1: extension},
        )
        assert outcome(ours, packet) == outcome(libsrtp, packet)


@given(packet=st.binary(max_size=100), profile=st.sampled_from(PROFILES))
def test_what_is_no_packet_is_refused_as_libsrtp_does(packet: bytes, profile: SrtpProfile) -> None:
    ours, libsrtp = both(keys_for(profile))
    assert outcome(ours, packet) == outcome(libsrtp, packet)


@given(head=st.binary(min_size=4, max_size=4), length=st.integers(12, 40))
def test_a_header_that_goes_beyond_the_end_is_refused(head: bytes, length: int) -> None:
    packet = bytes([0x9F]) + head[1:] + bytes(length - 4)
    ours, libsrtp = both(keys_for(PROFILES[0]))
    assert outcome(ours, packet) == outcome(libsrtp, packet)


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param([0x8001, 0xC000, 0x10001, 0x18001, 0x18002], id="half of all ahead, in the lower half"),
        pytest.param([0x8001, 0x9000, 0x11000], id="half of all ahead, in the upper half"),
        pytest.param([0x9000, 0x18000, 0x10000, 0x20000], id="half of all behind"),
        pytest.param([0x8000, 0x10000, 0x10001], id="in the middle, at first"),
        pytest.param([5000, 4000, 3000, 5001], id="behind what was late"),
        pytest.param([0xFFFF, 0x10000, 0xFFFF, 0xFFF0, 0x10001], id="again, across the end"),
    ],
)
def test_numbers_at_the_edges_are_taken_as_libsrtp_does(numbers: list[int]) -> None:
    ours, libsrtp = both(keys_for(PROFILES[0]))
    for number in numbers:
        assert outcome(ours, rtp(number)) == outcome(libsrtp, rtp(number))


def test_many_streams_keep_their_rollover_counters() -> None:
    ours, libsrtp = both(keys_for(PROFILES[0]))
    ssrcs = Random(2).sample(range(1 << 32), 500)
    for sequence in (40_000, 65_535, 65_536, 65_537):
        for ssrc in ssrcs:
            packet = rtp(sequence, 60, ssrc)
            assert ours.protect(packet) == libsrtp.protect(packet)


def test_no_nonce_is_used_twice_at_the_end_of_all_numbers() -> None:
    ours, _ = both(keys_for(PROFILES[0]))
    ours.protect(rtp(0xFFFE))
    assert ours.gcm is not None
    (stream,) = [ours.gcm.streams[at] for at in range(ours.gcm.mask + 1) if ours.gcm.streams[at].met]
    stream.index = (1 << 48) - 2
    ours.protect(rtp(0xFFFF))
    assert stream.index == (1 << 48) - 1
    with pytest.raises(SrtpError):
        ours.protect(rtp(0x10000))
    assert stream.index == (1 << 48) - 1


def test_nothing_is_written_behind_the_tag() -> None:
    ours, _ = both(keys_for(PROFILES[0]))
    for size in (12, 13, 200):
        room = bytearray(rtp(size, size)) + bytearray(b"\xee" * 50)
        pointer = gcm.ffi.from_buffer(room)
        assert ours.protect_in_place(pointer, size) == size + 16
        assert room[size + 16 :] == b"\xee" * 34


@pytest.mark.parametrize("function", gcm.FUNCTIONS)
def test_without_one_of_its_functions_libsrtp_is_used(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gcm.FUNCTIONS, function, "EVP_of_another_name")
    assert compiled_gcm.__wrapped__() is None


def test_where_pylibsrtp_has_no_such_library_libsrtp_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pylibsrtp._binding, "__file__", "/nowhere/binding.so")
    assert compiled_gcm.__wrapped__() is None


def test_where_packets_are_refused_libsrtp_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcm, "PROBES", gcm.PROBES[:1] * 2)
    assert compiled_gcm.__wrapped__() is not None
    monkeypatch.setattr(gcm, "WINDOW", 0)  # nothing may be sent again
    assert compiled_gcm.__wrapped__() is None


@pytest.mark.parametrize(("name", "value"), [("SALT", 3), ("KEY", 1)])
def test_where_packets_come_out_otherwise_libsrtp_is_used(
    name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcm, name, value)
    assert compiled_gcm.__wrapped__() is None
