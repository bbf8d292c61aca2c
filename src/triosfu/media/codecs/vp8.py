"""The VP8 payload descriptor (RFC 7741, section 4.2): read it, and renumber it in place.

The descriptor is never encrypted, so all of this also serves end-to-end encrypted tracks.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket

if TYPE_CHECKING:
    from triosfu.rtp.wire import RtpPacket

EXTENDED, START, PARTITION = 0x80, 0x10, 0x07
PICTURE_ID, TL0, TEMPORAL, KEY_INDEX = 0x80, 0x40, 0x20, 0x10  # which optional fields follow
LAYER_SYNC, LONG_PICTURE_ID = 0x20, 0x80

_short = struct.Struct("!H")


@dataclass(slots=True)
class Vp8Descriptor:
    """One packet's descriptor. A field that is absent is -1; `*_at` are offsets into the payload."""

    starts_frame: bool  # the first packet of a frame: start of partition 0
    keyframe: bool  # this packet begins a keyframe
    picture_id: int = -1
    picture_bits: int = 0  # 7 or 15
    picture_at: int = 0
    tl0: int = -1  # TL0PICIDX, counts the frames of temporal layer 0
    tl0_at: int = 0
    temporal: int = 0
    layer_sync: bool = False  # depends on temporal layer 0 only: a receiver may switch up here
    key_index: int = -1
    key_at: int = 0  # of the byte that holds TID, Y and KEYIDX
    size: int = 1  # of the whole descriptor

    @classmethod
    def parse(cls, data: bytes, start: int, end: int) -> Vp8Descriptor:
        """Read the descriptor of the payload `data[start:end]`.

        Raises:
            MalformedPacket: The payload ends within its descriptor.
        """
        if start >= end:
            raise MalformedPacket("vp8: no payload")
        first = data[start]
        position = start + 1
        starts_frame = first & (START | PARTITION) == START
        descriptor = cls(starts_frame, keyframe=False)
        try:
            if first & EXTENDED:
                flags = data[position]
                position += 1
                if flags & PICTURE_ID:
                    descriptor.picture_at = position - start
                    if data[position] & LONG_PICTURE_ID:
                        descriptor.picture_id = (data[position] & 0x7F) << 8 | data[position + 1]
                        descriptor.picture_bits = 15
                        position += 2
                    else:
                        descriptor.picture_id = data[position]
                        descriptor.picture_bits = 7
                        position += 1
                if flags & TL0:
                    descriptor.tl0 = data[position]
                    descriptor.tl0_at = position - start
                    position += 1
                if flags & (TEMPORAL | KEY_INDEX):
                    layer = data[position]
                    if flags & TEMPORAL:
                        descriptor.temporal = layer >> 6
                        descriptor.layer_sync = bool(layer & LAYER_SYNC)
                    if flags & KEY_INDEX:
                        descriptor.key_index = layer & 0x1F
                        descriptor.key_at = position - start
                    position += 1
        except IndexError:
            raise MalformedPacket("vp8: ends within its descriptor") from None
        if position > end:
            raise MalformedPacket("vp8: ends within its descriptor")
        descriptor.size = position - start
        # The frame header's lowest bit is 0 in a keyframe (RFC 7741, section 4.3).
        descriptor.keyframe = starts_frame and position < end and not data[position] & 1
        return descriptor

    def renumber(self, buffer: memoryview, at: int, picture_shift: int, tl0_shift: int, key_shift: int) -> None:
        """Add the shifts to the copy of this descriptor that begins at `buffer[at]`, each in its own width."""
        if self.picture_bits == 15:
            number = (self.picture_id + picture_shift) & 0x7FFF
            _short.pack_into(buffer, at + self.picture_at, 0x8000 | number)
        elif self.picture_bits:
            buffer[at + self.picture_at] = (self.picture_id + picture_shift) & 0x7F
        if self.tl0_at:
            buffer[at + self.tl0_at] = (self.tl0 + tl0_shift) & 0xFF
        if self.key_at:
            place = at + self.key_at
            buffer[place] = buffer[place] & 0xE0 | (self.key_index + key_shift) & 0x1F


def inspect_vp8(packet: RtpPacket) -> None:
    """Fill `descriptor`, `keyframe` and `temporal` of a VP8 packet; leave them as they are when it is damaged."""
    try:
        descriptor = Vp8Descriptor.parse(packet.data, packet.payload_offset, packet.payload_end)
    except MalformedPacket:
        return
    packet.descriptor = descriptor
    packet.keyframe = descriptor.keyframe
    packet.temporal = descriptor.temporal
