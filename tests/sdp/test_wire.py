from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.checks.sdp import check_answer, check_offer, check_sdp
from tests.sdp.client import corpus, corpus_names
from triosfu.errors import MalformedPacket
from triosfu.sdp.codecs import Codec
from triosfu.sdp.directions import Direction, Setup
from triosfu.sdp.extmap import Extension
from triosfu.sdp.media import Fingerprint, IceCredentials, MediaDescription
from triosfu.sdp.streams import Msid, Rid, Simulcast, Ssrc, SsrcGroup
from triosfu.sdp.wire import MAX_LINES, MAX_SECTIONS, SessionDescription


@pytest.mark.parametrize("name", corpus_names())
def test_what_clients_send_survives_writing_and_reading(name: str) -> None:
    check_sdp(corpus(name).encode())
    assert SessionDescription.parse(corpus(name)).media


def test_lines_may_end_in_a_bare_newline() -> None:
    text = corpus("chromium_publish_simulcast")
    assert SessionDescription.parse(text.replace("\r\n", "\n")) == SessionDescription.parse(text)


def test_chromium_simulcast_is_read_in_full() -> None:
    data, audio, video = SessionDescription.parse(corpus("chromium_publish_simulcast")).media
    assert (data.kind, data.sctp_port, data.max_message_size) == ("application", 5000, 262144)
    assert audio.codecs[0] == Codec(
        "audio/opus", 111, 48000, 2, "minptime=10;useinbandfec=1", feedback=("transport-cc",)
    )
    assert audio.msids[0] == Msid("543136bf-0fd3-4c5a-8c4b-762de85f540e", "0b0599d7-6f48-40c4-894e-235d5d99c4e4")
    assert video.simulcast == Simulcast(send=("q", "h", "f"))
    assert [rid.id for rid in video.rids] == ["q", "h", "f"]
    assert [codec.mime for codec in video.codecs[:2]] == ["video/VP8", "video/H264"]
    assert video.codecs[0].rtx_payload_type == 97
    assert Extension(10, "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id") in video.extensions
    assert (video.direction, video.setup, video.trickle) == (Direction.SENDONLY, Setup.ACTPASS, True)


def test_sections_inherit_from_the_session_level_as_firefox_and_pion_write() -> None:
    firefox = SessionDescription.parse(corpus("firefox_publish_simulcast"))
    assert all(media.fingerprints[0].algorithm == "sha-256" for media in firefox.media)
    assert all(media.trickle for media in firefox.media)
    assert firefox.media[2].extensions[3].direction is Direction.RECVONLY
    assert [group.ssrcs[1] - group.ssrcs[0] for group in firefox.media[2].ssrc_groups] == [1, 1, 1]
    pion = SessionDescription.parse(corpus("pion_publish"))
    assert pion.extmap_allow_mixed
    assert len(pion.media[0].candidates) == 3
    assert pion.media[0].end_of_candidates
    assert pion.media[1].ssrcs[0].cname == "audio stream"


def test_feedback_for_all_payload_types_is_given_to_each() -> None:
    text = corpus("chromium_publish_audio") + "a=rtcp-fb:* nack\r\n"
    assert all("nack" in codec.feedback for codec in SessionDescription.parse(text).media[1].codecs)


def test_payload_types_without_rtpmap_mean_what_rfc_3551_says() -> None:
    text = "v=0\no=- 1 1 IN IP4 0.0.0.0\ns=-\nt=0 0\nm=audio 9 UDP/TLS/RTP/SAVPF 0 8 77\n"
    (media,) = SessionDescription.parse(text).media
    assert [codec.mime for codec in media.codecs] == ["audio/PCMU", "audio/PCMA"]


def test_the_first_simulcast_alternative_counts_paused_or_not_and_the_draft_syntax_is_known() -> None:
    text = corpus("chromium_publish_simulcast").replace("a=simulcast:send q;h;f", "a=simulcast: send rid=q,x;~h;f")
    assert SessionDescription.parse(text).media[2].simulcast == Simulcast(send=("q", "h", "f"))


