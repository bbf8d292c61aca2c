"""One clock for many alarms, on virtual time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio
import trio.testing

from triosfu.net.clock import SWEEP_AT, Alarm, Clock

if TYPE_CHECKING:
    import pytest
    from trio.testing import MockClock


async def wait(alarm: Alarm, rang: list[float]) -> None:
    await alarm.wait()
    rang.append(trio.current_time())


async def test_each_alarm_rings_at_its_own_time(autojump_clock: MockClock) -> None:
    clock, rang = Clock(), list[float]()
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        for at in (3.0, 1.0, 2.0, math.inf):
            alarm = Alarm(clock)
            alarm.deadline = begin + at
            nursery.start_soon(wait, alarm, rang)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert rang == [begin + 1, begin + 2, begin + 3]


async def test_an_alarm_can_be_moved_ahead_and_back(autojump_clock: MockClock) -> None:
    clock, rang = Clock(), list[float]()
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        earlier, later = Alarm(clock), Alarm(clock)
        for alarm in (earlier, later):
            alarm.deadline = begin + 5
            nursery.start_soon(wait, alarm, rang)
        await trio.sleep(1)
        earlier.deadline, later.deadline = begin + 2, begin + 8
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert rang == [begin + 2, begin + 8]
    assert not clock


async def test_a_time_that_has_passed_rings_at_once_and_nobody_waits_in_vain(autojump_clock: MockClock) -> None:
    clock, rang = Clock(), list[float]()
    begin = trio.current_time()
    alarm = Alarm(clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        alarm.deadline = begin + 1
        await trio.sleep(3)  # it rang, and nobody was there
        alarm.deadline = begin + 1
        nursery.start_soon(wait, alarm, rang)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert rang == [begin + 3]


async def test_to_be_woken_is_the_other_end_of_a_wait(autojump_clock: MockClock) -> None:
    clock, rang = Clock(), list[float]()
    alarm = Alarm(clock)
    alarm.wake()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        nursery.start_soon(wait, alarm, rang)
        await trio.testing.wait_all_tasks_blocked()
        assert rang == []
        alarm.wake()
        alarm.wake()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(rang) == 1


async def test_a_cancelled_wait_has_changed_nothing(autojump_clock: MockClock) -> None:
    clock, rang = Clock(), list[float]()
    begin = trio.current_time()
    alarm = Alarm(clock)
    alarm.deadline = begin + 5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        with trio.move_on_after(1):
            await alarm.wait()
        await wait(alarm, rang)
        nursery.cancel_scope.cancel()
    assert rang == [begin + 5]


async def test_an_alarm_that_is_cancelled_leaves_no_entry() -> None:
    clock = Clock()
    alarms = [Alarm(clock) for _ in range(10)]
    for alarm in alarms:
        alarm.deadline = 1e9
    for alarm in alarms:
        alarm.cancel()
    assert not clock


async def test_the_end_of_many_alarms_looks_at_each_entry_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks = Clock(), 0
    alarms = [Alarm(clock) for _ in range(1000)]
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
    alarm = Alarm(clock)
    for number in range(10_000):
        alarm.deadline = 1e9 - number
        assert len(clock) <= SWEEP_AT


async def test_entries_that_others_have_replaced_go_with_their_time(autojump_clock: MockClock) -> None:
    clock = Clock()
    begin = trio.current_time()
    alarm = Alarm(clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        nursery.start_soon(alarm.wait)
        for at in (30.0, 20.0, 10.0):
            alarm.deadline = begin + at
        alarm.deadline = begin + 100
        await trio.sleep(50)
        assert len(clock) == 1
        nursery.cancel_scope.cancel()
