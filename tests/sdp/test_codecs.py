from __future__ import annotations

import pytest

from triosfu.sdp.codecs import Codec, best_match, canonical_mime, read_codecs, with_parameter
from triosfu.sdp.sections import Sender


def h264(payload: int, profile: str, mode: int) -> Codec:
    return Codec("video/H264", payload, 90000, fmtp=f"packetization-mode={mode};profile-level-id={profile}")


def test_mimes_are_spelled_as_clients_expect_whatever_the_case() -> None:
    assert [canonical_mime(mime) for mime in ("video/vp8", "AUDIO/OPUS", "video/new")] == [
        "video/VP8",
        "audio/opus",
        "video/new",
    ]


def test_a_parameter_is_replaced_in_place_or_appended() -> None:
    assert with_parameter("minptime=10;useinbandfec=1", "usedtx", "1") == "minptime=10;useinbandfec=1;usedtx=1"
    assert with_parameter("stereo=0;minptime=10", "stereo", "1") == "stereo=1;minptime=10"
    assert with_parameter("", "stereo", "1") == "stereo=1"


def test_rtx_belongs_to_the_codec_that_its_apt_names() -> None:
    codecs = read_codecs(
        "video",
        ["96", "97", "98", "99"],
        ["96 VP8/90000", "97 rtx/90000", "98 VP9/90000", "99 rtx/90000"],
        ["99 apt=96", "97 apt=98;rtx-time=3000"],
    )
    assert [(codec.payload_type, codec.rtx_payload_type) for codec in codecs] == [(96, 99), (98, 97)]


@pytest.mark.parametrize("apt", ["", "apt", "apt=x", "apt=12345678901234567890", "apt=50", "apt=٩٦"])
def test_rtx_for_nothing_is_left_out(apt: str) -> None:
    (codec,) = read_codecs("video", ["96", "97"], ["96 VP8/90000", "97 rtx/90000"], [f"97 {apt}"])
    assert codec.rtx_payload_type is None


def test_without_knowing_the_stream_the_most_widely_decoded_h264_is_taken() -> None:
    offered = [
        h264(1, "640c1f", 1),
        h264(2, "4d001f", 1),
        h264(3, "42e01f", 0),
        h264(4, "42001f", 1),
        h264(5, "42e01f", 1),
    ]
    assert best_match(offered, "video/h264") == offered[4]
    assert best_match(offered[:4], "video/H264") == offered[3]
    assert best_match(offered[:3], "video/H264") == offered[2]


def test_a_known_stream_travels_as_its_own_profile_and_mode() -> None:
    offered = [
        h264(1, "640c1f", 1),
        h264(2, "4d001f", 1),
        h264(3, "42e01f", 0),
        h264(4, "42001f", 1),
        h264(5, "42e01f", 1),
    ]
    assert best_match(offered, "video/H264", "packetization-mode=0;profile-level-id=42e034") == offered[2]
    assert best_match(offered, "video/H264", "packetization-mode=1;profile-level-id=4d0032") == offered[1]
    assert best_match(offered, "video/H264", "packetization-mode=1;profile-level-id=f4001f") == offered[4]


def test_vp9_and_av1_travel_as_profile_zero_unless_the_stream_is_another() -> None:
    offered = [Codec("video/VP9", 1, 90000, fmtp="profile-id=2"), Codec("video/VP9", 2, 90000)]
    assert best_match(offered, "video/VP9") == offered[1]
    assert best_match(offered, "video/VP9", "profile-id=2") == offered[0]
    assert best_match(offered, "video/AV1") is None


def test_senders_are_compared_by_identity() -> None:
    one, two = (Sender(kind="audio", track_id="a", stream_id="b", ssrc=1, codecs=[]) for _ in range(2))
    assert one != two
