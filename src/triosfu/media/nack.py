"""Which lost packets to ask for again, and when."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_MISSING = 100
MAX_TRIES = 5
FIRST_WAIT = 0.02  # seconds; reordering mends itself within that time
MAX_WAIT = 0.4
BACKOFF = 1.25
LIFE = 120.0


@dataclass(slots=True)
class Missing:
    """One number that has not come."""

    since: float
    due: float  # when to ask (again), or to give up
    tries: int = 0


class NackGenerator:
    """Missing numbers of one stream: at most a hundred, each asked for at most five times.

    Numbers are extended, so their order is their age.
    """

    __slots__ = ("_due", "_missing", "asked", "given_up")

    def __init__(self) -> None:
        self.given_up = 0  # numbers that nobody will ask for any more, ever
        self.asked = 0  # requests, of each number on its own
        self._missing: dict[int, Missing] = {}  # ascending
        self._due = math.inf

    def __len__(self) -> int:
        return len(self._missing)

    def lost(self, first: int, last: int, now: float) -> None:
        """`first` to `last` were skipped. Of more than fit, the newest are kept."""
        missing = self._missing
        kept = max(first, last + 1 - MAX_MISSING)
        self.given_up += kept - first
        for _ in range(len(missing) + last + 1 - kept - MAX_MISSING):
            del missing[next(iter(missing))]
            self.given_up += 1
        for number in range(kept, last + 1):
            missing[number] = Missing(now, now + FIRST_WAIT)
        self._due = min(self._due, now + FIRST_WAIT)

    def received(self, number: int) -> bool:
        """Forget `number`; whether it was missing."""
        return self._missing.pop(number, None) is not None

    def clear(self) -> None:
        """Forget all: the stream began anew."""
        self._missing.clear()
        self._due = math.inf

    def next_timeout(self) -> float:
        """When `due` has something to do."""
        return self._due if self._missing else math.inf

    def due(self, now: float, rtt: float) -> list[int]:
        """The numbers to ask for now, ascending; each of them counts as asked for."""
        if now < self.next_timeout():
            return []
        asked: list[int] = []
        ended: list[int] = []
        due = math.inf
        for number, missing in self._missing.items():
            if missing.due <= now:
                if missing.tries >= MAX_TRIES or now - missing.since > LIFE:
                    ended.append(number)
                    continue
                missing.tries += 1
                missing.due = now + max(FIRST_WAIT, min(rtt * BACKOFF ** (missing.tries - 1), MAX_WAIT))
                asked.append(number)
            due = min(due, missing.due)
        for number in ended:
            del self._missing[number]
        self.given_up += len(ended)
        self.asked += len(asked)
        self._due = due
        return asked
