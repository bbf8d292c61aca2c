"""The packets of one transport under their transport-wide sequence numbers, until feedback tells of them."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from triosfu.rtp.twcc import TICK, TICKS_PER_REFERENCE

if TYPE_CHECKING:
    from triosfu.kernel import Record
    from triosfu.rtp.twcc import TransportFeedback

REMEMBERED = 1024  # packets, which is half a second of 20 Mbit/s; a power of two
SHARE = 200  # ticks, 50 ms: arrivals so close together are one share


class Arrivals(NamedTuple):
    """What one feedback tells. Times of arrival are by the subscriber's clock, of which only changes mean something."""

    shares: list[tuple[float, float]]  # when the last of some packets arrived, and how many bytes they have together
    lowest: float  # seconds from when a packet was sent to when it arrived
    last: float  # the same for the last one


class SentLog:
    """Numbers outgoing packets, and tells from the feedback what arrived (draft-holmer-rmcat-transport-wide-cc).

    Plain numbers in arrays: a thousand transports of objects would be millions for the collector to look at.
    """

    __slots__ = ("_next", "_record", "_sent", "_sizes")

    def __init__(self) -> None:
        self._record: tuple[Record, ...] | None = None
        self._next = array("I", (0,))
        self._sent = array("d")  # when, by the number's low bits; empty before the first
        self._sizes = array("I")  # 0 where there is nothing to tell

    def sent(self, size: int, now: float) -> int:
        """The 16-bit number of a packet of `size` bytes that leaves at `now`."""
        number = self._next[0]
        self._next[0] = number + 1 & 0xFFFF
        if not self._sent:
            self._begin()
        slot = number & REMEMBERED - 1
        self._sent[slot] = now
        self._sizes[slot] = size
        return number

    def _begin(self) -> None:
        self._sent, self._sizes = array("d", bytes(8 * REMEMBERED)), array("I", bytes(4 * REMEMBERED))

    def record(self, ffi: Any) -> tuple[Record, ...]:  # noqa: ANN401  cffi publishes no types
        """For the compiled kernel, which does what `sent` and `resolve` do: struct log, and what holds it."""
        if self._record is None:
            if not self._sent:
                self._begin()
            at, sizes, following = (ffi.from_buffer(numbers) for numbers in (self._sent, self._sizes, self._next))
            record = ffi.new(
                "struct log *",
                {
                    "at": ffi.cast("double *", at),
                    "sizes": ffi.cast("uint32_t *", sizes),
                    "next": ffi.cast("uint32_t *", following),
                    "mask": REMEMBERED - 1,
                },
            )
            self._record = record, at, sizes, following
        return self._record

    @property
    def empty(self) -> bool:
        """Whether nothing was sent since the beginning, or since `forget`."""
        return not self._sent

    def resolve(self, feedback: TransportFeedback) -> Arrivals | None:
        """What `feedback` says arrived of what was sent; None if nothing did. Each packet is told of once."""
        sent, sizes, end = self._sent, self._sizes, self._next[0]
        if not sent:
            return None
        ticks, base = feedback.reference_time * TICKS_PER_REFERENCE, feedback.base_sequence
        octets = began = 0
        delay = lowest = math.inf
        shares: list[tuple[float, float]] = []
        # A step for each packet of each subscriber: nothing is made for a single one.
        for distance, delta in feedback.received:
            ticks += delta
            number = base + distance & 0xFFFF
            slot = number & REMEMBERED - 1
            if (size := sizes[slot]) and 0 < end - number & 0xFFFF <= REMEMBERED:
                sizes[slot] = 0
                delay = ticks * TICK - sent[slot]
                if delay < lowest:  # noqa: PLR1730  a call for each packet
                    lowest = delay
                if not octets:
                    began = ticks
                octets += size
                if not -SHARE < ticks - began < SHARE:
                    shares.append((ticks * TICK, octets))
                    octets = 0
        if octets:
            shares.append((ticks * TICK, octets))
        return Arrivals(shares, lowest, delay) if shares else None

    def forget(self) -> None:
        """Know nothing of what was sent so far: 12 KiB, with a busy transport."""
        self._sent, self._sizes, self._record = array("d"), array("I"), None
