"""What an operator may choose about rooms, as clients see it."""

from __future__ import annotations

import pytest
from livekit.protocol import models, rtc
from livekit.protocol.room import RoomConfiguration

from tests.signalling.test_sessions import publish
from tests.signalling.world import dual, running
from triosfu.rooms.settings import Limits, RoomDefaults, RoomSettings


async def test_a_wish_beyond_the_limit_waits_for_another_track_to_end() -> None:
    settings = RoomSettings(limits=Limits(subscribed_audio=1, subscribed_video=5))
    async with running(settings) as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        first = await publish(alice, "one", 1)
        assert list(dict((await bob.take_offer()).mid_to_track_id).values()) == [first]
        second = await publish(alice, "two", 2)
        await bob.client.expect_participant("alice", lambda one: len(one.tracks) == 2)
        await bob.client.nothing_of("offer")
        await bob.client.send(subscription=rtc.UpdateSubscription(track_sids=[first], subscribe=False))
        offer = await bob.take_offer()
        while second not in offer.mid_to_track_id.values():
            offer = await bob.take_offer()
        assert first not in offer.mid_to_track_id.values()


async def test_nobody_is_let_in_while_the_server_has_its_tracks() -> None:
    settings = RoomSettings(limits=Limits(server_tracks=1))
    async with running(settings) as world, dual(world, "alice") as alice:
        async with dual(world, "zoe", room="before"):
            pass
        await publish(alice)
        await alice.client.expect_participant("alice", lambda one: one.tracks)
        full = (503, "node has exceeded its configured limit")
        for room in ("other", "room"):
            token = world.token("carol", room)
            assert await world.refusal("/rtc?protocol=17", token) == full
            assert (await world.get("/rtc/validate?protocol=17", token))[::2] == full
        await alice.client.send(update_metadata=rtc.UpdateParticipantMetadata(name="still here"))


@pytest.mark.parametrize(
    ("query", "together"),
    [("protocol=17&sdk=js", True), ("protocol=9&sdk=js", False), ("protocol=17&sdk=js&browser=firefox", False)],
)
async def test_tracks_that_belong_together_share_a_stream(query: str, together: bool) -> None:
    settings = RoomSettings(defaults=RoomDefaults(sync_streams=True))
    async with running(settings) as world, dual(world, "alice") as alice, dual(world, "bob", query=query) as bob:
        sid = await publish(alice)
        news = await bob.client.expect_participant("alice", lambda one: one.tracks)
        offer = await bob.take_offer()
        stream = news.tracks[0].stream
        assert stream
        assert (f"{news.sid}|{stream} {sid}" in offer.sdp) is together
        assert (f"{news.sid}|{sid}" in offer.sdp) is not together
        assert news.tracks[0].source == models.TrackSource.MICROPHONE


PRESETS = RoomSettings(
    presets={"call": RoomDefaults(max_participants=2, metadata="preset", empty_timeout=7.0, playout_delay=(100, 200))}
)


async def test_a_token_names_a_configuration_and_says_more() -> None:
    config = RoomConfiguration(metadata="token", sync_streams=True, min_playout_delay=100, max_playout_delay=200)
    async with running(PRESETS) as world, world.connect(room_preset="call", room_config=config) as alice:
        room = (await alice.expect("join")).room
        assert (room.max_participants, room.metadata, room.empty_timeout) == (2, "token", 7)
        assert (world.room().own.sync_streams, world.room().own.playout_delay) == (True, (100, 200))
        async with world.connect("bob", room="other") as bob:
            assert (await bob.expect("join")).room.max_participants == 0


async def test_a_configuration_that_there_is_not_lets_nobody_in() -> None:
    async with running(PRESETS) as world:
        unknown = (400, "unknown room configuration in create room request")
        assert await world.refusal("/rtc?protocol=17", world.token(room_preset="none")) == unknown
        assert (await world.get("/rtc/validate", world.token(room_preset="none")))[::2] == unknown
        long = RoomConfiguration(metadata="x" * (512 * 1024 + 1))
        status, _ = await world.refusal("/rtc?protocol=17", world.token(room_config=long))
        assert status == 400
        assert len(world.rooms) == 0
