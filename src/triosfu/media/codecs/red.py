"""Redundant audio (RFC 2198): the blocks of one payload."""

from __future__ import annotations

from dataclasses import dataclass

from triosfu.errors import MalformedPacket

FOLLOWS = 0x80
MAX_BLOCKS = 32


@dataclass(frozen=True, slots=True)
class Block:
    """One block: `data[start:end]` is its content, `age` how many timestamp units before the packet it belongs."""

    payload_type: int
    age: int
    start: int
    end: int


def parse_red(data: bytes, start: int, end: int) -> list[Block]:
    """The blocks of the RED payload `data[start:end]`, oldest first; the last is the primary one (age 0).

    Raises:
        MalformedPacket: The headers or the blocks do not fit the payload.
    """
    headers: list[tuple[int, int, int]] = []
    position = start
    while True:
        if position >= end:
            raise MalformedPacket("red: ends within its headers")
        first = data[position]
        if not first & FOLLOWS:
            position += 1
            break
        if position + 4 > end or len(headers) == MAX_BLOCKS:
            raise MalformedPacket("red: ends within its headers, or has too many")
        age = data[position + 1] << 6 | data[position + 2] >> 2
        size = (data[position + 2] & 0x03) << 8 | data[position + 3]
        headers.append((first & 0x7F, age, size))
        position += 4
    blocks = []
    for payload_type, age, size in headers:
        if position + size > end:
            raise MalformedPacket("red: a block is longer than the payload")
        blocks.append(Block(payload_type, age, position, position + size))
        position += size
    blocks.append(Block(first & 0x7F, 0, position, end))
    return blocks
