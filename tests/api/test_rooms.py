"""RoomService, call by call (protocol reference, section 8.2): grants, errors, and what clients are told."""

from __future__ import annotations

import base64
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from livekit.protocol import models, room, rtc

from tests.api.caller import ADMIN, Caller, Refused, caller
from tests.rooms.test_lifetimes import connect, join
from tests.rooms.test_lifetimes import running as rooms_running
from tests.signalling.test_sessions import publish
from tests.signalling.world import dual, running
from triosfu.config import load_config
from triosfu.media.counts import MediaCounts
from triosfu.rooms.permissions import Permission
from triosfu.rooms.settings import Limits, RoomSettings
from triosfu.rooms.tally import Flow
from triosfu.server.settings import room_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from triosfu.rooms.directory import Rooms

Action, Reason = rtc.LeaveRequest.Action, models.DisconnectReason
WHO = {"room": "room", "identity": "alice"}
NOBODY = {"room": "room", "identity": "nobody"}
CREATE, LIST = {"room_create": True}, {"room_list": True}
SMALL = RoomSettings(limits=Limits(room_name=8, name=8, metadata=8, attributes=8), max_rooms=2)


@pytest.fixture
async def rooms() -> AsyncIterator[Rooms]:
    async with rooms_running() as found:
        yield found


@pytest.fixture
async def backend(rooms: Rooms) -> Caller:
    return caller(rooms)


async def refusal(backend: Caller, method: str, /, **fields: Any) -> tuple[int, str, str]:  # noqa: ANN401  a request's
    with pytest.raises(Refused) as refused:
        await backend.json(method, **fields)
    return refused.value.status, refused.value.code, refused.value.text


CALLS: dict[str, dict[str, Any]] = {
    "CreateRoom": {"name": "room"},
    "ListRooms": {},
    "DeleteRoom": {"room": "room"},
    "ListParticipants": {"room": "room"},
    "GetParticipant": WHO,
    "RemoveParticipant": WHO,
    "MutePublishedTrack": {**WHO, "track_sid": "TR_1", "muted": True},
    "UpdateParticipant": {**WHO, "metadata": "m"},
    "UpdateSubscriptions": {**WHO, "track_sids": ["TR_1"], "subscribe": True},
    "SendData": {"room": "room", "data": "aGk="},
    "UpdateRoomMetadata": {"room": "room", "metadata": "m"},
    "ForwardParticipant": {**WHO, "destination_room": "other"},
    "MoveParticipant": {**WHO, "destination_room": "other"},
    "PerformRpc": {"room": "room", "destination_identity": "alice", "method": "m"},
}


def grants_that_do_not(method: str) -> list[dict[str, Any]]:
    """Everything but what the call needs."""
    right = {"CreateRoom": "room_create", "DeleteRoom": "room_create", "ListRooms": "room_list"}.get(method)
    if right is not None:
        return [{**ADMIN, right: False}, {"room_join": True, "room": "room"}]
    others = {"room_create": True, "room_list": True, "room_join": True, "room_record": True}
    return [{**others, "room": "room"}, {**others, "room_admin": True, "room": "other"}, {**others, "room_admin": True}]


@pytest.mark.parametrize("method", CALLS)
async def test_without_its_grant_a_call_changes_nothing(rooms: Rooms, backend: Caller, method: str) -> None:
    alice, ear = await join(rooms, "alice")
    heard, before = len(ear.heard), alice.info()
    for grants in grants_that_do_not(method):
        denied = await refusal(backend, method, grants=grants, **CALLS[method])
        assert denied == (401, "unauthenticated", "permissions denied")
    assert (len(ear.heard), alice.info(), len(rooms)) == (heard, before, 1)


async def test_every_call_is_checked_for_its_grant(backend: Caller) -> None:
    served = {path.rpartition("/")[2] for path, route in backend.twirp._routes.items() if route.method is not None}
    assert set(CALLS) == {
        name for name in served if name in room.DESCRIPTOR.services_by_name["RoomService"].methods_by_name
    }


