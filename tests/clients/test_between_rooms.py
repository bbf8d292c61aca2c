"""Participants are taken to other rooms through the server API, and real clients go on there."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from livekit import api

from tests.clients.browser import chromium, join, open_client, wait
from tests.clients.python_client import Participant, leaving, until
from tests.clients.server import KEY, SECRET
from triosfu.config import load_config
from triosfu.rooms.moving import move
from triosfu.server.threaded import serve_in_thread
from triosfu.tokens import VideoGrant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.clients.server import RunningServer
    from triosfu.rooms.participant import Participant as Session

pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])


@asynccontextmanager
async def three(server: RunningServer, names: tuple[str, str], *, single: bool) -> AsyncIterator[list[Participant]]:
    """Alice and Bob in the first room, Carol in the second; all have microphones."""
    people = [Participant(name) for name in ("alice", "bob", "carol")]
    async with leaving(people):
        for one, room in zip(people, (names[0], names[0], names[1]), strict=True):
            grant = VideoGrant(room_join=True, room=room, can_update_own_metadata=True)
            await one.join(server.url, server.token(one.identity, room, grant), single=single)
            await one.publish_microphone()
        yield people


@MODES
def test_a_participant_is_moved_and_goes_on_in_the_other_room(server: RunningServer, *, single: bool) -> None:
    async def run() -> None:
        first, second = f"first-{single}", f"second-{single}"
        async with (
            api.LiveKitAPI(f"http://127.0.0.1:{server.port}", KEY, SECRET) as calls,
            three(server, (first, second), single=single) as (alice, bob, carol),
        ):
            await until(lambda: alice.loud_frames["bob"] > 5 and bob.loud_frames["alice"] > 5, seconds=10)
            moved: list[str] = []
            alice.room.on("moved", lambda: moved.append(alice.room.name))
            before = alice.room.local_participant.sid
            request = api.MoveParticipantRequest(room=first, identity="alice", destination_room=second)
            await calls.room.move_participant(request)
            await until(lambda: bool(moved), seconds=3, what="alice's client knows")
            assert moved == [second]
            assert list(alice.room.remote_participants) == ["carol"]
            assert alice.room.local_participant.sid != before
            await until(lambda: carol.loud_frames["alice"] > 5, seconds=10, what="carol hears alice")
            await until(lambda: alice.loud_frames["carol"] > 5, seconds=10, what="alice hears carol")
            await until(lambda: "alice" not in bob.room.remote_participants, seconds=3, what="bob sees her go")
            await alice.room.local_participant.publish_data(b"from alice")
            await carol.room.local_participant.publish_data(b"from carol")
            await until(lambda: any(d[:2] == ("alice", b"from alice") for d in carol.data), seconds=3)
            await until(lambda: any(d[:2] == ("carol", b"from carol") for d in alice.data), seconds=3)
            assert not bob.data

    asyncio.run(asyncio.wait_for(run(), 40))


@MODES
def test_a_participant_is_forwarded_until_it_is_removed_there(server: RunningServer, *, single: bool) -> None:
    async def run() -> None:
        first, second = f"here-{single}", f"there-{single}"
        async with (
            api.LiveKitAPI(f"http://127.0.0.1:{server.port}", KEY, SECRET) as calls,
            three(server, (first, second), single=single) as (alice, bob, carol),
        ):
            request = api.ForwardParticipantRequest(room=first, identity="alice", destination_room=second)
            await calls.room.forward_participant(request)
            await until(lambda: carol.loud_frames["alice"] > 5, seconds=10, what="carol hears alice")
            await until(lambda: carol.when("speaks", "alice") is not None, seconds=5, what="alice is the speaker")
            await alice.publish_camera()
            await until(lambda: carol.video_frames["alice"] > 3, seconds=10, what="carol sees alice")
            listed = await calls.room.list_participants(api.ListParticipantsRequest(room=second))
            seen = next(one for one in listed.participants if one.identity == "alice")
            assert list(seen.kind_details) == [api.ParticipantInfo.KindDetail.FORWARDED]
            await alice.room.local_participant.set_name("Al")
            await until(lambda: carol.room.remote_participants["alice"].name == "Al", seconds=3, what="her new name")
            mute = api.MuteRoomTrackRequest(room=first, identity="alice", track_sid=seen.tracks[0].sid, muted=True)
            await calls.room.mute_published_track(mute)
            await until(lambda: carol.when("track_muted", "alice") is not None, seconds=3, what="carol sees the mute")
            await calls.room.remove_participant(api.RoomParticipantIdentity(room=second, identity="alice"))
            await until(lambda: "alice" not in carol.room.remote_participants, seconds=3, what="carol sees her go")
            assert "alice" in bob.room.remote_participants
            assert not alice.loud_frames["carol"]

    asyncio.run(asyncio.wait_for(run(), 40))


def call(server: RunningServer, method: str, **fields: Any) -> None:  # noqa: ANN401  JSON
    """A call to the server API from where no event loop may run."""
    grant = VideoGrant(
        room_admin=True,
        room_create=True,
        room=fields.get("room", ""),
        destination_room=fields.get("destination_room", ""),
    )
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/twirp/livekit.RoomService/{method}",
        json.dumps(fields).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {server.token('', '', grant)}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        assert answer.status == 200


def test_a_browser_is_moved_and_resumes_in_the_other_room(server: RunningServer) -> None:
    with chromium() as browser:
        alice, bob, carol = (open_client(browser, server) for _ in range(3))
        first, second = "before", "after"
        call(server, "CreateRoom", name=second, min_playout_delay=400)
        for page, name, room in ((alice, "alice", first), (bob, "bob", first), (carol, "carol", second)):
            join(page, server, name, room, singlePeerConnection=True)
            page.evaluate("room.localParticipant.enableCameraAndMicrophone()")
        wait(alice, "(await received())['bob/camera']?.frames > 3")
        alice.evaluate("room.on('moved', (name) => { window.moved = name; })")
        call(server, "MoveParticipant", room=first, identity="alice", destination_room=second)
        wait(alice, f"window.moved === '{second}'")
        wait(alice, "(await received())['carol/camera']?.frames > 3")
        wait(alice, "(await received())['carol/camera'].delay > 0.35")
        wait(carol, "(await received())['alice/camera']?.frames > 3")
        wait(carol, "(await received())['alice/microphone']?.energy > 0")
        wait(bob, "room.remoteParticipants.size === 0")
        assert alice.evaluate("[...room.remoteParticipants.keys()]") == ["carol"]
        sid = alice.evaluate("room.localParticipant.sid")
        alice.evaluate("room.on('reconnected', () => { window.back = true; })")
        alice.evaluate("void room.simulateScenario('signal-reconnect')")
        wait(alice, "window.back", seconds=20)
        assert alice.evaluate("room.localParticipant.sid") == sid, "a resume, not a new session"
        assert carol.evaluate("[...room.remoteParticipants.keys()]") == ["alice"]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("told", "single"), [(True, True), (False, False)])
def test_a_client_whose_socket_breaks_resumes_where_it_was_moved(*, told: bool, single: bool) -> None:
    """It has been told of the move, or its socket broke before."""
    config = load_config(development=True, overrides={"port": 7896, "rtc": {"udp_port": 7897}})
    with serve_in_thread(config) as server:

        def in_server(what: Callable[..., object], *arguments: object) -> None:
            trio.from_thread.run_sync(what, *arguments, trio_token=server.trio_token)

        def move_alice(*, break_first: bool) -> None:
            origin, to = server.rooms.find("one"), server.rooms.find("two")
            assert origin is not None
            assert to is not None
            alice = origin.participants["alice"]
            if break_first:
                break_socket(alice)
            move(alice, to)

        def break_socket(alice: Session) -> None:
            assert alice.link is not None
            alice.link.close(1011)

        async def run() -> None:
            people = alice, _, carol = [Participant(name) for name in ("alice", "bob", "carol")]
            seen: list[str] = []
            for event in ("moved", "reconnecting", "reconnected", "disconnected"):
                alice.room.on(event, lambda *_, event=event: seen.append(event))
            async with leaving(people):
                for one, room in zip(people, ("one", "one", "two"), strict=True):
                    token = server.create_token(identity=one.identity, room=room)
                    await one.join(server.url, token, single=single)
                    await one.publish_microphone()
                await until(lambda: alice.loud_frames["bob"] > 5, seconds=10, what="alice hears bob")
                in_server(partial(move_alice, break_first=not told))
                if told:
                    await until(lambda: "moved" in seen, seconds=3, what="alice knows")
                    here = server.rooms.find("two")
                    assert here is not None
                    in_server(break_socket, here.participants["alice"])
                await until(lambda: "reconnected" in seen, seconds=10, what="alice is back")
                await until(lambda: alice.room.name == "two", seconds=3, what="alice knows where she is")
                await until(
                    lambda: list(alice.room.remote_participants) == ["carol"], seconds=3, what="and who is there"
                )
                heard = alice.loud_frames["carol"]
                await until(lambda: alice.loud_frames["carol"] > heard + 10, seconds=10, what="alice hears carol")
                heard = carol.loud_frames["alice"]
                await until(lambda: carol.loud_frames["alice"] > heard + 10, seconds=10, what="carol hears alice")
                assert seen.count("moved") == 1

        asyncio.run(asyncio.wait_for(run(), 40))
