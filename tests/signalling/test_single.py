"""Sessions with one peer connection, driven by the offers of a real Chromium."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from livekit.protocol import models, rtc

from tests.signalling.world import Client, DualClient, World, dual, join_request, offer_of, running
from tests.support.steps import eventually
from triosfu.rooms.negotiation import EARLY
from triosfu.rooms.settings import RoomSettings, Times
from triosfu.sdp.sections import Sender

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

OFFER, REOFFER = offer_of("chromium_single_join"), offer_of("chromium_single_publish")
MIC_CID, CAM_CID = "1553e82e-14a3", "95ae7266-f6b6"
SETTINGS = rtc.ConnectionSettings(auto_subscribe=True)


def session(world: World, identity: str = "chrome", **fields: Any) -> AbstractAsyncContextManager[Client]:  # noqa: ANN401  protobuf fields
    offer = rtc.SessionDescription(type="offer", sdp=OFFER, id=1)
    query = join_request(**{"connection_settings": SETTINGS, "publisher_offer": offer, **fields})
    return world.connect(identity, path="/rtc/v1", query=query)


def camera(cid: str) -> rtc.AddTrackRequest:
    layers = [models.VideoLayer(quality=quality, width=160 << quality, height=90 << quality) for quality in range(3)]  # type: ignore[arg-type]
    return rtc.AddTrackRequest(
        cid=cid, type=models.TrackType.VIDEO, source=models.TrackSource.CAMERA, layers=layers,
        simulcast_codecs=[rtc.SimulcastCodec(codec="vp8", cid=cid)],
    )  # fmt: skip


def microphone(cid: str) -> rtc.AddTrackRequest:
    return rtc.AddTrackRequest(cid=cid, type=models.TrackType.AUDIO, source=models.TrackSource.MICROPHONE)


def track_ids(sdp: str) -> list[str]:
    return [line.split()[-1] for line in sdp.splitlines() if line.startswith("a=msid:")]


async def publish(one: DualClient, kind: str, number: int) -> str:
    """Let a client with two peer connections publish."""
    cid = f"{kind}{number}"
    request = microphone(cid) if kind == "audio" else rtc.AddTrackRequest(cid=cid, type=models.TrackType.VIDEO)
    await one.client.send(add_track=request)
    sid: str = (await one.client.expect("track_published")).track.sid
    codecs = ["audio/opus"] if kind == "audio" else ["video/VP8"]
    sender = Sender(kind=kind, track_id=cid, stream_id="s", ssrc=1000 + number, rtx_ssrc=None, codecs=codecs)
    one.publisher.peer.negotiation.add_sender(sender)
    await one.offer(number)
    return sid


async def test_traps_09_10_each_offer_is_answered_in_order_with_its_own_id() -> None:
    async with running() as world, session(world) as client:
        assert (await client.receive()).HasField("join")
        for number in (2, 3, 7):
            await client.send(offer=rtc.SessionDescription(type="offer", sdp=OFFER, id=number))
        assert [(await client.expect("answer")).id for _ in range(4)] == [1, 2, 3, 7]
        assert not client.seen("offer")  # trap 11


async def test_what_a_device_does_badly_is_in_no_answer() -> None:
    """Firefox on Linux sends no H.264, and is sent it all the same; Safari does neither with AV1."""
    firefox, safari = (
        models.ClientInfo(protocol=17, browser="Firefox", os="Linux"),
        models.ClientInfo(protocol=17, browser="Safari", browser_version="17.4"),
    )
    cam = next(line.split()[-1] for line in REOFFER.split("m=video")[-1].splitlines() if line.startswith("a=msid:"))
    async with running() as world, session(world, "firefox", client_info=firefox) as one:
        received = (await one.expect("answer")).sdp.partition("m=video")[2]
        assert " H264/90000" in received
        await one.send(add_track=camera(cam))
        await one.send(offer=rtc.SessionDescription(type="offer", sdp=REOFFER, id=2))
        sections = (await one.expect("answer")).sdp.split("m=")
        sent = [section for section in sections if section.startswith("video") and "a=recvonly" in section]
        assert sent
        assert not any(" H264/90000" in section or " VP9/90000" in section for section in sent)  # the preferred alone
        async with session(world, "safari", client_info=safari) as other:
            answer = (await other.expect("answer")).sdp
            assert " H264/90000" in answer
            assert " AV1/90000" in OFFER
            assert " AV1/90000" not in answer


async def test_publishing_by_one_peer_connection() -> None:
    lines = REOFFER.splitlines()
    mic, cam = (line.split()[-1] for line in lines if line.startswith("a=msid:"))
    async with running() as world, dual(world, "bob") as bob, session(world) as client:
        await client.expect("answer")
        await client.send(add_track=camera(cam))
        await client.send(add_track=microphone(mic))
        await client.send(offer=rtc.SessionDescription(type="offer", sdp=REOFFER, id=2))
        sids = {(one := await client.expect("track_published")).cid: one.track.sid for _ in range(2)}
        answer = await client.expect("answer")
        assert answer.id == 2
        for payload in ("a=rid:q recv", "a=rid:f recv", "a=simulcast:recv q;h;f", "a=rtpmap:63 red/48000/2"):
            assert payload in answer.sdp  # trap 38: the client's own numbers
        news = await bob.client.expect_participant("chrome", lambda one: len(one.tracks) == 2)
        tracks = {track.sid: track for track in news.tracks}
        video, audio = tracks[sids[cam]], tracks[sids[mic]]
        assert (video.mime_type, audio.mime_type) == ("video/VP8", "audio/red")
        assert [(layer.rid, layer.quality) for layer in video.layers] == [("q", 0), ("h", 1), ("f", 2)]
        assert video.simulcast
        offer = await bob.take_offer()
        while len(offer.mid_to_track_id) < 2:
            offer = await bob.take_offer()
        assert set(offer.mid_to_track_id.values()) == set(tracks)
        quality = await client.expect("subscribed_quality_update")
        assert quality.track_sid == video.sid
        assert [(codec.codec, [one.enabled for one in codec.qualities]) for codec in quality.subscribed_codecs] == [
            ("vp8", [True, True, True])
        ]


async def test_trap_12_a_requirement_of_nothing_brings_the_offer_that_places_a_track() -> None:
    async with running() as world, dual(world, "bob") as bob, session(world) as client:
        await client.expect("answer")
        await client.nothing_of("media_sections_requirement")
        sid = await publish(bob, "audio", 1)
        requirement = await client.expect("media_sections_requirement")
        assert (requirement.num_audios, requirement.num_videos) == (0, 0)
        await client.nothing_of("offer")  # trap 11
        await client.send(offer=rtc.SessionDescription(type="offer", sdp=OFFER, id=2))
        answer = await client.expect("answer")
        assert dict(answer.mid_to_track_id) == {"0": sid}
        assert track_ids(answer.sdp) == [sid]  # trap 14: no msid elsewhere
        news = [one for update in client.seen("update") for one in update.participants if one.tracks]
        assert [track.sid for one in news for track in one.tracks][:1] == [sid]  # trap 17


async def test_trap_13_every_answer_has_the_whole_map() -> None:
    async with running() as world, dual(world, "bob") as bob, session(world) as client:
        await client.expect("answer")
        sids = []
        for number, kind in enumerate(("audio", "video", "audio"), start=1):
            sids.append(await publish(bob, kind, number))
            await client.expect("media_sections_requirement")
            await client.send(offer=rtc.SessionDescription(type="offer", sdp=OFFER, id=number + 1))
            answer = await client.expect("answer")
            assert sorted(answer.mid_to_track_id.values()) == sorted(sids)


async def test_sections_that_are_missing_are_asked_for_once() -> None:
    async with running() as world, dual(world, "bob") as bob:
        for number in range(1, 6):
            await publish(bob, "audio", number)
        async with session(world) as client:
            answer = await client.expect("answer")
            assert len(answer.mid_to_track_id) == 3  # the three that Chromium offers from the start
            requirement = await client.expect("media_sections_requirement")
            assert (requirement.num_audios, requirement.num_videos) == (2, 0)
            await client.nothing_of("media_sections_requirement")


async def test_tracks_that_were_there_before_come_with_the_first_answer() -> None:
    async with running() as world, dual(world, "bob") as bob:
        sid = await publish(bob, "video", 1)
        async with session(world) as client:
            join = (await client.receive()).join
            assert [track.sid for one in join.other_participants for track in one.tracks] == [sid]
            answer = await client.expect("answer")
            assert list(answer.mid_to_track_id.values()) == [sid]
            await client.nothing_of("media_sections_requirement")


async def test_unsubscribing_asks_for_an_offer_and_frees_the_section() -> None:
    async with running() as world, dual(world, "bob") as bob, session(world) as client:
        await client.expect("answer")
        sid = await publish(bob, "audio", 1)
        await client.expect("media_sections_requirement")
        await client.send(offer=rtc.SessionDescription(type="offer", sdp=OFFER, id=2))
        await client.expect("answer")
        await client.send(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=False))
        await client.expect("media_sections_requirement")
        await client.send(offer=rtc.SessionDescription(type="offer", sdp=OFFER, id=3))
        answer = await client.expect("answer")
        assert not answer.mid_to_track_id
        assert not track_ids(answer.sdp)
        await client.nothing_of("media_sections_requirement")


async def test_a_track_that_lost_its_section_begins_anew_on_another_ssrc() -> None:
    def ssrcs(sdp: str) -> set[str]:
        return {line.split()[0] for line in sdp.splitlines() if line.startswith("a=ssrc:")}

    async with running() as world, dual(world, "bob") as bob, session(world) as client:
        await client.expect("answer")
        sid = await publish(bob, "audio", 1)
        await client.expect("media_sections_requirement")
        answers = []
        for number, offer in ((2, OFFER), (3, OFFER.replace("a=recvonly", "a=inactive")), (4, OFFER)):
            await client.send(offer=rtc.SessionDescription(type="offer", sdp=offer, id=number))
            answers.append(await client.expect("answer"))
        assert [track_ids(answer.sdp) for answer in answers] == [[sid], [], [sid]]
        first, _, again = (ssrcs(answer.sdp) for answer in answers)
        assert first
        assert again
        assert not first & again


async def test_trap_04_one_that_subscribes_by_hand_is_offered_nothing() -> None:
    async with running() as world, dual(world, "bob") as bob:
        await publish(bob, "audio", 1)
        async with session(world, connection_settings=rtc.ConnectionSettings()) as client:
            assert not (await client.expect("answer")).mid_to_track_id
            await client.nothing_of("media_sections_requirement")
            await client.send(
                subscription=rtc.UpdateSubscription(
                    subscribe=True,
                    participant_tracks=[
                        models.ParticipantTracks(
                            participant_sid=bob.join.participant.sid,
                            track_sids=[one.sid for one in world.participant("bob").publications],
                        )
                    ],
                )
            )
            await client.expect("media_sections_requirement")


async def test_trap_17_news_that_wait_for_a_batch_do_not_come_after_the_media() -> None:
    async with running() as world, dual(world, "bob") as bob:
        await bob.client.expect_participant("bob", lambda one: one.state == models.ParticipantInfo.ACTIVE)
        sid = await publish(bob, "audio", 1)
        async with session(world, connection_settings=rtc.ConnectionSettings()) as client:
            await client.expect("answer")
            publisher = world.participant("bob")
            publisher.name = "Robert"
            publisher.changed(at_once=False)
            await client.send(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
            await client.expect("media_sections_requirement")
            news = [one for update in client.seen("update") for one in update.participants if one.identity == "bob"]
            assert [one.name for one in news] == ["Robert"]


async def test_a_resume_says_in_the_url_what_the_client_has() -> None:
    other = rtc.SyncState(publish_tracks=[rtc.TrackPublishedResponse(track=models.TrackInfo(sid="TR_none"))])
    for state in (rtc.SyncState(), other):
        async with running() as world, session(world) as client:
            sid = (await client.expect("join")).participant.sid
            query = join_request(reconnect=True, participant_sid=sid, sync_state=state)
            async with world.connect("chrome", path="/rtc/v1", query=query) as again:
                await again.expect("reconnect")
                if state == other:
                    told = await again.expect("leave")
                    assert told.action == rtc.LeaveRequest.RECONNECT
                    assert told.reason == models.DisconnectReason.STATE_MISMATCH
                else:
                    await again.nothing_of("leave")


async def test_tracks_may_be_announced_in_the_url() -> None:
    mic = next(line.split()[-1] for line in REOFFER.splitlines() if line.startswith("a=msid:"))
    offer = rtc.SessionDescription(type="offer", sdp=REOFFER, id=1)
    async with (
        running() as world,
        session(world, publisher_offer=offer, add_track_requests=[microphone(mic)]) as client,
    ):
        assert (await client.receive()).HasField("join")
        sid = (await client.expect("track_published")).track.sid
        await client.expect("answer")
        own = await client.expect_participant("chrome", lambda one: one.tracks)
        assert own.tracks[0].sid == sid


GO = models.ClientInfo(sdk=models.ClientInfo.SDK.GO, protocol=17)


async def test_a_client_that_applies_its_offer_late_is_answered_when_it_has() -> None:
    """LiveKit's Go SDK refuses an answer that comes before it has applied the offer of its request."""
    async with running() as world, session(world, client_info=GO) as client:
        assert (await client.receive()).HasField("join")
        await client.nothing_of("answer")
        await client.send(trickle=rtc.TrickleRequest(candidateInit='{"candidate": "nonsense"}'))
        assert (await client.expect("answer")).id == 1
        await client.send(offer=rtc.SessionDescription(type="offer", sdp=OFFER, id=2))
        assert (await client.expect("answer")).id == 2
        await client.nothing_of("media_sections_requirement")