async def test_a_room_is_made_once_and_listed(rooms: Rooms, backend: Caller) -> None:
    made = await backend.json("CreateRoom", grants=CREATE, name="one", empty_timeout=7, metadata="first")
    again = await backend.json("CreateRoom", grants=CREATE, name="one", empty_timeout=9, metadata="second")
    assert again == made  # section 17, row 1
    await backend.json("CreateRoom", grants=CREATE, name="two")
    listed = await backend.json("ListRooms", grants=LIST)
    assert [one["name"] for one in listed["rooms"]] == ["one", "two"]
    assert listed["rooms"][0] == made
    only = await backend.json("ListRooms", grants=LIST, names=["two", "three"])
    assert [one["name"] for one in only["rooms"]] == ["two"]


async def test_a_room_made_by_the_api_ends_by_its_own_timeout(autojump_clock: object) -> None:
    async with rooms_running() as rooms:
        await caller(rooms).json("CreateRoom", name="room", empty_timeout=30)
        await trio.sleep(29)
        assert rooms.find("room")
        await trio.sleep(2)
        assert rooms.find("room") is None


async def test_what_a_room_may_not_be() -> None:
    async with rooms_running(SMALL) as rooms:
        backend = caller(rooms)
        assert await refusal(backend, "CreateRoom", name="") == (400, "invalid_argument", "no room name")
        too_long = (400, "invalid_argument", "room name length exceeds limits: max length 8")
        assert await refusal(backend, "CreateRoom", name="x" * 9) == too_long
        too_much = (400, "invalid_argument", "metadata size exceeds limits 8")
        assert await refusal(backend, "CreateRoom", name="x", metadata="x" * 9) == too_much
        unknown = (400, "invalid_argument", "unknown room configuration in create room request")
        assert await refusal(backend, "CreateRoom", name="x", room_preset="p") == unknown
        absent = (500, "internal", "egress not connected (redis required)")
        assert await refusal(backend, "CreateRoom", name="x", egress={}) == absent
        assert len(rooms) == 0
        for name in "ab":
            await backend.json("CreateRoom", name=name)
        full = (503, "unavailable", "server is at its limits")
        assert await refusal(backend, "CreateRoom", name="c") == full


async def test_no_room_is_made_while_more_media_passes_than_may(autojump_clock: MockClock) -> None:
    async with rooms_running(RoomSettings(limits=Limits(bytes_per_second=1000))) as rooms:
        passed = rooms.services.tally._ended[Flow("outgoing", "CAMERA", "video")] = MediaCounts()
        backend = caller(rooms)
        await backend.json("CreateRoom", name="a")
        await trio.sleep(3)
        passed.octets = 1_000_000
        await trio.sleep(3)
        full = (503, "unavailable", "node has exceeded its configured limit")
        assert await refusal(backend, "CreateRoom", name="b") == full
        assert (await backend.json("CreateRoom", name="a"))["name"] == "a"  # it is there


async def test_a_deleted_room_is_left_by_everybody(rooms: Rooms, backend: Caller) -> None:
    _, ear = await join(rooms, "alice")
    assert await backend.json("DeleteRoom", grants=CREATE, room="room") == {}
    assert ear.leaves() == [(Action.DISCONNECT, Reason.ROOM_DELETED)]
    missing = (404, "not_found", "requested room does not exist")
    assert await refusal(backend, "DeleteRoom", room="room") == missing
    assert await refusal(backend, "UpdateRoomMetadata", room="room", metadata="m") == missing
    assert await refusal(backend, "SendData", room="room") == missing
    assert await backend.json("ListParticipants", room="room") == {"participants": []}
    assert (await backend.json("ListRooms", grants=LIST)) == {"rooms": []}
    await backend.json("CreateRoom", name="room")
    assert len((await backend.json("ListRooms", grants=LIST))["rooms"]) == 1


@pytest.mark.parametrize(
    "method", ["GetParticipant", "RemoveParticipant", "MutePublishedTrack", "UpdateParticipant", "UpdateSubscriptions"]
)
async def test_who_is_not_there_is_not_found(rooms: Rooms, backend: Caller, method: str) -> None:
    missing = (404, "not_found", "participant does not exist")
    assert await refusal(backend, method, **{**CALLS[method], **WHO}) == missing  # nor is the room
    await join(rooms, "alice")
    assert await refusal(backend, method, **{**CALLS[method], **NOBODY}) == missing


