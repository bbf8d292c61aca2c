"""A client that is moved to another room, and one that forwarded tracks come to, on real transports."""

from __future__ import annotations

import time

from livekit.protocol import rtc

from tests.signalling.test_sessions import publish
from tests.signalling.world import KEYS, dual, running
from triosfu import tokens
from triosfu.rooms.transfer import move_to


async def test_a_session_goes_on_in_the_other_room_and_its_token_is_for_that() -> None:
    async with (
        running() as world,
        dual(world, "alice", metadata="m") as alice,
        dual(world, "bob") as bob,
        dual(world, "carol", room="other") as carol,
    ):
        mine, others = await publish(alice), await publish(carol, "c", 20)
        assert list((await bob.take_offer()).mid_to_track_id.values()) == [mine]
        theirs = await publish(bob, "b", 10)
        assert list((await alice.take_offer()).mid_to_track_id.values()) == [theirs]
        old = world.token("alice")
        await move_to(world.rooms, world.participant("alice"), "other", create=False)
        moved = await alice.client.expect("room_moved")
        claims = tokens.verify(moved.token, KEYS, now=time.time())
        assert claims.video is not None
        assert (claims.identity, claims.metadata, claims.video.room) == ("alice", "m", "other")
        assert [one.sid for one in moved.participant.tracks] == [mine]
        assert list((await alice.take_offer()).mid_to_track_id.values()) == [others]
        assert list((await carol.take_offer()).mid_to_track_id.values()) == [mine]
        assert not (await bob.take_offer()).mid_to_track_id
        assert (await alice.client.expect("track_subscribed")).track_sid == mine
        sids = {alice.join.participant.sid: old, moved.participant.sid: moved.token}
        for sid, token in sids.items():  # as a client would that missed the move, and as one that knows of it
            async with world.connect(token=token, query=f"protocol=17&reconnect=1&sid={sid}") as again:
                await again.expect("reconnect")
                await again.expect("room_update", lambda one: one.room.name == "other")
                assert [one.room.name for one in again.seen("room_moved")] == (["other"] if token is old else [])
                assert (await again.expect("refresh_token")) != ""
        assert world.room("other").participants["alice"].sid == moved.participant.sid


async def test_a_moved_client_may_still_do_only_what_its_token_allows() -> None:
    async with running() as world, dual(world, "alice", can_publish=False) as alice:
        await move_to(world.rooms, world.participant("alice"), "other", create=True)
        moved = await alice.client.expect("room_moved")
        assert not moved.participant.permission.can_publish
        await alice.client.send(add_track=rtc.AddTrackRequest(cid="mic"))
        assert (await alice.client.expect("request_response")).reason == rtc.RequestResponse.NOT_ALLOWED
        claims = tokens.verify(moved.token, KEYS, now=time.time())
        assert claims.video is not None
        assert not claims.video.allows_publish
