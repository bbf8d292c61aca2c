"""What a publisher's receivers have to tell it: one place for packets to send and for the time of the next one."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.media.receiver import TrackReceiver
    from triosfu.rtp.rtcp import RtcpPacket

DEFAULT_RTT = 0.07  # seconds
NEW_RTT_WEIGHT = 0.75
MAX_WAITING = 512  # packets while nobody drains; the oldest go


class Feedback:
    """Shared by the streams of one publisher; its ingress drains it."""

    __slots__ = ("deadline", "outbox", "ready", "rtt", "ssrc", "wake")

    def __init__(self, ssrc: int) -> None:
        self.ssrc = ssrc  # ours
        self.rtt = DEFAULT_RTT
        self.deadline = math.inf  # not later than anything a stream waits for
        self.outbox: deque[RtcpPacket] = deque(maxlen=MAX_WAITING)
        self.ready: list[TrackReceiver] = []  # that have packets to forward
        self.wake: Callable[[], None] | None = None  # somebody else's packet or request made feedback due

    def arm(self, at: float) -> None:
        """Be called at `at`, or before."""
        self.deadline = min(self.deadline, at)

    def measured_rtt(self, rtt: float) -> None:
        """Take a new measurement, smoothed: the old value keeps a quarter."""
        self.rtt += (rtt - self.rtt) * NEW_RTT_WEIGHT
