"""Who is slow, and who is too slow to be waited for; what waits for the slow when its sender is moved away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from livekit.protocol import models

from tests.rooms.test_between_rooms import come
from tests.rooms.test_lifetimes import running
from tests.rooms.test_resuming import Channel
from triosfu.rooms.backlog import CROWDED, LOOK, MEASURED, Drain
from triosfu.rooms.session_shape import LOSSY, RELIABLE
from triosfu.rooms.settings import RoomSettings
from triosfu.rooms.transfer import move_to

if TYPE_CHECKING:
    from trio.testing import MockClock

THRESHOLD = 1_000_000  # bits a second
STEPS = round(MEASURED / LOOK)


def watch(drain: Drain, *, rate: float, seconds: float) -> list[bool]:
    """What is said of a reader for whom enough waits, and who takes `rate` bits a second."""
    said = []
    for step in range(round(seconds / LOOK)):
        taken = int(rate / 8 * step * LOOK)
        said.append(drain.holds_up(sent=taken + CROWDED + 1, buffered=CROWDED + 1, now=step * LOOK))
    return said


def test_a_reader_above_the_threshold_always_holds_up_who_sends() -> None:
    assert all(watch(Drain(THRESHOLD), rate=1.01 * THRESHOLD, seconds=5 * MEASURED))


def test_a_reader_below_it_does_for_the_time_of_one_measurement() -> None:
    said = watch(Drain(THRESHOLD), rate=0.99 * THRESHOLD, seconds=3 * MEASURED)
    assert all(said[:STEPS])
    assert not any(said[STEPS + 1 :])


def test_a_reader_with_little_to_take_holds_up_nobody_and_is_measured_anew() -> None:
    drain = Drain(THRESHOLD)
    watch(drain, rate=0, seconds=2 * MEASURED)
    assert not drain.holds_up(sent=CROWDED, buffered=CROWDED, now=9.0)
    assert drain.holds_up(sent=2 * CROWDED, buffered=CROWDED + 1, now=9.0)


class SlowReader(Channel):
    """A channel with so much to send that its reader holds others up; it takes nothing of that."""

    buffered = 2 * CROWDED


async def test_what_was_held_up_stays_in_the_room_that_its_sender_leaves(autojump_clock: MockClock) -> None:
    async with running(RoomSettings(data_slow_threshold=THRESHOLD)) as rooms:
        (alice, _), (bob, _), (carol, _) = [
            await come(rooms, identity, room) for identity, room in (("alice", "one"), ("bob", "one"), ("carol", "two"))
        ]
        hers, here, there = Channel(RELIABLE), SlowReader(RELIABLE), SlowReader(RELIABLE)
        for reader, reliable in ((bob, here), (carol, there)):
            for channel in (reliable, Channel(LOSSY)):
                reader.peer_channel_opened(reader.shape.primary, channel)  # type: ignore[arg-type]
        there.buffered = 0

        def say(*numbers: int) -> None:
            for number in numbers:
                data = models.DataPacket(user=models.UserPacket(payload=b"x"), sequence=number).SerializeToString()
                alice.data.receive(hers, data)  # type: ignore[arg-type]

        def came(to: Channel) -> list[tuple[int, str]]:
            packets = [models.DataPacket.FromString(data) for data in to.sent]
            return [(packet.sequence, packet.participant_sid) for packet in packets]

        before = alice.sid
        say(1, 2, 3)
        await trio.sleep(MEASURED / 2)
        assert came(here) == []
        await move_to(rooms, alice, "two", create=False)
        assert came(here) == [(1, before), (2, before), (3, before)]
        say(4)
        await trio.sleep(2 * MEASURED)
        assert came(there) == [(4, alice.sid)]
        assert len(here.sent) == 3


async def test_what_waits_for_a_missing_message_stays_in_the_room_that_its_sender_leaves(
    autojump_clock: MockClock,
) -> None:
    async with running(RoomSettings()) as rooms:
        (alice, _), (bob, _), (carol, _) = [
            await come(rooms, identity, room) for identity, room in (("alice", "one"), ("bob", "one"), ("carol", "two"))
        ]
        hers, here, there = Channel(RELIABLE), Channel(RELIABLE), Channel(RELIABLE)
        for reader, reliable in ((bob, here), (carol, there)):
            for channel in (reliable, Channel(LOSSY)):
                reader.peer_channel_opened(reader.shape.primary, channel)  # type: ignore[arg-type]

        def say(number: int) -> None:
            data = models.DataPacket(user=models.UserPacket(payload=b"x"), sequence=number).SerializeToString()
            alice.data.receive(hers, data)  # type: ignore[arg-type]

        def came(to: Channel) -> list[int]:
            return [models.DataPacket.FromString(data).sequence for data in to.sent]

        say(1)
        alice.data.expect_repeats()
        say(3)
        assert came(here) == [1]
        await move_to(rooms, alice, "two", create=False)
        assert came(here) == [1, 3]
        say(2)
        say(4)
        assert came(there) == [4]
