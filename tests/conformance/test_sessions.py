"""Sessions and rooms as the `livekit` wheel lives through them, in both connection modes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from livekit import api, rtc

from tests.clients.python_client import Participant, leaving, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.server import RunningServer
    from tests.conformance.meeting import Meeting

# The development key is as short as LiveKit's, and the package that signs with it says so.
pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
SMALL: dict[str, Any] = {"width": 320, "height": 180, "rate": 10, "simulcast": False}


def test_the_same_identity_again_takes_over_with_its_tracks(meeting: Meeting) -> None:
    async def scenario() -> None:
        async with meeting.both() as (alice, bob):
            ended: list[int] = []
            alice.room.on("disconnected", ended.append)
            await alice.publish_microphone()
            await bob.publish_microphone()
            await until(lambda: bob.loud_frames["alice"] > 10, seconds=5, what="the older alice")
            await until(lambda: alice.loud_frames["bob"] > 10, seconds=5, what="she hears bob")
            old = bob.room.remote_participants["alice"].sid
            async with meeting.guest("alice") as again:
                await until(lambda: bool(ended), seconds=3, what="the older alice is told")
                assert ended == [rtc.DisconnectReason.DUPLICATE_IDENTITY]
                await until(lambda: again.loud_frames["bob"] > 10, seconds=5, what="the new alice hears bob")
                heard, subscribed = bob.loud_frames["alice"], bob.subscribed
                await again.publish_microphone()
                await again.publish_camera(**SMALL)
                await until(lambda: bob.video_frames["alice"] > 5, seconds=5, what="the camera of the new alice")
                await until(lambda: bob.loud_frames["alice"] > heard + 10, seconds=5, what="and her microphone")
                assert bob.subscribed == subscribed + 2
                await again.room.local_participant.publish_data(b"it is me", reliable=True)
                await until(lambda: bob.data == [("alice", b"it is me", True)], seconds=3, what="data of the new alice")
                (remote,) = bob.room.remote_participants.values()
                assert (remote.identity, remote.sid != old, len(remote.track_publications)) == ("alice", True, 2)

    meeting.run(scenario())


def test_name_metadata_and_attributes_reach_everybody(meeting: Meeting) -> None:
    async def scenario() -> None:
        async with meeting.both() as (alice, bob):
            local = alice.room.local_participant
            await local.set_name("Al")
            await local.set_metadata("hello")
            await local.set_attributes({"mood": "good", "hat": "red"})

            def told(attributes: dict[str, str]) -> bool:
                seen = bob.room.remote_participants["alice"]
                return (seen.name, seen.metadata, seen.attributes) == ("Al", "hello", attributes)

            await until(lambda: told({"mood": "good", "hat": "red"}), seconds=3, what="bob knows")
            await local.set_attributes({"hat": "", "mood": "better"})  # an empty value takes it away
            await until(lambda: told({"mood": "better"}), seconds=3, what="bob knows the change")
            await until(lambda: local.attributes == {"mood": "better"}, seconds=3, what="so does alice")

    meeting.run(scenario())


def test_what_is_too_large_is_refused_and_changes_nothing(meeting: Meeting) -> None:
    async def scenario() -> None:
        async with meeting.both() as (alice, bob):
            local = alice.room.local_participant
            for act in (
                local.set_metadata("x" * (512 * 1024 + 1)),
                local.set_attributes({"a": "x" * (64 * 1024)}),
                local.set_name("x" * 257),
            ):
                await act  # the wheel raises nothing for a refusal
            with pytest.raises(rtc.ConnectError):
                await meeting.join(Participant("x" * 257))
            await local.publish_data(b"x" * 60_000, reliable=True)
            await until(lambda: bool(bob.data), seconds=5, what="data")
            seen = bob.room.remote_participants["alice"]
            assert (seen.name, seen.metadata, seen.attributes) == ("", "", {})

    meeting.run(scenario())


def test_a_signal_message_above_the_limit_costs_the_connection_and_not_the_session(meeting: Meeting) -> None:
    async def scenario() -> None:
        async with meeting.both() as (alice, bob):
            back: list[str] = []
            alice.room.on("reconnected", lambda: back.append(alice.room.local_participant.sid))
            sid = alice.room.local_participant.sid
            huge = asyncio.ensure_future(alice.room.local_participant.set_metadata("x" * (3 << 20)))
            await until(lambda: bool(back), seconds=15, what="alice is back")
            assert back == [sid], "a resume"
            await alice.room.local_participant.publish_data(b"still here", reliable=True)
            await until(lambda: bob.data == [("alice", b"still here", True)], seconds=5, what="data")
            assert bob.when("participant_disconnected", "alice") is None
            huge.cancel()

    meeting.run(scenario())


def test_a_room_that_was_deleted_can_be_joined_anew(meeting: Meeting) -> None:
    async def scenario() -> None:
        async with meeting.both() as (alice, bob), meeting.backend() as calls:
            ended: list[int] = []
            for one in (alice, bob):
                one.room.on("disconnected", ended.append)
            sid = await alice.room.sid
            await calls.room.delete_room(api.DeleteRoomRequest(room=meeting.room))
            await until(lambda: len(ended) == 2, seconds=3, what="both are told")
            assert ended == [rtc.DisconnectReason.ROOM_DELETED] * 2
            async with meeting.guest("alice") as again, meeting.guest("carol") as carol:
                assert await again.room.sid != sid
                await again.room.local_participant.publish_data(b"anew", reliable=True)
                await until(lambda: carol.data == [("alice", b"anew", True)], seconds=5, what="data")
                await until(lambda: list(again.room.remote_participants) == ["carol"], seconds=3, what="only carol")

    meeting.run(scenario())


def test_webhooks_tell_a_whole_call(meeting: Meeting, hooked: tuple[RunningServer, Path]) -> None:
    """The backend of docs/webhooks.md, which verifies with livekit-api's receiver, prints the events."""
    (_, printed), room = hooked, meeting.room
    told = [f"room_started {room} "]

    def heard() -> list[str]:
        return [line for line in printed.read_text().splitlines() if f" {room} " in line]

    async def expect(*events: str) -> None:
        """One more event each, in this order, and no other."""
        told.extend(f"{event.split()[0]} {room} {' '.join(event.split()[1:])}" for event in events)
        await until(lambda: len(heard()) >= len(told), seconds=5, what=str(events))
        assert heard() == told

    async def scenario() -> None:
        alice, bob = meeting.alice, meeting.bob
        async with meeting.backend() as calls, leaving((alice, bob)):
            await calls.room.create_room(api.CreateRoomRequest(name=room))
            await meeting.join(alice)
            await expect("participant_joined alice")
            microphone = await alice.publish_microphone()
            await expect("track_published alice")
            await meeting.join(bob)
            await expect("participant_joined bob")
            await alice.publish_camera(**SMALL)
            await expect("track_published alice")
            await until(
                lambda: bob.video_frames["alice"] > 2 and bob.loud_frames["alice"] > 5, seconds=10, what="a call"
            )
            await alice.room.local_participant.unpublish_track(microphone.sid)
            await expect("track_unpublished alice")
            await bob.room.disconnect()
            await expect("participant_left bob")
            await alice.room.disconnect()  # who leaves takes her camera along
            await expect("track_unpublished alice", "participant_left alice")
            await calls.room.delete_room(api.DeleteRoomRequest(room=room))
            await expect("room_finished")

    meeting.run(scenario())
    assert heard() == told
