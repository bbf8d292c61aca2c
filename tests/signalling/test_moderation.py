"""What is granted or revoked while a session runs takes effect at once, and clients are told of it (section 8.2)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from livekit.protocol import models, rtc

from tests.signalling.test_sessions import mic, publish
from tests.signalling.world import dual, running
from triosfu.rooms.revocations import MAX_REVOKED, Revocations
from triosfu.rooms.settings import Limits, RoomSettings
from triosfu.sdp.sections import Sender

if TYPE_CHECKING:
    from tests.signalling.world import DualClient, World

Answer, State = rtc.RequestResponse, models.ParticipantInfo
CAMERA, MICROPHONE = models.TrackSource.CAMERA, models.TrackSource.MICROPHONE


def change(world: World, identity: str, **fields: object) -> None:
    """What UpdateParticipant does with a permission."""
    participant = world.participant(identity)
    participant.set_permission(replace(participant.permission, **fields))  # type: ignore[arg-type]


async def test_who_may_subscribe_again_is_subscribed_again() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        sid = await publish(alice)
        assert list((await bob.take_offer()).mid_to_track_id.values()) == [sid]
        change(world, "bob", can_subscribe=False)
        await bob.client.expect_participant("bob", lambda one: not one.permission.can_subscribe)
        assert not (await bob.take_offer()).mid_to_track_id
        change(world, "bob", can_subscribe=True)
        assert list((await bob.take_offer()).mid_to_track_id.values()) == [sid]


async def test_who_never_might_subscribe_is_subscribed_when_it_may() -> None:
    async with running() as world, dual(world, "alice") as alice:
        sid = await publish(alice)
        async with world.connect("bob", can_subscribe=False) as bob:
            await bob.expect("join")
            change(world, "bob", can_subscribe=True)
            offer = await bob.expect("offer")
            assert list(offer.mid_to_track_id.values()) == [sid]


async def test_sources_are_taken_away_and_given_back() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        sid = await publish(alice)
        await bob.client.expect_participant("alice", lambda one: one.tracks)
        change(world, "alice", can_publish_sources=(CAMERA,))
        assert (await alice.client.expect("track_unpublished")).track_sid == sid
        await bob.client.expect_participant("alice", lambda one: not one.tracks)
        await alice.client.send(add_track=mic(cid="again"))
        assert (await alice.client.expect("request_response")).reason == Answer.NOT_ALLOWED
        change(world, "alice", can_publish_sources=(CAMERA, MICROPHONE))
        await alice.client.send(add_track=mic(cid="again"))
        await alice.client.expect("track_published")


async def test_data_is_taken_while_it_may_be_sent() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        await alice.open_data()
        await alice.client.send(publish_data_track_request=rtc.PublishDataTrackRequest(pub_handle=1, name="d"))
        await bob.client.expect_participant("alice", lambda one: one.data_tracks)
        change(world, "alice", can_publish_data=False)
        await bob.client.expect_participant("alice", lambda one: not one.data_tracks)
        counters = world.participant("alice").data.counters
        alice.send_data(user=models.UserPacket(payload=b"no"))
        alice.send_data(user=models.UserPacket(payload=b"nor"))
        while counters["not_allowed"] < 2:
            await alice.client.nothing_of("leave")
        change(world, "alice", can_publish_data=True)
        alice.send_data(user=models.UserPacket(payload=b"yes"))
        await bob.subscriber.until(lambda side: bool(side.messages))
        assert [packet.user.payload for packet in bob.subscriber.packets()] == [b"yes"]


async def test_its_own_metadata_is_changed_by_who_may() -> None:
    async with running() as world, world.connect("alice") as alice:
        await alice.expect("join")
        wish = rtc.UpdateParticipantMetadata(metadata="m", request_id=5)
        for allowed, reason in ((False, Answer.NOT_ALLOWED), (True, Answer.OK), (False, Answer.NOT_ALLOWED)):
            change(world, "alice", can_update_metadata=allowed)
            await alice.send(update_metadata=wish)
            response = await alice.expect("request_response")
            assert (response.reason, response.request_id) == (reason, 5)


async def test_who_is_hidden_vanishes_and_comes_back_with_its_tracks() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        sid = await publish(alice)
        assert list((await bob.take_offer()).mid_to_track_id.values()) == [sid]
        change(world, "alice", hidden=True)
        gone = await bob.client.expect_participant("alice", lambda one: one.state == State.DISCONNECTED)
        assert gone.sid == alice.join.participant.sid
        assert not (await bob.take_offer()).mid_to_track_id
        assert world.room().info().num_participants == 1
        await alice.client.expect_participant("alice", lambda one: one.permission.hidden)
        await bob.client.nothing_of("leave")
        async with dual(world, "carol") as carol:
            assert [one.identity for one in carol.join.other_participants] == ["bob"]
            await carol.client.nothing_of("offer")
            change(world, "alice", hidden=False)
            for one in (bob, carol):
                back = await one.client.expect_participant("alice", lambda one: one.state == State.ACTIVE)
                assert back.version > gone.version
                assert list((await one.take_offer()).mid_to_track_id.values()) == [sid]


async def test_who_is_hidden_is_not_made_known_by_its_tracks() -> None:
    async with running() as world, dual(world, "ghost", hidden=True) as ghost, dual(world, "bob") as bob:
        await publish(ghost)
        await ghost.client.expect_participant("ghost", lambda one: one.tracks)
        await bob.client.nothing_of("offer")
        assert "ghost" not in {one.identity for update in bob.client.seen("update") for one in update.participants}


async def test_a_recording_is_told_at_once() -> None:
    async with running() as world, world.connect("alice") as alice, world.connect("rec") as rec:
        await rec.expect("join")
        await alice.expect("join")
        for recorder in (True, False):
            change(world, "rec", recorder=recorder)
            assert (await alice.expect("room_update")).room.active_recording is recorder


async def test_what_the_client_cannot_decode_is_told() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        negotiation = bob.subscriber.peer.negotiation
        negotiation.policy = replace(negotiation.policy, receive=("video/VP8", "audio/opus"))
        sid = await _publish_video(alice, "video/VP9")
        await bob.take_offer()
        response = await bob.client.expect("subscription_response")
        assert (response.track_sid, response.err) == (sid, models.SubscriptionError.SE_CODEC_UNSUPPORTED)
        assert len(world.participant("bob").subscriptions) == 0


async def _publish_video(one: DualClient, mime: str) -> str:
    codecs = [rtc.SimulcastCodec(codec=mime.removeprefix("video/").lower(), cid="cam")]
    request = rtc.AddTrackRequest(cid="cam", type=models.TrackType.VIDEO, source=CAMERA, simulcast_codecs=codecs)
    await one.client.send(add_track=request)
    confirmed = await one.client.expect("track_published")
    camera = Sender(kind="video", track_id="cam", stream_id="cam", ssrc=77, rtx_ssrc=78, codecs=[mime])
    one.publisher.peer.negotiation.add_sender(camera)
    await one.offer()
    return str(confirmed.track.sid)


# --- tokens that are revoked ---------------------------------------------------------------------------------------


async def test_a_revoked_token_lets_nobody_in_or_back() -> None:
    async with running() as world, dual(world, "alice") as alice:
        old, others = world.token("alice"), world.token("bob")
        revocations = world.rooms.revocations
        revocations.revoke("room", "alice", time.time() + 1)
        revoked = (401, "invalid authorization token: token is revoked")
        sid = alice.join.participant.sid
        for query in ("", f"&reconnect=1&sid={sid}", "&reconnect=1", "&publish=1"):
            assert await world.refusal(f"/rtc?protocol=17{query}", old) == revoked
        assert (await world.get("/rtc/validate", old))[::2] == revoked
        assert (await world.get("/rtc/validate", others))[0] == 200
        assert (await world.get("/rtc/validate", world.token("alice", "other")))[0] == 200
        revocations.revoke("room", "alice", time.time() - 100)  # what was revoked stays so
        assert await world.refusal("/rtc?protocol=17", old) == revoked
        await alice.client.nothing_of("leave")


async def test_a_token_from_after_the_revocation_lets_in() -> None:
    async with running() as world:
        world.rooms.revocations.revoke("room", "alice", time.time() - 5)
        async with world.connect("alice") as alice:
            await alice.expect("join")


def test_revocations_take_no_more_memory_than_they_may() -> None:
    revocations = Revocations()
    for number in range(MAX_REVOKED + 10):
        revocations.revoke("room", str(number), 7.0)
    assert len(revocations) == MAX_REVOKED
    assert not revocations.refuses("room", "9", 1.0)
    assert revocations.refuses("room", "10", 1.0)
    assert revocations.refuses("room", "10", 0.0)
    assert not revocations.refuses("room", "10", 7.0)


# --- data blobs ----------------------------------------------------------------------------------------------------


def key(name: str = "k") -> models.DataBlobKey:
    return models.DataBlobKey(generic=name)


def blob(name: str = "k", contents: bytes = b"c") -> models.DataBlob:
    return models.DataBlob(key=key(name), contents=contents)


BLOBS = RoomSettings(data_blobs=True, limits=Limits(blobs=10, blob_key=4))


async def test_a_blob_is_stored_for_others_to_fetch() -> None:
    async with running(BLOBS) as world, world.connect("alice") as alice, world.connect("bob") as bob:
        schema = models.DataBlobKey(
            schema_id=models.DataTrackSchemaId(name="s", encoding=models.DataTrackSchemaEncoding(custom="c"))
        )
        for number, (where, contents) in enumerate(((key(), b"one"), (schema, b"two"), (key(), b"three"))):
            request = rtc.StoreDataBlobRequest(request_id=number, blob=models.DataBlob(key=where, contents=contents))
            await alice.send(store_data_blob_request=request)
            stored = await alice.expect("store_data_blob_response")
            assert (stored.request_id, stored.key) == (number, where)
        for where, contents in ((key(), b"three"), (schema, b"two")):
            await bob.send(
                get_data_blob_request=rtc.GetDataBlobRequest(request_id=7, participant_identity="alice", key=where)
            )
            got = await bob.expect("get_data_blob_response")
            assert (got.request_id, got.blob.key, got.blob.contents) == (7, where, contents)


@pytest.mark.parametrize(
    ("blobs", "reason"),
    [
        ([models.DataBlob(contents=b"c")], Answer.INVALID_REQUEST),
        ([models.DataBlob(key=models.DataBlobKey(), contents=b"c")], Answer.INVALID_REQUEST),
        ([blob("12345")], Answer.INVALID_REQUEST),
        ([blob(contents=b"")], Answer.INVALID_REQUEST),
        ([blob(contents=bytes(11))], Answer.LIMIT_EXCEEDED),
        ([blob("1", bytes(6)), blob("2", bytes(5))], Answer.LIMIT_EXCEEDED),
        ([blob("1", bytes(6)), blob("1", bytes(10)), blob("2", bytes(1))], Answer.LIMIT_EXCEEDED),
    ],
)
async def test_what_blobs_may_not_be(blobs: list[models.DataBlob], reason: rtc.RequestResponse.Reason) -> None:
    async with running(BLOBS) as world, world.connect("alice") as alice:
        for each in blobs:
            await alice.send(store_data_blob_request=rtc.StoreDataBlobRequest(request_id=3, blob=each))
        refused = await alice.expect("request_response")
        assert (refused.reason, refused.request_id) == (reason, 3)
        assert len(alice.seen("store_data_blob_response")) == len(blobs) - 1


async def test_what_is_not_stored_is_not_found() -> None:
    async with running(BLOBS) as world, world.connect("alice") as alice:
        for request, reason in (
            (rtc.GetDataBlobRequest(participant_identity="alice", key=key()), Answer.NOT_FOUND),
            (rtc.GetDataBlobRequest(participant_identity="nobody", key=key()), Answer.NOT_FOUND),
            (rtc.GetDataBlobRequest(participant_identity="alice"), Answer.INVALID_REQUEST),
        ):
            await alice.send(get_data_blob_request=request)
            assert (await alice.expect("request_response")).reason == reason


async def test_blobs_are_switched_off_unless_configured() -> None:
    async with running() as world, world.connect("alice") as alice:
        await alice.send(store_data_blob_request=rtc.StoreDataBlobRequest(request_id=1, blob=blob()))
        await alice.send(get_data_blob_request=rtc.GetDataBlobRequest(request_id=2, key=key()))
        for number in (1, 2):
            refused = await alice.expect("request_response")
            assert (refused.request_id, refused.reason) == (number, Answer.NOT_ALLOWED)
