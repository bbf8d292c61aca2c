"""The deadlines of one owner by name, each with what to do when it passes, and the task that sleeps for them all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


class Deadlines:
    """A table of named deadlines; `run` performs the action of each one that passes.

    Actions are synchronous. They may arm and disarm deadlines, their own too. What an action raises ends `run`: it is
    a bug of the owner, and the owner's nursery is where it belongs.
    """

    def __init__(self) -> None:
        self._armed: dict[Hashable, tuple[float, Callable[[], None]]] = {}
        self._sleep = trio.CancelScope()

    def __contains__(self, name: Hashable) -> bool:
        return name in self._armed

    def __len__(self) -> int:
        return len(self._armed)

    def arm(self, name: Hashable, at: float, action: Callable[[], None]) -> None:
        """Perform `action` when the clock reaches `at` seconds; replaces what was armed under `name`."""
        self._armed[name] = (at, action)
        if at < self._sleep.deadline:  # noqa: PLR1730  to set it is dear, even to what it was
            self._sleep.deadline = at

    def disarm(self, name: Hashable) -> None:
        """Forget the deadline `name`; nothing happens when there is none."""
        self._armed.pop(name, None)

    def clear(self) -> None:
        """Forget every deadline."""
        self._armed.clear()

    def next(self) -> float:
        """Return the earliest deadline, infinite when none is armed."""
        return min((at for at, _ in self._armed.values()), default=math.inf)

    def expire(self, now: float) -> None:
        """Perform what is due at `now`, earliest first; what these actions arm anew waits for the next call."""
        due = sorted((at, order) for order, (at, _) in enumerate(self._armed.values()) if at <= now)
        names = list(self._armed)
        for at, order in due:
            armed = self._armed.get(names[order])
            if armed is not None and armed[0] == at:
                del self._armed[names[order]]
                armed[1]()

    async def run(self) -> None:
        """Keep the time until cancelled."""
        while True:
            with trio.CancelScope(deadline=self.next()) as self._sleep:
                await trio.sleep_forever()
            self.expire(trio.current_time())
