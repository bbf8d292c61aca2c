"""RTCP reports and identities: SR, RR, SDES, BYE (RFC 3550, section 6) and XR with RRTR and DLRR (RFC 3611)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple, Self

from triosfu.errors import MalformedPacket
from triosfu.rtp.framing import frame

BLOCK = struct.Struct("!IIIIII")
SENDER = struct.Struct("!IQIII")  # ssrc, NTP, RTP timestamp, packets, octets
WORD = struct.Struct("!I")
XR_BLOCK = struct.Struct("!BBH")  # type, type specific, length in words
RRTR = struct.Struct("!Q")
DLRR = struct.Struct("!III")
CNAME = 1
MAX_REPORTS = 31  # what the five-bit count holds


class ReportBlock(NamedTuple):
    """What a receiver says about one stream (RFC 3550, section 6.4.1). Times are in 1/65536 s, 0 means no SR yet."""

    ssrc: int
    fraction_lost: int  # in 1/256
    cumulative_lost: int  # signed, 24 bits
    highest_sequence: int  # extended
    jitter: int  # timestamp units
    last_sr: int
    delay_since_last_sr: int

    def serialize(self) -> bytes:
        """The block as bytes; the loss is clamped to its 24 bits."""
        lost = max(-0x800000, min(0x7FFFFF, self.cumulative_lost)) & 0xFFFFFF
        return BLOCK.pack(
            self.ssrc,
            self.fraction_lost << 24 | lost,
            self.highest_sequence,
            self.jitter,
            self.last_sr,
            self.delay_since_last_sr,
        )


def parse_blocks(body: bytes, offset: int, count: int) -> tuple[ReportBlock, ...]:
    """`count` report blocks from `offset` on; what follows them (a profile's extension) is left alone."""
    if offset + count * BLOCK.size > len(body):
        raise MalformedPacket(f"rtcp: no room for {count} report blocks")
    if not count:
        return ()
    blocks = []
    for _ in range(count):
        ssrc, loss, highest, jitter, last_sr, delay = BLOCK.unpack_from(body, offset)
        cumulative = (loss & 0xFFFFFF ^ 0x800000) - 0x800000
        blocks.append(ReportBlock(ssrc, loss >> 24, cumulative, highest, jitter, last_sr, delay))
        offset += BLOCK.size
    return tuple(blocks)


@dataclass(frozen=True, slots=True)
class SenderReport:
    """SR: wall clock and media clock of one stream, and what its sender receives (RFC 3550, section 6.4.1)."""

    ssrc: int
    ntp: int  # 32.32 fixed seconds since 1900
    rtp_timestamp: int
    packet_count: int
    octet_count: int
    reports: tuple[ReportBlock, ...] = ()

    @classmethod
    def parse_body(cls, count: int, body: bytes) -> Self:
        """Read the packet behind its header."""
        if len(body) < SENDER.size:
            raise MalformedPacket("rtcp: sender report is too short")
        ssrc, ntp, timestamp, packets, octets = SENDER.unpack_from(body)
        return cls(ssrc, ntp, timestamp, packets, octets, parse_blocks(body, SENDER.size, count))

    def serialize(self) -> bytes:
        """The packet with its header."""
        sender = SENDER.pack(self.ssrc, self.ntp, self.rtp_timestamp, self.packet_count, self.octet_count)
        return frame(200, len(self.reports), sender + b"".join(block.serialize() for block in self.reports))


@dataclass(frozen=True, slots=True)
class ReceiverReport:
    """RR: what we receive, by somebody who sends nothing (RFC 3550, section 6.4.2). At most 31 blocks."""

    ssrc: int
    reports: tuple[ReportBlock, ...] = ()

    @classmethod
    def parse_body(cls, count: int, body: bytes) -> Self:
        """Read the packet behind its header."""
        if len(body) < 4:
            raise MalformedPacket("rtcp: receiver report is too short")
        return cls(WORD.unpack_from(body)[0], parse_blocks(body, 4, count))

    def serialize(self) -> bytes:
        """The packet with its header."""
        blocks = b"".join(block.serialize() for block in self.reports)
        return frame(201, len(self.reports), WORD.pack(self.ssrc) + blocks)


@dataclass(frozen=True, slots=True)
class SdesChunk:
    """The items of one source as (type, text in UTF-8)."""

    ssrc: int
    items: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Sdes:
    """Who a source is (RFC 3550, section 6.5)."""

    chunks: tuple[SdesChunk, ...]

    @classmethod
    def cname(cls, ssrc: int, name: str) -> Self:
        """The one item that matters: sources with the same name play in sync."""
        return cls((SdesChunk(ssrc, ((CNAME, name.encode()),)),))

    @classmethod
    def parse_body(cls, count: int, body: bytes) -> Self:
        """Read the packet behind its header."""
        chunks, position, size = [], 0, len(body)
        for _ in range(count):
            if position + 4 > size:
                raise MalformedPacket("rtcp: ends within an sdes chunk")
            ssrc = WORD.unpack_from(body, position)[0]
            position += 4
            items = []
            while True:
                if position >= size:
                    raise MalformedPacket("rtcp: sdes chunk without an end")
                if body[position] == 0:
                    break
                if position + 2 > size or position + 2 + body[position + 1] > size:
                    raise MalformedPacket("rtcp: ends within an sdes item")
                end = position + 2 + body[position + 1]
                items.append((body[position], body[position + 2 : end]))
                position = end
            position = (position + 4) & ~3  # one to four zero bytes end a chunk on a word
            chunks.append(SdesChunk(ssrc, tuple(items)))
        return cls(tuple(chunks))

    def serialize(self) -> bytes:
        """The packet with its header."""
        body = b""
        for chunk in self.chunks:
            items = b"".join(bytes([kind, len(text)]) + text for kind, text in chunk.items)
            body += WORD.pack(chunk.ssrc) + items + bytes(4 - len(items) % 4)
        return frame(202, len(self.chunks), body)


@dataclass(frozen=True, slots=True)
class Bye:
    """These sources are gone (RFC 3550, section 6.6)."""

    ssrcs: tuple[int, ...]
    reason: bytes = b""

    @classmethod
    def parse_body(cls, count: int, body: bytes) -> Self:
        """Read the packet behind its header."""
        end = 4 * count
        if end > len(body):
            raise MalformedPacket(f"rtcp: no room for {count} sources in a bye")
        reason = b""
        if end < len(body):
            reason = body[end + 1 : end + 1 + body[end]]
            if len(reason) != body[end]:
                raise MalformedPacket("rtcp: ends within the reason of a bye")
        return cls(struct.unpack_from(f"!{count}I", body), reason)

    def serialize(self) -> bytes:
        """The packet with its header."""
        body = struct.pack(f"!{len(self.ssrcs)}I", *self.ssrcs)
        if self.reason:
            body += bytes([len(self.reason)]) + self.reason
        return frame(203, len(self.ssrcs), body + bytes(-len(body) % 4))


@dataclass(frozen=True, slots=True)
class ReceiverReferenceTime:
    """RRTR: the clock of somebody who sends nothing, so that a DLRR can answer it (RFC 3611, section 4.4)."""

    ntp: int

    def serialize(self) -> bytes:
        """The block with its header."""
        return XR_BLOCK.pack(4, 0, 2) + RRTR.pack(self.ntp)


@dataclass(frozen=True, slots=True)
class DelaySinceLastRr:
    """One sub-block of a DLRR: the middle of the last RRTR and the time since then, both in 1/65536 s."""

    ssrc: int
    last_rr: int
    delay: int


@dataclass(frozen=True, slots=True)
class Dlrr:
    """DLRR: the answer to RRTRs (RFC 3611, section 4.5)."""

    reports: tuple[DelaySinceLastRr, ...]

    def serialize(self) -> bytes:
        """The block with its header."""
        body = b"".join(DLRR.pack(report.ssrc, report.last_rr, report.delay) for report in self.reports)
        return XR_BLOCK.pack(5, 0, len(body) // 4) + body


@dataclass(frozen=True, slots=True)
class OtherXrBlock:
    """A block of a kind that nothing here uses."""

    block_type: int
    specific: int
    body: bytes

    def serialize(self) -> bytes:
        """The block with its header."""
        return XR_BLOCK.pack(self.block_type, self.specific, len(self.body) // 4) + self.body


@dataclass(frozen=True, slots=True)
class Xr:
    """Extended report (RFC 3611, section 2)."""

    ssrc: int
    blocks: tuple[ReceiverReferenceTime | Dlrr | OtherXrBlock, ...]

    @classmethod
    def parse_body(cls, _count: int, body: bytes) -> Self:
        """Read the packet behind its header."""
        if len(body) < 4:
            raise MalformedPacket("rtcp: extended report is too short")
        blocks: list[ReceiverReferenceTime | Dlrr | OtherXrBlock] = []
        position, size = 4, len(body)
        while position < size:
            if position + 4 > size:
                raise MalformedPacket("rtcp: ends within the header of an xr block")
            kind, specific, words = XR_BLOCK.unpack_from(body, position)
            start, position = position + 4, position + 4 + 4 * words
            if position > size:
                raise MalformedPacket("rtcp: ends within an xr block")
            if kind == 4 and words == 2:
                blocks.append(ReceiverReferenceTime(RRTR.unpack_from(body, start)[0]))
            elif kind == 5 and words % 3 == 0:
                subs = range(start, position, DLRR.size)
                blocks.append(Dlrr(tuple(DelaySinceLastRr(*DLRR.unpack_from(body, sub)) for sub in subs)))
            else:
                blocks.append(OtherXrBlock(kind, specific, body[start:position]))
        return cls(WORD.unpack_from(body)[0], tuple(blocks))

    def serialize(self) -> bytes:
        """The packet with its header."""
        return frame(207, 0, WORD.pack(self.ssrc) + b"".join(block.serialize() for block in self.blocks))
