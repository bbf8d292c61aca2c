"""Sequence numbers without their wrap, and without the packets that were taken out of the stream."""

from __future__ import annotations

from bisect import bisect_right

MAX_RANGES = 100


def extend(sequence: int, near: int) -> int:
    """The number closest to `near` whose low 16 bits are `sequence`."""
    return near + ((sequence - near + 0x8000) & 0xFFFF) - 0x8000


class Exclusions:
    """Which numbers were taken out, so that the others can be counted as if those had never been.

    A number may be taken out only while it is the newest: what came after an older one has its index already. The last
    hundred ranges are remembered, for packets that come late.
    """

    __slots__ = ("_before", "_ends", "_floor", "_starts", "offset")

    def __init__(self) -> None:
        self.offset = 0  # index = number - offset, behind the newest range
        self._floor = 0  # nothing is known about numbers below
        self._starts: list[int] = []
        self._ends: list[int] = []  # inclusive
        self._before: list[int] = []  # the offset in front of each range

    def exclude(self, number: int) -> None:
        """Take `number` out; it is newer than everything that has an index."""
        if self._ends and self._ends[-1] == number - 1:
            self._ends[-1] = number
        else:
            self._starts.append(number)
            self._ends.append(number)
            self._before.append(self.offset)
            if len(self._starts) > MAX_RANGES:
                self._floor = self._ends[0] + 1
                del self._starts[0], self._ends[0], self._before[0]
        self.offset += 1

    def index(self, number: int) -> int | None:
        """The index of `number`; None when it was taken out, or is too old to tell."""
        if number < self._floor:
            return None
        after = bisect_right(self._starts, number)
        if after and number <= self._ends[after - 1]:
            return None
        return number - (self._before[after] if after < len(self._before) else self.offset)
