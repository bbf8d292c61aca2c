from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.checks.sctp import check_sctp
from triosfu.errors import MalformedPacket
from triosfu.sctp.parameters import OutgoingReset, ReconfigResponse, Tlv, describe_causes, parse_reconfig, parse_tlvs
from triosfu.sctp.serial import SSN_MASK, TSN_MASK, is_ahead, unwrap
from triosfu.sctp.wire import (
    Abort,
    Chunk,
    CookieAck,
    CookieEcho,
    Data,
    Error,
    ForwardTsn,
    Heartbeat,
    IData,
    IForwardTsn,
    Init,
    Packet,
    ReConfig,
    Sack,
    Shutdown,
    ShutdownAck,
    ShutdownComplete,
    Unknown,
    parse_chunks,
)

u8 = st.integers(0, 0xFF)
u16 = st.one_of(st.integers(0, 12), st.integers(0, 0xFFFF))
u32 = st.one_of(st.integers(95, 120), st.integers(0, 0xFFFFFFFF))  # the fuzzed associations start at TSN 100
body = st.binary(max_size=60)
tlvs = st.lists(st.builds(Tlv, u16, body), max_size=3).map(tuple)
gaps = st.lists(u16, max_size=4).map(lambda values: tuple(values * 2))
known_types = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 64, 130, 192, 194}

chunks = st.one_of(
    st.builds(Data, u8, u32, u16, u16, u32, body),
    st.builds(Sack, u32, u32, gaps, st.lists(u32, max_size=4).map(tuple)),
    st.builds(Init, st.booleans(), u32, u32, u16, u16, u32, tlvs),
    st.builds(Heartbeat, st.booleans(), body),
    st.builds(Abort, st.booleans(), tlvs),
    st.builds(Error, tlvs),
    st.builds(Shutdown, u32),
    st.builds(ShutdownAck),
    st.builds(ShutdownComplete, st.booleans()),
    st.builds(CookieEcho, body),
    st.builds(CookieAck),
    st.builds(IData, u8, u32, u16, u32, u32, body),
    st.builds(ReConfig, tlvs),
    st.builds(ForwardTsn, u32, st.lists(st.tuples(u16, u16), max_size=4).map(tuple)),
    st.builds(IForwardTsn, u32, st.lists(st.tuples(u16, st.booleans(), u32), max_size=4).map(tuple)),
    st.builds(Unknown, u8.filter(lambda kind: kind not in known_types), u8, body),
)


@settings(deadline=None)
@given(u16, u16, u32, st.lists(chunks, max_size=5))
def test_a_packet_survives_the_wire(source: int, destination: int, tag: int, content: list[Chunk]) -> None:
    packet = Packet(source, destination, tag, content)
    assert Packet.parse(packet.serialize()) == packet


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_a_packet_or_malformed_packet(data: bytes) -> None:
    check_sctp(data)


@settings(deadline=None)
@given(st.lists(chunks, min_size=1, max_size=3), st.data())
def test_a_damaged_packet_is_noticed_or_harmless(content: list[Chunk], data: st.DataObject) -> None:
    whole = bytearray(Packet(5000, 5000, 7, content).serialize())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MalformedPacket):
        Packet.parse(bytes(whole))
    check_sctp(bytes(whole[12:]))


def test_the_checksum_is_crc32c_stored_little_endian() -> None:
    # A COOKIE ACK to port 5000, its checksum computed bit by bit from the polynomial 0x1EDC6F41.
    packet = Packet(5000, 5000, 0x01020304, [CookieAck()]).serialize()
    crc = 0xFFFFFFFF
    for byte in packet[:8] + bytes(4) + packet[12:]:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    assert packet[8:12] == (crc ^ 0xFFFFFFFF).to_bytes(4, "little")


def test_data_has_the_layout_of_the_rfc() -> None:
    chunk = Data(flags=3, tsn=0x01020304, stream_id=0x0506, ssn=0x0708, ppid=51, payload=b"abcde")
    assert chunk.serialize().hex() == "00030015" + "01020304" + "05060708" + "00000033" + "6162636465" + "000000"


def test_the_padding_of_the_last_chunk_may_be_missing() -> None:
    whole = Data(3, 1, 2, 3, 4, b"abcde").serialize()
    assert parse_chunks(bytes(12) + whole[:-3]) == parse_chunks(bytes(12) + whole)


@pytest.mark.parametrize(
    "damaged",
    [
        bytes.fromhex("00030010"),  # runs past the end
        bytes.fromhex("00030003"),  # shorter than its own header
        bytes.fromhex("0003000f") + bytes(12),  # DATA without room for its fields
        bytes.fromhex("0300000c") + bytes(8),  # SACK without room for its fields
        bytes.fromhex("03000010") + bytes(8) + b"\x00\x01\x00\x00",  # a gap block is announced, none is there
        bytes.fromhex("c0000006") + bytes(4),  # FORWARD-TSN with half an entry
        bytes.fromhex("0b000004") + b"\0\0",  # half a chunk header
    ],
)
def test_a_broken_chunk_voids_its_packet(damaged: bytes) -> None:
    with pytest.raises(MalformedPacket):
        parse_chunks(bytes(12) + damaged)


def test_an_abort_with_unreadable_causes_is_an_abort() -> None:
    assert parse_chunks(bytes(12) + bytes.fromhex("0601000800ff00ff")) == [Abort(True)]


def test_reconfig_parameters_survive_the_wire() -> None:
    for parameter in (OutgoingReset(1, 2, 3, (4, 5, 65535)), OutgoingReset(1, 2, 3, ()), ReconfigResponse(9, 6)):
        (tlv,) = parse_tlvs(parameter.tlv().serialize())
        assert parse_reconfig(tlv) == parameter


def test_causes_are_described_without_control_characters() -> None:
    text = describe_causes([Tlv(12, b"bye\x1b[2J"), Tlv(4711, b"")])
    assert text == "user abort (bye[2J), cause 4711"


@settings(deadline=None)
@given(st.integers(0, 1 << 40), st.integers(-(2**31), 2**31 - 1))
def test_unwrapping_finds_the_nearest(near: int, distance: int) -> None:
    assert unwrap((near + distance) & 0xFFFFFFFF, near) == near + distance


def test_half_the_circle_is_not_ahead() -> None:
    assert unwrap(0x80000000, 0) < 0
    assert not is_ahead(0x8000, 0, SSN_MASK)
    assert is_ahead(0x8000, 0, TSN_MASK)
    assert not is_ahead(0x80000000, 0, TSN_MASK)
    assert is_ahead(0, 0xFFFF, SSN_MASK)
    assert not is_ahead(5, 5, SSN_MASK)