def test_the_old_form_of_a_data_section_is_read() -> None:
    text = (
        "v=0\no=- 1 1 IN IP4 0.0.0.0\ns=-\nt=0 0\nm=application 9 DTLS/SCTP 5000\n"
        "a=mid:data\na=sctpmap:5000 webrtc-datachannel 1024\n"
    )
    (media,) = SessionDescription.parse(text).media
    assert (media.is_data, media.sctp_port) == (True, 5000)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("v=0", "v=1"),
        ("s=-", "nonsense"),
        ("m=audio 9", "m=audio 99999"),
        ("m=audio 9", "m=audio +9"),
        ("m=audio 9 UDP/TLS/RTP/SAVPF 111", "m=audio 9 UDP/TLS/RTP/SAVPF x"),
        ("m=audio 9 UDP/TLS/RTP/SAVPF 111", "m=audio 9 UDP/TLS/RTP/SAVPF 200"),
        ("a=mid:1", "a=mid:0"),
        ("a=mid:1", "a=mid:"),
        ("a=setup:actpass", "a=setup:maybe"),
        ("a=ice-pwd:", "a=icepwd:"),
        ("a=rtpmap:111 opus/48000/2", "a=rtpmap:111 opus"),
        ("a=rtpmap:111 opus/48000/2", "a=rtpmap:111 opus/48000/٢"),
        ("a=fingerprint:sha-256 FF", "a=fingerprint:sha-256 GG"),
        ("a=extmap:1 ", "a=extmap:one "),
        ("a=extmap:1 ", "a=extmap:1/sideways "),
        ("a=sctp-port:5000", "a=sctp-port:70000"),
        ("a=ssrc:3125004042", "a=ssrc:31250040421"),
        ("a=mid:1", "a=mid:\r1"),
        ("a=mid:1", "a=mid:\ud800"),
        ("t=0 0", "t=" + "0" * 20_000),
    ],
)
def test_what_is_not_sdp_is_malformed(old: str, new: str) -> None:
    text = corpus("chromium_publish_audio")
    assert old in text
    with pytest.raises(MalformedPacket):
        SessionDescription.parse(text.replace(old, new))


def test_size_and_number_of_sections_are_bounded() -> None:
    head = "v=0\no=- 1 1 IN IP4 0.0.0.0\ns=-\nt=0 0\n"
    section = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\n"
    assert len(SessionDescription.parse(head + section * MAX_SECTIONS).media) == MAX_SECTIONS
    with pytest.raises(MalformedPacket):
        SessionDescription.parse(head + section * (MAX_SECTIONS + 1))
    with pytest.raises(MalformedPacket):
        SessionDescription.parse(head + "a=x\n" * 600_000)


def test_what_a_stranger_can_repeat_within_a_section_is_bounded() -> None:
    lines = {
        "candidates": "a=candidate:{0} 1 udp 1 192.0.2.1 {0} typ host",
        "ssrcs": "a=ssrc:{0} cname:x",
        "ssrc_groups": "a=ssrc-group:FID {0} 1",
        "rids": "a=rid:r{0} send",
        "msids": "a=msid:s{0} t",
        "fingerprints": "a=fingerprint:sha-256 {0}",
    }
    head = "v=0\no=- 1 1 IN IP4 0.0.0.0\ns=-\nt=0 0\nm=video 9 UDP/TLS/RTP/SAVPF 0\n"
    text = head + "\n".join(line.format(number) for line in lines.values() for number in range(2000))
    (media,) = SessionDescription.parse(text).media
    assert all(0 < len(getattr(media, name)) <= 64 for name in lines)


# --- any value that can be written is read back ------------------------------------------------------------

TOKEN = st.text("abcXYZ0129-_|{}+", min_size=1, max_size=20)
MIMES = {"audio": ["audio/opus", "audio/red", "audio/PCMU"], "video": ["video/VP8", "video/H264", "video/AV1"]}


@st.composite
def codec_lists(draw: st.DrawFn, kind: str) -> tuple[Codec, ...]:
    numbers = draw(st.lists(st.integers(0, 127), unique=True, max_size=8))
    codecs = []
    while numbers:
        payload = numbers.pop()
        rtx = numbers.pop() if numbers and kind == "video" and draw(st.booleans()) else None
        feedback = draw(st.lists(st.sampled_from(["nack", "nack pli", "ccm fir"]), unique=True))
        codecs.append(
            Codec(
                draw(st.sampled_from(MIMES[kind])),
                payload,
                draw(st.sampled_from([8000, 48000, 90000])),
                draw(st.sampled_from([1, 2])) if kind == "audio" else 1,
                draw(st.sampled_from(["", "a=1", "profile-id=0;x", "111/111"])),
                rtx,
                tuple(feedback),
            )
        )
    return tuple(codecs)


