"""How well one track travels in one direction, 0 to 100, judged in windows of five seconds.

Sans-IO: counters and time in, a score and a deadline out. A participant is as well connected as its worst track.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.media.down_track import DownTrack
    from triosfu.media.receiver import TrackReceiver

WINDOW = 5.0  # seconds
SLACK = 0.5  # seconds: who looks at many tracks, one after the other, may be that much earlier than the last time
BEST, DRY, PAUSED, LOST = 100.0, 40.0, 30.0, 20.0  # scores
LOWEST = 30.0  # of a track that something is known of
RISE, FALL = 0.4, 0.8  # weights of a new window's score: bad news travels faster
LAYER_COST = 35.0  # for each spatial layer below what is wanted
REPORT_LIFE = 30.0  # seconds; older reports say nothing
USUAL_WINDOWS = 12  # recent windows that tell the usual packet rate
LOSS_WEIGHT = {"audio/opus": 8.0, "audio/red": 4.0}  # points for each percent lost
VIDEO_WEIGHT, OTHER_AUDIO_WEIGHT = 10.0, 8.0
FEC_RELIEF = 1.5


@dataclass(frozen=True, slots=True)
class Observation:
    """The state of a track's counters. `packets` and `lost` only ever count up (`lost` may be mended a little)."""

    packets: int
    lost: int
    rtt: float | None = None  # seconds; None where it says nothing about this direction
    jitter: float = 0.0  # seconds
    reported_at: float | None = None  # when the far side last reported; None for what we count ourselves
    layers_missing: int = 0  # spatial layers between what is wanted and what flows


class TrackQuality:
    """The score of one track; `observe` it now and then, a few times a window."""

    def __init__(self, *, mime: str, now: float, needs_reports: bool, fec: bool = False) -> None:
        mime = mime.lower()
        if mime.startswith("video"):
            self._weight = VIDEO_WEIGHT
        else:
            self._weight = LOSS_WEIGHT.get(mime, OTHER_AUDIO_WEIGHT) / (FEC_RELIEF if fec else 1.0)
        self.score = BEST
        self._needs_reports = needs_reports
        self._started_at = self._window_at = now
        self._first: Observation | None = None  # of the window
        self._last: Observation | None = None
        self._before: Observation | None = None  # the last
        self._rtt: float | None = None  # the worst of the window
        self._jitter = 0.0
        self._layers_missing = 0
        self._usual: list[float] = []  # packets a second, of recent windows; a deque is half a kilobyte
        self._muted_since: float | None = None
        self._muted = 0.0  # seconds of the window
        self._paused = False

    def observe(self, seen: Observation) -> None:
        """Take the counters as they are now."""
        if self._first is None:
            self._first = seen
        self._before, self._last = self._last, seen
        if seen.rtt is not None:
            self._rtt = seen.rtt if self._rtt is None else max(self._rtt, seen.rtt)
        self._jitter = max(self._jitter, seen.jitter)
        # A change of layers takes its time: only what is missing twice in a row is missing.
        before = self._before or seen
        self._layers_missing = max(self._layers_missing, min(before.layers_missing, seen.layers_missing))

    def set_muted(self, muted: bool, now: float) -> None:  # noqa: FBT001  a state, not an option
        """While muted a track cannot be bad."""
        if muted and self._muted_since is None:
            self._muted_since = now
        elif not muted and self._muted_since is not None:
            self._muted += now - self._muted_since
            self._muted_since = None

    def set_paused(self, paused: bool) -> None:  # noqa: FBT001  a state, not an option
        """A track that we hold back for want of bandwidth is poor, whatever the counters say."""
        self._paused = paused

    def next_timeout(self) -> float:
        """When the window closes."""
        return self._window_at + WINDOW

    def handle_timeout(self, now: float) -> None:
        """Close the window if it is over, or nearly so, and judge it."""
        if now < self._window_at + WINDOW - SLACK:
            return
        self._count_mute(now)
        judged = self._judge(now, now - self._window_at)
        if judged is not None:
            weight = RISE if judged > self.score else FALL
            if judged == LOST:
                self.score = LOST
            else:
                self.score = max(LOWEST, self.score + weight * (judged - self.score))
        self._window_at = now
        self._first = self._last
        self._rtt, self._jitter, self._layers_missing, self._muted = None, 0.0, 0, 0.0

    def _count_mute(self, now: float) -> None:
        """Count the mute that lasts on into the window that closes."""
        if self._muted_since is not None:
            self._muted += now - self._muted_since
            self._muted_since = now

    def _judge(self, now: float, span: float) -> float | None:
        """The score of the window; None when there is nothing to judge."""
        if self._muted * 2 >= span:
            return BEST
        if self._paused:
            return PAUSED
        first, last = self._first, self._last
        if first is None or last is None:
            return None
        packets = last.packets - first.packets
        if packets < 0:
            return None  # the stream began anew, and its counters with it
        if not packets:
            return DRY
        if self._needs_reports:
            known = last.reported_at if last.reported_at is not None else self._started_at
            if now - known > REPORT_LIFE:
                return LOST
            if last.reported_at is None:
                return None
        rate = packets / (span - self._muted)
        self._usual = [*self._usual[1 - USUAL_WINDOWS :], rate]
        layers = BEST - LAYER_COST * self._layers_missing
        return max(0.0, min(layers, self._packet_score(packets, max(0, last.lost - first.lost), rate)))

    def _packet_score(self, packets: int, lost: int, rate: float) -> float:
        """The E-model's idea: delay and loss take points (ITU-T G.107, simplified)."""
        delay = 1000 * ((self._rtt or 0.0) / 2 + 2 * self._jitter)  # milliseconds
        delay_cost = delay / 40 if delay <= 160 else (delay - 120) / 10
        percent = 100 * min(1.0, lost / packets)
        # A sparse stream (silence without packets) loses few packets, and each says less.
        weight = self._weight * min(1.0, math.sqrt(rate / median(self._usual)))
        return max(0.0, BEST - delay_cost - percent * weight)


def received(receiver: TrackReceiver, expected: int) -> Observation:
    """What is known of a track on its way from the publisher, who should send layers up to `expected`.

    A layer counts as missing only once it has been there: some publishers never have it, others are slow to start.
    """
    streams = receiver.streams
    wanted = min(expected, max(streams, default=0))
    return Observation(
        packets=sum(stream.reception.received for stream in streams.values()),
        lost=sum(stream.reception.lost - stream.repaired for stream in streams.values()),
        jitter=max((stream.reception.jitter for stream in streams.values()), default=0.0) / receiver.clock_rate,
        layers_missing=max(0, wanted - max(receiver.available, default=wanted)),
    )


def sent(track: DownTrack) -> Observation:
    """What is known of a track on its way to a subscriber, who is not to blame for what never reached us."""
    stats, current = track.stats, track.current_layer
    return Observation(
        packets=stats.packets,
        lost=max(0, stats.lost - stats.left_out),
        rtt=stats.rtt,
        jitter=stats.jitter,
        reported_at=stats.reported_at,
        layers_missing=0 if current < 0 else max(0, track.target_layer - current),
    )


def worst(scores: list[float]) -> float:
    """The score of a participant with these tracks."""
    return min(scores, default=BEST)
