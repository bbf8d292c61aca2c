"""The RTP packet (RFC 3550, section 5.1) and its header extensions (RFC 8285).

`RtpPacket` is the one object made for a received packet. It keeps the datagram whole and remembers where things are in
it, because an SFU rewrites twelve bytes and forwards the rest.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Self

from triosfu.errors import MalformedPacket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HEADER = struct.Struct("!BBHII")  # V/P/X/CC, M/PT, sequence, timestamp, ssrc
EXTENSION_HEADER = struct.Struct("!HH")  # profile, length in words
SSRC_AT = 8  # bytes into a packet
VERSION = 0x80
PADDING, EXTENSION, MARKER = 0x20, 0x10, 0x80
ONE_BYTE, TWO_BYTE = 0xBEDE, 0x1000  # extension profiles; the low four bits of the second are free (RFC 8285, 4.3)

_unpack_header = HEADER.unpack_from
_unpack_extension = EXTENSION_HEADER.unpack_from


class RtpPacket:
    """One RTP packet as it came: `data` is the whole plaintext packet, the offsets say what is where in it.

    `payload_end` excludes padding. The fields after `arrival` belong to the receive side: it fills them before it
    forwards the packet, and from then on nobody changes the packet.
    """

    __slots__ = (
        "arrival",
        "data",
        "descriptor",
        "extension_end",
        "extension_offset",
        "extension_profile",
        "index",
        "keyframe",
        "marker",
        "payload_end",
        "payload_offset",
        "payload_type",
        "sequence",
        "spatial",
        "ssrc",
        "temporal",
        "timestamp",
        "vital",
    )

    data: bytes
    ssrc: int
    payload_type: int
    sequence: int  # 16 bits
    timestamp: int  # 32 bits
    marker: bool
    payload_offset: int
    payload_end: int
    extension_profile: int  # 0 when there is no extension
    extension_offset: int  # of the first element, behind the four bytes of the extension's own header
    extension_end: int
    arrival: float  # seconds, the receiver's clock

    index: int  # extended sequence, without the padding packets that were taken out of the stream
    spatial: int  # layer, 0 is the lowest
    temporal: int
    keyframe: bool  # the first packet of a keyframe
    vital: bool  # of a keyframe: without it nothing that follows can be seen
    descriptor: object | None  # what the codec's inspector found

    @classmethod
    def parse(cls, data: bytes, arrival: float = 0.0) -> Self:
        """Read the header, once.

        Raises:
            MalformedPacket: The bytes are not an RTP packet.
        """
        size = len(data)
        if size < 12:
            raise MalformedPacket(f"rtp: {size} bytes is shorter than a header")
        packet = cls.__new__(cls)
        first, second, packet.sequence, packet.timestamp, packet.ssrc = _unpack_header(data)
        if first & 0xC0 != VERSION:
            raise MalformedPacket(f"rtp: version {first >> 6}")
        offset = 12 + 4 * (first & 0x0F)
        if first & EXTENSION:
            if offset + 4 > size:
                raise MalformedPacket("rtp: ends within the header")
            packet.extension_profile, words = _unpack_extension(data, offset)
            packet.extension_offset = offset + 4
            packet.extension_end = offset = offset + 4 + 4 * words
        else:
            packet.extension_profile = packet.extension_offset = packet.extension_end = 0
        if offset > size:
            raise MalformedPacket("rtp: ends within the header")
        if first & PADDING:
            padding = data[-1]
            if not 0 < padding <= size - offset:
                raise MalformedPacket(f"rtp: {padding} bytes of padding in a body of {size - offset}")
            packet.payload_end = size - padding
        else:
            packet.payload_end = size
        packet.data = data
        packet.payload_offset = offset
        packet.payload_type = second & 0x7F
        packet.marker = second >= MARKER
        packet.arrival = arrival
        packet.index = packet.sequence
        packet.spatial = packet.temporal = 0
        packet.keyframe = packet.vital = False
        packet.descriptor = None
        return packet

    @property
    def payload(self) -> bytes:
        """A copy of the payload, without padding."""
        return self.data[self.payload_offset : self.payload_end]

    @property
    def padding(self) -> int:
        """Bytes of padding at the end."""
        return len(self.data) - self.payload_end

    def extension(self, number: int) -> bytes | None:
        """The value of the header extension with the local identifier `number`, in either form; None when absent."""
        data, position, end = self.data, self.extension_offset, self.extension_end
        if self.extension_profile == ONE_BYTE:
            while position < end:
                head = data[position]
                position += 1
                if head == 0:
                    continue  # padding between elements
                start, position = position, position + (head & 0x0F) + 1
                found = head >> 4
                if found in (0, 15) or position > end:
                    return None  # RFC 8285, section 4.2: 15 ends the list; 0 with a length is not an element
                if found == number:
                    return data[start:position]
        elif self.extension_profile & 0xFFF0 == TWO_BYTE:
            for found, start, stop in self.elements():
                if found == number:
                    return data[start:stop]
        return None

    def elements(self) -> Iterator[tuple[int, int, int]]:
        """Every header extension element as (identifier, start, end) into `data`; stops where the list is damaged."""
        data, position, end = self.data, self.extension_offset, self.extension_end
        one_byte = self.extension_profile == ONE_BYTE
        if not one_byte and self.extension_profile & 0xFFF0 != TWO_BYTE:
            return
        while position < end:
            head = data[position]
            position += 1
            if head == 0:
                continue
            if one_byte:
                number, size = head >> 4, (head & 0x0F) + 1
                if number in (0, 15):
                    return
            else:
                if position == end:
                    return
                number, size = head, data[position]
                position += 1
            if position + size > end:
                return
            yield number, position, position + size
            position += size

    def __repr__(self) -> str:
        return (
            f"RtpPacket(ssrc={self.ssrc:#x}, payload_type={self.payload_type}, sequence={self.sequence}, "
            f"timestamp={self.timestamp}, marker={self.marker}, size={len(self.data)})"
        )


def build_rtp(
    *,
    ssrc: int,
    payload_type: int,
    sequence: int,
    timestamp: int,
    marker: bool = False,
    payload: bytes = b"",
    csrcs: tuple[int, ...] = (),
    extensions: Mapping[int, bytes] | None = None,
    padding: int = 0,
) -> bytes:
    """One RTP packet as bytes: the inverse of `RtpPacket.parse`.

    Extensions take the one-byte form when all of them fit it. `padding` counts the padding bytes, 0 to 255.
    """
    first = VERSION | len(csrcs) | (PADDING if padding else 0) | (EXTENSION if extensions else 0)
    second = payload_type | (MARKER if marker else 0)
    parts = [HEADER.pack(first, second, sequence, timestamp, ssrc)]
    parts += [csrc.to_bytes(4, "big") for csrc in csrcs]
    if extensions:
        profile, block = build_extensions(extensions)
        parts += [EXTENSION_HEADER.pack(profile, len(block) // 4), block]
    parts.append(payload)
    if padding:
        parts.append(bytes(padding - 1) + bytes([padding]))
    return b"".join(parts)


def build_extensions(extensions: Mapping[int, bytes]) -> tuple[int, bytes]:
    """The profile and the element block, filled up to whole words, for these identifiers and values (RFC 8285)."""
    if all(0 < number < 15 and 0 < len(value) <= 16 for number, value in extensions.items()):
        profile = ONE_BYTE
        block = b"".join(bytes([number << 4 | len(value) - 1]) + value for number, value in extensions.items())
    else:
        profile = TWO_BYTE
        block = b"".join(bytes([number, len(value)]) + value for number, value in extensions.items())
    return profile, block + bytes(-len(block) % 4)
