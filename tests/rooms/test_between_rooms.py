"""Participants that are moved to another room, or forwarded into it, on virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from livekit.protocol import models, rtc

from tests.rooms.test_lifetimes import Ear, connect, running
from triosfu.peer import PeerState
from triosfu.rooms.joining import Applicant, JoinOptions, JoinRefused
from triosfu.rooms.moving import move
from triosfu.rooms.permissions import Permission
from triosfu.rooms.settings import Limits, RoomDefaults, RoomSettings
from triosfu.rooms.transfer import forward_to, move_to

if TYPE_CHECKING:
    from trio.testing import MockClock

    from triosfu.rooms.directory import Rooms
    from triosfu.rooms.participant import Participant

Reason = models.DisconnectReason
FORWARDED = models.ParticipantInfo.KindDetail.FORWARDED


async def come(
    rooms: Rooms, identity: str, room: str, *, permission: Permission | None = None, protocol: int = 17
) -> tuple[Participant, Ear]:
    """Somebody whose transport counts as up."""
    ear = Ear()
    who = Applicant(identity=identity, permission=permission or Permission())
    options = JoinOptions(client=models.ClientInfo(protocol=protocol), single=True, auto_subscribe_data_tracks=True)
    participant = await rooms.join(room, who, options, ear)
    participant.link_opened(ear)
    participant.shape.primary.state = PeerState.CONNECTED
    connect(participant)
    return participant, ear


def last(ear: Ear, kind: str) -> object:
    return next(getattr(one, kind) for one in reversed(ear.heard) if one.HasField(kind))


async def refused(how: object) -> int:
    with pytest.raises(JoinRefused) as refusal:
        await how  # type: ignore[misc]
    return refusal.value.status


async def test_to_those_who_watch_a_move_is_a_leave_and_a_join(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await come(rooms, "alice", "one")
        _, bob = await come(rooms, "bob", "one")
        _, carol = await come(rooms, "carol", "two")
        await trio.sleep(1)
        before, version = alice.sid, alice.version
        alice.data_tracks.publish(rtc.PublishDataTrackRequest(pub_handle=1, name="d"))
        await move_to(rooms, alice, "two", create=False)
        gone = bob.of("alice")[-1]
        assert (gone.sid, gone.state, gone.disconnect_reason) == (
            before, models.ParticipantInfo.DISCONNECTED, Reason.MIGRATION,
        )  # fmt: skip
        here = carol.of("alice")[-1]
        assert (here.sid, here.state, here.disconnect_reason) == (
            alice.sid, models.ParticipantInfo.ACTIVE, Reason.UNKNOWN_REASON,
        )  # fmt: skip
        assert alice.sid != before
        assert here.version > version
        assert [one.name for one in here.data_tracks] == ["d"]
        handles = last(carol, "data_track_subscriber_handles")
        assert [one.publisher_sid for one in handles.sub_handles.values()] == [alice.sid]  # type: ignore[attr-defined]
        assert not last(bob, "data_track_subscriber_handles").sub_handles  # type: ignore[attr-defined]
        kinds = ear.kinds()
        moved = ear.heard[kinds.index("room_moved")].room_moved
        assert (moved.room.name, moved.participant.sid) == ("two", alice.sid)
        assert [one.identity for one in moved.other_participants] == ["carol"]
        # The Rust core forgets only those who are said to be gone.
        told = [one for one in ear.heard[: kinds.index("room_moved")] if one.HasField("update")]
        assert [(one.identity, one.state) for one in told[-1].update.participants] == [
            ("bob", models.ParticipantInfo.DISCONNECTED)
        ]
        assert {name: list(room.participants) for name in ("one", "two") if (room := rooms.find(name))} == {
            "one": ["bob"],
            "two": ["carol", "alice"],
        }


async def test_who_was_moved_outlives_the_room_it_came_from(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await come(rooms, "alice", "one")
        await trio.sleep(1)
        await move_to(rooms, alice, "two", create=True)
        await trio.sleep(19)
        one = rooms.find("one")
        assert one is not None
        assert one._nursery is not None
        assert not one._nursery.child_tasks
        await trio.sleep(2)
        assert rooms.find("one") is None
        assert not alice.closed
        await trio.sleep(300)
        assert sum(message.HasField("refresh_token") for message in ear.heard) == 0  # nobody makes any here
        assert not alice.closed
        assert rooms.find("two") is alice.room
        alice.room.close(Reason.ROOM_DELETED)
        assert alice.closed
        await rooms.wait_empty()


async def test_moves_that_follow_at_once_leave_one_task(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await come(rooms, "alice", "one")
        others = [await rooms.create(name) for name in ("two", "three")]
        await trio.sleep(1)
        for _ in range(3):
            for room in others:  # before any task of a room has begun to run her
                move(alice, room)
            await trio.sleep(1)
            assert not alice.closed
        for pause in (1, 2):  # in the midst of a beginning
            move(alice, others[0])
            for _ in range(pause):
                await trio.lowlevel.checkpoint()
            move(alice, others[1])
        await trio.sleep(100)  # the first two rooms are over
        assert rooms.find("one") is None
        assert not alice.closed
        peer = alice.shape.primary
        assert (alice.turn, peer.turn) == (10, 10)
        alice.room.close(Reason.ROOM_DELETED)
        assert peer.closed


async def test_a_cancellation_goes_with_the_move(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await come(rooms, "alice", "one")
        bob, _ = await come(rooms, "bob", "one")
        two = await rooms.create("two")
        await trio.sleep(1)
        alice._scope.cancel()
        bob.shape.primary._scope.cancel()
        move(alice, two)
        move(bob, two)
        await trio.sleep(0.1)
        assert alice.closed
        assert bob.shape.primary.closed


async def test_the_timers_of_a_session_go_on_in_the_other_room(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, ear = await come(rooms, "alice", "one")
        alice.subscriptions.subscribe("TR_none")
        await move_to(rooms, alice, "two", create=True)
        await trio.sleep(70)
        assert "subscription_response" not in ear.kinds()  # that wish was for the room that she left
        alice.subscriptions.subscribe("TR_none")
        await trio.sleep(61)
        assert "subscription_response" in ear.kinds()
        alice.peer_state_changed(alice.shape.primary, PeerState.FAILED, "")
        await trio.sleep(5.1)
        assert alice.closed


@pytest.mark.parametrize("sid_known", [True, False])
async def test_a_resume_finds_a_session_that_was_moved(sid_known: bool, autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await come(rooms, "alice", "one")
        await come(rooms, "bob", "one")
        await trio.sleep(1)
        before = alice.sid
        alice.drop_link()
        await move_to(rooms, alice, "two", create=True)
        again = Ear()
        options = JoinOptions(reconnect=True, single=True, participant_sid=before)
        if sid_known:
            # It never heard of the move: its token is for the first room.
            assert rooms.resume("one", "alice", options, again) is alice
            assert again.kinds()[:4] == ["reconnect", "update", "room_moved", "update"]
            assert [one.identity for one in again.heard[1].update.participants] == ["bob"]
        else:
            # The Rust core knows of the move, and goes on calling itself as it did when it joined.
            assert rooms.resume("two", "alice", options, again) is alice
            assert "room_moved" not in again.kinds()
        wrong = JoinOptions(reconnect=True, single=True, participant_sid="PA_other")
        assert rooms.resume("one", "alice", wrong, Ear()) is None
        assert rooms.resume("two", "alice", wrong, Ear()) is None
        assert rooms.resume("one", "alice", JoinOptions(reconnect=True, single=True), Ear()) is None


async def test_what_cannot_be_moved_stays_where_it_is(autojump_clock: MockClock) -> None:
    settings = RoomSettings(limits=Limits(room_name=8), max_rooms=3)
    async with running(settings) as rooms:
        alice, ear = await come(rooms, "alice", "one")
        old, _ = await come(rooms, "old", "one", protocol=15)
        await come(rooms, "alice", "two")
        await rooms.create("full", RoomDefaults(max_participants=1))
        await come(rooms, "bob", "full")
        late = await rooms.join("one", Applicant(identity="late"), JoinOptions(single=True), Ear())
        heard = len(ear.heard)
        assert await refused(move_to(rooms, alice, "", create=True)) == 400
        assert await refused(move_to(rooms, alice, "123456789", create=True)) == 400
        assert await refused(move_to(rooms, alice, "none", create=False)) == 404
        assert await refused(move_to(rooms, alice, "two", create=False)) == 409
        assert await refused(move_to(rooms, alice, "full", create=False)) == 500
        await forward_to(rooms, alice, "full", create=False)  # that takes no place
        alice.forwards[0].close(Reason.PARTICIPANT_REMOVED)
        assert await refused(move_to(rooms, alice, "fourth", create=True)) == 503
        assert await refused(move_to(rooms, old, "full", create=False)) == 412
        assert await refused(move_to(rooms, late, "full", create=False)) == 412
        assert alice.room is rooms.find("one")
        assert [message for message in ear.heard[heard:] if not message.HasField("update")] == []
        alice.close(Reason.CLIENT_INITIATED)
        assert await refused(move_to(rooms, alice, "full", create=False)) == 404


async def test_a_room_that_was_made_for_nobody_is_gone_at_once(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await come(rooms, "alice", "one")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused, move_to(rooms, alice, "two", create=True))
            await trio.lowlevel.checkpoint()
            alice.close(Reason.CLIENT_INITIATED)  # while the room is being made
        assert rooms.find("two") is None


async def test_a_move_that_is_cancelled_moves_nobody(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await come(rooms, "alice", "one")
        with trio.CancelScope() as scope:
            scope.cancel()
            await move_to(rooms, alice, "two", create=True)
        assert scope.cancelled_caught
        assert alice.room is rooms.find("one")
        assert rooms.find("two") is None


async def test_a_forwarded_participant_follows_the_original(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await come(rooms, "alice", "one")
        _, carol = await come(rooms, "carol", "two")
        alice.data_tracks.publish(rtc.PublishDataTrackRequest(pub_handle=1, name="d"))
        await forward_to(rooms, alice, "two", create=False)
        await forward_to(rooms, alice, "two", create=False)  # again is no mistake
        [forward] = alice.forwards
        told = carol.of("alice")[-1]
        assert list(told.kind_details) == [FORWARDED]
        assert told.sid not in {"", alice.sid}
        assert [one.name for one in told.data_tracks] == ["d"]
        handles = last(carol, "data_track_subscriber_handles").sub_handles  # type: ignore[attr-defined]
        assert [one.publisher_sid for one in handles.values()] == [told.sid]
        alice.name = "Al"
        alice.changed(at_once=True)
        assert carol.of("alice")[-1].name == "Al"
        alice.data_tracks.unpublish(rtc.UnpublishDataTrackRequest(pub_handle=1))
        assert not carol.of("alice")[-1].data_tracks
        assert not last(carol, "data_track_subscriber_handles").sub_handles  # type: ignore[attr-defined]
        room = rooms.find("two")
        assert room is not None
        assert room.info().num_participants == 1  # who has no client there does not count
        room.data.send(models.DataPacket(user=models.UserPacket(payload=b"x")), models.DataPacket.RELIABLE)
        assert forward.data.counters["no_channel"] == 1
        alice.close(Reason.CLIENT_INITIATED)
        gone = carol.of("alice")[-1]
        assert (gone.state, gone.disconnect_reason) == (models.ParticipantInfo.DISCONNECTED, Reason.CLIENT_INITIATED)
        assert forward.closed


async def test_who_reads_at_home_goes_on_when_a_forward_ends(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await come(rooms, "alice", "one")
        bob, at_home = await come(rooms, "bob", "one")
        carol, elsewhere = await come(rooms, "carol", "two")
        alice.data_tracks.publish(rtc.PublishDataTrackRequest(pub_handle=1, name="d"))
        await forward_to(rooms, alice, "two", create=False)
        [track] = alice.data_tracks
        assert set(track.readers) == {bob.sid, carol.sid}
        alice.forwards[0].close(Reason.PARTICIPANT_REMOVED)
        assert set(track.readers) == {bob.sid}
        assert last(at_home, "data_track_subscriber_handles").sub_handles  # type: ignore[attr-defined]
        assert not last(elsewhere, "data_track_subscriber_handles").sub_handles  # type: ignore[attr-defined]


async def test_forwarding_ends_on_either_side(autojump_clock: MockClock) -> None:
    async with running(RoomSettings(limits=Limits(forwards=2))) as rooms:
        alice, _ = await come(rooms, "alice", "one")
        for name in ("two", "three"):
            await forward_to(rooms, alice, name, create=True)
        assert await refused(forward_to(rooms, alice, "four", create=True)) == 429
        assert rooms.find("four") is None
        two, three = alice.forwards
        assert await refused(forward_to(rooms, two, "five", create=True)) == 412
        assert await refused(move_to(rooms, two, "five", create=True)) == 412
        two.close(Reason.PARTICIPANT_REMOVED)
        assert alice.forwards == [three]
        bob, _ = await come(rooms, "alice", "three")  # in person, or somebody of the same name
        assert three.closed
        assert alice.forwards == []
        assert not bob.closed
        await trio.sleep(301)
        assert rooms.find("two") is None  # it keeps no room open
        assert not alice.closed


async def test_who_is_forwarded_and_then_moved_is_there_once(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await come(rooms, "alice", "one")
        _, carol = await come(rooms, "carol", "two")
        await forward_to(rooms, alice, "two", create=False)
        await forward_to(rooms, alice, "three", create=True)
        await move_to(rooms, alice, "two", create=False)
        assert alice.forwards == []
        room = rooms.find("two")
        assert room is not None
        assert room.participants["alice"] is alice
        assert not list(carol.of("alice")[-1].kind_details)
        assert "alice" not in rooms.find("three").participants  # type: ignore[union-attr]


async def test_a_bug_in_a_forward_is_no_matter_to_the_original(autojump_clock: MockClock) -> None:
    async with running() as rooms:
        alice, _ = await come(rooms, "alice", "one")
        await forward_to(rooms, alice, "two", create=True)
        [forward] = alice.forwards
        forward.follow = None  # type: ignore[method-assign, assignment]
        alice.changed(at_once=True)
        assert forward.closed
        assert not alice.closed
        assert forward.room.counters["bugs"] == 1
        forward.room.counters["bugs"] = 0
