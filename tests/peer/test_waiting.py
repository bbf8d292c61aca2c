"""The gate in front of writers: a level, with two wake-ups."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from triosfu.errors import PeerGone
from triosfu.peer.waiting import WaitingPlace


async def test_a_condition_that_holds_is_not_waited_for_but_is_a_checkpoint() -> None:
    place = WaitingPlace()
    with trio.testing.assert_checkpoints():
        await place.wait_until(lambda: True)
    with trio.CancelScope() as scope:
        scope.cancel()
        await place.wait_until(lambda: True)
    assert scope.cancelled_caught


async def test_waiters_look_at_their_own_condition_at_each_notice() -> None:
    place = WaitingPlace()
    level = 3
    passed: list[int] = []

    async def wait(below: int) -> None:
        await place.wait_until(lambda: level < below)
        passed.append(below)

    async with trio.open_nursery() as nursery:
        for below in (1, 2, 3):
            nursery.start_soon(wait, below)
        await wait_all_tasks_blocked()
        assert len(place) == 3
        for level, expected in ((2, [3]), (2, [3]), (1, [3, 2]), (0, [3, 2, 1])):  # noqa: B007  the waiters read it
            place.notify()
            await wait_all_tasks_blocked()
            assert passed == expected


async def test_a_notice_without_a_change_lets_nobody_through() -> None:
    place = WaitingPlace()
    asked = 0

    def ready() -> bool:
        nonlocal asked
        asked += 1
        return False

    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.wait_until, ready)
        await wait_all_tasks_blocked()
        for _ in range(3):
            place.notify()
            await wait_all_tasks_blocked()
        assert asked == 4
        assert len(place) == 1
        nursery.cancel_scope.cancel()
    assert len(place) == 0


async def test_a_change_that_nobody_announces_is_seen_at_the_next_notice() -> None:
    """The gate is a level: an edge that was missed does no harm."""
    place = WaitingPlace()
    open_now = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.wait_until, lambda: open_now)
        await wait_all_tasks_blocked()
        open_now = True
        await wait_all_tasks_blocked()
        assert len(place) == 1
        place.notify()


async def test_cancelled_it_leaves_nothing_and_the_others_wait_on(autojump_clock: trio.testing.MockClock) -> None:
    place = WaitingPlace()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.wait_until, lambda: False)
        with trio.move_on_after(5) as scope:
            await place.wait_until(lambda: False)
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(5, abs=0.1)
        assert len(place) == 1
        nursery.cancel_scope.cancel()


async def test_the_end_wakes_all_and_is_final(autojump_clock: trio.testing.MockClock) -> None:
    place = WaitingPlace()
    reasons: list[str] = []

    async def wait() -> None:
        with pytest.raises(PeerGone) as caught:
            await place.wait_until(lambda: False)
        reasons.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        place.end("first")
        place.end("second")
        await wait_all_tasks_blocked()
        assert reasons == ["first"] * 100
    with pytest.raises(PeerGone, match="first"):
        await place.wait_until(lambda: True)
    assert place.ended == "first"
    assert trio.current_time() == began
