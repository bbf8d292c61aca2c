"""RTCP feedback: generic NACK, PLI (RFC 4585), FIR (RFC 5104) and REMB (draft-alvestrand-rmcat-remb-03)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

from triosfu.errors import MalformedPacket
from triosfu.rtp.framing import frame

TRANSPORT, PAYLOAD = 205, 206  # packet types; the count field holds the format
SSRCS = struct.Struct("!II")  # sender, media
PAIR = struct.Struct("!HH")
FIR_ENTRY = struct.Struct("!IB3x")
REMB_HEAD = struct.Struct("!II4sBBH")  # sender, media, name, count, exponent and mantissa


def parse_ssrcs(body: bytes) -> tuple[int, int]:
    """Sender and media SSRC, with which every feedback packet begins."""
    if len(body) < 8:
        raise MalformedPacket("rtcp: feedback is too short")
    sender, media = SSRCS.unpack_from(body)
    return sender, media


@dataclass(frozen=True, slots=True)
class Nack:
    """These packets are missing (RFC 4585, section 6.2.1)."""

    sender_ssrc: int
    media_ssrc: int
    sequences: tuple[int, ...]  # in the order asked for; ascending ones share a pair

    @classmethod
    def parse_body(cls, body: bytes) -> Self:
        """Read the packet behind its header."""
        sender, media = parse_ssrcs(body)
        if len(body) % 4:
            raise MalformedPacket("rtcp: ends within a nack")
        sequences = []
        for first, mask in PAIR.iter_unpack(body[8:]):
            sequences.append(first)
            sequences += [(first + bit + 1) & 0xFFFF for bit in range(16) if mask >> bit & 1]
        return cls(sender, media, tuple(sequences))

    def serialize(self) -> bytes:
        """The packet with its header."""
        pairs: list[tuple[int, int]] = []
        for sequence in self.sequences:
            if pairs:
                first, mask = pairs[-1]
                distance = (sequence - first) & 0xFFFF
                if mask.bit_length() < distance <= 16:
                    pairs[-1] = first, mask | 1 << (distance - 1)
                    continue
            pairs.append((sequence, 0))
        body = SSRCS.pack(self.sender_ssrc, self.media_ssrc) + b"".join(PAIR.pack(*pair) for pair in pairs)
        return frame(TRANSPORT, 1, body)


@dataclass(frozen=True, slots=True)
class Pli:
    """Picture loss: a keyframe, please (RFC 4585, section 6.3.1)."""

    sender_ssrc: int
    media_ssrc: int

    @classmethod
    def parse_body(cls, body: bytes) -> Self:
        """Read the packet behind its header."""
        return cls(*parse_ssrcs(body))

    def serialize(self) -> bytes:
        """The packet with its header."""
        return frame(PAYLOAD, 1, SSRCS.pack(self.sender_ssrc, self.media_ssrc))


@dataclass(frozen=True, slots=True)
class Fir:
    """Full intra request: (media SSRC, command number) pairs (RFC 5104, section 4.3.1). The media SSRC is 0."""

    sender_ssrc: int
    entries: tuple[tuple[int, int], ...]
    media_ssrc: int = 0

    @classmethod
    def parse_body(cls, body: bytes) -> Self:
        """Read the packet behind its header."""
        sender, media = parse_ssrcs(body)
        if len(body) % 8:
            raise MalformedPacket("rtcp: ends within a fir")
        return cls(sender, tuple((ssrc, number) for ssrc, number in FIR_ENTRY.iter_unpack(body[8:])), media)

    def serialize(self) -> bytes:
        """The packet with its header."""
        entries = b"".join(FIR_ENTRY.pack(*entry) for entry in self.entries)
        return frame(PAYLOAD, 4, SSRCS.pack(self.sender_ssrc, self.media_ssrc) + entries)


@dataclass(frozen=True, slots=True)
class Remb:
    """The receiver's estimate of what it can take (draft-alvestrand-rmcat-remb-03)."""

    sender_ssrc: int
    bitrate: int  # bits per second; the wire keeps 18 significant bits
    ssrcs: tuple[int, ...]
    media_ssrc: int = 0

    @classmethod
    def parse_body(cls, body: bytes) -> Self:
        """Read the packet behind its header."""
        if len(body) < REMB_HEAD.size:
            raise MalformedPacket("rtcp: remb is too short")
        sender, media, _name, count, high, low = REMB_HEAD.unpack_from(body)
        if REMB_HEAD.size + 4 * count > len(body):
            raise MalformedPacket(f"rtcp: no room for {count} sources in a remb")
        bitrate = ((high & 3) << 16 | low) << (high >> 2)
        return cls(sender, bitrate, struct.unpack_from(f"!{count}I", body, REMB_HEAD.size), media)

    def serialize(self) -> bytes:
        """The packet with its header; the bitrate is rounded down to what fits."""
        exponent = max(0, self.bitrate.bit_length() - 18)
        mantissa = self.bitrate >> exponent
        high = exponent << 2 | mantissa >> 16
        count = len(self.ssrcs)
        head = REMB_HEAD.pack(self.sender_ssrc, self.media_ssrc, b"REMB", count, high, mantissa & 0xFFFF)
        return frame(PAYLOAD, 15, head + struct.pack(f"!{count}I", *self.ssrcs))
