"""SCTP packets and chunks on the wire (RFC 9260, section 3; RFC 3758, 6525, 8260).

Parsing is total: any bytes give a `Packet` or `MalformedPacket`. DATA and SACK are the hot path and have mutable slots
classes, which are cheaper to make than frozen ones; nobody changes them after parsing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import google_crc32c

from triosfu.errors import MalformedPacket
from triosfu.sctp.parameters import Tlv, pad, parse_tlvs, serialize_tlvs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMON_HEADER = struct.Struct("!HHI")  # ports and verification tag; the checksum follows, little-endian
CHECKSUM = struct.Struct("<I")  # the one little-endian field of the protocol
CHUNK_HEADER = struct.Struct("!BBH")
DATA_HEADER = struct.Struct("!BBHIHHI")
IDATA_HEADER = struct.Struct("!BBHIHHII")
SACK_HEADER = struct.Struct("!BBHIIHH")
_DATA_FIELDS = struct.Struct("!IHHI")
_IDATA_FIELDS = struct.Struct("!IHHII")
_INIT_FIELDS = struct.Struct("!IIHHI")
_SACK_FIELDS = struct.Struct("!IIHH")
_WORD = struct.Struct("!I")
PACKET_HEADER_SIZE = 12
DATA_HEADER_SIZE = 16
IDATA_HEADER_SIZE = 20
NO_CHECKSUM = b"\0\0\0\0"

END, BEGIN, UNORDERED, IMMEDIATE = 1, 2, 4, 8  # flags of DATA
TAG_REFLECTED = 1  # flag T of ABORT and SHUTDOWN COMPLETE


class ChunkType(IntEnum):
    """Chunk types that this implementation knows."""

    DATA = 0
    INIT = 1
    INIT_ACK = 2
    SACK = 3
    HEARTBEAT = 4
    HEARTBEAT_ACK = 5
    ABORT = 6
    SHUTDOWN = 7
    SHUTDOWN_ACK = 8
    ERROR = 9
    COOKIE_ECHO = 10
    COOKIE_ACK = 11
    SHUTDOWN_COMPLETE = 14
    I_DATA = 64
    RE_CONFIG = 130
    PAD = 132
    FORWARD_TSN = 192
    I_FORWARD_TSN = 194


def _chunk(kind: int, flags: int, body: bytes) -> bytes:
    return pad(CHUNK_HEADER.pack(kind, flags, 4 + len(body)) + body)


@dataclass(slots=True)
class Data:
    """DATA: one fragment of a user message (RFC 9260, section 3.3.1)."""

    flags: int
    tsn: int
    stream_id: int
    ssn: int
    ppid: int
    payload: bytes

    def serialize(self) -> bytes:
        """The chunk's bytes, padded."""
        length = DATA_HEADER_SIZE + len(self.payload)
        header = DATA_HEADER.pack(ChunkType.DATA, self.flags, length, self.tsn, self.stream_id, self.ssn, self.ppid)
        return pad(header + self.payload)


@dataclass(slots=True)
class Sack:
    """SACK: what has arrived (RFC 9260, section 3.3.4). `gaps` are offsets from the cumulative TSN, flattened."""

    cumulative_tsn: int
    a_rwnd: int
    gaps: tuple[int, ...] = ()  # start, end, start, end, ...
    duplicates: tuple[int, ...] = ()

    @classmethod
    def parse(cls, flags: int, body: bytes) -> Sack:  # noqa: ARG003  one signature for all chunks
        """Read the body of a SACK."""
        if len(body) < 12:
            raise MalformedPacket("sctp: SACK is too short")
        cumulative_tsn, a_rwnd, gaps, duplicates = _SACK_FIELDS.unpack_from(body)
        if not gaps and not duplicates:
            return cls(cumulative_tsn, a_rwnd)
        if len(body) < 12 + 4 * (gaps + duplicates):
            raise MalformedPacket("sctp: SACK announces more blocks than it holds")
        return cls(
            cumulative_tsn,
            a_rwnd,
            struct.unpack_from(f"!{2 * gaps}H", body, 12),
            struct.unpack_from(f"!{duplicates}I", body, 12 + 4 * gaps),
        )

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        gaps, duplicates = len(self.gaps), len(self.duplicates)
        header = SACK_HEADER.pack(
            ChunkType.SACK,
            0,
            16 + 2 * gaps + 4 * duplicates,
            self.cumulative_tsn,
            self.a_rwnd,
            gaps // 2,
            duplicates,
        )
        if not gaps and not duplicates:
            return header
        return header + struct.pack(f"!{gaps}H{duplicates}I", *self.gaps, *self.duplicates)


