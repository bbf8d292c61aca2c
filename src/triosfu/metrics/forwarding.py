"""How long media is here: from when it is read from the socket until all that it caused has been given to the kernel.

The mux tells of one batch of datagrams at a time, so that a packet pays nothing.
"""

from __future__ import annotations

import math
from typing import Final

from triosfu.histogram import Histogram, exponential

# Nanoseconds: from 50 microseconds, a batch of one packet for one subscriber, to 100 milliseconds.
BOUNDS: Final = tuple(round(bound) for bound in exponential(50_000, 102_400_000, 12))


class ForwardDelay:
    """All batches since the server began, and what those of the last window were like; all in nanoseconds."""

    def __init__(self) -> None:
        self.all = Histogram(BOUNDS)
        self.latency = 0.0  # the mean of the last window
        self.jitter = 0.0  # its standard deviation
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def observe(self, seconds: float) -> None:
        """Count one batch."""
        nanoseconds = 1e9 * seconds
        self.all.observe(nanoseconds)
        self._count += 1
        self._sum += nanoseconds
        self._squares += nanoseconds * nanoseconds

    def end_window(self) -> None:
        """Begin another window; in one without media both figures are 0."""
        count = max(1, self._count)
        self.latency = self._sum / count
        self.jitter = math.sqrt(max(0.0, self._squares / count - self.latency**2))
        self._count, self._sum, self._squares = 0, 0.0, 0.0
