"""When Python's garbage collector works, and on how much: a full collection with 300 participants takes 0.2 s.

What is not part of a cycle goes by itself, without the collector. The one who makes cycles that live for long is the
participant: it is one with its modules, and garbage when it has left. Python's own rule begins a full collection
whenever enough objects have become old: while many join, and now and then while nothing happens but media. Here they
come when there is something to find, which is when many have left.
"""

from __future__ import annotations

import gc
from typing import Final

import trio

YOUNG: Final = 500  # more objects than before, after which the newest ones are looked at: about a millisecond's worth
MIDDLE: Final = 1  # of these looks, after which the next one is at what the others have left, too
OLD: Final = 200  # of those, after which everything is, if much has become old, whether anybody has left or not
FEW, SHARE = 20, 4  # who have left before there is a full collection: so many, and one for so many who are there
PAUSE: Final = 5.0  # seconds at least from one full collection to the next
COUNTED: Final = "participant "  # how the names of the tasks begin whose end is that of a participant


class Collector(trio.abc.Instrument):
    """Has Python look at little at a time while `trio.run` does, and at everything when enough have left."""

    def __init__(self) -> None:
        self._present = self._left = 0
        self._not_before = 0.0
        self._before = gc.get_threshold()

    def before_run(self) -> None:
        """Look never again at what was imported, at little of what is new, and seldom at everything."""
        gc.freeze()
        gc.set_threshold(YOUNG, MIDDLE, OLD)

    def after_run(self) -> None:
        """Leave it to Python again."""
        gc.set_threshold(*self._before)

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Count who comes."""
        if task.name.startswith(COUNTED):
            self._present += 1

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """Count who goes."""
        if not task.name.startswith(COUNTED):
            return
        self._present -= 1
        self._left += 1
        now = trio.current_time()
        enough = self._left >= max(FEW, self._present // SHARE) and now >= self._not_before
        if enough or not self._present:  # when nobody is there it is cheap, and holds up nobody
            self._left, self._not_before = 0, now + PAUSE
            gc.collect()
