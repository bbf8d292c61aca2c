"""When a socket is read: media at once, control at once after a silence and else in batches."""

from __future__ import annotations

import errno
from collections import Counter
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triosfu.net.batch import BATCH
from triosfu.net.reading import BUDGET, CONTROL_EVERY, Reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from triosfu.net.batch import DatagramSocket


class Arrivals:
    """A socket and its inbox: how many datagrams have arrived; each costs `cost` seconds when it is delivered."""

    def __init__(self, clock: MockClock) -> None:
        self.clock, self.cost = clock, 0.0
        self.waiting = 0
        self.error = False
        self.asked = 0  # how often the system was asked whether there is something
        self.read: list[tuple[float, int]] = []  # when, and how many
        self.counters: Counter[str] = Counter()
        self.messages, self.empty = 0, True
        self._something = trio.Event()

    def arrive(self, count: int = 1) -> None:
        self.waiting += count
        self._something.set()

    async def wait_readable(self, _sock: DatagramSocket) -> None:
        self.asked += 1
        await self._something.wait()

    def receive(self, most: int = BATCH) -> int:
        if self.error:
            self.error = False
            raise OSError(errno.ECONNREFUSED, "an ICMP error")
        count = min(most, self.waiting)
        self.waiting -= count
        self.messages, self.empty = count, count < most
        if not self.waiting:
            self._something = trio.Event()
        return count

    def deliver(self, count: int) -> None:
        self.read.append((trio.current_time(), count))
        self.clock.jump(count * self.cost)

    @property
    def reader(self) -> Reader:
        return Reader(
            self, self, self.deliver, counters=self.counters, wait_readable=self.wait_readable  # type: ignore[arg-type]
        )  # fmt: skip


@asynccontextmanager
async def reading(clock: MockClock, *, in_batches: bool) -> AsyncIterator[Arrivals]:
    arrivals = Arrivals(clock)
    async with trio.open_nursery() as nursery:
        reader = arrivals.reader
        nursery.start_soon(reader.read_in_batches if in_batches else reader.read_at_once)
        await wait_all_tasks_blocked()
        yield arrivals
        nursery.cancel_scope.cancel()


async def pass_time(clock: MockClock, seconds: float) -> None:
    clock.jump(seconds)
    await wait_all_tasks_blocked()


@pytest.mark.parametrize("in_batches", [True, False])
async def test_what_comes_after_a_silence_is_read_at_once(mock_clock: MockClock, in_batches: bool) -> None:
    async with reading(mock_clock, in_batches=in_batches) as arrivals:
        for number in range(1, 4):
            began = trio.current_time()
            arrivals.arrive()
            await wait_all_tasks_blocked()
            assert arrivals.read[-1] == (began, 1)
            assert len(arrivals.read) == number
            await pass_time(mock_clock, CONTROL_EVERY)


async def test_media_is_read_whenever_it_comes(mock_clock: MockClock) -> None:
    async with reading(mock_clock, in_batches=False) as arrivals:
        for number in range(1, 20):
            arrivals.arrive()
            await wait_all_tasks_blocked()
            assert len(arrivals.read) == number
            await pass_time(mock_clock, CONTROL_EVERY / 10)


async def test_under_load_control_is_read_once_in_an_interval_and_wakes_nobody_meanwhile(
    mock_clock: MockClock,
) -> None:
    async with reading(mock_clock, in_batches=True) as arrivals:
        began, steps = trio.current_time(), 400
        for _ in range(steps):
            arrivals.arrive()
            await wait_all_tasks_blocked()
            await pass_time(mock_clock, CONTROL_EVERY / 8)
        times = [at for at, _ in arrivals.read]
        assert times[0] == began
        assert all(later - at >= CONTROL_EVERY * 0.999 for at, later in pairwise(times))
        assert len(times) <= steps / 8 + 1
        assert arrivals.asked <= len(times) + 1, "once for each read"
        await pass_time(mock_clock, CONTROL_EVERY)
        assert sum(count for _, count in arrivals.read) == steps
        assert arrivals.read[-1][0] - arrivals.read[-2][0] <= 2 * CONTROL_EVERY, "and none waits for longer"


async def test_more_control_than_the_budget_leaves_time_for_others(mock_clock: MockClock) -> None:
    """A flood of it has three fifths of the time, and a batch for each interval."""
    async with reading(mock_clock, in_batches=True) as arrivals:
        arrivals.cost = 0.0001
        arrivals.arrive(100_000)
        began = trio.current_time()
        await wait_all_tasks_blocked()
        while trio.current_time() < began + 1:
            await pass_time(mock_clock, CONTROL_EVERY / 20)
        took = arrivals.cost * sum(count for _, count in arrivals.read)
        assert 0.5 < took < 0.5 + BATCH * arrivals.cost / CONTROL_EVERY
        assert took < (2 * BUDGET) / CONTROL_EVERY
        assert arrivals.waiting > 0


@pytest.mark.parametrize("in_batches", [True, False])
async def test_an_error_that_a_socket_tells_is_counted_and_the_rest_is_read(
    mock_clock: MockClock, in_batches: bool
) -> None:
    async with reading(mock_clock, in_batches=in_batches) as arrivals:
        arrivals.error = True
        arrivals.arrive(3)
        await wait_all_tasks_blocked()
        await pass_time(mock_clock, CONTROL_EVERY)
        assert arrivals.counters == {"receive_error": 1}
        assert [count for _, count in arrivals.read] == [3]
