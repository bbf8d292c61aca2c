"""The packets of one transport under their transport-wide sequence numbers, until feedback tells of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.rtp.twcc import TransportFeedback

REMEMBERED = 4096  # packets; a power of two


class SentLog:
    """Numbers outgoing packets, and tells from the feedback what arrived (draft-holmer-rmcat-transport-wide-cc)."""

    def __init__(self) -> None:
        self._next = 0
        self._sent: list[tuple[int, float, int] | None] = []  # number, when, size; empty before the first

    def sent(self, size: int, now: float) -> int:
        """The 16-bit number of a packet of `size` bytes that leaves at `now`."""
        number = self._next
        self._next = number + 1 & 0xFFFF
        if not self._sent:
            self._sent = [None] * REMEMBERED
        self._sent[number % REMEMBERED] = number, now, size
        return number

    def resolve(self, feedback: TransportFeedback) -> tuple[list[tuple[float, float, int]], int]:
        """The packets `feedback` says arrived, as (sent at, arrived at, size), and how many it says are missing.

        Each packet is told of once. Times of arrival are by the subscriber's clock.
        """
        arrived = []
        for number, arrival in feedback.arrivals() if self._sent else ():
            slot = number % REMEMBERED
            entry = self._sent[slot]
            if entry is not None and entry[0] == number:
                self._sent[slot] = None
                arrived.append((entry[1], arrival, entry[2]))
        return arrived, feedback.status_count - len(feedback.received)

    def forget(self) -> None:
        """Know nothing of what was sent so far: half a megabyte, with a busy transport."""
        self._sent = []
