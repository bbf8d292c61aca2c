"""What a backend is told of whole calls, by a real server and clients with real media transports."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from livekit.protocol import models

import triosfu
from tests.support.client import join
from tests.support.steps import eventually
from tests.webhooks.backend import KEY, SECRET, Backend, backend
from triosfu.config import WebhookQueueConfig, load_config
from triosfu.errors import ConfigError
from triosfu.rooms.directory import Rooms
from triosfu.rooms.joining import Services
from triosfu.rooms.transfer import move_to
from triosfu.server.declared_waits import DECLARED
from triosfu.server.task_tree import Bound, look, watching
from triosfu.webhooks.core import Schedule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from triosfu.config import Config
    from triosfu.net.http import Request, Response
    from triosfu.rooms.room import Room
    from triosfu.server import Server

Reason, State = models.DisconnectReason, models.ParticipantInfo.State


def config(*urls: str, **webhook: Any) -> Config:  # noqa: ANN401  whatever YAML holds
    overrides = {
        "port": 0,
        "rtc": {"udp_port": 0},
        "keys": {KEY: SECRET},
        "webhook": {"api_key": KEY, "urls": list(urls), **webhook},
    }
    return load_config(development=True, overrides=overrides)


@asynccontextmanager
async def a_call(**webhook: Any) -> AsyncIterator[tuple[Server, Backend]]:  # noqa: ANN401  as above
    async with backend() as here, triosfu.serve(config(here.url, **webhook)) as server:
        yield server, here


@pytest.mark.parametrize("single", [False, True])
async def test_the_events_of_a_whole_call(single: bool) -> None:
    async with backend() as here:
        async with triosfu.serve(config(here.url)) as server, join(server, "alice", single=single) as alice:
            await alice.ready()
            await here.until(lambda: len(here.events) == 3)
            async with join(server, "bob", single=single) as bob:
                await bob.ready()
                camera = await bob.publish("video", "video/VP8")
                video = bob.sid(camera)
                await here.until(lambda: len(here.events) == 6)
                await bob.unpublish(camera)
                await here.until(lambda: len(here.events) == 7)
                await bob.leave()
            await here.until(lambda: len(here.events) == 9)
            (room,) = server.rooms
            sid = room.sid
            room.close(Reason.ROOM_DELETED)
            await here.until(lambda: len(here.events) == 12)
        told = [(event.event, event.participant.identity) for event in here.events]
        assert told == [
            ("room_started", ""),
            ("participant_joined", "alice"),
            ("track_published", "alice"),
            ("participant_joined", "bob"),
            ("track_published", "bob"),
            ("track_published", "bob"),
            ("track_unpublished", "bob"),
            ("track_unpublished", "bob"),
            ("participant_left", "bob"),
            ("track_unpublished", "alice"),
            ("participant_left", "alice"),
            ("room_finished", ""),
        ]
        assert {(event.room.name, event.room.sid) for event in here.events} == {("room", sid)}
        assert len({event.id for event in here.events}) == len(here.events)
        assert all(event.id.startswith("EV_") and event.created_at > 1_700_000_000 for event in here.events)
        joined, left = here.events[3], here.events[8]
        assert joined.participant.state == State.ACTIVE
        assert (joined.participant.permission.can_publish, joined.room.num_participants) == (True, 2)
        assert joined.room.empty_timeout == 300
        assert (left.participant.state, left.participant.disconnect_reason) == (
            State.DISCONNECTED,
            Reason.CLIENT_INITIATED,
        )
        assert left.participant.sid == joined.participant.sid
        assert here.events[10].participant.disconnect_reason == Reason.ROOM_DELETED
        track = here.events[5].track
        assert (track.sid, track.type, track.mime_type) == (video, models.TrackType.VIDEO, "video/VP8")
        assert here.events[6].track.sid == video
        # Of a track, the room and its publisher are named only.
        assert here.events[5].participant == models.ParticipantInfo(sid=joined.participant.sid, identity="bob")
        assert here.events[5].room == models.Room(sid=sid, name="room")


async def test_who_joined_and_never_connected_has_left_too() -> None:
    async with a_call() as (server, here):
        async with join(server, "alice") as alice:
            for side in alice.sides:
                side.peer.close("no media from here")
            await alice.until(lambda: bool(alice.seen("join")))
            await alice.leave()
        await here.until(lambda: len(here.events) == 3)
        assert here.names == ["room_started", "participant_connection_aborted", "participant_left"]
        for event in here.events[1:]:
            assert (event.participant.identity, event.participant.state) == ("alice", State.DISCONNECTED)


async def test_who_is_replaced_has_left_before_the_other_joins() -> None:
    async with a_call() as (server, here), join(server, "alice") as alice:
        await alice.ready()
        await here.until(lambda: len(here.events) == 3)
        async with join(server, "alice") as again:
            await again.ready()
            await here.until(lambda: len(here.events) == 7)
            assert here.names[3:] == ["track_unpublished", "participant_left", "participant_joined", "track_published"]
            assert here.events[4].participant.disconnect_reason == Reason.DUPLICATE_IDENTITY
            assert here.events[4].participant.sid == here.events[1].participant.sid
            assert here.events[5].participant.sid != here.events[1].participant.sid


async def test_only_wanted_events_are_sent() -> None:
    wanted = {"include_events": ["room_started", "participant_joined"], "exclude_events": ["room_started"]}
    async with a_call(filter_params=wanted) as (server, here), join(server, "alice") as alice:
        await alice.ready()
        await here.until(lambda: bool(here.events))
        assert here.names == ["participant_joined"]


async def test_the_queue_is_as_deep_and_patient_as_configured() -> None:
    queue = {"max_depth": 3, "max_age": "7s"}
    async with triosfu.serve(config("http://127.0.0.1:9/", resource_url_notifier=queue)) as server:
        assert server.webhooks is not None
        (receiver,) = server.webhooks.receivers
        assert receiver.outbox.schedule == Schedule(depth=3, max_age=7)
    assert config().webhook.resource_url_notifier == WebhookQueueConfig(
        max_depth=Schedule().depth, max_age=Schedule().max_age
    )


async def test_a_call_goes_on_beside_a_receiver_that_says_nothing_and_the_end_takes_the_grace() -> None:
    async def silence(_: Request) -> Response:
        await trio.sleep_forever()
        raise AssertionError

    async with backend() as here:
        here.answer = silence
        with watching() as watch:
            async with triosfu.serve(config(here.url), grace=0.3) as server:
                async with join(server, "alice") as alice, join(server, "bob") as bob:
                    await alice.ready()
                    await bob.ready()
                    await alice.say(b"hello", to=bob)
                    await bob.play(b"sound", to=alice)
                assert server.webhooks is not None
                assert server.webhooks.depths()["room"] > 3
                tasks = [task for task in look(watch).walk() if task.where.startswith("triosfu.webhooks")]
                assert {task.bound for task in tasks} <= {Bound.CHILDREN, Bound.DEADLINE, Bound.DECLARED}
                (attempt,) = [task for task in tasks if task.name == "webhook of room"]
                assert attempt.bound is Bound.DEADLINE
                began = trio.current_time()
        assert trio.current_time() - began < 5  # an attempt may take ten


async def test_a_server_that_is_cancelled_tells_the_end_of_its_rooms() -> None:
    async with backend() as here:
        with trio.CancelScope() as scope:
            async with triosfu.serve(config(here.url)) as server, join(server, "alice") as alice:
                await alice.ready()
                assert server.webhooks is not None
                (receiver,) = server.webhooks.receivers
                # Not only arrived: what the server has not seen answered it tells again.
                await eventually(lambda: receiver.outbox.counters["delivered"] == 3, within=10)
                scope.cancel()
                await trio.sleep_forever()
        assert here.names[3:] == ["track_unpublished", "participant_left", "room_finished"]


async def test_an_idle_server_waits_for_events_as_it_declares() -> None:
    with watching() as watch:
        async with a_call() as (_, _here):
            await trio.testing.wait_all_tasks_blocked()
            (idle,) = [task for task in look(watch).walk() if task.name == "webhooks to 127.0.0.1"]
            assert (idle.bound, idle.where) == (Bound.DECLARED, "triosfu.webhooks.delivery:Receiver._wait")
            assert idle.where in DECLARED


async def test_webhooks_that_nobody_can_sign_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"^webhook.api_key: "):
        async with triosfu.serve(replace(config("http://127.0.0.1:9/"), keys={"other": SECRET})):
            pass


class Clumsy:
    """A listener with a bug."""

    def __init__(self) -> None:
        self.told = 0

    def room_started(self, room: Room) -> None:
        self.told += 1
        raise RuntimeError("a bug")

    room_finished = room_started
    participant_active = participant_left = track_published = track_unpublished = room_started


async def test_a_bug_in_a_listener_is_nothing_to_a_room() -> None:
    listener = Clumsy()
    rooms = Rooms(Services(peers=None, rng=Random(1), listeners=(listener,)))  # type: ignore[arg-type]  # nobody joins
    async with trio.open_nursery() as nursery:
        await nursery.start(rooms.run)
        room = await rooms.create("room")
        assert room.counters["bugs"] == 1
        assert not room.closed
        nursery.cancel_scope.cancel()
    assert listener.told == 2


async def test_a_move_is_told_as_a_leave_in_one_room_and_a_join_in_the_other() -> None:
    async with a_call() as (server, here), join(server, "alice") as alice:
        await alice.ready()
        await here.until(lambda: len(here.events) == 3)
        room = server.rooms.find("room")
        assert room is not None
        participant = room.participants["alice"]
        before = participant.sid
        await move_to(server.rooms, participant, "other", create=True)
        await here.until(lambda: len(here.events) == 8)
        told = [(one.event, one.room.name, one.participant.sid) for one in here.events[3:]]
        assert [one for one in told if one[1] == "room"] == [
            ("track_unpublished", "room", before),
            ("participant_left", "room", before),
        ]
        assert [one for one in told if one[1] == "other"] == [
            ("room_started", "other", ""),
            ("participant_joined", "other", participant.sid),
            ("track_published", "other", participant.sid),
        ]
        left = next(one for one in here.events if one.event == "participant_left")
        assert (left.participant.state, left.participant.disconnect_reason) == (State.DISCONNECTED, Reason.MIGRATION)
        await alice.leave()
        await here.until(lambda: len(here.events) == 10)
        assert [(one.event, one.participant.sid) for one in here.events[8:]] == [
            ("track_unpublished", participant.sid),
            ("participant_left", participant.sid),
        ]
