"""The second connection of an old client, by which it only publishes (protocol reference, section 1.5: `publish`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from livekit.protocol import rtc

import triosfu
from tests.signalling.world import running
from tests.support.client import join
from triosfu.config import load_config
from triosfu.peer import PeerState

if TYPE_CHECKING:
    from tests.support.client import Client

CONFIG = load_config(development=True, overrides={"port": 0, "rtc": {"udp_port": 0}})


async def published(client: Client) -> None:
    await client.until(lambda: bool(client.track.negotiated and client.seen("track_published")))


async def test_it_is_another_participant_that_publishes_and_receives_nothing() -> None:
    async with (
        triosfu.serve(CONFIG) as server,
        join(server, "alice") as alice,
        join(server, "bob") as bob,
        join(server, "alice", query="publish=screen") as screen,
    ):
        for client in (alice, bob):
            await client.ready()
        await published(screen)
        (welcome,) = screen.seen("join")
        me = welcome.join.participant
        assert (me.identity, me.permission.can_publish, me.permission.can_subscribe) == ("alice#screen", True, False)
        assert not welcome.join.subscriber_primary
        await screen.play(b"what is on the screen", to=bob)
        await alice.play(b"what alice says", to=bob)
        told = bob.told("alice#screen")
        assert told is not None
        assert [track.sid for track in told.tracks] == [screen.sid()]
        assert not alice.gone, "the two are two, and none replaces the other"

        sids = [client.sid() for client in (alice, bob)]
        await screen.signal(rtc.SignalRequest(subscription=rtc.UpdateSubscription(track_sids=sids, subscribe=True)))
        await screen.drop()
        screen.resume(server)
        await screen.until(lambda: bool(screen.seen("reconnect")))
        await screen.play(b"still there", to=bob)
        assert not screen.seen("offer")
        assert screen.subscriber.peer.state is PeerState.NEW

        await screen.leave()
        await bob.until(lambda: bool((one := bob.told("alice#screen")) and not one.tracks))
        await alice.play(b"and alice goes on", to=bob)


async def test_who_may_not_publish_has_no_use_for_it() -> None:
    async with running() as world:
        denied = (401, "permissions denied")
        assert await world.refusal("/rtc?protocol=17&publish=screen", world.token(can_publish=False)) == denied
        assert not world.rooms
