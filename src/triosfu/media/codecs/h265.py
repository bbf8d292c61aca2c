"""Where H.265 keyframes begin, and temporal layers (RFC 7798)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.rtp.wire import RtpPacket

FIRST_IRAP, LAST_IRAP = 16, 21  # BLA, IDR and CRA pictures (H.265, table 7-1)
VPS, SPS = 32, 33
AGGREGATE, FRAGMENT = 48, 49
FIRST_SLICE = 0x80  # first_slice_segment_in_pic_flag
FU_START = 0x80


def begins_keyframe(data: bytes, start: int, end: int) -> bool:
    """Whether `data[start:end]` begins a keyframe: a parameter set, or the first slice of a random access picture."""
    if start + 2 >= end:
        return False
    kind = data[start] >> 1 & 0x3F
    if kind == FRAGMENT:
        if start + 3 >= end:
            return False
        head = data[start + 2]
        return bool(head & FU_START) and _begins(head & 0x3F, data[start + 3])
    if kind == AGGREGATE:
        return _aggregate_begins(data, start + 2, end)
    return _begins(kind, data[start + 2])


def _begins(kind: int, first_byte: int) -> bool:
    return kind in (VPS, SPS) or (FIRST_IRAP <= kind <= LAST_IRAP and bool(first_byte & FIRST_SLICE))


def _aggregate_begins(data: bytes, position: int, end: int) -> bool:
    """Look at every unit of an aggregation packet (RFC 7798, section 4.4.2; no DONL: it is not offered)."""
    while position + 5 <= end:
        size = data[position] << 8 | data[position + 1]
        position += 2
        if size < 3 or position + size > end:
            return False
        if _begins(data[position] >> 1 & 0x3F, data[position + 2]):
            return True
        position += size
    return False


def inspect_h265(packet: RtpPacket) -> None:
    """Fill `keyframe` and `temporal` of an H.265 packet."""
    data, start, end = packet.data, packet.payload_offset, packet.payload_end
    packet.keyframe = begins_keyframe(data, start, end)
    if start + 2 <= end:
        packet.temporal = max((data[start + 1] & 0x07) - 1, 0)  # nuh_temporal_id_plus1
