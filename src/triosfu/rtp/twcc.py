"""Transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01): which packets came, and when.

A feedback packet covers up to 65,535 sequence numbers in a few bytes when most are missing, so the value here lists
only the packets that came: what a datagram makes us do is bounded by its size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from triosfu.errors import MalformedPacket
from triosfu.rtp.framing import frame

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = struct.Struct("!IIHHI")  # sender, media, base sequence, status count, reference time and feedback count
TICK = 0.00025  # seconds; deltas count these
REFERENCE = 0.064  # seconds; the reference time counts these
TICKS_PER_REFERENCE = 256
MISSING, SMALL, LARGE, RESERVED = 0, 1, 2, 3  # packet status symbols
LONGEST_RUN = 0x1FFF
SHORT = "rtcp: ends within the deltas of a transport feedback"


@dataclass(frozen=True, slots=True)
class TransportFeedback:
    """Arrival times of the packets `base_sequence` and following, `status_count` of them.

    `received` holds (distance from `base_sequence`, delta in 250 µs ticks) of those that came, ascending; a delta
    counts from the packet before, the first one from the reference time. Deltas are -32768 to 32767.
    """

    sender_ssrc: int
    media_ssrc: int
    base_sequence: int
    status_count: int
    reference_time: int  # 24 bits signed, in 64 ms
    feedback_count: int  # 8 bits
    received: tuple[tuple[int, int], ...]

    def arrivals(self) -> list[tuple[int, float]]:
        """(sequence number, arrival in seconds of the receiver's clock) of every packet that came."""
        ticks = self.reference_time * TICKS_PER_REFERENCE
        base, found = self.base_sequence, []
        for distance, delta in self.received:
            ticks += delta
            found.append(((base + distance) & 0xFFFF, ticks * TICK))
        return found

    @classmethod
    def parse_body(cls, body: bytes) -> Self:
        """Read the packet behind its header."""
        if len(body) < HEAD.size:
            raise MalformedPacket("rtcp: transport feedback is too short")
        sender, media, base, count, tail = HEAD.unpack_from(body)
        distances, symbols, position = read_chunks(body, HEAD.size, count)
        if LARGE not in symbols:  # what a way without trouble leads to
            deltas: Sequence[int] = body[position : position + len(symbols)]
            if len(deltas) < len(symbols):
                raise MalformedPacket(SHORT)
        else:
            deltas = read_deltas(body, position, symbols)
        reference = (tail >> 8 ^ 0x800000) - 0x800000
        return cls(sender, media, base, count, reference, tail & 0xFF, tuple(zip(distances, deltas, strict=True)))

    def serialize(self) -> bytes:
        """The packet with its header."""
        tail = (self.reference_time & 0xFFFFFF) << 8 | self.feedback_count
        head = HEAD.pack(self.sender_ssrc, self.media_ssrc, self.base_sequence, self.status_count, tail)
        runs: list[tuple[int, int]] = []  # (symbol, how many)
        next_distance, deltas = 0, []
        for distance, delta in self.received:
            if distance > next_distance:
                runs.append((MISSING, distance - next_distance))
            symbol = SMALL if 0 <= delta <= 0xFF else LARGE
            if runs and runs[-1][0] == symbol:
                runs[-1] = symbol, runs[-1][1] + 1
            else:
                runs.append((symbol, 1))
            deltas.append(delta.to_bytes(symbol, "big", signed=symbol == LARGE))
            next_distance = distance + 1
        if self.status_count > next_distance:
            runs.append((MISSING, self.status_count - next_distance))
        body = head + write_chunks(runs) + b"".join(deltas)
        return frame(205, 15, body + bytes(-len(body) % 4))


def read_chunks(body: bytes, position: int, count: int) -> tuple[list[int], bytearray, int]:
    """The distance and the symbol of every packet that came among `count` statuses, and where the deltas begin.

    Symbols of the last chunk that lie beyond `count` mean nothing.
    """
    distances: list[int] = []
    found = bytearray()
    distance, size = 0, len(body)
    while distance < count:
        if position + 2 > size:
            raise MalformedPacket("rtcp: ends within the status chunks of a transport feedback")
        chunk = body[position] << 8 | body[position + 1]
        position += 2
        if not chunk & 0x8000:
            symbol, run = chunk >> 13, min(chunk & LONGEST_RUN, count - distance)
            # Every packet that came has a delta in the datagram, so a longer run cannot be true.
            if symbol and len(found) + run > size - position:
                raise MalformedPacket("rtcp: no room for the deltas of a transport feedback")
            if symbol == RESERVED:
                raise MalformedPacket("rtcp: reserved status in a transport feedback")
            if symbol:
                distances += range(distance, distance + run)
                found += bytes((symbol,)) * run
            distance += run
            continue
        if chunk & 0x4000:
            symbols = [chunk >> shift & 3 for shift in range(12, -1, -2)][: count - distance]
        else:
            symbols = [chunk >> shift & 1 for shift in range(13, -1, -1)][: count - distance]
        if RESERVED in symbols:
            raise MalformedPacket("rtcp: reserved status in a transport feedback")
        distances += [distance + step for step, symbol in enumerate(symbols) if symbol]
        found += bytes(symbol for symbol in symbols if symbol)
        distance += len(symbols)
    return distances, found, position


def read_deltas(body: bytes, position: int, symbols: bytearray) -> list[int]:
    """The delta of each packet that came, in ticks: of one byte or two, as its symbol says."""
    deltas: list[int] = []
    size = len(body)
    for symbol in symbols:
        if symbol == SMALL and position < size:
            deltas.append(body[position])
            position += 1
        elif symbol == LARGE and position + 1 < size:
            deltas.append(((body[position] << 8 | body[position + 1]) ^ 0x8000) - 0x8000)
            position += 2
        else:
            raise MalformedPacket(SHORT)
    return deltas


def write_chunks(runs: list[tuple[int, int]]) -> bytes:
    """Status chunks for these (symbol, how many): long runs as runs, the rest as vectors."""
    chunks: list[int] = []
    index = 0
    left = runs[0][1] if runs else 0
    while index < len(runs):
        symbol = runs[index][0]
        if left >= 14:
            taken = min(left, LONGEST_RUN)
            chunks.append(symbol << 13 | taken)
        else:
            window = [symbol] * left
            for following, length in runs[index + 1 :]:
                window += [following] * min(length, 14 - len(window))
                if len(window) == 14:
                    break
            bits = 2 if LARGE in window else 1
            taken = min(14 // bits, len(window))
            value = 0
            for step, found in enumerate(window[:taken]):
                value |= found << (14 - bits * (step + 1))
            chunks.append((0xC000 if bits == 2 else 0x8000) | value)
        while index < len(runs) and taken >= left:
            taken -= left
            index += 1
            left = runs[index][1] if index < len(runs) else 0
        left -= taken
    return b"".join(chunk.to_bytes(2, "big") for chunk in chunks)
