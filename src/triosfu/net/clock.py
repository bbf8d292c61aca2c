"""One sleep for the timers of all peer connections.

A cancel scope is a fine alarm clock for one task, and a dear one for thousands: each expiry throws an exception through
the task that it wakes. Here one task sleeps towards the earliest of all deadlines, and has trio run those whose time
has come, many at once. A timer stays what it is: an entry in a table, which its owner moves (docs/cancellation.md, 7).
"""

from __future__ import annotations

import heapq
import math
from itertools import count

import trio

SWEEP_AT = 64  # entries


class Alarm:
    """The one timer of one task: `deadline` may be moved at any time, by anybody; `wait` returns once it has passed."""

    __slots__ = ("_clock", "_deadline", "_rings_at", "_task")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._deadline = self._rings_at = math.inf
        self._task: trio.lowlevel.Task | None = None

    @property
    def deadline(self) -> float:
        """When `wait` returns; `math.inf` for never."""
        return self._deadline

    @deadline.setter
    def deadline(self, at: float) -> None:
        self._deadline = at
        # One that has become later is looked at when the earlier time comes: most are moved often, and ring seldom.
        if at < self._rings_at:
            self._rings_at = at
            self._clock.ring(self, at)

    async def wait(self) -> None:
        """Wait until the deadline has passed, or `wake` was called; one task at a time.

        Cancelled, it has changed nothing.
        """
        self.deadline = self._deadline  # it may have rung already, and nobody was there
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def wake(self) -> None:
        """Have `wait` return now, if somebody waits."""
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def cancel(self) -> None:
        """Ring no more: whoever it was for is gone."""
        armed, self._deadline, self._rings_at = self._rings_at < math.inf, math.inf, math.inf
        if armed:
            self._clock.cancelled()

    def _abort(self, _raise: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def is_meant(self, at: float) -> bool:
        """Whether the clock's entry for `at` stands for this alarm; another one may have taken its place."""
        return at == self._rings_at

    def rings(self, at: float, until: float) -> None:
        """Wake the waiting task if it is due by `until`; the clock's entry for `at` is used up."""
        if not self.is_meant(at):
            return
        self._rings_at = math.inf
        if self._deadline <= until:
            self.wake()
        else:
            self.deadline = self._deadline


class Clock:
    """Wakes the tasks that wait for their alarms; `run` belongs to whoever owns the sockets."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Alarm]] = []  # heap; entries may be stale
        self._order = count()
        self._sweep_at = SWEEP_AT
        self._cancelled = 0  # alarms since the last sweep
        self._sleep = trio.CancelScope()

    def __len__(self) -> int:
        """How many entries there are; of an alarm that was moved ahead the later ones stay until the next sweep."""
        return len(self._entries)

    def ring(self, alarm: Alarm, at: float) -> None:
        """Look at `alarm` when it is `at`."""
        if len(self._entries) >= self._sweep_at:
            self.sweep()
        heapq.heappush(self._entries, (at, next(self._order), alarm))
        self._sleep.deadline = min(self._sleep.deadline, at)

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
            now = trio.current_time()
            while entries and entries[0][0] <= now:
                at, _, alarm = heapq.heappop(entries)
                alarm.rings(at, now)
            await trio.lowlevel.checkpoint()
