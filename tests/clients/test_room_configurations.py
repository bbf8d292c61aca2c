"""Rooms that are set up by a token, a named configuration or a call of the real SDK, as real clients find them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from livekit import api, rtc

from tests.clients.python_client import Participant, leaving
from tests.clients.server import KEY, SECRET, running_server

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
CONFIG = "room: {auto_create: false, room_configurations: {pair: {max_participants: 2, metadata: for two}}}"


def token(identity: str, room: str, *, create: bool = False) -> api.AccessToken:
    grants = api.VideoGrants(room_join=True, room=room, room_create=create)
    return api.AccessToken(KEY, SECRET).with_identity(identity).with_grants(grants)


@pytest.mark.usefixtures("network")
def test_rooms_are_as_their_creators_say(artifacts: Path) -> None:
    async def run(url: str) -> None:
        people = alice, bob, carol, agent = [Participant(name) for name in ("alice", "bob", "carol", "agent")]
        async with api.LiveKitAPI(url.replace("ws", "http"), KEY, SECRET) as calls, leaving(people):
            with pytest.raises(rtc.ConnectError):  # no room is made for who may not make one
                await alice.join(url, token("alice", "named").to_jwt(), single=True)
            more = api.RoomConfiguration(empty_timeout=77)
            first = token("alice", "named", create=True).with_room_preset("pair").with_room_config(more)
            await alice.join(url, first.to_jwt(), single=True)
            assert alice.room.metadata == "for two"
            await bob.join(url, token("bob", "named").to_jwt(), single=False)
            with pytest.raises(rtc.ConnectError):
                await carol.join(url, token("carol", "named").to_jwt(), single=True)
            await agent.join(url, token("agent", "named").with_kind("agent").to_jwt(), single=True)
            [room] = (await calls.room.list_rooms(api.ListRoomsRequest(names=["named"]))).rooms
            assert (room.empty_timeout, room.max_participants, room.num_participants) == (77, 2, 2)
            made = await calls.room.create_room(
                api.CreateRoomRequest(name="made", room_preset="pair", metadata="by a call", departure_timeout=5)
            )
            assert (made.max_participants, made.metadata, made.departure_timeout) == (2, "by a call", 5)
            with pytest.raises(api.TwirpError) as unknown:
                await calls.room.create_room(api.CreateRoomRequest(name="no", room_preset="none"))
            assert unknown.value.code == "invalid_argument"

    with running_server(
        artifacts / "room_configurations.log", "--config-body", CONFIG, "--udp-port", "7893", port=7892
    ) as server:
        asyncio.run(asyncio.wait_for(run(server.url), 30))
