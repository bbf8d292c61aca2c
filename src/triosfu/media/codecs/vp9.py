"""The VP9 payload descriptor (RFC 9628, section 4.2), as far as layer selection needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket

if TYPE_CHECKING:
    from triosfu.rtp.wire import RtpPacket

PICTURE_ID, INTER_PREDICTED, LAYERS, FLEXIBLE = 0x80, 0x40, 0x20, 0x10
BEGIN, END, SCALABILITY = 0x08, 0x04, 0x02
LONG_PICTURE_ID, SWITCHING_UP, MORE = 0x80, 0x10, 0x01
SIZES, GROUP = 0x10, 0x08
MAX_REFERENCES = 3


@dataclass(slots=True)
class Vp9Descriptor:
    """One packet's descriptor. `picture_id` and `tl0` are -1 when absent."""

    starts_frame: bool
    ends_frame: bool
    inter_predicted: bool
    picture_id: int = -1
    tl0: int = -1
    spatial: int = 0
    temporal: int = 0
    temporal_switch: bool = False  # the switching up point bit
    spatial_layers: int = 0  # from the scalability structure; 0 when the packet carries none
    size: int = 1  # of the whole descriptor

    @property
    def keyframe(self) -> bool:
        """Whether this packet begins a picture that needs no other: a receiver may start here."""
        return self.starts_frame and not self.inter_predicted and self.spatial == 0

    @classmethod
    def parse(cls, data: bytes, start: int, end: int) -> Vp9Descriptor:
        """Read the descriptor of the payload `data[start:end]`.

        Raises:
            MalformedPacket: The payload ends within its descriptor, or names more than three references.
        """
        if start >= end:
            raise MalformedPacket("vp9: no payload")
        first = data[start]
        position = start + 1
        descriptor = cls(bool(first & BEGIN), bool(first & END), bool(first & INTER_PREDICTED))
        try:
            if first & PICTURE_ID:
                if data[position] & LONG_PICTURE_ID:
                    descriptor.picture_id = (data[position] & 0x7F) << 8 | data[position + 1]
                    position += 2
                else:
                    descriptor.picture_id = data[position]
                    position += 1
            if first & LAYERS:
                layer = data[position]
                position += 1
                descriptor.temporal = layer >> 5
                descriptor.temporal_switch = bool(layer & SWITCHING_UP)
                descriptor.spatial = layer >> 1 & 0x07
                if not first & FLEXIBLE:
                    descriptor.tl0 = data[position]
                    position += 1
            if first & FLEXIBLE and first & INTER_PREDICTED:
                position = _after_references(data, position)
            if first & SCALABILITY:
                descriptor.spatial_layers = (data[position] >> 5) + 1
                position = _after_structure(data, position)
        except IndexError:
            raise MalformedPacket("vp9: ends within its descriptor") from None
        if position > end:
            raise MalformedPacket("vp9: ends within its descriptor")
        descriptor.size = position - start
        return descriptor


def _after_references(data: bytes, position: int) -> int:
    for _ in range(MAX_REFERENCES):
        more = data[position] & MORE
        position += 1
        if not more:
            return position
    raise MalformedPacket("vp9: more than three references")


def _after_structure(data: bytes, position: int) -> int:
    head = data[position]
    position += 1
    if head & SIZES:
        position += 4 * ((head >> 5) + 1)
    if head & GROUP:
        pictures = data[position]
        position += 1
        for _ in range(pictures):
            position += 1 + (data[position] >> 2 & 0x03)
    return position


def inspect_vp9(packet: RtpPacket) -> None:
    """Fill `descriptor`, `keyframe` and `temporal` of a VP9 packet; leave them as they are when it is damaged."""
    try:
        descriptor = Vp9Descriptor.parse(packet.data, packet.payload_offset, packet.payload_end)
    except MalformedPacket:
        return
    packet.descriptor = descriptor
    packet.keyframe = descriptor.keyframe
    packet.temporal = descriptor.temporal
