"""One clock for many alarms, on virtual time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio
import trio.testing

from triosfu.net.clock import BUDGET, SWEEP_AT, Alarm, Clock

if TYPE_CHECKING:
    import pytest
    from trio.testing import MockClock


def nothing() -> None: ...


class Bell:
    """An alarm, and when it has rung."""

    def __init__(self, clock: Clock) -> None:
        self.rang: list[float] = []
        self.alarm = Alarm(clock, lambda: self.rang.append(trio.current_time()))


async def test_each_alarm_rings_once_and_at_its_own_time(autojump_clock: MockClock) -> None:
    clock = Clock()
    begin = trio.current_time()
    bells = [Bell(clock) for _ in range(4)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        for bell, at in zip(bells, (3.0, 1.0, 2.0, math.inf), strict=True):
            bell.alarm.deadline = begin + at
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert [bell.rang for bell in bells] == [[begin + 3], [begin + 1], [begin + 2], []]
    assert {bell.alarm.deadline for bell in bells} == {math.inf}


async def test_an_alarm_can_be_moved_ahead_and_back(autojump_clock: MockClock) -> None:
    clock = Clock()
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        earlier, later = Bell(clock), Bell(clock)
        for bell in (earlier, later):
            bell.alarm.deadline = begin + 5
        await trio.sleep(1)
        earlier.alarm.deadline, later.alarm.deadline = begin + 2, begin + 8
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert (earlier.rang, later.rang) == ([begin + 2], [begin + 8])
    assert not clock


async def test_a_time_that_has_passed_rings_at_once(autojump_clock: MockClock) -> None:
    clock = Clock()
    begin = trio.current_time()
    bell = Bell(clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        await trio.sleep(3)
        bell.alarm.deadline = begin + 1
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert bell.rang == [begin + 3]


async def test_an_action_may_set_the_next_time(autojump_clock: MockClock) -> None:
    clock, rang = Clock(), list[float]()
    begin = trio.current_time()

    def ring() -> None:
        rang.append(trio.current_time())
        alarm.deadline = trio.current_time() + 2

    alarm = Alarm(clock, ring)
    alarm.deadline = begin + 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        await trio.sleep(6)
        nursery.cancel_scope.cancel()
    assert rang == [begin + 1, begin + 3, begin + 5]


async def test_an_action_that_raises_is_counted_and_the_others_have_their_time(autojump_clock: MockClock) -> None:
    clock = Clock()
    begin = trio.current_time()

    def fail() -> None:
        raise RuntimeError("a bug")

    bad, good = Alarm(clock, fail), Bell(clock)
    bad.deadline, good.alarm.deadline = begin + 1, begin + 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert good.rang == [begin + 1]
    assert clock.failed == 1


async def test_much_that_is_due_together_leaves_turns_to_others(mock_clock: MockClock) -> None:
    clock = Clock()
    begin = trio.current_time()
    order: list[str] = []

    def work() -> None:
        order.append("alarm")
        mock_clock.jump(BUDGET / 4)

    for _ in range(20):
        Alarm(clock, work).deadline = begin + 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(1)
        while order.count("alarm") < 20:
            await trio.lowlevel.checkpoint()
            order.append("other")
        nursery.cancel_scope.cancel()
    for at in range(len(order) - 5):
        assert "other" in order[at : at + 6]


async def test_who_owns_an_alarm_waits_until_cancelled(autojump_clock: MockClock) -> None:
    clock = Clock()
    begin = trio.current_time()
    bell = Bell(clock)
    bell.alarm.deadline = begin + 5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        with trio.move_on_after(1) as scope:
            await bell.alarm.wait()
        assert scope.cancelled_caught
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert bell.rang == [begin + 5]


async def test_an_alarm_that_is_cancelled_leaves_no_entry() -> None:
    clock = Clock()
    alarms = [Alarm(clock, nothing) for _ in range(10)]
    for alarm in alarms:
        alarm.deadline = 1e9
    for alarm in alarms:
        alarm.cancel()
    assert not clock


async def test_the_end_of_many_alarms_looks_at_each_entry_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks = Clock(), 0
    alarms = [Alarm(clock, nothing) for _ in range(1000)]
    for alarm in alarms:
        alarm.deadline = 1e9
    is_meant = Alarm.is_meant

    def counted(self: Alarm, at: float) -> bool:
        nonlocal looks
        looks += 1
        return is_meant(self, at)

    monkeypatch.setattr(Alarm, "is_meant", counted)
    for alarm in alarms:
        alarm.cancel()
    assert not clock
    assert looks < 4 * len(alarms)


async def test_an_alarm_that_is_moved_ahead_for_ever_takes_little() -> None:
    clock = Clock()
    alarm = Alarm(clock, nothing)
    for number in range(10_000):
        alarm.deadline = 1e9 - number
        assert len(clock) <= SWEEP_AT


async def test_entries_that_others_have_replaced_go_with_their_time(autojump_clock: MockClock) -> None:
    clock = Clock()
    begin = trio.current_time()
    alarm = Alarm(clock, nothing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        for at in (30.0, 20.0, 10.0):
            alarm.deadline = begin + at
        alarm.deadline = begin + 100
        await trio.sleep(50)
        assert len(clock) == 1
        nursery.cancel_scope.cancel()
