"""One sleep for the timers of all peer connections.

A cancel scope is a fine alarm clock for one task, and a dear one for thousands: each expiry throws an exception through
the task that it wakes. Here one task sleeps towards the earliest of all deadlines, and calls those whose time has come,
one after the other, for `BUDGET` seconds at most before others have their turn. A timer stays what it is: an entry in a
table, which its owner moves (docs/cancellation.md, 7).

Whose time need not be exact rounds it up (`triosfu.grid`): then one wake-up is for many.
"""

from __future__ import annotations

import heapq
import math
from itertools import count
from typing import TYPE_CHECKING

import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

SWEEP_AT = 64  # entries
BUDGET = 0.0005  # seconds of work in a row, before sockets and signalling have their turn

log = structlog.get_logger(__name__)


class Alarm:
    """One timer: `deadline` may be moved at any time, by anybody; once it has passed, `action` is called.

    The action is synchronous. It is called once for each deadline, and may set the next one. It must not raise: what it
    raises is a bug, is logged and counted, and is no more than the end of this alarm.
    """

    __slots__ = ("_action", "_clock", "_deadline", "_rings_at")

    def __init__(self, clock: Clock, action: Callable[[], None]) -> None:
        self._clock = clock
        self._action = action
        self._deadline = self._rings_at = math.inf

    @property
    def deadline(self) -> float:
        """When the action is called; `math.inf` for never."""
        return self._deadline

    @deadline.setter
    def deadline(self, at: float) -> None:
        self._deadline = at
        # One that has become later is looked at when the earlier time comes: most are moved often, and ring seldom.
        if at < self._rings_at:
            self._rings_at = at
            self._clock.ring(self, at)

    async def wait(self) -> None:
        """Wait until cancelled; meanwhile the action is called whenever it is time. This is where its owner waits."""
        await trio.sleep_forever()

    def cancel(self) -> None:
        """Ring no more: whoever it was for is gone, and is kept by nothing that stays in the clock for a while."""
        self._action = _nothing
        armed, self._deadline, self._rings_at = self._rings_at < math.inf, math.inf, math.inf
        if armed:
            self._clock.cancelled()

    def is_meant(self, at: float) -> bool:
        """Whether the clock's entry for `at` stands for this alarm; another one may have taken its place."""
        return at == self._rings_at

    def rings(self, at: float, until: float) -> None:
        """Act if it is due by `until`; the clock's entry for `at` is used up."""
        if not self.is_meant(at):
            return
        self._rings_at = math.inf
        if self._deadline <= until:
            self._deadline = math.inf
            self._action()
        else:
            self.deadline = self._deadline


def _nothing() -> None:
    """What an alarm does whose owner is gone."""


class Clock:
    """Calls what alarms are for; `run` belongs to whoever owns the sockets."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Alarm]] = []  # heap; entries may be stale
        self._order = count()
        self._sweep_at = SWEEP_AT
        self._cancelled = 0  # alarms since the last sweep
        self._sleep = trio.CancelScope()
        self.failed = 0
        """Actions that raised, which is a bug."""

    def __len__(self) -> int:
        """How many entries there are; of an alarm that was moved ahead the later ones stay until the next sweep."""
        return len(self._entries)

    def ring(self, alarm: Alarm, at: float) -> None:
        """Look at `alarm` when it is `at`."""
        if len(self._entries) >= self._sweep_at:
            self.sweep()
        heapq.heappush(self._entries, (at, next(self._order), alarm))
        if at < self._sleep.deadline:  # noqa: PLR1730  to set it is dear, even to what it was
            self._sleep.deadline = at

    def cancelled(self) -> None:
        """Note that an entry stands for nothing any more; half of them are dropped at once, or many ends were dear."""
        self._cancelled += 1
        if 2 * self._cancelled > len(self._entries):
            self.sweep()

    def sweep(self) -> None:
        """Drop the entries that stand for nothing any more."""
        self._cancelled = 0
        self._entries[:] = [entry for entry in self._entries if entry[2].is_meant(entry[0])]
        heapq.heapify(self._entries)
        self._sweep_at = max(SWEEP_AT, 2 * len(self._entries))

    async def run(self) -> None:
        """Keep the time until cancelled."""
        entries = self._entries
        while True:
            with trio.CancelScope(deadline=entries[0][0] if entries else math.inf) as self._sleep:
                await trio.sleep_forever()
            now = began = trio.current_time()
            for _ in range(len(entries)):  # an alarm that is set to the past has its turn, and no more than that
                if not entries or entries[0][0] > now or now - began >= BUDGET:
                    break
                at, _, alarm = heapq.heappop(entries)
                try:
                    alarm.rings(at, now)
                except Exception:
                    log.exception("bug", doing="alarm")
                    self.failed += 1
                now = trio.current_time()
            if entries and entries[0][0] <= now:
                await trio.lowlevel.checkpoint()  # others have a whole turn before the rest
