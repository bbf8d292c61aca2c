from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz.checks.rtp import check_header_extensions, check_rtp
from triosfu.errors import MalformedPacket
from triosfu.rtp.wire import RtpPacket, build_rtp

SHORT = st.dictionaries(st.integers(1, 14), st.binary(min_size=1, max_size=16), max_size=5)
LONG = st.dictionaries(st.integers(1, 255), st.binary(max_size=255), max_size=5)


@given(
    ssrc=st.integers(0, 2**32 - 1),
    payload_type=st.integers(0, 127),
    sequence=st.integers(0, 2**16 - 1),
    timestamp=st.integers(0, 2**32 - 1),
    marker=st.booleans(),
    payload=st.binary(max_size=300),
    csrcs=st.lists(st.integers(0, 2**32 - 1), max_size=15),
    extensions=SHORT | LONG,
    padding=st.integers(0, 255),
)
def test_what_is_built_is_what_is_parsed(  # noqa: PLR0917  one argument per drawn field
    ssrc: int,
    payload_type: int,
    sequence: int,
    timestamp: int,
    marker: bool,
    payload: bytes,
    csrcs: list[int],
    extensions: dict[int, bytes],
    padding: int,
) -> None:
    data = build_rtp(
        ssrc=ssrc,
        payload_type=payload_type,
        sequence=sequence,
        timestamp=timestamp,
        marker=marker,
        payload=payload,
        csrcs=tuple(csrcs),
        extensions=extensions,
        padding=padding,
    )
    packet = RtpPacket.parse(data, 5.0)
    assert (packet.ssrc, packet.payload_type, packet.sequence) == (ssrc, payload_type, sequence)
    assert (packet.timestamp, packet.marker, packet.arrival) == (timestamp, marker, 5.0)
    assert (packet.payload, packet.padding) == (payload, padding)
    assert {number: data[start:end] for number, start, end in packet.elements()} == extensions
    for number in range(256):
        assert packet.extension(number) == extensions.get(number)
    check_rtp(data)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_packet_or_malformed(data: bytes) -> None:
    check_rtp(data)


@given(st.binary(min_size=12, max_size=120), st.integers(0, 0x3F), st.sampled_from([b"\xbe\xde", b"\x10\x00"]))
def test_any_body_behind_a_plausible_header_is_a_packet_or_malformed(data: bytes, bits: int, profile: bytes) -> None:
    offset = 12 + 4 * (bits & 15)
    check_rtp(bytes([0x80 | bits]) + data[1:offset] + profile + data[offset + 2 :])


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "0 bytes"),
        (bytes([0x40]) + bytes(11), "version 1"),
        (bytes([0x81]) + bytes(11), "ends within"),
        (bytes([0x90]) + bytes(14), "ends within"),
        (bytes([0x90]) + bytes(11) + b"\xbe\xde\x00\x01", "ends within"),
        (bytes([0xA0]) + bytes(12), "0 bytes of padding"),
        (bytes([0xA0]) + bytes(11) + b"\x02", "2 bytes of padding"),
    ],
)
def test_damage_is_named(data: bytes, complaint: str) -> None:
    with pytest.raises(MalformedPacket, match=complaint):
        RtpPacket.parse(data)


def with_block(profile: int, block: bytes) -> RtpPacket:
    head = bytes([0x90]) + bytes(11) + profile.to_bytes(2, "big") + (len(block) // 4).to_bytes(2, "big")
    return RtpPacket.parse(head + block)


def test_one_byte_elements_end_at_identifier_fifteen_and_skip_padding() -> None:
    packet = with_block(0xBEDE, b"\x00\x10\x01\x00\x20\x02\xf0\x00\x30\x03\x00\x00")
    assert packet.extension(1) == b"\x01"
    assert packet.extension(2) == b"\x02"
    assert packet.extension(3) is None
    assert packet.extension(15) is None


def test_two_byte_elements_may_be_empty_and_carry_free_bits_in_the_profile() -> None:
    packet = with_block(0x1005, b"\x01\x00\x00\x10\x02ab\x00")
    assert packet.extension(1) == b""
    assert packet.extension(16) == b"ab"


def test_an_element_that_is_longer_than_its_block_is_absent() -> None:
    assert with_block(0xBEDE, b"\x1f\x01\x02\x03").extension(1) is None
    assert with_block(0x1000, b"\x01\x03\x01\x02").extension(1) is None


def test_an_unknown_profile_holds_no_elements() -> None:
    assert list(with_block(0x1234, b"\x10\x01\x00\x00").elements()) == []


@given(st.binary(max_size=600))
@example(bytes.fromhex("02aabb01013004020001"))
def test_any_header_extensions_are_read_as_they_were_written(data: bytes) -> None:
    check_header_extensions(data)
