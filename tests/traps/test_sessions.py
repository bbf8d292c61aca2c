"""Traps of sessions that lose their signalling, with real transports (protocol reference, sections 3.7, 3.8, 6.1)."""

from __future__ import annotations

import pytest
import trio
from livekit.protocol import models

import triosfu
from tests.signalling.world import LIMIT, dual, running
from tests.support.client import LOSSY, RELIABLE, join
from tests.support.steps import CONFIG
from triosfu.rooms.permissions import Permission

GONE = models.ParticipantInfo.DISCONNECTED


@pytest.mark.parametrize("single", [True, False])
async def test_traps_25_28_49_a_dropped_session_goes_on_in_either_shape(single: bool) -> None:
    async with (
        triosfu.serve(CONFIG) as server,
        join(server, "bob") as bob,
        join(server, "alice", single=single) as alice,
    ):
        await alice.ready()
        await bob.ready()
        if not single:  # our client with one connection has no section to receive in
            await bob.play(b"before", to=alice)
        sections = len(alice.subscriber.tracks)
        await alice.drop()
        await alice.say(b"without signalling", to=bob)
        await bob.say(b"while she was away", to=alice)
        alice.resume(server)
        await alice.until(lambda: bool(alice.seen("refresh_token")))
        assert alice.signals[0].WhichOneof("message") == "reconnect"
        assert alice.signals[0].reconnect.server_info.version
        assert not alice.seen("join")
        await alice.say(b"back", to=bob)
        await bob.say(b"welcome", to=alice)
        if not single:
            await bob.play(b"after", to=alice)
        assert len(alice.subscriber.tracks) == sections  # no subscription was lost, and none made anew
        assert bob.told("alice") is not None
        assert all(one.state != GONE for message in bob.seen("update") for one in message.update.participants)


@pytest.mark.parametrize("single", [True, False])
async def test_trap_33_who_creates_the_channels(single: bool) -> None:
    async with triosfu.serve(CONFIG) as server, join(server, "alice", single=single) as alice:
        await alice.ready()
        participant = server.rooms.find("room").participants["alice"]  # type: ignore[union-attr]
        towards = participant.data._channels
        with trio.fail_after(LIMIT):
            while not {RELIABLE, LOSSY} <= towards.keys():
                await trio.lowlevel.checkpoint()
        labels = {channel.label for channel in participant.shape.subscriber._channels.values()}
        assert labels == ({RELIABLE, LOSSY} if single else {RELIABLE, LOSSY, "_data_track"})


async def test_trap_22_49_a_changed_permission_is_told_to_its_owner_with_a_token_that_says_it() -> None:
    async with running() as world, dual(world, "alice") as alice:
        await alice.client.expect("refresh_token")
        world.participant("alice").set_permission(Permission(can_publish=False))
        fresh = await alice.client.expect("refresh_token")
        own = [one for update in alice.client.seen("update") for one in update.participants if one.identity == "alice"]
        assert not own[-1].permission.can_publish
        async with world.connect(token=fresh) as again:
            assert not (await again.expect("join")).participant.permission.can_publish