async def test_a_client_that_applies_its_offer_late_and_has_no_candidates_is_answered_in_the_end() -> None:
    soon = RoomSettings(times=Times(early_offer=0.1))
    async with running(soon) as world, session(world, client_info=GO) as client:
        await client.expect("join")
        await client.nothing_of("answer")
        assert (await client.expect("answer")).id == 1


async def test_a_client_that_offers_again_at_once_is_answered_in_order() -> None:
    async with running() as world, session(world, client_info=GO) as client:
        await client.expect("join")
        await client.send(offer=rtc.SessionDescription(type="offer", sdp=OFFER, id=2))
        assert [(await client.expect("answer")).id for _ in range(2)] == [1, 2]


async def test_a_client_that_vanishes_before_it_is_answered_leaves_no_deadline() -> None:
    async with running() as world:
        async with session(world, client_info=GO) as client:
            await client.expect("join")
            (participant,) = world.room().participants.values()
            assert EARLY in participant.deadlines
        await eventually(lambda: participant.closed)
        assert EARLY not in participant.deadlines


async def test_an_early_offer_that_makes_no_sense_ends_that_client_alone() -> None:
    nonsense = rtc.SessionDescription(type="offer", sdp="v=0", id=1)
    soon = RoomSettings(times=Times(early_offer=0.1))
    async with running(soon) as world, session(world, client_info=GO, publisher_offer=nonsense) as client:
        await client.expect("join")
        assert (await client.expect("leave")).reason == models.DisconnectReason.STATE_MISMATCH
        async with session(world, "other") as other:
            await other.expect("answer")


async def test_a_track_that_is_not_found_is_told_after_a_minute_and_a_resume_needs_the_same_shape() -> None:
    async with running() as world, session(world) as client:
        sid = (await client.expect("join")).participant.sid
        async with world.connect("chrome", query=f"protocol=17&reconnect=1&sid={sid}") as other:
            assert (await other.receive()).leave.action == rtc.LeaveRequest.RECONNECT
        await client.nothing_of("leave")
