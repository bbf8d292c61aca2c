"""Programs with LiveKit's Go SDK, and with it pion's stack: participants, a backend, and a receiver of webhooks."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from livekit import api, rtc
from livekit.protocol.models import Room
from livekit.protocol.webhook import WebhookEvent

from tests.clients.browser import chromium, join, open_client
from tests.clients.go_client import PROGRAM, go_participant, write_picture, write_sound
from tests.clients.python_client import Participant, leaving, until
from tests.clients.server import KEY, SECRET
from triosfu.webhooks.delivery import authorization, render

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.clients.server import RunningServer

pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason="there is no Go here to build it with (docs/compatibility.md)"),
    pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning"),
]
MODES = pytest.mark.parametrize("mode", ["single", "dual"])
LONG = 100_000  # bytes of a stream: several messages
COUNTED = 100  # messages, one every 20 ms
numbers = itertools.count()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that are published."""
    folder = tmp_path_factory.mktemp("media")
    write_sound(folder / "tone.ogg")
    for width in (160, 320, 640):
        write_picture(folder / f"{width}.ivf", "libvpx", width)
    write_picture(folder / "160.h264", "libx264", 160)
    return folder


@pytest.fixture
def log(artifacts: Path) -> Path:
    """What the Go programs say besides."""
    return artifacts / "go.log"


@pytest.fixture
def room() -> str:
    """A room of the test's own."""
    return f"go-{next(numbers)}"


def alongside(server: RunningServer, room: str, mode: str, scenario: Callable[[Participant], Awaitable[None]]) -> None:
    """Run `scenario` with Bob, who has the `livekit` wheel, in the room."""

    async def run() -> None:
        bob = Participant("bob")
        async with leaving((bob,)):
            await bob.join(server.url, server.token("bob", room), single=mode == "single")
            await scenario(bob)

    asyncio.run(asyncio.wait_for(run(), 40))


def run_program(*arguments: str, log: Path, said: str | None = None) -> dict[str, Any]:
    """Run the program to its end, and return what it told at last."""
    with log.open("ab") as complaints:
        done = subprocess.run(
            [PROGRAM, *arguments],
            input=said,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            check=False,
            timeout=30,
        )
    assert done.returncode == 0, log.read_text()
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@MODES
def test_sound_and_pictures_both_ways(server: RunningServer, media: Path, log: Path, room: str, mode: str) -> None:
    with (
        go_participant(server, room, "alice", log, mode=mode) as alice,
        go_participant(server, room, "carol", log, mode=mode) as carol,
    ):
        alice.do("publish", file=str(media / "tone.ogg"), name="tone")
        alice.do("publish", file=str(media / "160.ivf"), name="picture")
        alice.wait_for("published", name="tone")
        alice.wait_for("published", name="picture")

        async def scenario(bob: Participant) -> None:
            await bob.publish_microphone()
            await bob.publish_camera(width=320, height=180, rate=10, simulcast=False)
            await until(lambda: bob.loud_frames["alice"] > 50, seconds=10, what="alice's tone")
            await until(lambda: bob.video_frames["alice"] > 10, seconds=10, what="alice's picture")
            await asyncio.to_thread(counted)

        def counted() -> None:
            for who, width in (("alice", 160), ("bob", 320)):
                sound, picture = carol.receives(who, "audio", packets=10), carol.receives(who, "video", packets=10)
                assert (sound["codec"], picture["codec"]) == ("audio/opus", "video/VP8")
                assert picture["width"] == width
                assert picture["key_frames"] > 0
                later = carol.receives(who, "audio", packets=sound["packets"] + 25)
                assert (later["missing"], later["repeated"]) == (sound["missing"], 0)
                assert (picture["missing"], picture["repeated"]) == (0, 0)
            alice.receives("bob", "audio", packets=50)
            alice.receives("bob", "video", packets=10)
            wait_until(lambda: any({"alice", "bob"} == set(one["who"]) for one in alice.told("speakers")))

        alongside(server, room, mode, scenario)
        carol.wait_for("gone", who="bob", reason="CLIENT_INITIATED")


