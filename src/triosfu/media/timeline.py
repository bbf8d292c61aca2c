"""Where a new source's timestamps continue on the outgoing timeline.

Three values on that timeline decide: the *last* timestamp sent, the *reference* (the new source's timestamp carried
over through the sender reports of both sources, so that lip sync survives), and the *expected* one (the last, plus the
time that has passed by our clock).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.media.receiver import SenderReportInfo

TRICKLE = 0.05  # seconds; a switch further back waits: the publisher's pacer is still sending older frames
MUTED_GAP = 0.2  # seconds behind the wall clock that a muted publisher may come back with
RESUME_GAP = 2.0  # the same for any other break
MAX_LEAD = 2.0  # seconds; media cannot run ahead of the clock: such a sender report is wrong
WRAP = 1 << 32


class Change(Enum):
    """Why the source of a stream changes."""

    LAYER = "another layer, while the old one may still flow"
    UNMUTED = "the publisher comes back from mute"
    RESUMED = "any other break is over"


def ahead(timestamp: int, other: int) -> int:
    """How far `timestamp` is ahead of `other`, by the shorter way round; negative when behind."""
    return ((timestamp - other + (WRAP >> 1)) % WRAP) - (WRAP >> 1)


def carried_over(timestamp: int, new: SenderReportInfo, old: SenderReportInfo, old_shift: int, clock_rate: int) -> int:
    """The new source's `timestamp` on the outgoing timeline that the old source was on with `old_shift`."""
    seconds = new.ntp - old.ntp + ahead(timestamp, new.rtp_timestamp) / clock_rate
    return (old.rtp_timestamp + round(seconds * clock_rate) + old_shift) % WRAP


def continued(change: Change, *, last: int, expected: int, reference: int | None, clock_rate: int) -> int | None:
    """The outgoing timestamp of the new source's first packet, always ahead of `last`; None: not at this packet.

    `reference` is None when a sender report is missing. The caller bounds how long it takes None for an answer.
    """
    if reference is None:
        return None if change is Change.LAYER else _after(last, expected)
    if ahead(reference, expected) > MAX_LEAD * clock_rate:
        return _after(last, expected)
    if change is Change.LAYER:
        return None if ahead(last, reference) > TRICKLE * clock_rate else _after(last, reference)
    gap = MUTED_GAP if change is Change.UNMUTED else RESUME_GAP
    if ahead(expected, reference) > gap * clock_rate:
        return _after(last, expected)
    return _after(last, reference)


def _after(last: int, timestamp: int) -> int:
    return timestamp % WRAP if ahead(timestamp, last) > 0 else (last + 1) % WRAP
