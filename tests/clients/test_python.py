"""The unmodified `livekit` wheel: two participants, and what reaches whom, how soon."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from livekit import rtc

from tests.clients.python_client import Participant, leaving, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.clients.server import RunningServer

    Scenario = Callable[[Participant, Participant], Awaitable[Any]]

MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])


def meet(
    server: RunningServer, scenario: Callable[[Participant, Participant], Awaitable[Any]], *, single: bool
) -> None:
    """Run `scenario` with Alice and Bob in a room of their own."""

    async def run() -> None:
        alice, bob = Participant("alice"), Participant("bob")
        room = f"{scenario.__qualname__}-{single}"
        async with leaving((alice, bob)):
            await alice.join(server.url, server.token("alice", room), single=single)
            await bob.join(server.url, server.token("bob", room), single=single)
            await until(lambda: bool(alice.room.remote_participants), seconds=2, what="alice sees bob")
            await scenario(alice, bob)

    asyncio.run(asyncio.wait_for(run(), 60))


@MODES
def test_audio_and_video_are_decoded_at_the_other_side(server: RunningServer, *, single: bool) -> None:
    async def scenario(alice: Participant, bob: Participant) -> None:
        await alice.publish_microphone()
        await alice.publish_camera()
        await until(lambda: bob.video_frames["alice"] >= 40, seconds=15, what="video")
        await until(lambda: bob.loud_frames["alice"] >= 200, seconds=15, what="audio")
        assert bob.loud_frames["alice"] >= 0.9 * bob.audio_frames["alice"] - 50, "audio is continuous"

    meet(server, scenario, single=single)


@MODES
def test_a_late_joiner_sees_the_camera_within_one_and_a_half_seconds(server: RunningServer, *, single: bool) -> None:
    async def scenario(alice: Participant, bob: Participant) -> None:
        await alice.publish_camera()
        await until(lambda: bob.video_frames["alice"] >= 20, seconds=15, what="video runs")
        carol = Participant("carol")
        async with leaving((carol,)):
            started = time.monotonic()
            room = alice.room.name
            await carol.join(server.url, server.token("carol", room), single=single)
            await until(lambda: "alice" in carol.first_frame_at, seconds=5, what="carol's first frame")
            assert carol.first_frame_at["alice"] - started < 1.5

    meet(server, scenario, single=single)


@MODES
def test_reliable_data_arrives_whole_and_in_order(server: RunningServer, *, single: bool) -> None:
    async def scenario(alice: Participant, bob: Participant) -> None:
        messages = [bytes([number]) * 10_000 for number in range(50)]
        for message in messages:
            await alice.room.local_participant.publish_data(message, reliable=True)
        await until(lambda: len(bob.data) == 50, seconds=10, what="50 messages")
        assert bob.data == [("alice", message, True) for message in messages]
        assert alice.data == []

    meet(server, scenario, single=single)


@MODES
def test_lossy_data_and_destinations(server: RunningServer, *, single: bool) -> None:
    async def scenario(alice: Participant, bob: Participant) -> None:
        carol = Participant("carol")
        async with leaving((carol,)):
            await carol.join(server.url, server.token("carol", alice.room.name), single=single)
            await until(lambda: len(alice.room.remote_participants) == 2, seconds=2, what="alice sees both")
            local = alice.room.local_participant
            await local.publish_data(b"for bob", reliable=True, destination_identities=["bob"])
            await local.publish_data(b"for all", reliable=False)
            await until(lambda: len(bob.data) == 2 and bool(carol.data), seconds=5, what="data")
            assert sorted(bob.data) == [("alice", b"for all", False), ("alice", b"for bob", True)]
            assert carol.data == [("alice", b"for all", False)]

    meet(server, scenario, single=single)


@MODES
def test_mute_unpublish_and_leave_reach_the_other_within_300_ms(server: RunningServer, *, single: bool) -> None:
    async def scenario(alice: Participant, bob: Participant) -> None:
        publication = await alice.publish_microphone()
        await until(lambda: bob.loud_frames["alice"] > 10, seconds=10, what="audio")
        track = publication.track
        assert isinstance(track, rtc.LocalAudioTrack)
        actions: list[tuple[str, Callable[[], Any]]] = [
            ("track_muted", track.mute),
            ("track_unmuted", track.unmute),
            ("track_unpublished", lambda: alice.room.local_participant.unpublish_track(publication.sid)),
            ("participant_disconnected", alice.room.disconnect),
        ]
        for event, act in actions:
            asked = time.monotonic()
            if (waiting := act()) is not None:
                await waiting
            await until(lambda event=event: bob.when(event, "alice") is not None, seconds=3, what=event)  # type: ignore[misc]
            assert bob.when(event, "alice") - asked < 0.3, event  # type: ignore[operator]

    meet(server, scenario, single=single)


@MODES
def test_the_speaker_is_told(server: RunningServer, *, single: bool) -> None:
    async def scenario(alice: Participant, bob: Participant) -> None:
        await alice.publish_microphone()
        await until(lambda: bob.when("speaks", "alice") is not None, seconds=5, what="speaker")

    meet(server, scenario, single=single)


@pytest.mark.parametrize("codec", ["VP8", "H264", "VP9", "AV1"])
def test_every_codec_is_forwarded(server: RunningServer, codec: str) -> None:
    async def scenario(alice: Participant, bob: Participant) -> None:
        await alice.publish_camera(codec=rtc.VideoCodec.Value(codec), simulcast=codec in {"VP8", "H264"})
        await until(lambda: bob.video_frames["alice"] >= 20, seconds=20, what=codec)

    scenario.__qualname__ = codec
    meet(server, scenario, single=True)


def test_the_same_identity_again_ends_the_older_session(server: RunningServer) -> None:
    async def scenario(alice: Participant, bob: Participant) -> None:
        ended: list[int] = []
        alice.room.on("disconnected", ended.append)
        again = Participant("alice")
        async with leaving((again,)):
            await again.join(server.url, server.token("alice", alice.room.name), single=True)
            await until(lambda: bool(ended), seconds=3, what="the older alice is told")
            assert ended == [rtc.DisconnectReason.DUPLICATE_IDENTITY]
            await again.room.local_participant.publish_data(b"it is me", reliable=True)
            await until(lambda: bob.data == [("alice", b"it is me", True)], seconds=3, what="data of the new alice")
            assert list(bob.room.remote_participants) == ["alice"]

    meet(server, scenario, single=True)


def test_metadata_and_attributes_reach_everybody(server: RunningServer) -> None:
    from triosfu.tokens import VideoGrant  # noqa: PLC0415

    async def run() -> None:
        alice, bob = Participant("alice"), Participant("bob")
        grant = VideoGrant(room_join=True, room="profiles", can_update_own_metadata=True)
        async with leaving((alice, bob)):
            await alice.join(server.url, server.token("alice", "profiles", grant), single=True)
            await bob.join(server.url, server.token("bob", "profiles"), single=True)
            await alice.room.local_participant.set_metadata("hello")
            await alice.room.local_participant.set_attributes({"mood": "good"})

            def told() -> bool:
                seen = bob.room.remote_participants["alice"]
                return seen.metadata == "hello" and seen.attributes == {"mood": "good"}

            await until(told, seconds=3, what="bob knows")

    asyncio.run(asyncio.wait_for(run(), 30))
