"""Who receives what: by the subscriber's hand, and by the publisher's leave, with the real wheel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from livekit import rtc

from tests.clients.python_client import Participant, leaving, until

if TYPE_CHECKING:
    from tests.clients.server import RunningServer


async def silent(bob: Participant) -> None:
    await asyncio.sleep(0.3)  # what was on its way
    heard = bob.loud_frames["alice"]
    await asyncio.sleep(0.3)
    assert bob.loud_frames["alice"] <= heard + 5


async def hears(bob: Participant) -> None:
    heard = bob.loud_frames["alice"]
    await until(lambda: bob.loud_frames["alice"] > heard + 10, seconds=5, what="sound")


def test_a_publisher_lets_some_subscribe_and_others_not(server: RunningServer) -> None:
    async def run() -> None:
        alice, bob, carol = people = [Participant(name) for name in ("alice", "bob", "carol")]
        async with leaving(people):
            for one in people:
                await one.join(server.url, server.token(one.identity, "leave"), single=False)
            publication = await alice.publish_microphone()
            await hears(bob)
            await hears(carol)
            permit = alice.room.local_participant.set_track_subscription_permissions
            permit(allow_all_participants=False, participant_permissions=[])
            await silent(bob)
            some = rtc.ParticipantTrackPermission(participant_identity="bob", allowed_track_sids=[publication.sid])
            permit(allow_all_participants=False, participant_permissions=[some])
            await hears(bob)
            await silent(carol)
            permit(allow_all_participants=True)
            await hears(carol)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_subscriber_takes_what_it_asks_for(server: RunningServer) -> None:
    async def run() -> None:
        alice, bob = people = [Participant(name) for name in ("alice", "bob")]
        async with leaving(people):
            await alice.join(server.url, server.token("alice", "hand"), single=True)
            publication = await alice.publish_microphone()
            await bob.join(server.url, server.token("bob", "hand"), single=True, watch=False)
            seen = bob.room.remote_participants["alice"].track_publications
            await until(lambda: publication.sid in seen, seconds=3, what="bob sees the track")
            await silent(bob)
            for _ in range(2):
                seen[publication.sid].set_subscribed(True)
                await hears(bob)
                seen[publication.sid].set_subscribed(False)
                await silent(bob)

    asyncio.run(asyncio.wait_for(run(), 30))