@st.composite
def sections(draw: st.DrawFn) -> MediaDescription:
    kind = draw(st.sampled_from(["audio", "video"]))
    uris = draw(st.lists(TOKEN, unique=True, max_size=4))
    rids = draw(st.lists(TOKEN, unique=True, max_size=4))
    msid = st.builds(Msid, TOKEN, TOKEN | st.just(""))
    codecs = draw(codec_lists(kind))
    return MediaDescription(
        kind=kind,
        port=draw(st.integers(0, 65535)),
        formats=() if codecs else ("77",),
        mid=None,
        direction=draw(st.sampled_from(Direction)),
        codecs=codecs,
        extensions=tuple(Extension(at + 1, uri, draw(st.sampled_from(Direction))) for at, uri in enumerate(uris)),
        msids=tuple(draw(st.lists(msid, unique=True, max_size=2))),
        ssrcs=tuple(
            Ssrc(ssrc, draw(TOKEN), draw(st.none() | msid))
            for ssrc in draw(st.lists(st.integers(0, 2**32 - 1), unique=True, max_size=3))
        ),
        ssrc_groups=tuple(draw(st.lists(st.builds(SsrcGroup, st.just("FID"), st.just((1, 2))), max_size=2))),
        rids=tuple(Rid(rid, draw(st.sampled_from(["send", "recv"]))) for rid in rids),
        simulcast=Simulcast(send=tuple(rids)) if rids else None,
        ice=draw(st.none() | st.builds(IceCredentials, TOKEN, TOKEN)),
        trickle=draw(st.booleans()),
        candidates=tuple(draw(st.lists(TOKEN.map("candidate:{}".format), unique=True, max_size=2))),
        end_of_candidates=draw(st.booleans()),
        fingerprints=tuple(draw(st.lists(st.builds(Fingerprint, st.just("sha-256"), st.just("AB:CD")), max_size=1))),
        setup=draw(st.none() | st.sampled_from(Setup)),
        rtcp_mux=draw(st.booleans()),
        rtcp_rsize=draw(st.booleans()),
        bundle_only=draw(st.booleans()),
    )


@st.composite
def descriptions(draw: st.DrawFn) -> SessionDescription:
    media = draw(st.lists(sections(), max_size=3))
    mids = draw(st.lists(TOKEN, unique=True, min_size=len(media), max_size=len(media)))
    return SessionDescription(
        session_id=draw(st.integers(0, 2**63)),
        session_version=draw(st.integers(0, 2**63)),
        bundle=draw(st.none() | st.just(tuple(mids))),
        ice_lite=draw(st.booleans()),
        extmap_allow_mixed=draw(st.booleans()),
        media=tuple(replace(section, mid=mid) for section, mid in zip(media, mids, strict=True)),
    )


@settings(max_examples=50, deadline=None)
@given(descriptions())
def test_every_description_is_read_as_it_was_written(description: SessionDescription) -> None:
    assert SessionDescription.parse(description.serialize()) == description


# --- strangers ---------------------------------------------------------------------------------------------

WORDS = [
    "a=", "m=", "\r\n", " ", "0", "-1", "99999999999999999999999", "*", ";", ":", "/", "~", "send", "recv", "\x00",
    "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n", "a=mid:0\r\n",
    "a=sendrecv\r\n", "a=inactive\r\n", "a=group:BUNDLE 0 1 2 3\r\n", "a=setup:active\r\n", "a=bundle-only\r\n",
    "a=rid:q send\r\n", "a=simulcast:send q\r\n", "a=ice-ufrag:abcd\r\n", "a=ice-pwd:abcd\r\n", "é", "\ufffd",
]  # fmt: skip


def mutated(text: str, rng: Random) -> str:
    """The description with a few lines lost, doubled, swapped, or words put in."""
    lines = text.split("\r\n")
    for _ in range(rng.randrange(1, 6)):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(5):
            case 0:
                del lines[at]
                lines = lines or [""]
            case 1:
                lines.insert(other, lines[at])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                cut = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:cut] + rng.choice(WORDS) + lines[at][cut + rng.randrange(3) :]
            case _:
                lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
    return "\r\n".join(lines)


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode))
def test_anything_is_a_description_or_malformed(data: bytes) -> None:
    check_sdp(data)
    check_offer(data)
    check_answer(data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(corpus_names()), st.integers(0, 2**64))
def test_damaged_descriptions_are_refused_or_answered(name: str, seed: int) -> None:
    data = mutated(corpus(name), Random(seed)).encode()
    check_sdp(data)
    check_offer(data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**64))
def test_damaged_answers_are_refused_or_applied(seed: int) -> None:
    check_answer(mutated(corpus("chromium_answer"), Random(seed)).encode())


def test_more_lines_than_any_client_needs_are_refused_unread() -> None:
    head = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
    SessionDescription.parse(head + "a=x\r\n" * (MAX_LINES - 4))
    with pytest.raises(MalformedPacket, match="lines"):
        SessionDescription.parse(head + "a=x\r\n" * (MAX_LINES - 3))
