from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.checks.dcep import check_dcep
from triosfu.datachannel.wire import Ack, Open, parse_dcep
from triosfu.errors import MalformedPacket

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(deadline=None)
@given(st.sampled_from([0, 1, 2, 0x80, 0x81, 0x82]), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), text, text)
def test_an_open_survives_the_wire(kind: int, priority: int, reliability: int, label: str, protocol: str) -> None:
    message = Open(kind, priority, reliability, label, protocol)
    assert parse_dcep(message.serialize()) == message
    check_dcep(message.serialize())


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_dcep_or_malformed(data: bytes) -> None:
    check_dcep(data)
    check_dcep(b"\3" + data)


def test_the_layout_is_that_of_the_rfc() -> None:
    message = Open.for_channel("ab", "c", ordered=False, max_retransmits=None, lifetime=1.5)
    assert message.serialize().hex() == "03" + "82" + "0100" + "000005dc" + "0002" + "0001" + "616263"
    assert (message.ordered, message.max_retransmits, message.lifetime) == (False, None, 1.5)
    assert Ack().serialize() == b"\2"


def test_a_padded_ack_is_an_ack() -> None:
    assert parse_dcep(b"\2\0\0\0") == Ack()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\3",
        b"\4" + bytes(11),
        bytes.fromhex("03000000000000000001" + "0000"),  # a label of one byte that is not there
        bytes.fromhex("03000000000000000000" + "0000" + "61"),  # a byte too much
        bytes.fromhex("03030000000000000000" + "0000"),  # an unknown channel type
        bytes.fromhex("03000000000000000001" + "0000" + "ff"),  # no UTF-8
    ],
)
def test_what_cannot_be_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedPacket):
        parse_dcep(data)
