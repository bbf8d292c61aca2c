"""Arrival times of everything that a publisher sends, reported back for its bandwidth estimator.

Without this feedback a client's estimate stays where it started, and simulcast at its lowest layer.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left

from triosfu.grid import SPACING, on_grid
from triosfu.media.sequence import extend
from triosfu.rtp.twcc import TICK, TICKS_PER_REFERENCE, TransportFeedback

EMIT_ABOVE = 20  # packets
EMIT_ANYHOW_ABOVE = 100
EMIT_EVERY, EMIT_AT_MARKER = 0.1, 0.05  # seconds since the last feedback
EMIT_WITHIN = 0.25  # a few packets do not wait longer: an estimator without news assumes the worst
MAX_BEHIND = 1000  # numbers; what comes later than this is not reported
KEEP = 0.5  # seconds that reported arrivals are kept, for feedback that must reach back to a late packet
MAX_KEPT = 4000  # of them, and of those that no feedback was made of
MAX_STATUSES = 0x8000
MAX_RECEIVED = 150  # in one feedback: even widely spaced they fit a datagram
MAX_DELTA = 0x7FFF


class TwccRecorder:
    """Collects (transport sequence number, arrival) and makes feedback packets of them."""

    __slots__ = (
        "_emitted_at",
        "_feedback_count",
        "_fresh",
        "_highest",
        "_start",
        "_told",
        "_told_arrivals",
        "deadline",
    )

    def __init__(self) -> None:
        self._fresh: dict[int, float] = {}  # extended number -> arrival, of what no feedback has told yet
        self._told = array("q")  # the numbers that one has told lately, ascending
        self._told_arrivals = array("d")  # theirs
        self._highest = -1
        self._start = 0  # first number that no feedback has covered
        self._emitted_at = -math.inf
        self.deadline = math.inf  # when a feedback is due although few packets came
        self._feedback_count = 0

    def record(self, sequence: int, now: float, *, marker: bool) -> bool:
        """Note one arrival; whether a feedback is due now."""
        if self._highest < 0:
            self._highest = number = sequence + 0x10000
            self._start = number
            self._emitted_at = now
        else:
            number = extend(sequence, self._highest)
            if number > self._highest:
                self._highest = number
            elif number <= self._highest - MAX_BEHIND or number in self._fresh or self._has_told(number):
                return False
            elif number < self._start:
                self._start = number
        self._fresh[number] = now
        fresh = len(self._fresh)
        if fresh == 1:
            self.deadline = on_grid(now + EMIT_WITHIN) - SPACING
        elif fresh > MAX_KEPT:
            del self._fresh[next(iter(self._fresh))]
        if fresh <= EMIT_ABOVE:
            return False
        waited = now - self._emitted_at
        return fresh > EMIT_ANYHOW_ABOVE or waited >= EMIT_EVERY or (marker and waited >= EMIT_AT_MARKER)

    def record_run(self, sequence: int, count: int, now: float) -> bool:
        """Note `count` arrivals that are the next in order; False, and nothing, if one before the last may be due."""
        first, fresh = self._highest + 1, len(self._fresh)
        if self._highest < 0 or sequence != first & 0xFFFF or fresh + count > EMIT_ANYHOW_ABOVE:
            return False
        if fresh + count > EMIT_ABOVE and now - self._emitted_at >= EMIT_EVERY:
            return False
        if not fresh:
            self.deadline = on_grid(now + EMIT_WITHIN) - SPACING
        self._highest += count
        self._fresh.update(dict.fromkeys(range(first, first + count), now))
        return True

    def build(self, sender_ssrc: int, media_ssrc: int, now: float) -> list[TransportFeedback]:
        """Feedback for everything since the last one; more than one packet when it does not fit."""
        self._emitted_at = now
        self.deadline = math.inf
        arrivals = self._take_fresh(now)
        feedbacks: list[TransportFeedback] = []
        base = self._start
        received: list[tuple[int, int]] = []
        reference = ticks = 0
        for number, moment in arrivals:
            arrival = round(moment / TICK)
            delta = arrival - ticks
            if received and (
                number - base >= MAX_STATUSES or len(received) == MAX_RECEIVED or not -MAX_DELTA <= delta <= MAX_DELTA
            ):
                feedbacks.append(self._feedback(sender_ssrc, media_ssrc, base, reference, received))
                base, received = number, []
            if not received:
                if number - base >= MAX_STATUSES:
                    base = number
                reference = arrival // TICKS_PER_REFERENCE
                delta = arrival - reference * TICKS_PER_REFERENCE
            received.append((number - base, delta))
            ticks = arrival
        if received:
            feedbacks.append(self._feedback(sender_ssrc, media_ssrc, base, reference, received))
        self._start = self._highest + 1
        return feedbacks

    def _take_fresh(self, now: float) -> list[tuple[int, float]]:
        """What to tell, by number: all that is fresh, and what came between; from now on it has been told."""
        told, when = self._told, self._told_arrivals
        place = bisect_left(told, self._start)
        arrivals = sorted([*zip(told[place:], when[place:], strict=True), *self._fresh.items()])
        self._fresh = {}
        old = max(0, place + len(arrivals) - MAX_KEPT)
        while old < place and when[old] < now - KEEP:
            old += 1
        self._told = told[old:place] + array("q", [number for number, _ in arrivals])
        self._told_arrivals = when[old:place] + array("d", [arrival for _, arrival in arrivals])
        return arrivals

    def _has_told(self, number: int) -> bool:
        place = bisect_left(self._told, number)
        return place < len(self._told) and self._told[place] == number

    def _feedback(
        self, sender_ssrc: int, media_ssrc: int, base: int, reference: int, received: list[tuple[int, int]]
    ) -> TransportFeedback:
        count = self._feedback_count
        self._feedback_count = (count + 1) & 0xFF
        return TransportFeedback(
            sender_ssrc=sender_ssrc,
            media_ssrc=media_ssrc,
            base_sequence=base & 0xFFFF,
            status_count=received[-1][0] + 1,
            reference_time=((reference + 0x800000) & 0xFFFFFF) - 0x800000,
            feedback_count=count,
            received=tuple(received),
        )
