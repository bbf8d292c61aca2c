"""The reports of one outgoing stream: sender reports that keep lip sync, and what receiver reports say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from triosfu.media.timeline import WRAP, ahead

if TYPE_CHECKING:
    from triosfu.media.receiver import SenderReportInfo
    from triosfu.rtp.reports import ReportBlock

DEFAULT_RTT = 0.07  # seconds
MAX_RTT = 10.0  # seconds; more is a report about another stream's clock
REMEMBERED = 8  # sender reports that a receiver report may still refer to
PATIENCE = 5.0  # seconds of media without any report of the publisher, after which our own clock must do
MAX_SKIPPED = 3  # reports in a row that may be held back for going backwards
TICKS = 65536  # of the delay fields, per second


@dataclass(slots=True)
class SendStats:
    """What was sent of one track, and what the receiver says of its stream."""

    earlier_packets: int = 0  # of other tracks, on the same SSRC, to whose counts ours are added in reports
    earlier_octets: int = 0
    packets: int = 0
    octets: int = 0  # of payload
    left_out: int = 0  # numbers without a packet, because it has not come from the publisher
    resent_packets: int = 0
    resent_octets: int = 0
    nacks: int = 0  # packets asked for
    nacks_missed: int = 0  # of these, no longer in the history, or asked for too often or too soon
    plis: int = 0
    firs: int = 0
    lost: int = 0  # cumulative, as the receiver counts
    fraction_lost: float = 0.0
    jitter: float = 0.0  # seconds
    rtt: float = DEFAULT_RTT
    reported_at: float | None = None  # when the last receiver report came

    def following(self) -> SendStats:
        """Return the statistics of a track that goes on where this one is over."""
        return SendStats(
            earlier_packets=self.earlier_packets + self.packets,
            earlier_octets=self.earlier_octets + self.octets,
            lost=self.lost,
            fraction_lost=self.fraction_lost,
            jitter=self.jitter,
            rtt=self.rtt,
            reported_at=self.reported_at,
        )


class SendReports:
    """Clock and loss reports of one stream."""

    def __init__(self, clock_rate: int) -> None:
        self._clock_rate = clock_rate
        self._sent: list[tuple[int, float]] = []  # middle of the NTP time, when sent; a deque is half a kilobyte
        self._last: tuple[float, int] | None = None  # NTP and RTP time of the last report
        self._skipped = 0
        self._own_clock = False

    def times(
        self, now: float, ntp_now: float, info: SenderReportInfo | None, shift: int, latest: tuple[int, float]
    ) -> tuple[float, int] | None:
        """NTP and RTP time to report at `now`; None if nothing certain can be said yet.

        The publisher's own pair is carried on by the time since it came, so that streams of one publisher stay in sync
        with each other. `latest` is the last timestamp sent and when; it serves publishers that never report, together
        with our clock `ntp_now`.
        """
        if info is not None:
            elapsed = now - info.arrival
            found = info.ntp + elapsed, (info.rtp_timestamp + round(elapsed * self._clock_rate) + shift) % WRAP
        else:
            found = ntp_now, (latest[0] + round((now - latest[1]) * self._clock_rate)) % WRAP
        own_clock = info is None
        last = self._last
        if last is not None and own_clock is self._own_clock and (found[0] < last[0] or ahead(found[1], last[1]) < 0):
            # A step back confuses the receiver's clock mapping; but if it persists, it is the truth.
            self._skipped += 1
            if self._skipped <= MAX_SKIPPED:
                return None
        self._skipped = 0
        self._own_clock = own_clock
        self._last = found
        return found

    def sent(self, ntp: int, now: float) -> None:
        """Remember that a report with this NTP time (32.32) left at `now`."""
        self._sent = [*self._sent[1 - REMEMBERED :], (ntp >> 16 & 0xFFFFFFFF, now)]

    def receive(self, block: ReportBlock, stats: SendStats, now: float) -> None:
        """Take one report block into `stats` (RFC 3550, section 6.4.1)."""
        stats.lost = block.cumulative_lost
        stats.fraction_lost = block.fraction_lost / 256
        stats.jitter = block.jitter / self._clock_rate
        stats.reported_at = now
        if block.last_sr:
            for middle, at in self._sent:
                if middle == block.last_sr:
                    rtt = now - at - block.delay_since_last_sr / TICKS
                    if 0 <= rtt <= MAX_RTT:
                        stats.rtt = rtt