@dataclass(frozen=True, slots=True)
class Init:
    """INIT or INIT ACK (RFC 9260, sections 3.3.2 and 3.3.3)."""

    ack: bool
    tag: int
    a_rwnd: int
    outbound_streams: int
    inbound_streams: int
    tsn: int
    parameters: tuple[Tlv, ...] = ()

    @classmethod
    def parse(cls, ack: bool, body: bytes) -> Init:  # noqa: FBT001  the chunk's type, as a value
        """Read the body of an INIT or INIT ACK."""
        if len(body) < _INIT_FIELDS.size:
            raise MalformedPacket("sctp: INIT is too short")
        tag, a_rwnd, outbound, inbound, tsn = _INIT_FIELDS.unpack_from(body)
        return cls(ack, tag, a_rwnd, outbound, inbound, tsn, parse_tlvs(body[_INIT_FIELDS.size :]))

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        fixed = _INIT_FIELDS.pack(self.tag, self.a_rwnd, self.outbound_streams, self.inbound_streams, self.tsn)
        kind = ChunkType.INIT_ACK if self.ack else ChunkType.INIT
        return _chunk(kind, 0, fixed + serialize_tlvs(self.parameters))


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """HEARTBEAT or HEARTBEAT ACK; the body comes back byte for byte (RFC 9260, sections 3.3.5 and 3.3.6)."""

    ack: bool
    body: bytes

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        return _chunk(ChunkType.HEARTBEAT_ACK if self.ack else ChunkType.HEARTBEAT, 0, self.body)


@dataclass(frozen=True, slots=True)
class Abort:
    """ABORT: the end, at once (RFC 9260, section 3.3.7). Unreadable causes do not make it less of an end."""

    reflected: bool
    causes: tuple[Tlv, ...] = ()

    @classmethod
    def parse(cls, flags: int, body: bytes) -> Abort:
        """Read an ABORT; whatever its causes look like it is one."""
        try:
            causes = parse_tlvs(body)
        except MalformedPacket:
            causes = ()
        return cls(bool(flags & TAG_REFLECTED), causes)

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        return _chunk(ChunkType.ABORT, TAG_REFLECTED if self.reflected else 0, serialize_tlvs(self.causes))


@dataclass(frozen=True, slots=True)
class Error:
    """ERROR: something was wrong, the association lives on (RFC 9260, section 3.3.10)."""

    causes: tuple[Tlv, ...]

    @classmethod
    def parse(cls, flags: int, body: bytes) -> Error:  # noqa: ARG003
        """Read the causes of an ERROR."""
        return cls(parse_tlvs(body))

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        return _chunk(ChunkType.ERROR, 0, serialize_tlvs(self.causes))


@dataclass(frozen=True, slots=True)
class Shutdown:
    """SHUTDOWN, with the cumulative TSN of its sender (RFC 9260, section 3.3.8)."""

    cumulative_tsn: int

    @classmethod
    def parse(cls, flags: int, body: bytes) -> Shutdown:  # noqa: ARG003
        """Read a SHUTDOWN."""
        if len(body) < 4:
            raise MalformedPacket("sctp: SHUTDOWN is too short")
        return cls(_WORD.unpack_from(body)[0])

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        return _chunk(ChunkType.SHUTDOWN, 0, _WORD.pack(self.cumulative_tsn))


@dataclass(frozen=True, slots=True)
class CookieEcho:
    """COOKIE ECHO (RFC 9260, section 3.3.11)."""

    cookie: bytes

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        return _chunk(ChunkType.COOKIE_ECHO, 0, self.cookie)


@dataclass(frozen=True, slots=True)
class CookieAck:
    """COOKIE ACK (RFC 9260, section 3.3.12)."""

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        return _chunk(ChunkType.COOKIE_ACK, 0, b"")


@dataclass(frozen=True, slots=True)
class ShutdownAck:
    """SHUTDOWN ACK (RFC 9260, section 3.3.9)."""

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        return _chunk(ChunkType.SHUTDOWN_ACK, 0, b"")


@dataclass(frozen=True, slots=True)
class ShutdownComplete:
    """SHUTDOWN COMPLETE (RFC 9260, section 3.3.13)."""

    reflected: bool

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        return _chunk(ChunkType.SHUTDOWN_COMPLETE, TAG_REFLECTED if self.reflected else 0, b"")


