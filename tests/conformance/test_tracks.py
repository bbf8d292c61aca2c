"""Tracks, as the `livekit` wheel publishes and receives them, in both connection modes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from livekit import api, rtc

from tests.clients.python_client import Participant, until
from triosfu.tokens import VideoGrant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.conformance.meeting import Meeting

# The development key is as short as LiveKit's, and the package that signs with it says so.
pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
SMALL: dict[str, Any] = {"width": 320, "height": 180, "rate": 10, "simulcast": False}
A_WHILE = 0.5  # seconds in which what must not come would have come


def codecs(of: Participant) -> set[str]:
    """The codecs in which somebody gets video now, by its own statistics."""
    remote = of.room.remote_participants["alice"]
    return {one.mime_type.lower() for one in remote.track_publications.values() if one.track is not None}


def test_two_clients_connect_and_sound_and_picture_are_decoded(meeting: Meeting) -> None:
    async def scenario() -> None:
        async with meeting.both() as (alice, bob):
            await alice.publish_microphone()
            await alice.publish_camera()
            await until(lambda: bob.video_frames["alice"] >= 40, seconds=15, what="video")
            await until(lambda: bob.loud_frames["alice"] >= 100, seconds=15, what="audio")
            assert bob.loud_frames["alice"] >= 0.9 * bob.audio_frames["alice"] - 50, "audio is continuous"
            await until(lambda: bob.when("speaks", "alice") is not None, seconds=5, what="the speaker")

    meeting.run(scenario())
    assert meeting.modes() == {str(meeting.single)}, "the wheel does as it is told"


def test_who_joins_late_gets_the_tracks_within_one_and_a_half_seconds(meeting: Meeting) -> None:
    async def scenario() -> None:
        async with meeting.both() as (alice, bob):
            await alice.publish_camera(**SMALL)
            await alice.publish_microphone()
            await until(lambda: bob.video_frames["alice"] >= 10, seconds=15, what="video runs")
            started = time.monotonic()
            async with meeting.guest("carol") as carol:
                await until(lambda: "alice" in carol.first_frame_at, seconds=5, what="carol's first frame")
                assert carol.first_frame_at["alice"] - started < 1.5
                await until(lambda: carol.loud_frames["alice"] > 10, seconds=5, what="sound")

    meeting.run(scenario())


def test_who_does_not_subscribe_gets_what_it_asks_for_only(meeting: Meeting) -> None:
    async def scenario() -> None:
        async with meeting.both() as (alice, _), meeting.guest("carol", watch=False) as carol:
            sound = await alice.publish_microphone()
            picture = await alice.publish_camera(**SMALL)

            def known() -> Mapping[str, rtc.RemoteTrackPublication]:
                return carol.room.remote_participants["alice"].track_publications

            await until(lambda: {sound.sid, picture.sid} <= known().keys(), seconds=5, what="carol knows of both")
            await asyncio.sleep(A_WHILE)
            assert carol.subscribed == 0
            known()[sound.sid].set_subscribed(True)
            await until(lambda: carol.loud_frames["alice"] > 10, seconds=5, what="sound")
            assert (carol.subscribed, carol.video_frames["alice"]) == (1, 0)
            known()[sound.sid].set_subscribed(False)
            await asyncio.sleep(A_WHILE)
            heard = carol.loud_frames["alice"]
            await asyncio.sleep(A_WHILE)
            assert carol.loud_frames["alice"] == heard

    meeting.run(scenario())


def test_tracks_in_other_codecs_are_negotiated_while_it_runs(meeting: Meeting) -> None:
    async def scenario() -> None:
        async with meeting.both() as (alice, bob):
            for name in ("H264", "VP8", "VP9", "AV1"):
                before = bob.video_frames["alice"]
                publication = await alice.publish_camera(codec=rtc.VideoCodec.Value(name), **SMALL)
                await until(lambda before=before: bob.video_frames["alice"] > before + 8, seconds=15, what=name)  # type: ignore[misc]
                assert f"video/{name.lower()}" in codecs(bob)
                if name in {"H264", "VP9"}:  # the sections of these are used again
                    await alice.room.local_participant.unpublish_track(publication.sid)
            await until(lambda: codecs(bob) == {"video/vp8", "video/av1"}, seconds=5, what="two are gone")

    meeting.run(scenario())


def test_a_track_is_told_of_before_any_packet_of_it_has_come(meeting: Meeting) -> None:
    async def scenario() -> None:
        async with meeting.both() as (alice, bob):
            source = rtc.VideoSource(320, 180)  # that never gets a frame
            track = rtc.LocalVideoTrack.create_video_track("dark", source)
            publication = await alice.room.local_participant.publish_track(track, rtc.TrackPublishOptions())
            await until(lambda: bob.subscribed == 1, seconds=3, what="bob is subscribed")
            remote = bob.room.remote_participants["alice"].track_publications[publication.sid]
            assert (remote.name, remote.kind) == ("dark", rtc.TrackKind.KIND_VIDEO)
            assert bob.video_frames["alice"] == 0

    meeting.run(scenario())


def test_mute_unpublish_and_leave_reach_the_other_within_300_ms(meeting: Meeting) -> None:
    async def scenario() -> None:
        async with meeting.both() as (alice, bob):
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

    meeting.run(scenario())


def test_publishers_say_who_may_subscribe(meeting: Meeting) -> None:
    async def scenario() -> None:
        async with meeting.both() as (alice, bob), meeting.guest("carol") as carol:
            local = alice.room.local_participant
            allowed = rtc.ParticipantTrackPermission(participant_identity="bob", allow_all=True)
            local.set_track_subscription_permissions(allow_all_participants=False, participant_permissions=[allowed])
            await alice.publish_microphone()
            await until(lambda: bob.loud_frames["alice"] > 10, seconds=5, what="bob hears")
            assert carol.subscribed == 0
            local.set_track_subscription_permissions(allow_all_participants=True)
            await until(lambda: carol.loud_frames["alice"] > 10, seconds=5, what="carol hears, too")
            local.set_track_subscription_permissions(allow_all_participants=False)
            await asyncio.sleep(A_WHILE)
            heard = bob.loud_frames["alice"], carol.loud_frames["alice"]
            await asyncio.sleep(A_WHILE)
            assert (bob.loud_frames["alice"], carol.loud_frames["alice"]) == heard

    meeting.run(scenario())


def test_permissions_of_tokens_hold_and_change_while_it_runs(meeting: Meeting) -> None:
    async def scenario() -> None:
        async with meeting.both() as (alice, _), meeting.backend() as calls:
            await alice.publish_microphone()
            deaf = VideoGrant(room_join=True, room=meeting.room, can_subscribe=False, can_publish=False)
            async with meeting.guest("carol", grant=deaf) as carol:
                assert not carol.room.local_participant.permissions.can_publish
                publishing = asyncio.ensure_future(carol.publish_camera(**SMALL))
                await asyncio.sleep(A_WHILE)
                assert (carol.subscribed, alice.subscribed) == (0, 0)
                publishing.cancel()
                everything = api.ParticipantPermission(can_subscribe=True, can_publish=True, can_publish_data=True)
                await calls.room.update_participant(
                    api.UpdateParticipantRequest(room=meeting.room, identity="carol", permission=everything)
                )
                await until(lambda: carol.loud_frames["alice"] > 10, seconds=5, what="carol hears now")
                await carol.publish_microphone()
                await until(lambda: alice.loud_frames["carol"] > 10, seconds=5, what="and is heard")
                nothing = api.ParticipantPermission(can_subscribe=False, can_publish=False, can_publish_data=True)
                await calls.room.update_participant(
                    api.UpdateParticipantRequest(room=meeting.room, identity="carol", permission=nothing)
                )
                gone = "track_unpublished"
                await until(lambda: alice.when(gone, "carol") is not None, seconds=5, what="her track is gone")
                await asyncio.sleep(A_WHILE)
                heard = alice.loud_frames["carol"], carol.loud_frames["alice"]
                await asyncio.sleep(A_WHILE)
                assert (alice.loud_frames["carol"], carol.loud_frames["alice"]) == heard

    meeting.run(scenario())


@pytest.mark.parametrize("bad", [VideoGrant(room_join=False, room="x"), VideoGrant(room_join=True)])
def test_a_token_that_allows_no_join_is_refused(meeting: Meeting, bad: VideoGrant) -> None:
    async def scenario() -> None:
        with pytest.raises(rtc.ConnectError):
            await meeting.join(Participant("nobody"), grant=bad)

    meeting.run(scenario())
