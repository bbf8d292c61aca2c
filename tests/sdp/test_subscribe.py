"""Our offers on a subscriber connection (protocol reference 5.4), and what their answers settle."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.sdp.client import Client, corpus, local, negotiation, parsed, sender
from triosfu.errors import MalformedPacket, PeerError, UsageError
from triosfu.sdp import extmap
from triosfu.sdp.directions import Direction, Setup
from triosfu.sdp.negotiation import Changes, MediaPolicy, Negotiation
from triosfu.sdp.streams import Msid, SsrcGroup
from triosfu.sdp.wire import MAX_SECTIONS

if TYPE_CHECKING:
    from triosfu.sdp.media import MediaDescription


def offer_of(server: Negotiation) -> tuple[MediaDescription, ...]:
    return parsed(server.create_offer()).media


def round_with(server: Negotiation, client: Negotiation) -> Changes:
    """One offer and answer between two of ours."""
    client.accept_offer(server.create_offer())
    return server.accept_answer(client.create_answer())


def test_the_first_offer_of_a_quiet_room_is_the_data_section() -> None:
    server = negotiation()
    server.enable_data()
    server.enable_data()
    (data,) = offer_of(server)
    assert (data.kind, data.mid, data.sctp_port, data.max_message_size) == ("application", "0", 5000, 262144)
    assert (data.protocol, data.formats, data.setup) == ("UDP/DTLS/SCTP", ("webrtc-datachannel",), Setup.ACTPASS)


def test_an_offer_has_the_table_of_codecs() -> None:
    server = negotiation()
    server.add_sender(sender("audio"))
    server.add_sender(sender("video", 2))
    audio, video = offer_of(server)
    assert [(codec.payload_type, codec.mime, codec.fmtp) for codec in audio.codecs] == [
        (111, "audio/opus", "minptime=10;useinbandfec=1"),
        (63, "audio/red", "111/111"),
        (0, "audio/PCMU", ""),
        (8, "audio/PCMA", ""),
    ]
    h264 = "level-asymmetry-allowed=1;packetization-mode={};profile-level-id=42e01f"
    assert [(codec.payload_type, codec.rtx_payload_type, codec.mime, codec.fmtp) for codec in video.codecs] == [
        (96, 97, "video/VP8", ""),
        (98, 99, "video/VP9", "profile-id=0"),
        (100, 101, "video/VP9", "profile-id=1"),
        (125, 126, "video/H264", h264.format(0)),
        (108, 109, "video/H264", h264.format(1)),
        (35, 36, "video/AV1", ""),
        (116, 117, "video/H265", ""),
    ]


@pytest.mark.parametrize(
    ("policy", "feedback", "extensions"),
    [
        (MediaPolicy(), "goog-remb", {extmap.ABS_SEND_TIME}),
        (MediaPolicy(transport_cc=True), "transport-cc", {extmap.TRANSPORT_CC}),
    ],
)
def test_feedback_and_extensions_follow_the_policy(policy: MediaPolicy, feedback: str, extensions: set[str]) -> None:
    server = negotiation(policy=policy)
    server.add_sender(sender("audio"))
    server.add_sender(sender("video", 2))
    audio, video = offer_of(server)
    assert all(codec.feedback == (feedback, "ccm fir", "nack", "nack pli") for codec in video.codecs)
    assert {item.uri for item in video.extensions} == extensions | {
        extmap.DEPENDENCY_DESCRIPTOR,
        extmap.ABS_CAPTURE_TIME,
        extmap.PLAYOUT_DELAY,
    }
    assert {item.uri for item in audio.extensions} == {extmap.ABS_CAPTURE_TIME}
    numbers = {item.uri: item.id for item in (*audio.extensions, *video.extensions)}
    assert len(set(numbers.values())) == len(numbers)


def test_opus_has_nack_only_without_red_and_says_when_it_is_stereo() -> None:
    server = negotiation()
    server.add_sender(sender("audio", 1))
    server.add_sender(sender("audio", 2, ["audio/opus"], stereo=True))
    with_red, without = offer_of(server)
    assert [codec.feedback for codec in with_red.codecs] == [(), (), ("nack",), ("nack",)]
    assert [codec.feedback for codec in without.codecs] == [("nack",), (), ("nack",), ("nack",)]
    assert without.codecs[0].fmtp == "minptime=10;useinbandfec=1;sprop-stereo=1"


def test_a_track_is_named_by_msid_and_its_sources() -> None:
    server = negotiation()
    server.add_sender(sender("video", 2))
    (video,) = offer_of(server)
    msid = Msid("PA_2|TR_2", "TR_2")
    assert video.msids == (msid,)
    assert [(ssrc.ssrc, ssrc.cname, ssrc.msid) for ssrc in video.ssrcs] == [
        (1004, "PA_2|TR_2", msid),
        (1005, "PA_2|TR_2", msid),
    ]
    assert video.ssrc_groups == (SsrcGroup("FID", (1004, 1005)),)
    assert (video.direction, video.rtcp_mux, video.rtcp_rsize) == (Direction.SENDONLY, True, True)


def test_an_answer_settles_how_each_track_travels() -> None:
    server, client = negotiation(), negotiation()
    audio, video = sender("audio", 1, ["audio/opus", "audio/red"]), sender("video", 2, ["video/H264", "video/VP8"])
    server.add_sender(audio)
    server.add_sender(video)
    changes = round_with(server, client)
    assert changes.senders_negotiated == [audio, video]
    assert [codec.payload_type for codec in audio.negotiated] == [63, 111]
    assert [(codec.payload_type, codec.rtx_payload_type) for codec in video.negotiated] == [(108, 109), (96, 97)]
    assert audio.mid == "0"
    assert server.mid_to_track_id() == {"0": "TR_1", "1": "TR_2"}
    assert server.dtls_client is False
    assert round_with(server, client).senders_negotiated == []


def test_a_client_without_the_codec_refuses_the_track_once() -> None:
    server, client = negotiation(), negotiation(policy=MediaPolicy(receive=("audio/opus", "video/VP8")))
    red, av1 = sender("audio", 1, ["audio/red"]), sender("video", 2, ["video/AV1"])
    server.add_sender(red)
    server.add_sender(av1)
    assert round_with(server, client).senders_negotiated == [red, av1]
    assert (red.refused, av1.refused) == (True, True)
    assert round_with(server, client).senders_negotiated == []
    server.remove_sender(av1)
    assert (av1.refused, av1.mid) == (False, None)


def test_a_rejected_section_is_dead_and_its_track_refused() -> None:
    server, client = negotiation(), negotiation(policy=MediaPolicy(receive=("audio/opus",), send=("audio/opus",)))
    server.enable_data()
    video = sender("video")
    server.add_sender(video)
    assert round_with(server, client).senders_negotiated == [video]
    assert video.refused
    server.remove_sender(video)
    round_with(server, client)
    again = sender("video", 2)
    section = server.add_sender(again)
    assert section is server.sections[2]
    media = offer_of(server)
    assert [each.is_rejected for each in media] == [False, True, False]


def test_an_emptied_section_goes_inactive_and_takes_another_track() -> None:
    server, client = negotiation(), negotiation()
    first, second = sender("video", 1), sender("video", 2)
    server.add_sender(first)
    round_with(server, client)
    server.remove_sender(first)
    assert server.needs_negotiation
    sdp = server.create_offer()
    (video,) = parsed(sdp).media
    assert (video.direction, video.msids, video.ssrcs) == (Direction.INACTIVE, (), ())
    assert [change.mid for change in client.accept_offer(sdp).ended] == ["0"]
    server.accept_answer(client.create_answer())
    section = server.add_sender(second)
    assert section is server.sections[0]
    sdp = server.create_offer()
    assert parsed(sdp).media[0].msids == (Msid("PA_2|TR_2", "TR_2"),)
    assert [change.incoming and change.incoming.track_id for change in client.accept_offer(sdp).added] == ["TR_2"]


def test_a_section_is_not_handed_over_before_the_client_saw_it_inactive() -> None:
    server, client = negotiation(), negotiation()
    first, second, third = (sender("audio", number) for number in range(3))
    server.add_sender(first)
    round_with(server, client)
    server.remove_sender(first)
    assert server.add_sender(second) is server.sections[1]
    server.create_offer()
    assert server.add_sender(third) is server.sections[2]


def test_a_section_whose_track_left_before_any_offer_is_free() -> None:
    server = negotiation()
    first, second = sender("audio", 1), sender("audio", 2)
    server.add_sender(first)
    server.remove_sender(first)
    assert server.add_sender(second) is server.sections[0]
    assert len(server.sections) == 1


def test_sections_are_not_reused_for_clients_that_dislike_it() -> None:
    policy = MediaPolicy(reuse_sections=False)
    server, client = negotiation(policy=policy), negotiation()
    for number in range(3):
        one = sender("audio", number)
        server.add_sender(one)
        round_with(server, client)
        server.remove_sender(one)
        round_with(server, client)
    assert [section.mid for section in server.sections] == ["0", "1", "2"]


def test_what_changes_while_an_offer_is_pending_waits_for_the_next_one() -> None:
    server, client = negotiation(), negotiation()
    first, second = sender("audio", 1), sender("audio", 2)
    server.enable_data()
    server.add_sender(first)
    client.accept_offer(server.create_offer())
    server.add_sender(second)
    server.remove_sender(first)
    assert server.accept_answer(client.create_answer()).senders_negotiated == []
    assert (first.negotiated, second.negotiated) == ([], [])
    assert server.needs_negotiation
    assert round_with(server, client).senders_negotiated == [second]
    assert not server.needs_negotiation


def test_one_offer_at_a_time_and_a_rollback_forgets_it() -> None:
    server, client = negotiation(), negotiation()
    server.enable_data()
    server.add_sender(sender("audio"))
    first = server.create_offer()
    assert server.pending_offer
    with pytest.raises(UsageError):
        server.create_offer()
    server.rollback()
    assert not server.pending_offer
    with pytest.raises(PeerError):
        server.accept_answer(first)
    assert [media.mid for media in offer_of(server)] == ["0", "1"]
    server.rollback()
    round_with(server, client)


def test_a_section_of_an_offer_without_an_answer_counts_as_seen() -> None:
    server = negotiation()
    first = sender("audio", 1)
    server.add_sender(first)
    server.create_offer()
    server.rollback()
    server.remove_sender(first)
    assert server.add_sender(sender("audio", 2)) is server.sections[1]


def test_a_new_local_transport_restarts_ice_and_the_role_stays() -> None:
    server, client = negotiation(), negotiation()
    server.enable_data()
    assert not round_with(server, client).ice_restart
    server.local = local(5)
    changes = client.accept_offer(server.create_offer())
    assert changes.ice_restart
    client.local = local(6)
    assert server.accept_answer(client.create_answer()).ice_restart
    assert server.remote is not None
    assert server.remote.ufrag == "ufrag006"
    assert server.dtls_client is False


def test_answers_that_do_not_fit_are_refused_and_the_offer_stays_pending() -> None:
    server = negotiation()
    server.enable_data()
    server.add_sender(sender("audio"))
    server.add_sender(sender("video", 2))
    server.create_offer()
    good = corpus("chromium_answer")
    whole = parsed(good)
    for sdp in (
        replace(whole, media=whole.media[:2]).serialize(),
        replace(whole, media=whole.media[::-1]).serialize(),
        good.replace("a=mid:2", "a=mid:3"),
        good.replace("a=setup:active", "a=setup:actpass"),
        good.replace("a=ice-ufrag", "a=frag").replace("a=ice-pwd", "a=password"),
        "v=0",
    ):
        with pytest.raises((PeerError, MalformedPacket)):
            server.accept_answer(sdp)
        assert server.pending_offer
        assert server.remote is None
    server.accept_answer(good)
    with pytest.raises(PeerError):
        server.accept_answer(good)


def test_a_client_does_not_offer_where_we_do() -> None:
    server, client = negotiation(), Client()
    server.enable_data()
    server.create_offer()
    client.data()
    with pytest.raises(PeerError):
        server.accept_offer(client.offer())


def test_nothing_to_say_is_no_offer() -> None:
    with pytest.raises(UsageError):
        negotiation().create_offer()


def test_a_sender_is_added_once() -> None:
    server = negotiation()
    one = sender("audio")
    server.add_sender(one)
    with pytest.raises(UsageError):
        server.add_sender(one)


def test_the_number_of_sections_is_bounded_and_the_rest_waits() -> None:
    server = negotiation()
    server.enable_data()
    senders = [sender("audio", number) for number in range(MAX_SECTIONS)]
    for one in senders:
        server.add_sender(one)
    assert len(server.sections) == MAX_SECTIONS
    assert server.waiting == [senders[-1]]
