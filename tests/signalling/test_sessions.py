"""Sessions with two peer connections, over real transports on the loopback interface."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import trio
from google.protobuf import json_format
from livekit.protocol import models, rtc

from tests.signalling.world import LIMIT, Client, DualClient, dual, running
from triosfu.peer import PeerState
from triosfu.sdp.sections import Sender

ACTIVE, DISCONNECTED = models.ParticipantInfo.ACTIVE, models.ParticipantInfo.DISCONNECTED
Reason = models.DisconnectReason
Action = rtc.LeaveRequest.Action


def mic(**fields: Any) -> rtc.AddTrackRequest:  # noqa: ANN401  protobuf fields
    """The announcement of a microphone, or of something else."""
    usual = {"cid": "mic", "type": models.TrackType.AUDIO, "source": models.TrackSource.MICROPHONE, "name": "mic"}
    return rtc.AddTrackRequest(**{**usual, **fields})


def microphone(cid: str = "mic") -> Sender:
    return Sender(kind="audio", track_id=cid, stream_id="stream", ssrc=4711, codecs=["audio/red", "audio/opus"])


async def test_two_clients_meet_and_exchange_data() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        assert [one.identity for one in bob.join.other_participants] == ["alice"]
        news = await alice.client.expect_participant("bob", lambda one: one.state == ACTIVE)
        assert news.sid == bob.join.participant.sid
        await alice.open_data()
        alice.send_data(user=models.UserPacket(payload=b"hello", topic="t"), sequence=1)
        await bob.subscriber.until(lambda side: len(side.messages) == 1)
        (packet,) = bob.subscriber.packets()
        assert packet.user.payload == b"hello"
        assert packet.kind == models.DataPacket.RELIABLE
        assert (packet.participant_sid, packet.participant_identity) == (alice.join.participant.sid, "alice")
        assert packet.sequence == 1
        assert alice.subscriber.messages == []  # trap 30: no echo


async def test_trap_31_a_repeated_sequence_is_dropped_and_lossy_has_none() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        await alice.open_data()
        for sequence in (1, 2, 2, 1, 3):
            alice.send_data(user=models.UserPacket(payload=b"x"), sequence=sequence)
        await bob.subscriber.until(lambda side: len(side.messages) == 3)
        assert [packet.sequence for packet in bob.subscriber.packets()] == [1, 2, 3]
        alice.send_data("_lossy", user=models.UserPacket(payload=b"y"))
        await bob.subscriber.until(lambda side: len(side.messages) == 4)
        assert bob.subscriber.packets("_lossy")[0].kind == models.DataPacket.LOSSY


async def test_data_goes_to_those_named_and_not_without_permission() -> None:
    async with (
        running() as world,
        dual(world, "alice") as alice,
        dual(world, "bob") as bob,
        dual(world, "carol", can_publish_data=False) as carol,
    ):
        await alice.open_data()
        await carol.open_data()
        carol.send_data(user=models.UserPacket(payload=b"forbidden"))
        alice.send_data(user=models.UserPacket(payload=b"one"), destination_identities=["carol"])
        alice.send_data(user=models.UserPacket(payload=b"two", destination_sids=[bob.join.participant.sid]))
        alice.send_data(user=models.UserPacket(payload=b"all"))
        for one, expected in ((bob, [b"two", b"all"]), (carol, [b"one", b"all"])):
            await one.subscriber.until(lambda side: len(side.messages) == 2)
            assert [packet.user.payload for packet in one.subscriber.packets()] == expected


async def test_metrics_go_to_those_who_may_read_them_and_as_they_are() -> None:
    async with (
        running() as world,
        dual(world, "alice") as alice,
        dual(world, "bob", can_subscribe_metrics=True) as bob,
        dual(world, "carol") as carol,
    ):
        await alice.open_data()
        metrics = models.DataPacket(metrics={"str_data": ["a"], "timestamp_ms": 5}).metrics
        alice.send_data(metrics=metrics)
        alice.send_data(user=models.UserPacket(payload=b"after"))
        for one, expected in ((bob, ["metrics", "user"]), (carol, ["user"])):
            await one.subscriber.until(lambda side: bool(side.packets()) and side.packets()[-1].HasField("user"))
            assert [packet.WhichOneof("value") for packet in one.subscriber.packets()] == expected
        assert bob.subscriber.packets()[0].metrics == metrics
        assert bob.subscriber.packets()[0].participant_identity == "alice"


async def test_reliable_messages_wait_for_one_who_is_joining() -> None:
    async with running() as world, dual(world, "alice") as alice:
        await alice.open_data()

        async def speak_early() -> None:
            alice.send_data(user=models.UserPacket(payload=b"early"), sequence=7)
            alice.send_data("_lossy", user=models.UserPacket(payload=b"lost"))
            await trio.testing.wait_all_tasks_blocked()
            port = world.participant("bob").data
            with trio.fail_after(LIMIT):
                while not port._held:
                    await trio.lowlevel.checkpoint()
            assert len(port._held) == 1

        async with dual(world, "bob", meanwhile=speak_early) as bob:
            await bob.subscriber.until(lambda side: {"_reliable", "_lossy"} <= side.channels.keys())
            alice.send_data(user=models.UserPacket(payload=b"late"), sequence=8)
            await bob.subscriber.until(lambda side: len(side.messages) == 2)
            packets = bob.subscriber.packets()
            assert [(one.sequence, one.user.payload) for one in packets] == [(7, b"early"), (8, b"late")]


async def test_traps_36_37_a_track_is_announced_before_its_offer_and_then_published() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        await alice.client.send(add_track=mic())
        confirmed = await alice.client.expect("track_published")
        assert confirmed.cid == "mic"
        assert confirmed.track.sid.startswith("TR_AM")
        alice.publisher.peer.negotiation.add_sender(microphone())
        answer = await alice.offer(3)
        assert answer.id == 3  # trap 9
        await check_published(alice, bob, confirmed.track.sid)


async def test_trap_37_an_offer_before_its_track_is_announced() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        alice.publisher.peer.negotiation.add_sender(microphone())
        await alice.offer()
        await alice.client.send(add_track=mic())
        confirmed = await alice.client.expect("track_published")
        await check_published(alice, bob, confirmed.track.sid, "audio/opus")  # the offer's own order


async def check_published(alice: DualClient, bob: DualClient, sid: str, mime: str = "audio/red") -> None:
    """Bob hears of the track, then is offered it; Alice learns that it is received, and sees herself publish."""
    news = await bob.client.expect_participant("alice", lambda one: one.tracks)
    (track,) = news.tracks
    assert (track.sid, track.mime_type, track.name) == (sid, mime, "mic")
    assert track.mid
    assert news.is_publisher
    offer = await bob.take_offer()  # trap 17: after the update
    assert f"{news.sid}|{sid}" in offer.sdp
    assert dict(offer.mid_to_track_id) == {"1": sid}
    permission = bob.client.seen("subscription_permission_update")[0]
    assert (permission.track_sid, permission.allowed) == (sid, True)
    assert (await alice.client.expect("track_subscribed")).track_sid == sid  # trap 44
    own = [one for update in alice.client.seen("update") for one in update.participants if one.identity == "alice"]
    assert own[-1].tracks[0].sid == sid


async def publish(one: DualClient, cid: str = "mic", number: int = 1) -> str:
    await one.client.send(add_track=mic(cid=cid))
    confirmed = await one.client.expect("track_published")
    sender = microphone(cid)
    sender.ssrc += number
    one.publisher.peer.negotiation.add_sender(sender)
    await one.offer(number)
    return str(confirmed.track.sid)


async def test_trap_21_mute_is_told_to_all_with_the_new_state() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        sid = await publish(alice)
        await alice.client.expect_participant("alice", lambda one: one.tracks)
        await alice.client.send(mute=rtc.MuteTrackRequest(sid=sid, muted=True))
        for one in (alice, bob):
            news = await one.client.expect_participant("alice", lambda one: one.tracks and one.tracks[0].muted)
            assert len(news.tracks) == 1  # trap 19
        await alice.client.send(mute=rtc.MuteTrackRequest(sid="TR_none", muted=True))
        assert (await alice.client.expect("request_response")).reason == rtc.RequestResponse.NOT_FOUND


async def test_an_administrator_mutes_but_does_not_unmute() -> None:
    async with running() as world, dual(world, "alice") as alice:
        sid = await publish(alice)
        publications = world.participant("alice").publications
        assert publications.mute_remotely(sid, muted=True)
        assert (await alice.client.expect("mute")).muted
        await alice.client.expect_participant("alice", lambda one: one.tracks and one.tracks[0].muted)
        assert not publications.mute_remotely(sid, muted=False)
        assert not publications.mute_remotely("TR_none", muted=True)


async def test_trap_20_versions_rise_with_every_change() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        sid = await publish(alice)
        for muted in (True, False):
            await alice.client.send(mute=rtc.MuteTrackRequest(sid=sid, muted=muted))
        await alice.publisher.until(lambda side: side.state is PeerState.CONNECTED)
        await bob.client.expect_participant("alice", lambda one: one.tracks and one.tracks[0].muted)
        await bob.client.expect_participant("alice", lambda one: one.tracks and not one.tracks[0].muted)
        seen = [one for heard in bob.client.heard for one in heard.update.participants if one.identity == "alice"]
        versions = [one.version for one in seen]
        for one in seen:
            one.version = 0
        assert all(
            before < after or (before == after and old == new)
            for before, after, old, new in zip(versions, versions[1:], seen, seen[1:], strict=False)
        )
        assert len(set(versions)) >= 3


async def test_unpublishing_is_a_renegotiation_and_ends_the_subscription() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        await publish(alice)
        await bob.take_offer()
        negotiation = alice.publisher.peer.negotiation
        negotiation.remove_sender(next(one.outgoing for one in negotiation.sections if one.outgoing))
        await alice.offer(2)
        await bob.client.expect_participant("alice", lambda one: not one.tracks)
        offer = await bob.take_offer()
        assert "a=inactive" in offer.sdp
        assert not offer.mid_to_track_id
        assert len(world.participant("bob").subscriptions) == 0


async def test_an_offer_is_not_repeated_while_one_is_out() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        first = await publish(alice)
        offer = await bob.client.expect("offer")
        second = await publish(alice, "second", 2)
        await bob.client.nothing_of("offer")
        bob.subscriber.peer.accept_offer(offer.sdp)
        answer = rtc.SessionDescription(type="answer", sdp=bob.subscriber.peer.create_answer())
        await bob.client.send(answer=answer)  # id 0, as Rust and Go
        offer = await bob.take_offer()
        assert sorted(offer.mid_to_track_id.values()) == sorted([first, second])


async def test_what_may_not_be_published_is_refused() -> None:
    async with running() as world, dual(world, "alice", can_publish_sources=("camera",)) as alice:
        await alice.client.send(add_track=mic())
        refused = await alice.client.expect("request_response")
        assert (refused.reason, refused.add_track.cid) == (rtc.RequestResponse.NOT_ALLOWED, "mic")
        await alice.client.send(add_track=mic(type=models.TrackType.DATA, source=models.TrackSource.CAMERA))
        assert (await alice.client.expect("request_response")).reason == rtc.RequestResponse.UNSUPPORTED_TYPE
        await alice.client.send(add_track=mic(sid="TR_x", source=models.TrackSource.CAMERA))
        assert (await alice.client.expect("request_response")).reason == rtc.RequestResponse.NOT_FOUND


async def test_one_cid_is_queued_and_the_number_of_pending_tracks_bounded() -> None:
    async with running() as world, world.connect("alice") as client:
        await client.expect("join")
        for number in range(5):
            await client.send(add_track=mic())
            if number == 0:
                await client.expect("track_published")
            else:
                reason = (await client.expect("request_response")).reason
                limit = number == 4
                assert reason == (rtc.RequestResponse.LIMIT_EXCEEDED if limit else rtc.RequestResponse.QUEUED)
        for number in range(20):
            await client.send(add_track=mic(cid=str(number)))
        await client.expect("request_response", lambda one: one.reason == rtc.RequestResponse.LIMIT_EXCEEDED)
        assert len(client.seen("track_published")) == 16  # 20 less the one pending and its three queued


async def test_revoked_publishing_unpublishes_and_says_so() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        sid = await publish(alice)
        await bob.client.expect_participant("alice", lambda one: one.tracks)
        participant = world.participant("alice")
        participant.set_permission(replace(participant.permission, can_publish=False))
        assert (await alice.client.expect("track_unpublished")).track_sid == sid
        for one in (alice, bob):
            await one.client.expect_participant("alice", lambda it: not it.tracks and not it.permission.can_publish)
        await alice.client.expect("refresh_token")


async def test_publishers_decide_who_may_subscribe() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        sid = await publish(alice)
        await bob.take_offer()
        await alice.client.send(subscription_permission=rtc.SubscriptionPermission())
        told = await bob.client.expect("subscription_permission_update", lambda one: not one.allowed)
        assert told.track_sid == sid
        assert "a=inactive" in (await bob.take_offer()).sdp
        await alice.client.send(subscription_permission=rtc.SubscriptionPermission(all_participants=True))
        await bob.client.expect("subscription_permission_update", lambda one: one.allowed)
        assert list((await bob.take_offer()).mid_to_track_id.values()) == [sid]  # of its own accord


async def test_subscribing_by_hand() -> None:
    async with (
        running() as world,
        dual(world, "alice") as alice,
        dual(world, "bob", query="protocol=17&auto_subscribe=0") as bob,
    ):
        sid = await publish(alice)
        await bob.client.expect_participant("alice", lambda one: one.tracks)
        assert len(world.participant("bob").subscriptions) == 0
        await bob.client.send(track_setting=rtc.UpdateTrackSettings(track_sids=[sid], disabled=True))
        await bob.client.send(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
        assert list((await bob.take_offer()).mid_to_track_id.values()) == [sid]
        await bob.client.send(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=False))
        assert not (await bob.take_offer()).mid_to_track_id


async def test_traps_22_23_own_metadata() -> None:
    async with running() as world, dual(world, "alice", can_update_own_metadata=True) as alice:
        request = rtc.UpdateParticipantMetadata(name="Al", metadata="m", attributes={"k": "v"}, request_id=9)
        await alice.client.send(update_metadata=request)
        response = await alice.client.expect("request_response")
        assert (response.request_id, response.reason) == (9, rtc.RequestResponse.OK)
        own = [one for update in alice.client.seen("update") for one in update.participants]
        assert (own[-1].name, own[-1].metadata, dict(own[-1].attributes)) == ("Al", "m", {"k": "v"})
        await alice.client.send(update_metadata=rtc.UpdateParticipantMetadata(attributes={"k": ""}, request_id=10))
        await alice.client.expect("request_response", lambda one: one.request_id == 10)
        assert dict(world.participant().attributes) == {}
        await alice.client.send(update_metadata=rtc.UpdateParticipantMetadata(name="n" * 300, request_id=11))
        refused = await alice.client.expect("request_response")
        assert (refused.reason, refused.message) == (rtc.RequestResponse.LIMIT_EXCEEDED, "exceeds name length limit")
    async with running() as world, dual(world, "bob") as bob:
        await bob.client.send(update_metadata=rtc.UpdateParticipantMetadata(name="x", request_id=1))
        refused = await bob.client.expect("request_response")
        assert (refused.reason, refused.request_id) == (rtc.RequestResponse.NOT_ALLOWED, 1)
        assert refused.message == "does not have permission to update own metadata"


async def test_trap_29_pongs_are_in_milliseconds() -> None:
    async with running() as world, world.connect() as client:
        await client.send(ping=1)
        await client.send(ping_req=rtc.Ping(timestamp=42, rtt=3))
        assert abs((await client.expect("pong")) / 1000 - time.time()) < 60
        pong = await client.expect("pong_resp")
        assert pong.last_ping_timestamp == 42
        assert abs(pong.timestamp / 1000 - time.time()) < 60


async def test_trap_60_a_client_is_answered_in_the_form_that_it_spoke_last() -> None:
    async with running() as world, world.connect() as client:
        await client.receive()  # binary until it speaks
        for number, as_text in enumerate((True, False, True)):
            ping = rtc.SignalRequest(ping_req=rtc.Ping(timestamp=number))
            await client.send_raw(json_format.MessageToJson(ping) if as_text else ping.SerializeToString())
            assert await form_of_pong(client, number) is (str if as_text else bytes)


async def form_of_pong(client: Client, number: int) -> type[str | bytes]:
    """What kind of frame the answer to a ping comes in."""
    with trio.fail_after(LIMIT):
        while True:
            frame = await client._socket.get_message()
            if isinstance(frame, str):
                message = json_format.Parse(frame, rtc.SignalResponse())
            else:
                message = rtc.SignalResponse.FromString(frame)
            if message.HasField("pong_resp"):
                assert message.pong_resp.last_ping_timestamp == number
                return type(frame)


async def test_trap_26_a_second_session_takes_the_place_of_the_first() -> None:
    async with running() as world, dual(world, "bob") as bob, dual(world, "alice") as old:
        await bob.client.expect_participant("alice", lambda one: one.state == ACTIVE)
        async with dual(world, "alice") as new:
            left = await old.client.expect("leave")
            assert (left.action, left.reason) == (Action.DISCONNECT, Reason.DUPLICATE_IDENTITY)
            assert await old.client.until_closed() == 1000
            sid = new.join.participant.sid
            assert sid != old.join.participant.sid
            assert [one.identity for one in new.join.other_participants] == ["bob"]
            await bob.client.expect_participant("alice", lambda one: one.sid == sid and one.state == ACTIVE)
            seen = [one for update in bob.client.seen("update") for one in update.participants]
            assert not [one for one in seen if one.identity == "alice" and one.state == DISCONNECTED]


async def test_leaving_is_told_to_the_others_at_once() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        await bob.client.expect_participant("bob", lambda one: one.state == ACTIVE)
        await alice.client.send(leave=rtc.LeaveRequest(reason=Reason.CLIENT_INITIATED))
        gone = await bob.client.expect_participant("alice", lambda one: one.state == DISCONNECTED)
        assert (gone.sid, gone.disconnect_reason) == (alice.join.participant.sid, Reason.CLIENT_INITIATED)
        left = await alice.client.expect("leave")
        assert (left.action, left.reason) == (Action.DISCONNECT, Reason.CLIENT_INITIATED)
        assert await alice.client.until_closed() == 1000


async def test_traps_25_28_a_lost_socket_is_survived_and_resumed() -> None:
    async with running() as world, dual(world, "bob") as bob, dual(world, "alice") as alice:
        await alice.open_data()
        alice.send_data(user=models.UserPacket(payload=b"x"), sequence=5)
        await bob.subscriber.until(lambda side: bool(side.messages))
        before = world.participant("alice")
        sid = alice.join.participant.sid
        async with world.connect("alice", query=f"protocol=17&reconnect=1&sid={sid}") as client:
            first = await client.receive()
            assert first.WhichOneof("message") == "reconnect"
            assert first.reconnect.last_message_seq == 5
            assert first.reconnect.server_info.version
            update = (await client.receive()).update
            assert {one.identity for one in update.participants} == {"alice", "bob"}
            assert (await client.receive()).room_update.room.name == "room"
            alice.client = client
            offer = await alice.take_offer()
            assert offer.sdp.count("a=ice-ufrag") > 0
            assert world.participant("alice") is before
            await client.send(sync_state=rtc.SyncState())
            await client.expect("refresh_token")
            await alice.subscriber.until(lambda side: side.state is PeerState.CONNECTED)
            alice.send_data(user=models.UserPacket(payload=b"again"), sequence=5)
            alice.send_data(user=models.UserPacket(payload=b"y"), sequence=6)
            await bob.subscriber.until(lambda side: len(side.messages) == 2)
            assert not [
                one for update in bob.client.seen("update") for one in update.participants if one.state == DISCONNECTED
            ]


async def test_trap_24_a_resume_of_nobody_is_told_over_the_socket_to_start_over() -> None:
    async with running() as world, world.connect(query="protocol=17&reconnect=1&sid=PA_x") as client:
        left = (await client.receive()).leave
        assert (left.action, left.reason) == (Action.RECONNECT, Reason.STATE_MISMATCH)
        assert await client.until_closed() == 1000


async def test_a_resume_with_other_tracks_starts_over() -> None:
    async with running() as world, dual(world, "alice") as alice:
        track = rtc.TrackPublishedResponse(track=models.TrackInfo(sid="TR_none"))
        await alice.client.send(sync_state=rtc.SyncState(publish_tracks=[track]))
        left = await alice.client.expect("leave")
        assert (left.action, left.reason) == (Action.RECONNECT, Reason.STATE_MISMATCH)


@pytest.mark.parametrize("frame", [b"\xff\xff\xff", "{", b""])
async def test_a_malformed_message_ends_the_connection_and_nothing_else(frame: bytes | str) -> None:
    async with running() as world, dual(world, "bob") as bob, dual(world, "alice") as alice:
        await alice.client.send_raw(frame)
        if frame:
            assert await alice.client.until_closed() == 1007
            assert world.signalling.counters["malformed_signals"] == 1
        await bob.client.send(ping=1)
        await bob.client.expect("pong")
        assert "alice" in world.rooms.find("room").participants  # type: ignore[union-attr]


@pytest.mark.parametrize("sdp", ["", "v=0", "hello\r\n", "v=0\r\no=- 1 1 IN IP4 0\r\ns=-\r\nt=0 0\r\n"])
async def test_a_senseless_offer_ends_that_session_only(sdp: str) -> None:
    async with running() as world, dual(world, "bob") as bob, dual(world, "alice") as alice:
        await bob.client.expect_participant("alice", lambda one: one.state == ACTIVE)
        await alice.client.send(offer=rtc.SessionDescription(type="offer", sdp=sdp, id=1))
        assert (await alice.client.expect("leave")).action == Action.RECONNECT
        await bob.client.expect_participant("alice", lambda one: one.state == DISCONNECTED)


async def test_answers_that_nobody_waits_for_and_strange_trickles_are_ignored() -> None:
    async with running() as world, dual(world, "alice") as alice:
        await alice.client.send(answer=rtc.SessionDescription(type="answer", sdp="v=0", id=99))
        for init in ("", "{", "[]", '{"candidate": ""}', '{"candidate": 5}', '{"candidate": "junk"}', "[" * 99_999):
            for target in (rtc.SignalTarget.PUBLISHER, rtc.SignalTarget.SUBSCRIBER):
                await alice.client.send(trickle=rtc.TrickleRequest(candidateInit=init, target=target))
        await alice.client.nothing_of("leave")


async def test_trap_16_candidates_before_the_offer_are_kept() -> None:
    async with running() as world, dual(world, "alice") as alice:
        candidate = (
            '{"candidate": "candidate:1 1 udp 2130706431 127.0.0.1 9 typ host", "sdpMid": "0", "sdpMLineIndex": 0}'
        )
        await alice.client.send(trickle=rtc.TrickleRequest(candidateInit=candidate, target=rtc.SignalTarget.PUBLISHER))
        await alice.client.nothing_of("leave")
        negotiator = world.participant().negotiator
        assert sum(map(len, negotiator._candidates.values())) == 1
        await alice.open_data()
        assert not negotiator._candidates


async def test_hidden_participants_are_not_announced() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "ghost", hidden=True) as ghost:
        await ghost.client.expect_participant("ghost", lambda one: one.state == ACTIVE)
        async with dual(world, "bob") as bob:
            assert [one.identity for one in bob.join.other_participants] == ["alice"]
            await alice.client.expect_participant("bob", lambda one: one.state == ACTIVE)
            seen = [one.identity for update in alice.client.seen("update") for one in update.participants]
            assert "ghost" not in seen


async def test_closing_the_room_tells_everybody() -> None:
    async with running() as world, dual(world, "alice") as alice:
        world.rooms.close()
        left = await alice.client.expect("leave")
        assert (left.action, left.reason) == (Action.DISCONNECT, Reason.SERVER_SHUTDOWN)
        assert await alice.client.until_closed() == 1000
        with trio.fail_after(LIMIT):
            await world.rooms.wait_empty()
        assert await world.refusal("/rtc", world.token()) == (503, "server is at its limits")


async def test_data_tracks() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        alice.publisher.peer.negotiation.enable_data()
        upstream = alice.publisher.peer.open_channel("_data_track", ordered=False, max_retransmits=0)
        await alice.open_data()
        await alice.client.send(publish_data_track_request=rtc.PublishDataTrackRequest(pub_handle=3, name="lidar"))
        info = (await alice.client.expect("publish_data_track_response")).info
        assert info.sid.startswith("DTR_")
        for handle, name, reason in (
            (3, "x", rtc.RequestResponse.DUPLICATE_HANDLE),
            (4, "lidar", rtc.RequestResponse.DUPLICATE_NAME),
            (0, "x", rtc.RequestResponse.INVALID_HANDLE),
            (5, "", rtc.RequestResponse.INVALID_NAME),
        ):
            request = rtc.PublishDataTrackRequest(pub_handle=handle, name=name)
            await alice.client.send(publish_data_track_request=request)
            assert (await alice.client.expect("request_response")).reason == reason
        news = await bob.client.expect_participant("alice", lambda one: one.data_tracks)
        assert news.data_tracks[0] == info
        wish = rtc.UpdateDataSubscription.Update(track_sid=info.sid, subscribe=True)
        await bob.client.send(update_data_subscription=rtc.UpdateDataSubscription(updates=[wish]))
        handles = (await bob.client.expect("data_track_subscriber_handles")).sub_handles
        ((handle, described),) = handles.items()
        assert (described.publisher_identity, described.track_sid) == ("alice", info.sid)
        async with world.connect("carol", query="protocol=17&auto_subscribe_data_track=1") as carol:
            (only,) = (await carol.expect("data_track_subscriber_handles")).sub_handles.values()
            assert only == described
        await alice.publisher.until(lambda side: "_data_track" in side.channels)
        packet = bytes([0x18, 0, 0, 3]) + bytes(8) + b"payload"
        assert upstream.send_nowait(packet)
        assert upstream.send_nowait(b"short")
        await bob.subscriber.until(lambda side: bool(side.messages))
        label, received = bob.subscriber.messages[0]
        assert label == "_data_track"
        assert received == packet[:2] + handle.to_bytes(2, "big") + packet[4:]
        await alice.client.send(unpublish_data_track_request=rtc.UnpublishDataTrackRequest(pub_handle=3))
        await alice.client.expect("unpublish_data_track_response")
        assert not (await bob.client.expect("data_track_subscriber_handles")).sub_handles
