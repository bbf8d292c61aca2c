"""The header that all RTCP packets share, and how they stand one behind the other (RFC 3550, sections 6.1 and 6.4)."""

from __future__ import annotations

import struct

from triosfu.errors import MalformedPacket

HEADER = struct.Struct("!BBH")  # V/P/count, packet type, length in words without this one
VERSION, PADDING = 0x80, 0x20


def frame(packet_type: int, count: int, body: bytes) -> bytes:
    """One RTCP packet. `body` comes in whole words."""
    return HEADER.pack(VERSION | count, packet_type, len(body) // 4) + body


def split(data: bytes) -> list[tuple[int, int, bytes]]:
    """Every packet of a compound as (packet type, count, body without padding).

    Padding belongs into the last packet only (RFC 3550, section 6.4.1); where else it stands it is taken off too.

    Raises:
        MalformedPacket: The lengths do not add up to the datagram.
    """
    packets: list[tuple[int, int, bytes]] = []
    position, size = 0, len(data)
    if not size:
        raise MalformedPacket("rtcp: empty datagram")
    while position < size:
        if position + 4 > size:
            raise MalformedPacket("rtcp: ends within a header")
        first, packet_type, words = HEADER.unpack_from(data, position)
        if first & 0xC0 != VERSION:
            raise MalformedPacket(f"rtcp: version {first >> 6}")
        start, end = position + 4, position + 4 + 4 * words
        if end > size:
            raise MalformedPacket("rtcp: ends within a packet")
        position = end
        if first & PADDING:
            padding = data[end - 1] if words else 0
            if not 0 < padding <= end - start:
                raise MalformedPacket(f"rtcp: {padding} bytes of padding in a body of {end - start}")
            end -= padding
        packets.append((packet_type, first & 0x1F, data[start:end]))
    return packets