@dataclass(slots=True)
class IData:
    """I-DATA: a fragment that may be interleaved with others (RFC 8260, section 2.1).

    `fsn_or_ppid` is the payload protocol id in a first fragment, the fragment's number in all others.
    """

    flags: int
    tsn: int
    stream_id: int
    mid: int
    fsn_or_ppid: int
    payload: bytes

    def serialize(self) -> bytes:
        """The chunk's bytes, padded."""
        length = IDATA_HEADER_SIZE + len(self.payload)
        fields = (self.tsn, self.stream_id, 0, self.mid, self.fsn_or_ppid)
        return pad(IDATA_HEADER.pack(ChunkType.I_DATA, self.flags, length, *fields) + self.payload)


@dataclass(frozen=True, slots=True)
class ReConfig:
    """RE-CONFIG: one or two requests or responses (RFC 6525, section 3.1)."""

    parameters: tuple[Tlv, ...]

    @classmethod
    def parse(cls, flags: int, body: bytes) -> ReConfig:  # noqa: ARG003
        """Read the parameters of a RE-CONFIG."""
        return cls(parse_tlvs(body))

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        return _chunk(ChunkType.RE_CONFIG, 0, serialize_tlvs(self.parameters))


@dataclass(frozen=True, slots=True)
class ForwardTsn:
    """FORWARD-TSN: "do not wait for what is up to here" (RFC 3758, section 3.2)."""

    cumulative_tsn: int
    streams: tuple[tuple[int, int], ...] = ()  # (stream id, highest skipped SSN)

    @classmethod
    def parse(cls, flags: int, body: bytes) -> ForwardTsn:  # noqa: ARG003
        """Read a FORWARD-TSN."""
        if len(body) < 4 or len(body) % 4:
            raise MalformedPacket(f"sctp: FORWARD-TSN of {len(body)} bytes")
        pairs = struct.unpack_from(f"!{(len(body) - 4) // 2}H", body, 4)
        return cls(_WORD.unpack_from(body)[0], tuple(zip(pairs[::2], pairs[1::2], strict=True)))

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        pairs = b"".join([struct.pack("!HH", *pair) for pair in self.streams])
        return _chunk(ChunkType.FORWARD_TSN, 0, _WORD.pack(self.cumulative_tsn) + pairs)


@dataclass(frozen=True, slots=True)
class IForwardTsn:
    """I-FORWARD-TSN (RFC 8260, section 2.3)."""

    cumulative_tsn: int
    streams: tuple[tuple[int, bool, int], ...] = ()  # (stream id, unordered, MID)

    @classmethod
    def parse(cls, flags: int, body: bytes) -> IForwardTsn:  # noqa: ARG003
        """Read an I-FORWARD-TSN."""
        if len(body) < 4 or len(body) % 8 != 4:
            raise MalformedPacket(f"sctp: I-FORWARD-TSN of {len(body)} bytes")
        entries = [(sid, bool(flag & 1), mid) for sid, flag, mid in struct.iter_unpack("!HHI", body[4:])]
        return cls(_WORD.unpack_from(body)[0], tuple(entries))

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        entries = b"".join([struct.pack("!HHI", sid, unordered, mid) for sid, unordered, mid in self.streams])
        return _chunk(ChunkType.I_FORWARD_TSN, 0, _WORD.pack(self.cumulative_tsn) + entries)


@dataclass(frozen=True, slots=True)
class Unknown:
    """A chunk of a type we do not know; the two top bits of the type say what to do with it."""

    type: int
    flags: int
    body: bytes

    def serialize(self) -> bytes:
        """The chunk's bytes."""
        return _chunk(self.type, self.flags, self.body)


Chunk = (
    Data
    | Sack
    | Init
    | Heartbeat
    | Abort
    | Error
    | Shutdown
    | ShutdownAck
    | ShutdownComplete
    | CookieEcho
    | CookieAck
    | IData
    | ReConfig
    | ForwardTsn
    | IForwardTsn
    | Unknown
)

_PARSERS: dict[int, Callable[[int, bytes], Chunk]] = {
    ChunkType.INIT: lambda _flags, body: Init.parse(False, body),
    ChunkType.INIT_ACK: lambda _flags, body: Init.parse(True, body),
    ChunkType.SACK: Sack.parse,
    ChunkType.HEARTBEAT: lambda _flags, body: Heartbeat(False, body),
    ChunkType.HEARTBEAT_ACK: lambda _flags, body: Heartbeat(True, body),
    ChunkType.ABORT: Abort.parse,
    ChunkType.SHUTDOWN: Shutdown.parse,
    ChunkType.SHUTDOWN_ACK: lambda _flags, _body: ShutdownAck(),
    ChunkType.ERROR: Error.parse,
    ChunkType.COOKIE_ECHO: lambda _flags, body: CookieEcho(body),
    ChunkType.COOKIE_ACK: lambda _flags, _body: CookieAck(),
    ChunkType.SHUTDOWN_COMPLETE: lambda flags, _body: ShutdownComplete(bool(flags & TAG_REFLECTED)),
    ChunkType.RE_CONFIG: ReConfig.parse,
    ChunkType.FORWARD_TSN: ForwardTsn.parse,
    ChunkType.I_FORWARD_TSN: IForwardTsn.parse,
}


