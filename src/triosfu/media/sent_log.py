"""The packets of one transport under their transport-wide sequence numbers, until feedback tells of them."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.rtp.twcc import TransportFeedback

REMEMBERED = 4096  # packets; a power of two


class SentLog:
    """Numbers outgoing packets, and tells from the feedback what arrived (draft-holmer-rmcat-transport-wide-cc).

    Plain numbers in arrays: a thousand transports of objects would be millions for the collector to look at.
    """

    __slots__ = ("_next", "_sent", "_sizes")

    def __init__(self) -> None:
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

    def arrays(self) -> tuple[array[float], array[int], array[int]]:
        """When, how large, and the next number: for the compiled kernel, which does what `sent` does."""
        if not self._sent:
            self._begin()
        return self._sent, self._sizes, self._next

    def resolve(self, feedback: TransportFeedback) -> tuple[list[tuple[float, float, int]], int]:
        """The packets `feedback` says arrived, as (sent at, arrived at, size), and how many it says are missing.

        Each packet is told of once. Times of arrival are by the subscriber's clock.
        """
        arrived = []
        sent, sizes, end = self._sent, self._sizes, self._next[0]
        for number, arrival in feedback.arrivals() if sent else ():
            slot = number & REMEMBERED - 1
            if (size := sizes[slot]) and 0 < end - number & 0xFFFF <= REMEMBERED:
                sizes[slot] = 0
                arrived.append((sent[slot], arrival, size))
        return arrived, feedback.status_count - len(feedback.received)

    def forget(self) -> None:
        """Know nothing of what was sent so far: 48 KiB, with a busy transport."""
        self._sent, self._sizes = array("d"), array("I")
