"""What a subscriber's feedback says about the way to it."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triosfu.kernel import Record
    from triosfu.media.sent_log import Arrivals, SentLog
    from triosfu.rtp.rtcp import Remb, TransportFeedback

WINDOW = 1.0  # seconds of arrivals that the arrival rate is taken over
KEPT = 128  # shares of these arrivals; feedback each 50 ms makes 40 of a second, a clock that leaps makes more
SMOOTHING = 0.2  # weight of a new feedback's loss
AT, LOSS, QUEUEING, LOWEST, OCTETS = range(5)  # places of the numbers that the compiled kernel works on, too
FIRST, COUNT = range(2)


class Estimate:
    """The latest view of one subscriber's downlink. It only observes; allocating is somebody else's.

    Plain numbers in arrays, like those of `SentLog`: feedback is taken by `receive_feedback`, or by the compiled
    kernel.
    """

    __slots__ = ("_numbers", "_places", "_record", "_shares", "remb", "remb_at")

    def __init__(self) -> None:
        self.remb: int | None = None  # bits per second that the subscriber says it can take
        self.remb_at: float | None = None
        self._numbers = array("d", (math.nan, 0.0, 0.0, math.nan, 0.0))
        self._places = array("I", (0, 0))  # of the oldest share, and how many there are
        self._shares = array("d")  # when each arrived, and its bytes; empty before the first feedback
        self._record: tuple[Record, ...] | None = None

    @property
    def feedback_at(self) -> float | None:
        """When transport-wide feedback came last; None before the first."""
        return None if math.isnan(self._numbers[AT]) else self._numbers[AT]

    @property
    def loss(self) -> float:
        """Share of packets that did not arrive, smoothed, from TWCC."""
        return self._numbers[LOSS]

    @property
    def queueing(self) -> float:
        """Seconds of delay above the lowest seen, from TWCC."""
        return self._numbers[QUEUEING]

    @property
    def arrival_rate(self) -> int | None:
        """Bits per second that arrived over the last second of arrivals, from TWCC; None while nothing is known."""
        return round(8 * self._numbers[OCTETS] / WINDOW) if self._places[COUNT] else None

    def receive_remb(self, remb: Remb, now: float) -> None:
        """Take the subscriber's own estimate."""
        self.remb, self.remb_at = remb.bitrate, now

    def receive_feedback(self, feedback: TransportFeedback, log: SentLog, now: float) -> None:
        """Take transport-wide feedback about packets in `log`."""
        numbers, covered = self._numbers, feedback.status_count
        numbers[AT] = now
        if covered:
            numbers[LOSS] += SMOOTHING * (1 - len(feedback.received) / covered - numbers[LOSS])
        found = log.resolve(feedback)
        if found is not None:
            self._take(found)

    def _take(self, found: Arrivals) -> None:
        numbers, places = self._numbers, self._places
        lowest = numbers[LOWEST]
        if not -WINDOW < found.last - lowest < 60 * WINDOW:
            lowest = found.lowest  # the first, or the subscriber's clock has leapt
        numbers[LOWEST] = lowest = min(lowest, found.lowest)
        numbers[QUEUEING] = found.last - lowest
        shares = self._shares or self._begin()
        for at, octets in found.shares:
            if places[COUNT] == KEPT:
                self._drop()
            place = (places[FIRST] + places[COUNT]) % KEPT
            shares[2 * place], shares[2 * place + 1] = at, octets
            places[COUNT] += 1
            numbers[OCTETS] += octets
        newest = found.shares[-1][0]
        while not 0 <= newest - shares[2 * places[FIRST]] < WINDOW:
            self._drop()

    def _drop(self) -> None:
        places = self._places
        self._numbers[OCTETS] -= self._shares[2 * places[FIRST] + 1]
        places[FIRST] = (places[FIRST] + 1) % KEPT
        places[COUNT] -= 1

    def _begin(self) -> array[float]:
        self._shares = array("d", bytes(16 * KEPT))
        return self._shares

    def record(self, ffi: Any) -> tuple[Record, ...]:  # noqa: ANN401  cffi publishes no types
        """For the compiled kernel, which does what `receive_feedback` does: struct estimate, and what holds it."""
        if self._record is None:
            shares = self._shares or self._begin()
            numbers, places, held = (ffi.from_buffer(each) for each in (self._numbers, self._places, shares))
            record = ffi.new(
                "struct estimate *",
                {
                    "numbers": ffi.cast("struct estimates *", numbers),
                    "places": ffi.cast("struct places *", places),
                    "shares": ffi.cast("struct share *", held),
                    "kept": KEPT,
                },
            )
            self._record = record, numbers, places, held
        return self._record
