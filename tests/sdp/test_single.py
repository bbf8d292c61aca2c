"""One connection for both directions: our tracks in the client's receiving sections (protocol reference 3.6)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.sdp.client import Client, corpus, negotiation, parsed, sender
from triosfu.errors import UsageError
from triosfu.sdp import extmap
from triosfu.sdp.codecs import Codec
from triosfu.sdp.directions import Direction
from triosfu.sdp.negotiation import Changes, MediaPolicy, Negotiation
from triosfu.sdp.streams import Msid, SsrcGroup

if TYPE_CHECKING:
    from triosfu.sdp.media import MediaDescription


def joined(audio: int = 1, video: int = 1) -> Client:
    client = Client()
    for kind, count in (("audio", audio), ("video", video)):
        for _ in range(count):
            client.receive(kind)
    client.data()
    return client


def round_with(server: Negotiation, client: Client) -> tuple[Changes, tuple[MediaDescription, ...]]:
    changes = server.accept_offer(client.offer())
    return changes, parsed(server.create_answer()).media


def test_unused_sections_are_answered_inactive_with_the_codecs_they_will_need() -> None:
    server = negotiation(single=True)
    server.accept_offer(corpus("chromium_single_join"))
    media = parsed(server.create_answer()).media
    assert [section.direction for section in media[:6]] == [Direction.INACTIVE] * 6
    assert all(section.codecs and not section.msids for section in media[:6])
    assert media[6].sctp_port == 5000
    assert server.mid_to_track_id() == {}


def test_waiting_tracks_move_into_the_clients_sections_with_its_numbers() -> None:
    server = negotiation(single=True)
    audio, video = sender("audio", 1), sender("video", 2)
    assert server.add_sender(audio) is None
    assert server.add_sender(video) is None
    assert server.waiting == [audio, video]
    changes, media = round_with(server, joined())
    assert changes.senders_negotiated == [audio, video]
    assert server.waiting == []
    assert server.mid_to_track_id() == {"0": "TR_1", "1": "TR_2"}
    assert (media[1].direction, media[1].msids) == (Direction.SENDONLY, (Msid("PA_2|TR_2", "TR_2"),))
    assert media[1].ssrc_groups == (SsrcGroup("FID", (1004, 1005)),)
    assert [codec.payload_type for codec in audio.negotiated] == [63, 111]
    assert video.extensions == {extmap.ABS_SEND_TIME: 2, extmap.PLAYOUT_DELAY: 5}
    assert {extension.id for extension in media[1].extensions} >= {2}


def test_receiving_sections_keep_the_extensions_that_publishing_will_need() -> None:
    # libwebrtc offers a later section no more than the earlier ones of its kind have kept.
    server = negotiation(single=True)
    video = sender("video")
    server.add_sender(video)
    _, media = round_with(server, joined())
    kept = {extension.uri for extension in media[1].extensions}
    assert {extmap.MID, extmap.RID, extmap.REPAIRED_RID, extmap.TRANSPORT_CC} <= kept
    assert set(video.extensions) == {extmap.ABS_SEND_TIME, extmap.PLAYOUT_DELAY}


def test_numbers_that_change_with_an_offer_are_taken_over() -> None:
    server, client = negotiation(single=True), joined()
    video = sender("video")
    server.add_sender(video)
    round_with(server, client)
    codecs = (Codec("video/VP8", 41, 90000, rtx_payload_type=42),)
    client.sections[1] = replace(client.sections[1], codecs=codecs)
    changes, media = round_with(server, client)
    assert changes.senders_negotiated == [video]
    assert [(codec.payload_type, codec.rtx_payload_type) for codec in video.negotiated] == [(41, 42)]
    assert media[1].codecs == codecs


def test_h264_high_profile_is_not_answered_to_a_receiver() -> None:
    server, client = negotiation(single=True), joined()
    fmtp = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id="
    codecs = [Codec("video/H264", at, 90000, fmtp=fmtp + profile) for at, profile in ((1, "640c1f"), (2, "42e01f"))]
    client.sections[1] = replace(client.sections[1], codecs=tuple(codecs))
    video = sender("video", 1, ["video/H264"])
    server.add_sender(video)
    _, media = round_with(server, client)
    assert [codec.payload_type for codec in media[1].codecs] == [2]
    assert [codec.payload_type for codec in video.negotiated] == [2]


def test_a_track_that_comes_later_reserves_a_free_section_until_the_next_offer() -> None:
    server, client = negotiation(single=True), joined()
    round_with(server, client)
    video = sender("video")
    section = server.add_sender(video)
    assert section is server.sections[1]
    assert server.needs_negotiation
    assert video.negotiated == []
    changes, _ = round_with(server, client)
    assert changes.senders_negotiated == [video]
    assert not server.needs_negotiation


def test_a_track_that_comes_between_offer_and_answer_is_in_the_answer() -> None:
    server, client = negotiation(single=True), joined()
    server.accept_offer(client.offer())
    video = sender("video")
    server.add_sender(video)
    assert video.negotiated
    assert parsed(server.create_answer()).media[1].msids


def test_the_client_is_told_how_many_sections_are_missing() -> None:
    server, client = negotiation(single=True), joined(audio=1, video=1)
    tracks = [sender("audio", 1), sender("audio", 2), sender("video", 3), sender("video", 4), sender("video", 5)]
    for track in tracks:
        server.add_sender(track)
    assert server.missing_sections() == {"audio": 2, "video": 3}
    round_with(server, client)
    assert server.missing_sections() == {"audio": 1, "video": 2}
    client.receive("audio")
    client.receive("video")
    client.receive("video")
    round_with(server, client)
    assert server.missing_sections() == {"audio": 0, "video": 0}
    assert len(server.mid_to_track_id()) == 5


def test_a_section_is_used_again_after_the_client_saw_it_inactive() -> None:
    server, client = negotiation(single=True), joined()
    first, second = sender("video", 1), sender("video", 2)
    server.add_sender(first)
    round_with(server, client)
    server.remove_sender(first)
    assert server.add_sender(second) is None
    _, media = round_with(server, client)
    assert (media[1].direction, media[1].msids) == (Direction.INACTIVE, ())
    assert server.missing_sections() == {"audio": 0, "video": 0}
    changes, media = round_with(server, client)
    assert changes.senders_negotiated == [second]
    assert media[1].msids == (Msid("PA_2|TR_2", "TR_2"),)


def test_a_client_that_turns_or_stops_its_section_sends_the_track_back_to_wait() -> None:
    server, client = negotiation(single=True), joined(audio=0, video=2)
    video = sender("video")
    server.add_sender(video)
    round_with(server, client)
    client.turn(0, Direction.INACTIVE)
    changes, media = round_with(server, client)
    assert changes.senders_negotiated == [video]
    assert video.mid == "1"
    assert [section.direction for section in media[:2]] == [Direction.INACTIVE, Direction.SENDONLY]
    client.stop(1)
    changes, media = round_with(server, client)
    assert server.waiting == [video]
    assert video.negotiated == []
    assert media[1].is_rejected
    assert server.missing_sections() == {"audio": 0, "video": 1}


def test_a_track_that_no_section_can_carry_is_refused_and_asks_for_nothing() -> None:
    server, client = negotiation(single=True), joined()
    video = sender("video", 1, ["video/H265"])
    server.add_sender(video)
    changes, _ = round_with(server, client)
    assert changes.senders_negotiated == [video]
    assert video.refused
    assert server.waiting == []
    assert server.missing_sections() == {"audio": 0, "video": 0}


def test_a_published_section_is_never_used_to_send() -> None:
    server, client = negotiation(single=True), Client()
    client.data()
    at = client.publish("video", "camera")
    server.add_sender(sender("video"))
    _, media = round_with(server, client)
    assert media[at].direction is Direction.RECVONLY
    client.turn(at, Direction.SENDRECV)
    _, media = round_with(server, client)
    assert media[at].direction is Direction.RECVONLY
    assert len(server.waiting) == 1
    client.turn(at, Direction.RECVONLY)
    changes, media = round_with(server, client)
    assert [section.mid for section in changes.ended] == [str(at)]
    assert media[at].direction is Direction.SENDONLY


def test_disabled_codecs_are_not_sent() -> None:
    server, client = negotiation(single=True, policy=MediaPolicy(send=("audio/opus", "video/VP8"))), joined()
    audio = sender("audio", 1, ["audio/red", "audio/opus"])
    server.add_sender(audio)
    _, media = round_with(server, client)
    assert [codec.mime for codec in media[0].codecs] == ["audio/opus"]
    assert [codec.mime for codec in audio.negotiated] == ["audio/opus"]


def test_stereo_is_told_and_the_clients_parameters_stay() -> None:
    server, client = negotiation(single=True), joined()
    server.add_sender(sender("audio", 1, ["audio/opus"], stereo=True))
    _, media = round_with(server, client)
    assert media[0].codecs[0].fmtp == "minptime=10;useinbandfec=1;sprop-stereo=1"


def test_the_client_opens_the_data_section() -> None:
    with pytest.raises(UsageError):
        negotiation(single=True).enable_data()
