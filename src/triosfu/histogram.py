"""Histograms in plain numbers: observing costs a search in a short tuple, and nothing else is done until it is read."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence  # noqa: TC003  of a public signature


class Histogram:
    """How many observations were at most as large as each of some bounds, and their sum."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Begin empty; `bounds` ascend, and what exceeds the last is counted all the same."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self._counts)

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        """Count what `other`, of the same bounds, has counted, too."""
        self._counts = [one + more for one, more in zip(self._counts, other._counts, strict=True)]
        self.sum += other.sum

    def cumulative(self) -> list[tuple[float, int]]:
        """Each bound, infinity last, with the number of observations that it bounds."""
        total, rows = 0, []
        for bound, count in zip((*self._bounds, math.inf), self._counts, strict=True):
            total += count
            rows.append((bound, total))
        return rows


def exponential(first: float, last: float, count: int) -> tuple[float, ...]:
    """`count` bounds from `first` to `last`, each by the same factor larger than the one before."""
    factor = (last / first) ** (1 / (count - 1))
    return tuple(first * factor**power for power in range(count))
