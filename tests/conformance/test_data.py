"""What participants send each other arrives unharmed, in both connection modes: the `livekit` wheel on both sides."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from livekit import rtc

from tests.clients.python_client import Participant, leaving, until
from triosfu.tokens import VideoGrant

if TYPE_CHECKING:
    from tests.conformance.meeting import Meeting

MIB = 1 << 20
SMALL: dict[str, Any] = {"width": 160, "height": 90, "rate": 8, "simulcast": False}
LARGE = random.Random(1).randbytes(MIB + 12_345)
SHARED_KEY = rtc.E2EEOptions(key_provider_options=rtc.KeyProviderOptions(shared_key=b"between alice and bob"))
OTHER_KEY = rtc.E2EEOptions(key_provider_options=rtc.KeyProviderOptions(shared_key=b"eve's guess"))


@pytest.fixture(autouse=True)
def fresh(pair: Meeting) -> None:
    """Nothing that came before counts."""
    for one in (pair.alice, pair.bob):
        one.data.clear()


def test_reliable_data_arrives_whole_and_in_order(pair: Meeting) -> None:
    async def scenario() -> None:
        messages = [bytes([number]) * 10_000 for number in range(50)]
        for message in messages:
            await pair.alice.room.local_participant.publish_data(message, reliable=True)
        await until(lambda: len(pair.bob.data) == 50, seconds=10, what="50 messages")
        assert pair.bob.data == [("alice", message, True) for message in messages]
        assert pair.alice.data == []

    pair.run(scenario())


def test_data_goes_to_who_is_named_under_its_topic(pair: Meeting) -> None:
    async def scenario() -> None:
        async with pair.guest("carol") as carol:
            await until(lambda: len(pair.alice.room.remote_participants) == 2, seconds=2, what="alice sees both")
            topics: list[tuple[str, bytes]] = []
            pair.bob.room.on("data_received", lambda packet: topics.append((packet.topic, packet.data)))
            local = pair.alice.room.local_participant
            await local.publish_data(b"for bob", reliable=True, destination_identities=["bob"], topic="secret")
            await local.publish_data(b"for all", reliable=False)
            await until(lambda: len(pair.bob.data) == 2 and bool(carol.data), seconds=5, what="data")
            assert sorted(pair.bob.data) == [("alice", b"for all", False), ("alice", b"for bob", True)]
            assert carol.data == [("alice", b"for all", False)]
            assert sorted(topics) == [("", b"for all"), ("secret", b"for bob")]

    pair.run(scenario())


def test_text_and_byte_streams_of_more_than_a_mebibyte_arrive_whole(pair: Meeting) -> None:
    async def scenario() -> None:
        got: dict[str, tuple[str, object, dict[str, str] | None]] = {}
        reading: set[asyncio.Task[None]] = set()

        async def read_text(reader: rtc.TextStreamReader, sender: str) -> None:
            got["text"] = sender, await reader.read_all(), reader.info.attributes

        async def read_bytes(reader: rtc.ByteStreamReader, sender: str) -> None:
            content = b"".join([chunk async for chunk in reader])
            got["bytes"] = sender, hashlib.sha256(content).digest(), reader.info.attributes

        bob = pair.bob.room
        bob.register_text_stream_handler("talk", lambda *given: reading.add(asyncio.ensure_future(read_text(*given))))
        bob.register_byte_stream_handler("files", lambda *given: reading.add(asyncio.ensure_future(read_bytes(*given))))
        local = pair.alice.room.local_participant
        text = "käse " * (MIB // 5)
        await local.send_text(text, topic="talk", attributes={"language": "de"}, destination_identities=["bob"])
        writer = await local.stream_bytes("large.bin", total_size=len(LARGE), topic="files", attributes={"a": "b"})
        await writer.write(LARGE)
        await writer.aclose()
        await until(lambda: len(got) == 2, seconds=20, what="both streams")
        assert got["text"] == ("alice", text, {"language": "de"})
        assert got["bytes"] == ("alice", hashlib.sha256(LARGE).digest(), {"a": "b"})

    pair.run(scenario())


def test_a_remote_procedure_is_called_and_its_error_comes_back(pair: Meeting) -> None:
    async def scenario() -> None:
        bob, alice = pair.bob.room.local_participant, pair.alice.room.local_participant

        async def shout(asked: rtc.RpcInvocationData) -> str:
            return f"{asked.caller_identity}: {asked.payload.upper()}"

        async def fail(_: rtc.RpcInvocationData) -> str:
            raise rtc.RpcError(101, "not today", "data of it")

        bob.register_rpc_method("shout", shout)
        bob.register_rpc_method("fail", fail)
        long = "x" * 15_000
        answer = await alice.perform_rpc(destination_identity="bob", method="shout", payload=long)
        assert answer == f"alice: {long.upper()}"
        with pytest.raises(rtc.RpcError) as refused:
            await alice.perform_rpc(destination_identity="bob", method="fail", payload="")
        assert (refused.value.code, refused.value.message, refused.value.data) == (101, "not today", "data of it")

    pair.run(scenario())


def test_a_data_track_reaches_also_who_comes_late(pair: Meeting) -> None:
    async def scenario() -> None:
        frames: dict[str, list[bytes]] = {"bob": [], "carol": []}
        reading: set[asyncio.Task[None]] = set()
        carol = Participant("carol")

        async def read(name: str, track: rtc.RemoteDataTrack) -> None:
            async for frame in track.subscribe():
                frames[name].append(frame.payload)

        for name, one in (("bob", pair.bob), ("carol", carol)):
            one.room.on(
                "data_track_published",
                lambda track, name=name: reading.add(asyncio.ensure_future(read(name, track))),
            )
        track = await pair.alice.room.local_participant.publish_data_track(
            name=f"pose {time.monotonic_ns()}"
        )  # unlike that of a first try
        large = LARGE[:40_000]  # many packets

        async def push(*names: str) -> None:
            while not all(large in frames[name] and b"small" in frames[name] for name in names):
                for payload in (b"small", large):
                    track.try_push(rtc.DataTrackFrame(payload))
                await asyncio.sleep(0.05)

        async with leaving((carol,)):
            await asyncio.wait_for(push("bob"), 20)
            await pair.join(carol)
            await asyncio.wait_for(push("bob", "carol"), 20)
            assert set(frames["carol"]) == {b"small", large}
            gone: list[str] = []
            pair.bob.room.on("data_track_unpublished", gone.append)
            await track.unpublish()
            await until(lambda: gone == [track.info.sid], seconds=3, what="its end")
        for task in reading:
            task.cancel()

    pair.run(scenario())


def test_who_may_not_send_data_is_not_heard(pair: Meeting) -> None:
    async def scenario() -> None:
        mute = VideoGrant(room_join=True, room=pair.room, can_publish_data=False)
        async with pair.guest("carol", grant=mute) as carol:
            await carol.room.local_participant.publish_data(b"unheard", reliable=True)
            await pair.alice.room.local_participant.publish_data(b"heard", reliable=True)
            await until(lambda: bool(carol.data) and bool(pair.bob.data), seconds=5, what="alice's")
            await asyncio.sleep(0.3)
            assert pair.bob.data == [("alice", b"heard", True)]
            assert carol.data == [("alice", b"heard", True)]

    pair.run(scenario())


def test_transcriptions_come_from_agents_only(pair: Meeting) -> None:
    async def scenario() -> None:
        heard: list[tuple[str, str]] = []
        publication = await pair.alice.publish_microphone()
        pair.bob.room.on(
            "transcription_received",
            lambda segments, who, _: heard.extend((who.identity, segment.text) for segment in segments),
        )

        def said(text: str) -> rtc.Transcription:
            segment = rtc.TranscriptionSegment(text, text, 0, 1, "en", True)
            return rtc.Transcription("alice", publication.sid, [segment])

        agent = VideoGrant(room_join=True, room=pair.room, agent=True)
        async with pair.guest("agent", grant=agent) as robot:
            await pair.alice.room.local_participant.publish_transcription(said("made up"))
            await robot.room.local_participant.publish_transcription(said("understood"))
            await until(lambda: bool(heard), seconds=5, what="the agent's transcription")
            assert heard == [("alice", "understood")]
        await pair.alice.room.local_participant.unpublish_track(publication.sid)

    pair.run(scenario())


def test_encrypted_frames_and_data_pass_untouched(meeting: Meeting) -> None:
    """Who has the key reads it, so nothing was changed; who has another reads nothing, so it was encrypted."""

    async def scenario() -> None:
        alice, bob, eve = meeting.alice, meeting.bob, Participant("eve")
        async with leaving((alice, bob, eve)):
            for one, key in ((alice, SHARED_KEY), (bob, SHARED_KEY), (eve, OTHER_KEY)):
                await meeting.join(one, encryption=key)
            await alice.publish_microphone()
            await alice.publish_camera(**SMALL)
            await alice.publish_camera(codec=rtc.VideoCodec.H264, **SMALL)
            await until(lambda: bob.loud_frames["alice"] > 50, seconds=15, what="bob hears")
            await until(lambda: bob.video_frames["alice"] > 20, seconds=15, what="bob sees")
            await alice.room.local_participant.publish_data(b"between us", reliable=True)
            await alice.room.local_participant.send_text("also this", topic="talk")
            await until(lambda: bob.data == [("alice", b"between us", True)], seconds=5, what="bob reads")
            (remote,) = (one for one in eve.room.remote_participants.values() if one.identity == "alice")
            kinds = {publication.encryption_type for publication in remote.track_publications.values()}
            assert kinds == {rtc.EncryptionType.GCM}
            assert (eve.video_frames["alice"], eve.data) == (0, [])
            # Before her client has found out that its key does not fit, it plays some noise.
            noise, heard = eve.loud_frames["alice"], bob.loud_frames["alice"]
            await until(lambda: bob.loud_frames["alice"] > heard + 50, seconds=5, what="bob goes on hearing")
            assert eve.loud_frames["alice"] <= noise + 1

    meeting.run(scenario())
