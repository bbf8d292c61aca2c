"""What the peers of a run tell each other, and the one who runs them: JSON, a line each.

The sender writes its offer and reads the answer, the receiver the other way round. The sender ends by itself and writes
what it has used; the receiver ends with its standard input, and writes a `Tally`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

INTERVAL = 0.1  # seconds between two points of the plot


def tell(**values: Any) -> None:  # noqa: ANN401  JSON
    """Write one line."""
    print(json.dumps(values), flush=True)


def hear() -> Any:  # noqa: ANN401  JSON
    """Read one line."""
    return json.loads(sys.stdin.readline())


@dataclass(slots=True)
class Tally:
    """What has arrived, and the CPU time that it took."""

    size: int = 0
    started: float = 0.0
    seconds: float = 0.0
    cpu: float = 0.0
    series: list[tuple[float, int]] = field(default_factory=list)  # seconds since the start, bytes until then
    _cpu_before: float = 0.0

    def count(self, size: int) -> None:
        """Add a message that has just arrived; the first one only starts the clock."""
        now = time.perf_counter()
        if not self.started:
            self.started, self._cpu_before = now, time.process_time()
            return
        self.size += size
        self.seconds = now - self.started
        if self.seconds >= INTERVAL * len(self.series):
            self.series.append((self.seconds, self.size))
            self.cpu = time.process_time() - self._cpu_before

    def tell(self) -> None:
        """Write it down for the one who runs us."""
        tell(**asdict(self))