_IDATA = int(ChunkType.I_DATA)


def checksum_is_right(data: bytes) -> bool:
    """Does the packet's CRC-32C match its content?"""
    crc = google_crc32c.extend(google_crc32c.value(data[:8] + NO_CHECKSUM), data[PACKET_HEADER_SIZE:])
    return bool(data[8:12] == CHECKSUM.pack(crc))


def parse_chunks(data: bytes) -> list[Chunk]:
    """All chunks of a packet; its header and checksum are the caller's business.

    Raises:
        MalformedPacket: A chunk does not fit into the packet or its body is wrong. The whole packet is then void, so
            that a broken packet never does half of its work.
    """
    position, end = PACKET_HEADER_SIZE, len(data)
    chunks: list[Chunk] = []
    while end - position >= 4:
        kind, flags, length = CHUNK_HEADER.unpack_from(data, position)
        stop = position + length
        if length < 4 or stop > end:
            raise MalformedPacket(f"sctp: chunk {kind} of length {length} does not fit")
        if kind == 0:
            if length < DATA_HEADER_SIZE:
                raise MalformedPacket("sctp: DATA is too short")
            tsn, stream_id, ssn, ppid = _DATA_FIELDS.unpack_from(data, position + 4)
            chunks.append(Data(flags, tsn, stream_id, ssn, ppid, data[position + DATA_HEADER_SIZE : stop]))
        elif kind == _IDATA:
            if length < IDATA_HEADER_SIZE:
                raise MalformedPacket("sctp: I-DATA is too short")
            tsn, stream_id, _reserved, mid, fsn_or_ppid = _IDATA_FIELDS.unpack_from(data, position + 4)
            chunks.append(IData(flags, tsn, stream_id, mid, fsn_or_ppid, data[position + IDATA_HEADER_SIZE : stop]))
        else:
            body = data[position + 4 : stop]
            parser = _PARSERS.get(kind)
            chunks.append(Unknown(kind, flags, body) if parser is None else parser(flags, body))
        position = (stop + 3) & ~3
    if position < end:
        raise MalformedPacket(f"sctp: {end - position} bytes left where a chunk should start")
    return chunks


@dataclass(slots=True)
class Packet:
    """A whole SCTP packet: ports, verification tag and chunks."""

    source_port: int
    destination_port: int
    tag: int
    chunks: list[Chunk]

    @classmethod
    def parse(cls, data: bytes) -> Packet:
        """Read a packet.

        Raises:
            MalformedPacket: It is shorter than a header, its checksum is wrong, or a chunk in it is broken.
        """
        if len(data) < PACKET_HEADER_SIZE:
            raise MalformedPacket(f"sctp: {len(data)} bytes is shorter than a header")
        if not checksum_is_right(data):
            raise MalformedPacket("sctp: wrong checksum")
        source_port, destination_port, tag = COMMON_HEADER.unpack_from(data)
        return cls(source_port, destination_port, tag, parse_chunks(data))

    def serialize(self) -> bytes:
        """The packet's bytes with their checksum."""
        header = PacketHeader(self.source_port, self.destination_port, self.tag)
        return header.packet([chunk.serialize() for chunk in self.chunks])


class PacketHeader:
    """A common header made once and used for every packet of an association."""

    __slots__ = ("_bytes", "_crc")

    def __init__(self, source_port: int, destination_port: int, tag: int) -> None:
        self._bytes = COMMON_HEADER.pack(source_port, destination_port, tag)
        self._crc = google_crc32c.value(self._bytes + NO_CHECKSUM)

    def packet(self, pieces: Sequence[bytes]) -> bytes:
        """The packet that consists of this header and `pieces`, which must be padded chunks."""
        body = b"".join(pieces)
        return b"".join((self._bytes, CHECKSUM.pack(google_crc32c.extend(self._crc, body)), body))

    def packet_without_checksum(self, pieces: Sequence[bytes]) -> bytes:
        """The packet for a peer that has DTLS look after its bits (RFC 9653)."""
        return b"".join((self._bytes, NO_CHECKSUM, *pieces))