async def test_participants_are_listed_also_when_hidden(rooms: Rooms, backend: Caller) -> None:
    alice, _ = await join(rooms, "alice", name="Alice", metadata="m", attributes={"k": "v"})
    await join(rooms, "spy", permission=Permission(hidden=True))
    listed = await backend.json("ListParticipants", room="room")
    assert [one["identity"] for one in listed["participants"]] == ["alice", "spy"]
    one = await backend.json("GetParticipant", **WHO)
    assert (one["sid"], one["name"], one["metadata"], one["attributes"]) == (alice.sid, "Alice", "m", {"k": "v"})
    assert one == listed["participants"][0]


async def test_a_removed_participant_is_told_why(rooms: Rooms, backend: Caller) -> None:
    alice, ear = await join(rooms, "alice")
    _, other = await join(rooms, "bob")
    connect(alice)
    assert await backend.json("RemoveParticipant", **WHO) == {}
    assert ear.leaves() == [(Action.DISCONNECT, Reason.PARTICIPANT_REMOVED)]
    assert alice.closed
    assert other.of("alice")[-1].disconnect_reason == Reason.PARTICIPANT_REMOVED


async def test_a_profile_is_changed_and_told(rooms: Rooms, backend: Caller) -> None:
    alice, ear = await join(rooms, "alice", metadata="old", attributes={"a": "1", "b": "2"})
    _, other = await join(rooms, "bob")
    version = alice.version
    now = await backend.json("UpdateParticipant", **WHO, name="Al", attributes={"a": "", "c": "3"})
    assert (now["name"], now["metadata"], now["attributes"]) == ("Al", "old", {"b": "2", "c": "3"})
    for heard in (ear, other):
        news = heard.of("alice")[-1]
        assert (news.name, dict(news.attributes)) == ("Al", {"b": "2", "c": "3"})
        assert news.version > version
    assert alice.permission == Permission()  # none were given


async def test_permissions_are_replaced_as_a_whole(rooms: Rooms, backend: Caller) -> None:
    alice, ear = await join(rooms, "alice")
    now = await backend.json("UpdateParticipant", **WHO, permission={"canSubscribe": True, "canUpdateMetadata": True})
    assert now["permission"]["can_publish"] is False
    assert alice.permission == Permission(
        can_subscribe=True, can_publish=False, can_publish_data=False, can_update_metadata=True
    )
    assert ear.of("alice")[-1].permission == alice.permission.serialize()


async def test_a_profile_beyond_the_limits_changes_nothing() -> None:
    async with rooms_running(SMALL) as rooms:
        backend = caller(rooms)
        alice, _ = await join(rooms, "alice", attributes={"a": "12345"})
        before = alice.info()
        revoked = {"permission": {"canSubscribe": True}}
        for fields, text in (
            ({"name": "x" * 9}, "name length exceeds limits 8"),
            ({"metadata": "x" * 9}, "metadata size exceeds limits 8"),
            ({"attributes": {"x": "x" * 8}}, "attribute size exceeds limits 8"),
            ({"attributes": {"b": "12"}}, "exceeds attributes size limit"),  # together with what it has
        ):
            assert await refusal(backend, "UpdateParticipant", **WHO, **fields, **revoked) == (
                400, "invalid_argument", text,
            )  # fmt: skip
        assert alice.info() == before
        too_much = (400, "invalid_argument", "metadata size exceeds limits 8")
        assert await refusal(backend, "UpdateRoomMetadata", room="room", metadata="x" * 9) == too_much


async def test_room_metadata_is_told_to_everybody(rooms: Rooms, backend: Caller) -> None:
    _, ear = await join(rooms, "alice")
    now = await backend.json("UpdateRoomMetadata", room="room", metadata="news")
    assert now["metadata"] == "news"
    assert [one.room_update.room.metadata for one in ear.heard if one.HasField("room_update")] == ["news"]


async def test_a_bug_while_a_participant_is_changed_ends_it_and_is_told(rooms: Rooms) -> None:
    backend = caller(rooms)
    alice, _ = await join(rooms, "alice")

    def broken(*_: object, **__: object) -> None:
        raise KeyError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alice.subscriptions, "permission_changed", broken)
        failed = await refusal(backend, "UpdateParticipant", **WHO, permission={"can_subscribe": False})
    assert failed == (500, "internal", "the participant had to be ended")
    assert alice.closed


