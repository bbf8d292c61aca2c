"""What is done for everybody in a room is done a little at a time: nothing holds up media for long."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio
from livekit.protocol import models

from tests.rooms.test_lifetimes import Ear, connect, join, running
from triosfu.rooms.deadlines import Deadlines
from triosfu.rooms.slices import PAUSE, SLICE, Slices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from livekit.protocol import rtc
    from trio.testing import MockClock

PEOPLE = 3 * SLICE


class TimedEar(Ear):
    """A signalling link that knows when it has heard something."""

    def __init__(self, moments: Counter[float]) -> None:
        super().__init__()
        self._moments = moments

    def send(self, message: rtc.SignalResponse) -> None:
        super().send(message)
        if message.HasField("connection_quality"):
            self._moments[trio.current_time()] += 1


async def test_no_moment_has_more_than_its_slice_and_all_of_the_work_is_done(autojump_clock: MockClock) -> None:
    deadlines, moments = Deadlines(), Counter[float]()

    def work() -> Iterator[None]:
        for _ in range(500):
            moments[trio.current_time()] += 1
            yield

    slices = Slices(deadlines, "work")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        began = trio.current_time()
        slices.start(work())
        slices.start(work())  # one at a time: this one is left out
        assert slices.busy
        await trio.sleep(1)
        assert not slices.busy
        nursery.cancel_scope.cancel()
    assert max(moments.values()) == SLICE
    assert moments.total() == 500
    assert max(moments) - began == pytest.approx((500 / SLICE - 1) * PAUSE)


async def test_work_that_raises_is_over() -> None:
    def broken() -> Iterator[None]:
        yield
        raise ZeroDivisionError

    slices, done = Slices(Deadlines(), "work"), []

    def whole() -> Iterator[None]:
        done.append(True)
        yield

    with pytest.raises(ZeroDivisionError):
        slices.start(broken())
    assert not slices.busy
    slices.start(whole())
    assert done


async def test_the_quality_of_a_large_room_is_looked_at_and_told_by_slices(autojump_clock: MockClock) -> None:
    moments = Counter[float]()
    async with running() as rooms:
        for number in range(PEOPLE):
            participant, ear = await join(rooms, f"P{number}")
            connect(participant)
            hears = participant.link = TimedEar(moments)
            assert not ear.closed
            assert not hears.heard
        await trio.sleep(rooms.settings.times.quality + 1)
        assert moments.total() == PEOPLE
        assert max(moments.values()) <= SLICE


async def test_who_leaves_or_comes_between_two_slices_does_no_harm(autojump_clock: MockClock) -> None:
    moments = Counter[float]()
    async with running() as rooms:
        people = []
        for number in range(PEOPLE):
            participant, _ = await join(rooms, f"P{number}")
            connect(participant)
            participant.link = TimedEar(moments)
            people.append(participant)
        (room,) = rooms
        room.quality.tick()
        await trio.sleep(PAUSE / 2)
        assert room.quality._slices.busy
        for gone in people[::2]:
            gone.close(models.DisconnectReason.CLIENT_INITIATED)
        late, _ = await join(rooms, "late")
        connect(late)
        late.link = TimedEar(moments)
        await trio.sleep(1)
        assert not room.quality._slices.busy
        # Those who stayed are told, and the one who came in the meantime of itself the next time.
        assert moments.total() == PEOPLE // 2
        await trio.sleep(rooms.settings.times.quality + 1)
        assert moments.total() == PEOPLE // 2 + 1
