"""The table of deadlines, on virtual time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio
from hypothesis import given
from hypothesis import strategies as st

from triosfu.rooms.deadlines import Deadlines

if TYPE_CHECKING:
    from trio.testing import MockClock


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9), st.booleans())))
def test_what_is_due_happens_once_and_in_order(steps: list[tuple[str, int, bool]]) -> None:
    deadlines, model, done = Deadlines(), dict[str, int](), list[tuple[int, str]]()
    for name, at, arm in steps:
        if arm:
            deadlines.arm(name, at, lambda name=name, at=at: done.append((at, name)))  # type: ignore[misc]
            model[name] = at
        else:
            deadlines.disarm(name)
            model.pop(name, None)
    assert deadlines.next() == min(model.values(), default=math.inf)
    deadlines.expire(5)
    assert sorted(done) == sorted((at, name) for name, at in model.items() if at <= 5)
    assert [at for at, _ in done] == sorted(at for at, _ in done)
    assert len(deadlines) == sum(at > 5 for at in model.values())


async def test_an_earlier_deadline_moves_the_sleep(autojump_clock: MockClock) -> None:
    deadlines, times = Deadlines(), list[float]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        deadlines.arm("late", start + 60, lambda: times.append(trio.current_time() - start))
        deadlines.arm("soon", start + 1, lambda: times.append(trio.current_time() - start))
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert [round(at, 3) for at in times] == [1.0, 60.0]


async def test_an_action_may_arm_itself_again(autojump_clock: MockClock) -> None:
    deadlines, count = Deadlines(), list[float]()

    def tick() -> None:
        count.append(trio.current_time())
        deadlines.arm("tick", trio.current_time() + 1, tick)

    with trio.move_on_after(10.5):
        deadlines.arm("tick", trio.current_time() + 1, tick)
        await deadlines.run()
    assert len(count) == 10
