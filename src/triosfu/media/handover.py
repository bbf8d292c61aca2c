"""From one source to the next: the last numbers of the one that was left, and how the next continues behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from triosfu.media.codecs import DEPENDENCY_DESCRIPTOR
from triosfu.media.codecs.vp8 import Vp8Descriptor
from triosfu.media.timeline import WRAP, Change, ahead, continued

if TYPE_CHECKING:
    from collections.abc import Mapping

    from triosfu.media.munger import Shifts
    from triosfu.media.send_reports import SendStats
    from triosfu.rtp.wire import RtpPacket

NONE = -1  # no such source, layer or number


@dataclass(frozen=True, slots=True)
class Left:
    """The last numbers sent, on the outgoing side, and the source they came from."""

    timestamp: int
    at: float  # when
    source: int = NONE  # ssrc
    spatial: int = NONE
    timestamp_shift: int = 0
    picture: int = NONE
    tl0: int = NONE
    key: int = NONE
    frame: int = NONE


@dataclass(frozen=True, slots=True)
class LeftOff:
    """Where an outgoing stream stands whose track is over; another track may go on from there, on the same SSRCs.

    Receivers see one stream: their jitter buffers, replay windows and statistics know of SSRCs and not of tracks.
    """

    next_out: int  # extended sequence number
    rtx_sequence: int
    last: Left | None
    stats: SendStats


def leave(last: RtpPacket, shifts: Shifts, publisher_ids: Mapping[str, int]) -> Left:
    """Where the source of `last`, the newest packet sent of it, is left; `shifts` are those it was sent under."""
    picture = tl0 = key = NONE
    descriptor = last.descriptor
    if isinstance(descriptor, Vp8Descriptor):
        if descriptor.picture_id >= 0:
            picture = (descriptor.picture_id + shifts.picture) & 0x7FFF
        if descriptor.tl0 >= 0:
            tl0 = (descriptor.tl0 + shifts.tl0) & 0xFF
        if descriptor.key_index >= 0:
            key = (descriptor.key_index + shifts.key) & 0x1F
    frame = frame_number(last, publisher_ids)
    return Left(
        timestamp=(last.timestamp + shifts.timestamp) % WRAP,
        at=last.arrival,
        source=last.ssrc,
        spatial=last.spatial,
        timestamp_shift=shifts.timestamp,
        picture=picture,
        tl0=tl0,
        key=key,
        frame=NONE if frame < 0 else (frame + shifts.frame) & 0xFFFF,
    )


def continue_numbers(shifts: Shifts, packet: RtpPacket, left: Left, publisher_ids: Mapping[str, int]) -> None:
    """Set `shifts` so that what the codec numbers goes on behind `left` from `packet`, a keyframe, on."""
    descriptor = packet.descriptor
    if isinstance(descriptor, Vp8Descriptor):
        if left.picture >= 0 and descriptor.picture_id >= 0:
            shifts.picture = left.picture + 1 - descriptor.picture_id
        if left.tl0 >= 0 and descriptor.tl0 >= 0:
            shifts.tl0 = left.tl0 + 1 - descriptor.tl0
        if left.key >= 0 and descriptor.key_index >= 0:
            shifts.key = left.key + 1 - descriptor.key_index
    frame = frame_number(packet, publisher_ids)
    if left.frame >= 0 and frame >= 0:
        shifts.frame = left.frame + 1 - frame
    shifts.renumbers = bool(shifts.picture or shifts.tl0 or shifts.key or shifts.frame)


def continue_time(
    change: Change, left: Left, *, now: float, reference: int | None, clock_rate: int, insist: bool
) -> int | None:
    """The first timestamp behind `left`; None when the switch has to wait, which it never has to with `insist`."""
    expected = (left.timestamp + round((now - left.at) * clock_rate)) % WRAP
    timestamp = continued(change, last=left.timestamp, expected=expected, reference=reference, clock_rate=clock_rate)
    if timestamp is None and insist:
        return expected if ahead(expected, left.timestamp) > 0 else (left.timestamp + 1) % WRAP
    return timestamp


def frame_number(packet: RtpPacket, publisher_ids: Mapping[str, int]) -> int:
    """The frame number of the dependency descriptor (AV1 RTP, appendix A.2), -1 without one."""
    number = publisher_ids.get(DEPENDENCY_DESCRIPTOR)
    value = packet.extension(number) if number else None
    return NONE if value is None or len(value) < 3 else value[1] << 8 | value[2]