@MODES
def test_data_calls_streams_and_attributes_both_ways(server: RunningServer, log: Path, room: str, mode: str) -> None:
    with go_participant(server, room, "alice", log, mode=mode) as alice:

        async def halve(call: rtc.RpcInvocationData) -> str:
            return call.payload[: len(call.payload) // 2]

        async def scenario(bob: Participant) -> None:
            local = bob.room.local_participant
            texts: list[str] = []
            files: list[bytes] = []
            reading: list[asyncio.Task[None]] = []

            async def read_text(reader: rtc.TextStreamReader) -> None:
                texts.append(await reader.read_all())

            async def read_bytes(reader: rtc.ByteStreamReader) -> None:
                files.append(b"".join([chunk async for chunk in reader]))

            bob.room.register_text_stream_handler(
                "chat", lambda reader, _: reading.append(asyncio.ensure_future(read_text(reader)))
            )
            bob.room.register_byte_stream_handler(
                "file", lambda reader, _: reading.append(asyncio.ensure_future(read_bytes(reader)))
            )
            local.register_rpc_method("halve", halve)
            for reliable in (True, False):
                alice.do("data", text=f"to bob {reliable}", reliable=reliable, to=["bob"], topic="t")
                await until(lambda: bool(bob.data), seconds=5, what="data")
                assert bob.data.pop() == ("alice", f"to bob {reliable}".encode(), reliable)
                await local.publish_data(f"to alice {reliable}", reliable=reliable, topic="t")
                await asyncio.to_thread(alice.wait_for, "data", who="bob", text=f"to alice {reliable}", topic="t")
            answer = await local.perform_rpc(
                destination_identity="alice", method="double", payload="12", response_timeout=5
            )
            assert answer == "1212"
            with pytest.raises(rtc.RpcError) as refused:
                await local.perform_rpc(destination_identity="alice", method="double", payload="", response_timeout=5)
            assert (refused.value.code, refused.value.message) == (4000, "nothing to double")
            alice.do("rpc", to=["bob"], name="halve", text="1212")
            await asyncio.to_thread(alice.wait_for, "answer", text="12")
            alice.do("rpc", to=["bob"], name="unknown", text="")
            await asyncio.to_thread(alice.wait_for, "failed")
            alice.do("text", length=LONG)
            alice.do("bytes", length=LONG)
            await until(lambda: texts == ["x" * LONG], seconds=5, what="a long text")
            await until(lambda: [len(one) for one in files] == [LONG], seconds=5, what="a file")
            assert files == [bytes(range(256)) * (LONG // 256) + bytes(range(LONG % 256))]
            await local.send_text("y" * LONG, topic="chat")
            await asyncio.to_thread(alice.wait_for, "text", who="bob", length=LONG, whole=True)
            writer = await local.stream_bytes("f", topic="file", total_size=LONG)
            await writer.write(files[0])
            await writer.aclose()
            await asyncio.to_thread(alice.wait_for, "bytes", who="bob", length=LONG, whole=True)
            alice.do("attributes", attributes={"mood": "good"})
            alice.do("metadata", text="from go")
            remote = bob.room.remote_participants["alice"]
            await until(
                lambda: (remote.attributes, remote.metadata) == ({"mood": "good"}, "from go"), seconds=5, what="it"
            )
            await local.set_attributes({"hat": "red"})
            await asyncio.to_thread(alice.wait_for, "attributes", who="bob", attributes={"hat": "red"})

        async def allowed(bob: Participant) -> None:
            # The wheel's token of the other tests does not allow it to change its attributes.
            async with api.LiveKitAPI(f"http://127.0.0.1:{server.port}", KEY, SECRET) as calls:
                permission = api.ParticipantPermission(
                    can_subscribe=True, can_publish=True, can_publish_data=True, can_update_metadata=True
                )
                await calls.room.update_participant(
                    api.UpdateParticipantRequest(room=room, identity="bob", permission=permission)
                )
            await scenario(bob)

        alongside(server, room, mode, allowed)


def test_tracks_that_are_announced_with_the_request(server: RunningServer, media: Path, log: Path, room: str) -> None:
    files = [media / "tone.ogg", media / "160.ivf"]
    with (
        go_participant(server, room, "carol", log, mode="single", publish=files) as carol,
        go_participant(server, room, "alice", log, mode="single", publish=files) as alice,
    ):
        for who, other in ((alice, "carol"), (carol, "alice")):
            who.receives(other, "audio", packets=10)
            assert who.receives(other, "video", packets=5)["width"] == 160


def test_layers_are_published_and_chosen(server: RunningServer, media: Path, log: Path, room: str) -> None:
    with (
        go_participant(server, room, "alice", log, mode="single") as alice,
        go_participant(server, room, "carol", log, mode="dual", subscribe=False) as carol,
    ):
        alice.do("publish", files=[str(media / f"{width}.ivf") for width in (160, 320, 640)], name="layers")
        sid = alice.wait_for("published", name="layers")["sid"]
        carol.wait_for("published by", who="alice", sid=sid)
        carol.do("subscribe", sid=sid, whether=True)
        carol.wait_for("subscribed", sid=sid)
        for quality, width in (("HIGH", 640), ("LOW", 160), ("MEDIUM", 320)):
            carol.do("quality", sid=sid, quality=quality)
            carol.receives("alice", "video", packets=1, width=width)
        carol.do("subscribe", sid=sid, whether=False)
        wait_until(carol.silent)
        carol.do("subscribe", sid=sid, whether=True)
        carol.wait_for("subscribed", sid=sid, times=2)
        alice.do("mute", sid=sid, whether=True)
        carol.wait_for("muted", who="alice", sid=sid)
        alice.do("mute", sid=sid, whether=False)
        carol.wait_for("unmuted", who="alice", sid=sid)
        alice.do("unpublish", sid=sid)
        carol.wait_for("unpublished by", who="alice", sid=sid)
        alice.do("publish", file=str(media / "160.h264"), name="another codec")
        sid = alice.wait_for("published", name="another codec")["sid"]
        carol.wait_for("published by", who="alice", sid=sid)
        carol.do("subscribe", sid=sid, whether=True)
        assert carol.wait_for("subscribed", sid=sid)["codec"] == "video/H264"


def wait_until(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@MODES
def test_who_resumes_loses_no_message_and_no_track(
    server: RunningServer, media: Path, log: Path, room: str, mode: str
) -> None:
    with (
        go_participant(server, room, "alice", log, mode=mode) as alice,
        go_participant(server, room, "carol", log, mode=mode) as carol,
    ):
        carol.do("publish", file=str(media / "tone.ogg"), name="tone")
        alice.do("publish", file=str(media / "160.ivf"), name="picture")
        seen = carol.receives("alice", "video", packets=5)
        heard = alice.receives("carol", "audio", packets=20)
        before = alice.report()["sid"]
        alice.do("count", length=COUNTED)
        carol.do("count", length=COUNTED)
        alice.wait_for("data", who="carol")
        alice.do("simulate", scenario="signal")
        alice.wait_for("reconnected")
        assert alice.report()["sid"] == before
        carol.receives("alice", "video", packets=seen["packets"] + 20)
        alice.receives("carol", "audio", packets=heard["packets"] + 100)
        assert carol.told("unsubscribed") == alice.told("unsubscribed") == carol.told("gone") == []
        for one in (alice, carol):
            one.wait_for("data", times=COUNTED)
            assert [int(message["text"]) for message in one.told("data")] == list(range(COUNTED))


@pytest.mark.parametrize(("scenario", "mode"), [("full reconnect", "single"), ("node failure", "dual")])
def test_who_starts_over_has_everything_again(
    server: RunningServer, media: Path, log: Path, room: str, *, mode: str, scenario: str
) -> None:
    with (
        go_participant(server, room, "alice", log, mode=mode) as alice,
        go_participant(server, room, "carol", log, mode=mode) as carol,
    ):
        carol.do("publish", file=str(media / "tone.ogg"), name="tone")
        alice.do("publish", file=str(media / "160.ivf"), name="picture")
        carol.receives("alice", "video", packets=5)
        alice.receives("carol", "audio", packets=20)
        before = alice.report()["sid"]
        alice.do("simulate", scenario=scenario)
        alice.wait_for("reconnected", seconds=15)
        wait_until(lambda: alice.report()["state"] == "connected")
        assert alice.report()["sid"] != before
        alice.wait_for("subscribed", who="carol", times=2)
        carol.wait_for("subscribed", who="alice", times=2)
        carol.do("data", text="still there?", reliable=True)
        alice.wait_for("data", who="carol", text="still there?")
        alice.do("data", text="yes", reliable=True)
        carol.wait_for("data", who="alice", text="yes")


def test_a_server_that_leaves_says_so(server: RunningServer, log: Path, room: str) -> None:
    with go_participant(server, room, "alice", log, mode="single") as alice:
        alice.do("simulate", scenario="server leave")
        alice.wait_for("disconnected", reason="SERVER_SHUTDOWN")


def test_who_is_removed_or_replaced_is_told_why(server: RunningServer, log: Path, room: str) -> None:
    async def run(call: Callable[[api.LiveKitAPI], Awaitable[object]]) -> None:
        async with api.LiveKitAPI(f"http://127.0.0.1:{server.port}", KEY, SECRET) as calls:
            await call(calls)

    with (
        go_participant(server, room, "alice", log, mode="dual") as alice,
        go_participant(server, room, "bob", log, mode="single") as bob,
        go_participant(server, room, "carol", log, mode="dual") as carol,
    ):
        who = api.RoomParticipantIdentity(room=room, identity="alice")
        asyncio.run(run(lambda calls: calls.room.remove_participant(who)))
        alice.wait_for("disconnected", reason="PARTICIPANT_REMOVED", text="removed by server")
        carol.wait_for("gone", who="alice", reason="PARTICIPANT_REMOVED")
        with go_participant(server, room, "bob", log, mode="single"):
            bob.wait_for("disconnected", reason="DUPLICATE_IDENTITY", text="duplicate identity")
            asyncio.run(run(lambda calls: calls.room.delete_room(api.DeleteRoomRequest(room=room))))
            carol.wait_for("disconnected", reason="ROOM_DELETED")


def test_a_browser_sees_and_hears_and_is_seen_and_heard(
    server: RunningServer, media: Path, log: Path, room: str
) -> None:
    with chromium() as browser, go_participant(server, room, "alice", log, mode="single") as alice:
        alice.do("publish", file=str(media / "tone.ogg"), name="tone")
        alice.do("publish", file=str(media / "320.ivf"), name="picture")
        page = open_client(browser, server)
        join(page, server, "page", room)
        page.evaluate("room.localParticipant.enableCameraAndMicrophone()")
        alice.receives("page", "audio", packets=50)
        picture = alice.receives("page", "video", packets=50)
        assert picture["key_frames"] > 0
        page.wait_for_function("[...document.querySelectorAll('video')].some((one) => one.videoWidth === 320)")
        page.evaluate("room.localParticipant.publishData(new TextEncoder().encode('hello'), {reliable: true})")
        alice.wait_for("data", who="page", text="hello")
        alice.do("data", text="hello page", reliable=True)
        page.wait_for_function("seen.data.some(([text, from]) => text === 'hello page' && from === 'alice')")


def test_a_backend_in_go(server: RunningServer, media: Path, log: Path, room: str) -> None:
    """It makes each call of RoomService on a participant that has the Go SDK too."""
    with go_participant(server, room, "alice", log, mode="dual") as alice:
        alice.do("publish", file=str(media / "tone.ogg"), name="tone")
        sid = alice.wait_for("published", name="tone")["sid"]
        assert run_program("backend", server.url, KEY, SECRET, room, "alice", log=log) == {
            "event": "said",
            "room": [room, "", "RM_", True],
            "listed": [1, room, 1],
            "participants": [1, "alice", "ACTIVE"],
            "changed": ["from go", {"mood": "good"}, False],
            "metadata": "news",
            "muted": True,
            "refused": ["failed_precondition", "remote unmute not enabled"],
            "moved": [1, "alice"],
            "missing": ["not_found", "requested room does not exist"],
            "stranger": "unauthenticated",
            "egress": ["internal", "egress not connected (redis required)"],
        }
        alice.wait_for("data", text="from go", topic="t", who="")
        alice.wait_for("muted", who="alice", sid=sid)
        alice.wait_for("metadata", who="alice", text="from go")
        alice.wait_for("room metadata", text="news")
        alice.wait_for("moved", room=f"{room} 2")
        alice.wait_for("disconnected", reason="PARTICIPANT_REMOVED")


def test_dispatches_by_the_go_sdk(server: RunningServer, log: Path, room: str) -> None:
    assert run_program("dispatches", server.url, KEY, SECRET, room, log=log) == {
        "event": "said",
        "made": ["AD_", "helper", room, "m"],
        "listed": ["", "helper"],
        "one": "helper",
        "deleted": True,
        "missing": ["not_found", "dispatch ID not found"],
    }


def test_the_receiver_of_the_go_sdk_takes_webhooks(log: Path) -> None:
    event = WebhookEvent(event="room_started", id="EV_1", created_at=1_700_000_000, room=Room(name="käse"))
    body = render(event, num_dropped=3)
    token = authorization(body, KEY, SECRET, now=time.time())
    request = json.dumps({"body": body.decode(), "token": token})
    assert run_program("webhook", KEY, SECRET, log=log, said=request) == {
        "event": "said", "name": "room_started", "id": "EV_1", "room": "käse", "dropped": 3, "created": 1_700_000_000,
        "refused": True,
    }  # fmt: skip
