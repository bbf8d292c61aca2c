"""Full collections come when people have left, and not because much is new."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio
import trio.testing
from livekit.protocol import models

from tests.rooms.test_lifetimes import connect, join, running
from triosfu.cli.collector import FEW, PAUSE, SHARE, Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

CROWD = SHARE * FEW * 2


def full_collections() -> int:
    return int(gc.get_stats()[2]["collections"])


@contextmanager
def collected() -> Iterator[Collector]:
    """As within `triosfu run`; what comes after is left as it was."""
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    collector = Collector()
    collector.before_run()
    trio.lowlevel.add_instrument(collector)
    try:
        yield collector
    finally:
        trio.lowlevel.remove_instrument(collector)
        collector.after_run()
        assert gc.get_threshold() == before
        if not frozen:
            gc.unfreeze()


async def test_there_is_one_when_enough_have_left_and_none_while_many_join(autojump_clock: MockClock) -> None:
    with collected():
        async with trio.open_nursery() as nursery:
            ends = [trio.CancelScope() for _ in range(CROWD)]

            async def stay(end: trio.CancelScope) -> None:
                with end:
                    await trio.sleep_forever()

            async def leave(count: int) -> int:
                """How many full collections there are while so many leave."""
                before = full_collections()
                for _ in range(count):
                    ends.pop().cancel()
                await trio.testing.wait_all_tasks_blocked()
                return full_collections() - before

            before = full_collections()
            for number, end in enumerate(ends):
                nursery.start_soon(stay, end, name=f"participant {number}")
                nursery.start_soon(trio.sleep, 0, name="http connection")
            await trio.testing.wait_all_tasks_blocked()
            kept = [[number] for number in range(100_000)]  # Python's own rule would look at everything some times
            assert full_collections() == before
            assert kept
            assert await leave(CROWD // SHARE // 2) == 0
            assert await leave(CROWD // SHARE // 2) == 1
            assert await leave(2 * FEW) == 0
            await trio.sleep(PAUSE)
            assert await leave(1) == 1
            assert await leave(FEW - 1) == 0
            assert await leave(len(ends) - 1) == 0
            assert await leave(1) == 1  # the last one


async def test_who_has_left_is_garbage_no_longer_than_until_then() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    with collected():
        async with trio.open_nursery() as nursery:
            Cycle()
            nursery.start_soon(trio.sleep, 0, name="participant alice")
        assert not [one for one in gc.get_objects() if isinstance(one, Cycle)]


async def test_a_real_participant_is_counted_while_it_is_there(autojump_clock: MockClock) -> None:
    """It is known by the name of its task."""
    with collected() as collector:
        async with running() as rooms:
            alice, _ = await join(rooms, "alice")
            connect(alice)
            assert collector._present == 1
            before = full_collections()
            alice.close(models.DisconnectReason.CLIENT_INITIATED)
            await trio.testing.wait_all_tasks_blocked()
            assert collector._present == 0
            assert full_collections() == before + 1