async def test_a_track_is_muted_and_only_unmuted_where_that_is_allowed() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        backend = caller(world.rooms)
        sid = await publish(alice)
        answer = await backend.json("MutePublishedTrack", **WHO, track_sid=sid, muted=True)
        assert (answer["track"]["sid"], answer["track"]["muted"]) == (sid, True)
        told = await alice.client.expect("mute")
        assert (told.sid, told.muted) == (sid, True)
        await bob.client.expect_participant("alice", lambda one: one.tracks and one.tracks[0].muted)
        assert await backend.json("MutePublishedTrack", **WHO, track_sid="TR_none", muted=True) == {"track": None}
        refused = (412, "failed_precondition", "remote unmute not enabled")
        assert await refusal(backend, "MutePublishedTrack", **WHO, track_sid=sid, muted=False) == refused
        assert world.participant("alice").publications.published[sid].info.muted


async def test_a_track_is_unmuted_where_the_operator_allows_it() -> None:
    async with running(RoomSettings(remote_unmute=True)) as world, dual(world, "alice") as alice:
        backend = caller(world.rooms)
        sid = await publish(alice)
        for muted in (True, False):
            answer = await backend.json("MutePublishedTrack", **WHO, track_sid=sid, muted=muted)
            assert answer["track"]["muted"] is muted
            assert (await alice.client.expect("mute")).muted is muted


def test_the_operator_says_whether_tracks_may_be_unmuted() -> None:
    for allowed in (False, True):
        config = load_config(development=True, overrides={"room": {"enable_remote_unmute": allowed}})
        assert room_settings(config, Random(1)).remote_unmute is allowed


async def test_subscriptions_are_made_and_ended_by_the_server() -> None:
    query = "protocol=17&auto_subscribe=0"
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob", query=query) as bob:
        backend = caller(world.rooms)
        sid = await publish(alice)
        who = {"room": "room", "identity": "bob"}
        assert await backend.json("UpdateSubscriptions", **who, track_sids=[sid], subscribe=True) == {}
        assert list((await bob.take_offer()).mid_to_track_id.values()) == [sid]
        tracks = [{"participant_sid": "PA_any", "track_sids": [sid]}]
        await backend.json("UpdateSubscriptions", **who, participant_tracks=tracks, subscribe=False)
        assert not (await bob.take_offer()).mid_to_track_id


async def test_data_reaches_those_named_once_per_nonce() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        backend = caller(world.rooms)
        request = room.SendDataRequest(
            room="room", data=b"hello", destination_identities=["bob"], topic="t", nonce=bytes(16)
        )
        for _ in range(2):
            await backend.call("SendData", request, room.SendDataResponse)
        sid = world.participant("alice").sid
        await backend.json("SendData", room="room", data="Zm9yIGFsaWNl", destination_sids=[sid])
        await backend.json("SendData", room="room", data=base64.b64encode(b"for all").decode(), kind="RELIABLE")
        for one in (alice, bob):
            await one.subscriber.until(lambda side: len(side.messages) == 2)
        assert [packet.user.payload for packet in alice.subscriber.packets()] == [b"for alice", b"for all"]
        first, last = bob.subscriber.packets()
        assert (first.user.payload, last.user.payload) == (b"hello", b"for all")
        assert (first.user.topic, first.user.nonce) == ("t", bytes(16))
        assert (first.participant_sid, first.participant_identity, first.sequence) == ("", "", 0)
        assert not last.user.HasField("topic")


async def test_a_nonce_has_sixteen_bytes(rooms: Rooms, backend: Caller) -> None:
    await join(rooms, "alice")
    wrong = (400, "invalid_argument", "nonce should be 16-bytes or not present, got: 3 bytes")
    assert await refusal(backend, "SendData", room="room", nonce="YWJj") == wrong


@pytest.mark.parametrize("method", ["ForwardParticipant", "MoveParticipant"])
async def test_nobody_is_taken_to_another_room_yet(backend: Caller, method: str) -> None:
    elsewhere = {**WHO, "destination_room": "other"}
    denied = (401, "unauthenticated", "permissions denied")
    for destination in ("", "third"):
        grants = {**ADMIN, "destination_room": destination}
        assert await refusal(backend, method, grants=grants, **elsewhere) == denied
    unserved = (501, "unimplemented", f"{method} is not implemented")
    assert await refusal(backend, method, grants={**ADMIN, "destination_room": "other"}, **elsewhere) == unserved
    same = (400, "invalid_argument", "destination room cannot be the same as source room")
    grants = {**ADMIN, "destination_room": "room"}
    assert await refusal(backend, method, grants=grants, **WHO, destination_room="room") == same
