"""Traps of signalling, against a server whose clients are real sockets (protocol reference, sections 1 to 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from livekit.protocol import models, rtc

from tests.signalling.test_single import OFFER, publish, session
from tests.signalling.world import LIMIT, Client, dual, join_request, running
from triosfu.rooms.settings import RoomDefaults, RoomSettings

if TYPE_CHECKING:
    from triosfu.rooms.subscription import Subscriptions

ACTIVE = models.ParticipantInfo.ACTIVE
Action = rtc.LeaveRequest.Action
Reason = models.DisconnectReason


@pytest.mark.parametrize("path", ["/rtc/v2", "/rtc/v10", "/rtc/v2/validate", "/rtc/v", "/rtc/v1/x"])
async def test_trap_03_a_path_of_another_version_is_not_found(path: str) -> None:
    async with running() as world:
        for query in ("protocol=17", join_request(publisher_offer=rtc.SessionDescription(type="offer", sdp=OFFER))):
            assert (await world.refusal(f"{path}?{query}", world.token()))[0] == 404
            assert (await world.get(f"{path}?{query}", world.token()))[0] == 404
        assert len(world.rooms) == 0


async def test_trap_11_one_with_a_single_connection_is_never_offered_anything() -> None:
    async with running() as world, dual(world, "bob") as bob, session(world) as client:
        joined = await client.expect("join")
        await client.expect("answer")
        sids = [await publish(bob, kind, number) for number, kind in enumerate(("audio", "video"), start=1)]
        await client.expect("media_sections_requirement")
        await client.send(offer=rtc.SessionDescription(type="offer", sdp=OFFER, id=2))
        await client.expect("answer")
        await client.send(subscription=rtc.UpdateSubscription(track_sids=sids[:1], subscribe=False))
        await client.expect("media_sections_requirement")
        await client.nothing_of("offer")
        resumed = session(world, reconnect=True, participant_sid=joined.participant.sid, publisher_offer=None)
        async with resumed as again:
            assert (await again.receive()).HasField("reconnect")
            await again.expect("refresh_token")
            await again.nothing_of("offer")


async def test_trap_19_every_update_is_the_whole_participant() -> None:
    async with (
        running() as world,
        dual(world, "bob") as bob,
        dual(world, "alice", name="Alice", metadata="m", attributes={"k": "v"}, can_update_own_metadata=True) as alice,
    ):
        audio, video = await publish(alice, "audio", 1), await publish(alice, "video", 2)
        await bob.client.expect_participant("alice", lambda one: len(one.tracks) == 2)
        bob.client.heard.clear()
        for muted in (True, False):
            for sid in (audio, video):
                await alice.client.send(mute=rtc.MuteTrackRequest(sid=sid, muted=muted))
        await alice.client.send(update_metadata=rtc.UpdateParticipantMetadata(metadata="new", name="Alice"))
        update = rtc.UpdateLocalVideoTrack(track_sid=video, width=640, height=360)
        features = [models.AudioTrackFeature.TF_STEREO]
        await alice.client.send(update_audio_track=rtc.UpdateLocalAudioTrack(track_sid=audio, features=features))
        await bob.client.expect_participant("alice", lambda one: any(track.stereo for track in one.tracks))
        await alice.client.send(update_video_track=update)
        await bob.client.expect_participant("alice", lambda one: any(track.width == 640 for track in one.tracks))
        assert [one.metadata for one in about(bob.client, "alice")][-1] == "new"
        news = about(bob.client, "alice")
        assert len(news) >= 3
        for one in news:
            assert {track.sid for track in one.tracks} == {audio, video}
            assert (one.sid, one.identity, one.name) == (alice.join.participant.sid, "alice", "Alice")
            assert (one.state, one.is_publisher, dict(one.attributes)) == (ACTIVE, True, {"k": "v"})
            assert one.permission.can_publish
            assert all(track.mime_type and track.mid for track in one.tracks)


def about(client: Client, identity: str) -> list[models.ParticipantInfo]:
    return [one for message in client.heard for one in message.update.participants if one.identity == identity]


@pytest.mark.parametrize("scenario", [rtc.SimulateScenario(node_failure=True), rtc.SimulateScenario(migration=True)])
async def test_trap_27_a_socket_that_ends_without_a_leave_does_not_end_cleanly(scenario: rtc.SimulateScenario) -> None:
    async with running() as world, dual(world, "alice") as alice:
        await alice.client.send(simulate=scenario)
        code = await alice.client.until_closed()
        assert not alice.client.seen("leave")
        assert code != 1000


ENDS = [
    (rtc.SimulateScenario(server_leave=True), Action.DISCONNECT),
    (rtc.SimulateScenario(leave_request_full_reconnect=True), Action.RECONNECT),
]


@pytest.mark.parametrize(("scenario", "action"), ENDS)
async def test_trap_27_a_socket_that_ends_cleanly_says_leave_first(
    scenario: rtc.SimulateScenario, action: rtc.LeaveRequest.Action
) -> None:
    async with running() as world, dual(world, "alice") as alice:
        await alice.client.send(simulate=scenario)
        code = await alice.client.until_closed()
        (left,) = alice.client.seen("leave")
        assert (left.action, code) == (action, 1000)
        assert alice.client.skipped[-1].HasField("leave")


async def test_trap_44_the_publisher_is_told_once_that_somebody_receives_its_track() -> None:
    async with running() as world, dual(world, "alice") as alice:
        sid = await publish(alice, "audio", 1)
        await alice.client.nothing_of("track_subscribed")  # there is nobody
        async with dual(world, "ghost", hidden=True):
            await bound(world.participant("ghost").subscriptions)
            await alice.client.nothing_of("track_subscribed")  # nobody that shows
        async with dual(world, "bob"):
            assert (await alice.client.expect("track_subscribed")).track_sid == sid
            async with dual(world, "carol"):
                await bound(world.participant("carol").subscriptions)
                await alice.client.nothing_of("track_subscribed")


async def bound(subscriptions: Subscriptions) -> None:
    """Wait until there is a subscription, and its media can flow."""
    with trio.fail_after(LIMIT):
        while not (len(subscriptions) and all(one.down is not None for one in subscriptions)):
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("path", ["/rtc/validate?", "/rtc/v1/validate?" + join_request()])
async def test_trap_46_a_browser_may_read_why_it_was_refused(path: str) -> None:
    headers = ("Origin: https://app.example", "Connection: close")
    async with running(RoomSettings(auto_create=False)) as world:
        answers = {}
        for name, token in (
            ("nobody", None),
            ("nonsense", "x.y.z"),
            ("no room", world.token()),
            ("fine", world.token(room_create=True)),
        ):
            status, fields, _ = await world.get(path, token, *headers)
            answers[name] = status
            assert fields["access-control-allow-origin"] in {"*", "https://app.example"}
        assert answers == {"nobody": 401, "nonsense": 401, "no room": 404, "fine": 200}
        preflight = f"OPTIONS {path} HTTP/1.1\r\nHost: x\r\nAccess-Control-Request-Method: GET\r\n"
        preflight += "Access-Control-Request-Headers: authorization\r\n" + "\r\n".join([*headers, "", ""])
        async with await trio.open_tcp_stream("127.0.0.1", world.port) as stream:
            await stream.send_all(preflight.encode())
            head = b"".join([data async for data in stream]).decode().lower()
        assert head.split()[1][:1] == "2"
        assert "\r\naccess-control-allow-origin: *\r\n" in head
        assert "\r\naccess-control-allow-headers: authorization\r\n" in head


async def test_trap_54_agents_and_recorders_take_nobodys_place_and_are_not_counted() -> None:
    async with (
        running(RoomSettings(defaults=RoomDefaults(max_participants=1))) as world,
        world.connect("agent", kind="agent") as agent,
        world.connect("tape", recorder=True) as tape,
    ):
        assert (await agent.expect("join")).room.num_participants == 0
        await tape.expect("join")
        async with world.connect("alice") as alice:  # there is room for one
            join = await alice.expect("join")
            assert join.room.num_participants == 1
            assert {one.identity for one in join.other_participants} >= {"agent"}
            assert (await world.refusal("/rtc", world.token("bob")))[0] == 500  # and not for two
            assert world.room().info().num_participants == 1


@pytest.mark.parametrize(
    ("grants", "allowed"),
    [
        ({}, True),
        ({"can_publish": True}, True),
        ({"can_publish": False}, False),
        ({"can_publish": False, "can_publish_data": True}, True),
        ({"can_publish": True, "can_publish_data": False}, False),
    ],
)
async def test_trap_55_data_may_be_sent_by_whom_tracks_may_unless_said_otherwise(
    grants: dict[str, Any], allowed: bool
) -> None:
    async with running() as world, dual(world, "bob") as bob, dual(world, "alice", **grants) as alice:
        assert alice.join.participant.permission.can_publish_data is allowed
        await alice.open_data()
        alice.send_data(user=models.UserPacket(payload=b"x"), sequence=1)
        if allowed:
            await bob.subscriber.until(lambda side: len(side.messages) == 1)
        else:
            with trio.fail_after(LIMIT):
                while not world.participant("alice").data.counters["not_allowed"]:
                    await trio.lowlevel.checkpoint()
            assert not bob.subscriber.messages
