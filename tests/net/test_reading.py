"""When a socket is read: media at once, control at once while there is little of it, and else by the clock."""

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
from triosfu.net.reading import BUDGET, CONTROL_EVERY, LEAST, LITTLE, MUCH, Reader

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
async def reading(clock: MockClock, *, control: bool) -> AsyncIterator[Arrivals]:
    arrivals = Arrivals(clock)
    async with trio.open_nursery() as nursery:
        reader = arrivals.reader
        nursery.start_soon(reader.read_control if control else reader.read_at_once)
        await wait_all_tasks_blocked()
        yield arrivals
        nursery.cancel_scope.cancel()


async def pass_time(clock: MockClock, seconds: float) -> None:
    clock.jump(seconds)
    await wait_all_tasks_blocked()


async def test_control_is_read_at_once_while_there_is_little_of_it(mock_clock: MockClock) -> None:
    """Which is what a quiet room has: one turn of the loop for each, as if there were no second socket."""
    async with reading(mock_clock, control=True) as arrivals:
        for number in range(1, 100):
            began = trio.current_time()
            arrivals.arrive()
            await wait_all_tasks_blocked()
            assert arrivals.read[-1] == (began, 1)
            assert len(arrivals.read) == number, "and nobody looks where nothing is"
            await pass_time(mock_clock, CONTROL_EVERY / (MUCH - 2))


async def test_media_is_read_whenever_it_comes(mock_clock: MockClock) -> None:
    async with reading(mock_clock, control=False) as arrivals:
        for number in range(1, 20):
            arrivals.arrive()
            await wait_all_tasks_blocked()
            assert len(arrivals.read) == number
            await pass_time(mock_clock, CONTROL_EVERY / 10)


async def test_where_much_comes_control_is_read_by_the_clock_and_wakes_nobody(mock_clock: MockClock) -> None:
    async with reading(mock_clock, control=True) as arrivals:
        steps, each = 400, 4 * MUCH
        for step in range(steps):
            if step == each:
                asked = arrivals.asked
            arrivals.arrive()
            await wait_all_tasks_blocked()
            await pass_time(mock_clock, CONTROL_EVERY / each)
        times = [at for at, _ in arrivals.read if at > CONTROL_EVERY]
        assert arrivals.asked == asked, "the system is not asked whether there is something"
        assert len(times) <= steps / each
        assert all(later - at < 1.1 * CONTROL_EVERY for at, later in pairwise(times)), "and none waits for longer"
        await pass_time(mock_clock, CONTROL_EVERY)
        assert sum(count for _, count in arrivals.read) == steps


@pytest.mark.parametrize("last", range(LITTLE + 1))
async def test_when_little_comes_it_is_read_at_once_again(mock_clock: MockClock, last: int) -> None:
    async with reading(mock_clock, control=True) as arrivals:
        for count in (MUCH, LITTLE + 1):
            arrivals.arrive(count)
            await wait_all_tasks_blocked()
        assert [count for _, count in arrivals.read] == [MUCH], "the rest waits for the clock"
        await pass_time(mock_clock, CONTROL_EVERY)
        arrivals.arrive(last)
        await wait_all_tasks_blocked()
        assert [count for _, count in arrivals.read] == [MUCH, LITTLE + 1]
        await pass_time(mock_clock, CONTROL_EVERY)
        arrivals.arrive()
        await wait_all_tasks_blocked()
        assert [count for _, count in arrivals.read] == [MUCH, LITTLE + 1, last, 1]


async def test_more_control_than_the_budget_leaves_time_for_others(mock_clock: MockClock) -> None:
    """A flood of it has three tenths of the time, and a batch for each interval."""
    async with reading(mock_clock, control=True) as arrivals:
        arrivals.cost = 0.0001
        arrivals.arrive(100_000)
        began = trio.current_time()
        await wait_all_tasks_blocked()
        while trio.current_time() < began + 1:
            await pass_time(mock_clock, CONTROL_EVERY / 20)
        took = arrivals.cost * sum(count for _, count in arrivals.read)
        assert BUDGET / CONTROL_EVERY < took < (BUDGET + LEAST * arrivals.cost) / CONTROL_EVERY * 1.05
        assert arrivals.waiting > 0


@pytest.mark.parametrize("control", [True, False])
async def test_an_error_that_a_socket_tells_is_counted_and_the_rest_is_read(
    mock_clock: MockClock, control: bool
) -> None:
    async with reading(mock_clock, control=control) as arrivals:
        arrivals.error = True
        arrivals.arrive(3)
        await wait_all_tasks_blocked()
        await pass_time(mock_clock, CONTROL_EVERY)
        assert arrivals.counters == {"receive_error": 1}
        assert [count for _, count in arrivals.read] == [3]
