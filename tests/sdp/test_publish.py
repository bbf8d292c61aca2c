"""Answers to a client that sends (protocol reference 4.3 and 4.4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.sdp.client import Client, corpus, local, negotiation, parsed
from triosfu.errors import MalformedPacket, PeerError, UsageError
from triosfu.sdp import extmap
from triosfu.sdp.directions import Direction, Setup
from triosfu.sdp.media import Fingerprint, MediaDescription
from triosfu.sdp.negotiation import AnswerPreferences, MediaPolicy, Negotiation, Section
from triosfu.sdp.streams import Msid, Rid, Simulcast, Ssrc


def publisher(offer: str, *, single: bool = False, policy: MediaPolicy | None = None) -> tuple[Negotiation, Section]:
    """A negotiation that took the offer, and its last section that sends."""
    server = negotiation(single=single, policy=policy)
    return server, server.accept_offer(offer).added[-1]


def answer_of(server: Negotiation) -> tuple[MediaDescription, ...]:
    return parsed(server.create_answer()).media


def test_the_answer_echoes_the_clients_numbers() -> None:
    offer = corpus("firefox_publish_simulcast")
    server, _ = publisher(offer)
    _, audio, video = answer_of(server)
    assert [codec.payload_type for codec in audio.codecs] == [109, 0, 8]
    assert [(codec.mime, codec.payload_type, codec.rtx_payload_type) for codec in video.codecs] == [
        ("video/VP8", 120, 124),
        ("video/VP9", 121, 125),
        ("video/H264", 126, 127),
        ("video/H264", 97, 98),
    ]
    assert [(item.id, item.direction) for item in video.extensions] == [
        (3, Direction.SENDRECV),
        (7, Direction.SENDRECV),
        (8, Direction.RECVONLY),
        (9, Direction.RECVONLY),
    ]
    assert video.codecs[0].fmtp == "max-fs=12288;max-fr=60"


def test_feedback_and_extensions_are_those_of_the_table() -> None:
    for single, more in ((False, set()), (True, {"goog-remb"})):
        server, section = publisher(corpus("chromium_publish_simulcast"), single=single)
        _, audio, video = answer_of(server)
        assert set(video.codecs[0].feedback) == {"transport-cc", "ccm fir", "nack", "nack pli"} | more
        assert audio.codecs[0].feedback == ()
        assert {item.uri for item in audio.extensions} == {extmap.MID, extmap.AUDIO_LEVEL}
        assert {item.uri for item in video.extensions} == {
            extmap.MID,
            extmap.RID,
            extmap.REPAIRED_RID,
            extmap.TRANSPORT_CC,
            extmap.DEPENDENCY_DESCRIPTOR,
        } | ({extmap.ABS_SEND_TIME} if single else set())
        assert section.incoming is not None
        assert section.incoming.extensions == {item.id: item.uri for item in video.extensions}


def test_simulcast_layers_are_taken_in_the_offered_order() -> None:
    server, section = publisher(corpus("firefox_publish_simulcast"))
    assert section.incoming is not None
    assert section.incoming.rids == ["f", "h", "q"]
    video = answer_of(server)[2]
    assert video.rids == (Rid("f", "recv"), Rid("h", "recv"), Rid("q", "recv"))
    assert video.simulcast == Simulcast(recv=("f", "h", "q"))
    assert video.direction is Direction.RECVONLY


def test_more_layers_than_three_are_not_taken() -> None:
    offer = corpus("chromium_publish_simulcast")
    offer = offer.replace("a=rid:f send", "a=rid:f send\r\na=rid:g send").replace("send q;h;f", "send q;h;f;g")
    server, section = publisher(offer)
    assert section.incoming is not None
    assert section.incoming.rids == ["q", "h", "f"]
    assert [rid.id for rid in answer_of(server)[2].rids] == ["q", "h", "f"]


def test_sources_and_their_rtx_are_read() -> None:
    _, section = publisher(corpus("chromium_publish_svc"))
    assert section.incoming is not None
    assert (section.incoming.ssrcs, section.incoming.fid) == ([980385021], {980385021: 2434406561})
    _, section = publisher(corpus("firefox_publish_simulcast"))
    assert section.incoming is not None
    assert section.incoming.ssrcs == [1190334421, 1190334423, 1190334425]
    assert set(section.incoming.fid) == set(section.incoming.ssrcs)


@pytest.mark.parametrize(
    ("msids", "ssrc", "names"),
    [
        ((Msid("stream", "track"),), None, ("stream", "track")),
        ((Msid("-", "track"),), None, ("", "track")),
        ((Msid("only"),), None, ("only", "only")),
        ((), Msid("stream", "track"), ("stream", "track")),
        ((), None, ("", "0")),
    ],
)
def test_the_tracks_name_is_found_wherever_clients_write_it(
    msids: tuple[Msid, ...], ssrc: Msid | None, names: tuple[str, str]
) -> None:
    client = Client()
    at = client.publish("audio", "unused")
    client.sections[at] = replace(client.sections[at], msids=msids, ssrcs=(Ssrc(7, "c", ssrc),))
    _, section = publisher(client.offer())
    assert section.incoming is not None
    assert (section.incoming.stream_id, section.incoming.track_id) == names


def codecs_of(server: Negotiation, section: Section) -> list[str]:
    media = next(media for media in answer_of(server) if media.mid == section.mid)
    assert section.incoming is not None
    assert section.incoming.codecs == list(media.codecs)
    return [codec.mime for codec in media.codecs]


def test_the_preferred_codec_comes_first_and_the_others_stay() -> None:
    server, section = publisher(corpus("chromium_publish_simulcast"))
    section.preferences = AnswerPreferences(mime="video/vp9")
    mimes = codecs_of(server, section)
    assert mimes[0] == "video/VP9"
    assert set(mimes) == {"video/VP8", "video/VP9", "video/H264", "video/AV1"}


def test_a_client_that_ignores_the_order_gets_the_preferred_codec_alone() -> None:
    server, section = publisher(corpus("firefox_publish_simulcast"), policy=MediaPolicy(only_preferred=True))
    section.preferences = AnswerPreferences(mime="video/H264")
    assert codecs_of(server, section) == ["video/H264", "video/H264"]


def test_of_the_forms_of_h264_the_one_that_all_decode_comes_first() -> None:
    server, _ = publisher(corpus("pion_publish"))
    codecs = answer_of(server)[2].codecs
    assert [codec.payload_type for codec in codecs if codec.mime == "video/H264"] == [106, 102, 108, 104, 127, 39, 112]


def test_disabled_codecs_and_deep_vp9_are_not_taken() -> None:
    server, section = publisher(corpus("chromium_publish_simulcast"), policy=MediaPolicy(receive=("video/VP8",)))
    assert codecs_of(server, section) == ["video/VP8"]
    server, section = publisher(corpus("pion_publish"))
    assert [codec.fmtp for codec in answer_of(server)[2].codecs if codec.mime == "video/VP9"] == ["profile-id=0"]


@pytest.mark.parametrize(
    ("preferences", "first", "fmtp"),
    [
        (AnswerPreferences(), ["audio/opus", "audio/red"], ""),
        (AnswerPreferences(red=True), ["audio/red", "audio/opus"], ""),
        (AnswerPreferences(red=True, mime="audio/opus"), ["audio/red", "audio/opus"], ""),
        (AnswerPreferences(red=True, mime="audio/PCMA"), ["audio/PCMA", "audio/opus"], ""),
        (AnswerPreferences(red=False), ["audio/opus", "audio/PCMU"], ""),
        (AnswerPreferences(dtx=True), ["audio/opus", "audio/red"], ";usedtx=1"),
        (AnswerPreferences(stereo=True), ["audio/opus", "audio/red"], ";stereo=1;maxaveragebitrate=510000"),
    ],
)
def test_audio_is_sent_as_the_track_wants_it(preferences: AnswerPreferences, first: list[str], fmtp: str) -> None:
    server = negotiation()
    audio = server.accept_offer(corpus("chromium_publish_simulcast")).added[0]
    audio.preferences = preferences
    codecs = answer_of(server)[1].codecs
    assert [codec.mime for codec in codecs][:2] == first
    opus = next(codec for codec in codecs if codec.mime == "audio/opus")
    assert opus.fmtp == "minptime=10;useinbandfec=1" + fmtp


def test_start_bitrates_in_fmtp_are_echoed() -> None:
    offer = corpus("chromium_publish_simulcast").replace(
        "a=rtpmap:97 ", "a=fmtp:96 x-google-start-bitrate=900\r\na=rtpmap:97 "
    )
    server, _ = publisher(offer)
    assert answer_of(server)[2].codecs[0].fmtp == "x-google-start-bitrate=900"


def test_audio_nack_is_answered_when_it_is_offered() -> None:
    server, _ = publisher(corpus("pion_publish"))
    assert answer_of(server)[1].codecs[0].feedback == ("nack",)


def test_a_section_without_a_common_codec_is_rejected_and_the_rest_works() -> None:
    policy = MediaPolicy(receive=("audio/opus",), send=("audio/opus",))
    server = negotiation(policy=policy)
    (added,) = server.accept_offer(corpus("chromium_publish_simulcast")).added
    data, audio, video = answer_of(server)
    assert added.kind == "audio"
    assert (video.is_rejected, audio.is_rejected, data.is_rejected) == (True, False, False)
    assert video.codecs
    assert parsed_bundle(server) == ("0", "1")


def parsed_bundle(server: Negotiation) -> tuple[str, ...] | None:
    server.accept_offer(corpus("chromium_publish_simulcast"))
    return parsed(server.create_answer()).bundle


def test_changes_are_told_once() -> None:
    client = Client()
    client.data()
    at = client.publish("video", "camera")
    server = negotiation()
    (section,) = server.accept_offer(client.offer()).added
    server.create_answer()
    changes = server.accept_offer(client.offer())
    assert (changes.added, changes.changed, changes.ended) == ([], [], [])
    client.sections[at] = replace(client.sections[at], rids=(), simulcast=None)
    changes = server.accept_offer(client.offer())
    assert (changes.added, changes.changed, changes.ended) == ([], [section], [])
    client.turn(at, Direction.INACTIVE)
    changes = server.accept_offer(client.offer())
    assert (changes.added, changes.changed, changes.ended) == ([], [], [section])
    assert section.incoming is None


def test_another_track_in_the_section_ends_the_first_and_its_preferences() -> None:
    client = Client()
    at = client.publish("video", "camera")
    server, section = publisher(client.offer())
    section.preferences = AnswerPreferences(mime="video/VP9")
    server.create_answer()
    client.sections[at] = replace(client.sections[at], msids=(Msid("stream", "screen"),))
    changes = server.accept_offer(client.offer())
    assert (changes.ended, changes.added) == ([section], [section])
    assert section.preferences == AnswerPreferences()
    assert section.incoming is not None
    assert [section.incoming.track_id, section.incoming.codecs[0].mime] == ["screen", "video/VP8"]


def test_a_stopped_section_gives_its_place_to_a_new_one() -> None:
    client = Client()
    client.data()
    at = client.publish("video", "camera")
    server, section = publisher(client.offer())
    server.create_answer()
    client.stop(at)
    assert server.accept_offer(client.offer()).ended == [section]
    assert client.answered(server.create_answer()).media[at].is_rejected
    assert client.publish("audio", "mic") == at
    (new,) = server.accept_offer(client.offer()).added
    assert server.sections == [server.sections[0], new]
    assert new is not section


# --- transport ---------------------------------------------------------------------------------------------


def test_the_remote_transport_is_what_the_client_said() -> None:
    server, _ = publisher(corpus("pion_publish"))
    remote = server.remote
    assert remote is not None
    assert (remote.ufrag, remote.pwd) == ("wQzKdFvTbLmXsRpY", "hUeNcGoJiBtAyWqZxSvDfRlPkMnOwEaC")
    assert [fingerprint.algorithm for fingerprint in remote.fingerprints] == ["sha-256"]
    assert [candidate.split()[4] for candidate in remote.candidates] == ["192.0.2.7", "192.0.2.7", "2001:db8::7"]
    assert (remote.sctp_port, remote.max_message_size, remote.end_of_candidates) == (5000, 1073741823, True)
    assert not remote.ice_lite


@pytest.mark.parametrize(
    ("line", "size"),
    [("", 65536), ("a=max-message-size:0\r\n", 2**30), ("a=max-message-size:1200\r\n", 1200)],
)
def test_the_largest_message_is_resolved(line: str, size: int) -> None:
    server = negotiation()
    server.accept_offer(corpus("chromium_data").replace("a=max-message-size:262144\r\n", line))
    assert server.remote is not None
    assert server.remote.max_message_size == size
    assert server.has_data


def test_our_transport_is_in_every_section_and_our_candidates_in_the_first() -> None:
    server = negotiation()
    candidates = ("candidate:1 1 udp 1 192.0.2.1 7882 typ host", "candidate:2 1 udp 1 2001:db8::1 7882 typ host")
    server.local = replace(local(3, candidates), max_message_size=1000)
    server.accept_offer(corpus("chromium_publish_simulcast"))
    media = answer_of(server)
    assert all(section.ice is not None and section.ice.ufrag == "ufrag003" for section in media)
    assert all(section.setup is Setup.ACTIVE for section in media)
    assert all(section.trickle and section.fingerprints for section in media)
    assert [section.candidates for section in media] == [candidates, (), ()]
    assert [section.end_of_candidates for section in media] == [True, False, False]
    assert media[0].max_message_size == 1000


def test_ice_lite_and_mixed_extensions_are_told_at_the_session_level() -> None:
    server = negotiation()
    server.local = replace(server.local, ice_lite=True)
    server.accept_offer(corpus("aiortc_sendrecv"))
    answer = parsed(server.create_answer())
    assert (answer.ice_lite, answer.extmap_allow_mixed) == (True, False)
    server, _ = publisher(corpus("chromium_publish_simulcast"))
    answer = parsed(server.create_answer())
    assert (answer.ice_lite, answer.extmap_allow_mixed) == (False, True)


def test_sections_outside_the_bundle_are_rejected() -> None:
    offer = corpus("chromium_publish_simulcast").replace("a=group:BUNDLE 0 1 2", "a=group:BUNDLE 0 1")
    server = negotiation()
    assert [section.kind for section in server.accept_offer(offer).added] == ["audio"]
    assert answer_of(server)[2].is_rejected
    server = negotiation()
    assert server.accept_offer(offer.replace("a=group:BUNDLE 0 1\r\n", "")).added == []
    assert [section.is_rejected for section in answer_of(server)] == [False, True, True]


def test_a_bundle_only_section_is_alive() -> None:
    offer = corpus("chromium_publish_simulcast")
    server = negotiation()
    server.accept_offer(offer.replace("m=video 9 ", "m=video 0 ").replace("a=mid:2", "a=mid:2\r\na=bundle-only"))
    assert not answer_of(server)[2].is_rejected
    server = negotiation()
    server.accept_offer(offer.replace("m=video 9 ", "m=video 0 "))
    assert answer_of(server)[2].is_rejected


def test_media_without_rtcp_mux_and_a_second_data_section_are_rejected() -> None:
    client = Client()
    client.data()
    client.data()
    at = client.publish("audio", "mic")
    client.sections[at] = replace(client.sections[at], rtcp_mux=False)
    server = negotiation()
    server.accept_offer(client.offer())
    assert [section.is_rejected for section in answer_of(server)] == [False, True, True]


@pytest.mark.parametrize("preferred", [Setup.ACTIVE, Setup.PASSIVE])
@pytest.mark.parametrize("offered", [Setup.ACTPASS, Setup.ACTIVE, Setup.PASSIVE])
def test_the_dtls_role_fits_the_offer_and_stays(offered: Setup, preferred: Setup) -> None:
    answered = {Setup.ACTIVE: Setup.PASSIVE, Setup.PASSIVE: Setup.ACTIVE}.get(offered, preferred)
    client = Client()
    client.data()
    client.setup = offered
    server = negotiation(policy=MediaPolicy(answers=preferred))
    for _ in range(2):
        server.accept_offer(client.offer())
        assert answer_of(server)[0].setup is answered
        assert server.dtls_client is (answered is Setup.ACTIVE)
        client.setup = Setup.ACTPASS


def test_new_ice_credentials_are_a_restart_and_nothing_else_is() -> None:
    client = Client()
    client.data()
    server = negotiation()
    assert not server.accept_offer(client.offer()).ice_restart
    server.create_answer()
    assert not server.accept_offer(client.offer()).ice_restart
    client.restart_ice()
    assert server.accept_offer(client.offer()).ice_restart
    server.local = local(7)
    first = answer_of(server)[0]
    assert first.ice is not None
    assert first.ice.ufrag == "ufrag007"
    assert server.remote is not None
    assert server.remote.ufrag == client.ice.ufrag


def test_an_offer_that_breaks_the_rules_is_refused_and_changes_nothing() -> None:
    client = Client()
    client.data()
    client.publish("video", "camera")
    server, section = publisher(client.offer())
    server.create_answer()
    good = client.offer()
    media = client.sections
    breaches = [
        replace_media(good, media[:1]),
        replace_media(good, media[::-1]),
        replace_media(good, [media[0], replace(media[1], mid="9")]),
        replace_media(good, [media[0], replace(media[1], mid=None)]),
        replace_media(good, [media[0], replace(media[1], kind="audio", codecs=())]),
        replace_media(good, []),
        good.replace("a=setup:actpass", "a=setup:holdconn"),
        good.replace("a=setup:actpass", "a=setup:active"),
        good.replace("C1:C1", "C2:C2"),
        good.replace("a=fingerprint:", "a=finger:"),
        "hello",
    ]
    remote = server.remote
    for sdp in breaches:
        with pytest.raises((PeerError, MalformedPacket)):
            server.accept_offer(sdp)
        assert (server.remote, server.sections[1]) == (remote, section)
        with pytest.raises(UsageError):
            server.create_answer()
    assert server.accept_offer(good).added == []


def replace_media(sdp: str, media: list[MediaDescription]) -> str:
    whole = parsed(sdp)
    first = whole.media[0]
    described = tuple(
        replace(each, ice=first.ice, fingerprints=first.fingerprints, setup=first.setup) for each in media
    )
    return replace(whole, media=described).serialize()


def test_one_of_several_fingerprints_is_enough_to_be_the_same_client() -> None:
    client = Client()
    client.data()
    server = negotiation()
    server.accept_offer(client.offer())
    client.fingerprints = [Fingerprint("sha-512", "AA:BB"), *client.fingerprints]
    server.accept_offer(client.offer())


def test_a_newer_offer_takes_the_place_of_an_unanswered_one() -> None:
    client = Client()
    client.data()
    server = negotiation()
    server.accept_offer(client.offer())
    client.publish("audio", "mic")
    assert len(server.accept_offer(client.offer()).added) == 1
    assert len(answer_of(server)) == 2
    with pytest.raises(UsageError):
        server.create_answer()


def test_an_answerer_never_offers() -> None:
    client = Client()
    client.data()
    server = negotiation()
    server.accept_offer(client.offer())
    server.create_answer()
    with pytest.raises(UsageError):
        server.create_offer()
    with pytest.raises(UsageError):
        server.enable_data()
    with pytest.raises(PeerError):
        server.accept_answer(client.offer())
