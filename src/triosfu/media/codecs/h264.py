"""Where H.264 keyframes begin (RFC 6184): the NAL unit headers, which end-to-end encryption leaves readable."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.rtp.wire import RtpPacket

IDR, SPS = 5, 7
STAP_A, FU_A = 24, 28
FIRST_SLICE = 0x80  # first_mb_in_slice is 0: its Exp-Golomb code is a single 1 bit
FU_START = 0x80


def begins_keyframe(data: bytes, start: int, end: int) -> bool:
    """Whether `data[start:end]` begins a keyframe: a parameter set, or the first slice of an IDR picture."""
    if start >= end:
        return False
    kind = data[start] & 0x1F
    if kind == FU_A:
        if start + 2 >= end:
            return False
        head = data[start + 1]
        return bool(head & FU_START) and _begins(head & 0x1F, data[start + 2])
    if kind == STAP_A:
        return _aggregate_begins(data, start + 1, end)
    return start + 1 < end and _begins(kind, data[start + 1])


def _begins(kind: int, first_byte: int) -> bool:
    return kind == SPS or (kind == IDR and bool(first_byte & FIRST_SLICE))


def _aggregate_begins(data: bytes, position: int, end: int) -> bool:
    """Look at every unit of a STAP-A (RFC 6184, section 5.7.1)."""
    while position + 4 <= end:
        size = data[position] << 8 | data[position + 1]
        position += 2
        if size < 2 or position + size > end:
            return False
        if _begins(data[position] & 0x1F, data[position + 1]):
            return True
        position += size
    return False


def inspect_h264(packet: RtpPacket) -> None:
    """Fill `keyframe` of an H.264 packet. Its temporal layer counts as 0."""
    packet.keyframe = begins_keyframe(packet.data, packet.payload_offset, packet.payload_end)
