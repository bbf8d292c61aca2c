"""A server and a room that have as much as they may have, as real clients are told of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from livekit import api, rtc

from tests.clients.browser import chromium, open_client
from tests.clients.python_client import Participant, leaving, until
from tests.clients.server import KEY, SECRET, running_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.clients.server import RunningServer

    Scenario = Callable[[RunningServer, Participant, Participant], Awaitable[None]]

pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
FULL = "node has exceeded its configured limit"
LIMITS = """
limit: {num_tracks: 2, max_participant_identity_length: 5, max_room_name_length: 5, max_metadata_size: 5}
room: {max_participants: 2}
"""
# What livekit-client makes of 500 and 503, whose texts it does not read: the reason is ConnectionErrorReason.WebSocket.
IN_THE_BROWSER = [
    "ConnectionError",
    6,
    None,
    "could not establish signal connection: Encountered websocket error during connection establishment",
]


async def refusal(server: RunningServer, room: str, *, single: bool, identity: str = "carol") -> str:
    """What the wheel says to one who may not join, however often it tries."""
    one = Participant(identity)
    async with leaving((one,)):
        with pytest.raises(rtc.ConnectError) as refused:
            await one.join(server.url, server.token(identity, room), single=single)
    return str(refused.value)


def refused_browser(server: RunningServer, room: str) -> list[Any]:
    """What livekit-client says to the same."""
    connect = """async ([url, token]) => {
      const error = await new LivekitClient.Room().connect(url, token).then(() => null, (error) => error);
      return [error?.name, error?.reason, error?.status, error?.message];
    }"""
    with chromium() as browser:
        page = open_client(browser, server)
        said: list[Any] = page.evaluate(connect, [server.url, server.token("dave", room)])
    return said


def crowd(log: Path, limits: str, scenario: Scenario) -> None:
    """Run `scenario` with Alice and Bob in the room `full`, on a server with these limits; both stay."""

    async def run(server: RunningServer) -> None:
        alice, bob = Participant("alice"), Participant("bob")
        async with leaving((alice, bob)):
            await alice.join(server.url, server.token("alice", "full"), single=True)
            await bob.join(server.url, server.token("bob", "full"), single=False)
            await scenario(server, alice, bob)
            heard = bob.loud_frames["alice"]
            await until(lambda: bob.loud_frames["alice"] > heard + 10, seconds=5, what="who is there stays")

    with running_server(log, "--config-body", limits) as server:
        asyncio.run(asyncio.wait_for(run(server), 60))


@pytest.mark.usefixtures("network")
def test_a_full_room_and_a_server_with_its_tracks_refuse_joins_and_rooms(artifacts: Path) -> None:
    async def scenario(server: RunningServer, alice: Participant, bob: Participant) -> None:
        for single in (True, False):
            assert "500 Internal Server Error" in await refusal(server, "full", single=single)
        assert await asyncio.to_thread(refused_browser, server, "full") == IN_THE_BROWSER
        too_long = "400 Bad Request - {} length exceeds limits: max length 5"
        for room, identity, what in (("other", "caroline", "participant identity"), ("others", "carol", "room name")):
            assert too_long.format(what) in await refusal(server, room, single=True, identity=identity)
        await alice.publish_microphone()
        await until(lambda: bob.loud_frames["alice"] > 10, seconds=10, what="sound")
        for single in (True, False):
            assert f"503 Service Unavailable - {FULL}" in await refusal(server, "other", single=single)
        assert await asyncio.to_thread(refused_browser, server, "other") == IN_THE_BROWSER
        async with api.LiveKitAPI(f"http://127.0.0.1:{server.port}", KEY, SECRET) as calls:
            with pytest.raises(api.TwirpError) as refused:
                await calls.room.create_room(api.CreateRoomRequest(name="other"))
            assert (refused.value.code, refused.value.status, refused.value.message) == ("unavailable", 503, FULL)
            changed = api.UpdateParticipantRequest(room="full", identity="alice", metadata="longer")
            with pytest.raises(api.TwirpError) as long:
                await calls.room.update_participant(changed)
            assert (long.value.code, long.value.status) == ("invalid_argument", 400)
            assert alice.room.local_participant.metadata == ""
            listed = await calls.room.list_rooms(api.ListRoomsRequest())
            assert [(room.name, room.num_participants) for room in listed.rooms] == [("full", 2)]

    crowd(artifacts / "limits_tracks.log", LIMITS, scenario)


@pytest.mark.usefixtures("network")
def test_one_track_is_heard_at_a_time_and_enough_bytes_let_nobody_in(artifacts: Path) -> None:
    async def scenario(server: RunningServer, alice: Participant, bob: Participant) -> None:
        first = await alice.publish_microphone()
        await until(lambda: bob.loud_frames["alice"] > 10, seconds=10, what="sound")
        await alice.publish_microphone()
        headers = {"Authorization": f"Bearer {server.token('carol', 'other')}"}
        async with httpx.AsyncClient(headers=headers) as client:
            for _ in range(100):
                reply = await client.get(f"http://127.0.0.1:{server.port}/rtc/validate")
                if reply.status_code == 503:
                    break
                await asyncio.sleep(0.1)
        assert (reply.status_code, reply.text) == (503, FULL)
        assert f"503 Service Unavailable - {FULL}" in await refusal(server, "other", single=True)
        assert bob.subscribed == 1
        await alice.room.local_participant.unpublish_track(first.sid)
        await until(lambda: bob.subscribed == 2, seconds=5, what="the other track")

    crowd(artifacts / "limits_bytes.log", "limit: {bytes_per_sec: 200, subscription_limit_audio: 1}", scenario)
