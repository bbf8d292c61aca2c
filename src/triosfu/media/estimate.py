"""What a subscriber's feedback says about the way to it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.media.sent_log import Arrivals, SentLog
    from triosfu.rtp.rtcp import Remb, TransportFeedback

WINDOW = 1.0  # seconds of arrivals that the arrival rate is taken over
SMOOTHING = 0.2  # weight of a new feedback's loss


class Estimate:
    """The latest view of one subscriber's downlink. It only observes; allocating is somebody else's."""

    def __init__(self) -> None:
        self.remb: int | None = None  # bits per second that the subscriber says it can take
        self.remb_at: float | None = None
        self.loss = 0.0  # share of packets, smoothed, from TWCC
        self.queueing = 0.0  # seconds of delay above the lowest seen, from TWCC
        self.feedback_at: float | None = None
        self._arrivals: deque[tuple[float, float]] = deque()
        self._bytes = 0.0
        self._lowest_delay: float | None = None

    def receive_remb(self, remb: Remb, now: float) -> None:
        """Take the subscriber's own estimate."""
        self.remb, self.remb_at = remb.bitrate, now

    def receive_feedback(self, feedback: TransportFeedback, log: SentLog, now: float) -> None:
        """Take transport-wide feedback about packets in `log`."""
        self.take(feedback.status_count, len(feedback.received), log.resolve(feedback), now)

    def take(self, covered: int, received: int, found: Arrivals | None, now: float) -> None:
        """Take what feedback tells: of the `covered` packets, `received` came, and `found` is how, if we sent any."""
        self.feedback_at = now
        if covered:
            self.loss += SMOOTHING * (1 - received / covered - self.loss)
        if found is None:
            return
        lowest = self._lowest_delay
        if lowest is None or not -WINDOW < found.last - lowest < 60 * WINDOW:
            lowest = found.lowest  # the first, or the subscriber's clock has jumped
        self._lowest_delay = lowest = min(lowest, found.lowest)
        self.queueing = found.last - lowest
        arrivals = self._arrivals
        arrivals += found.shares
        octets = self._bytes + found.octets
        newest = arrivals[-1][0]
        while not 0 <= newest - arrivals[0][0] < WINDOW:
            octets -= arrivals.popleft()[1]
        self._bytes = octets

    @property
    def arrival_rate(self) -> int | None:
        """Bits per second that arrived over the last second of arrivals, from TWCC; None while nothing is known."""
        return round(8 * self._bytes / WINDOW) if self._arrivals else None
