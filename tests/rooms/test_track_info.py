"""`TrackInfo` as the protocol reference's section 4.2 builds it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import models, rtc

from triosfu.errors import MalformedPacket
from triosfu.rooms import track_info
from triosfu.rooms.settings import DEFAULT_CODECS
from triosfu.rooms.sids import SYMBOLS, new_sid, track_sid
from triosfu.rooms.track_settings import TrackSettings

Q = models.VideoQuality
VIDEO, AUDIO = models.TrackType.VIDEO, models.TrackType.AUDIO
SOURCE = models.TrackSource
LAYERS = [
    models.VideoLayer(quality=Q.HIGH, width=1280, height=720, bitrate=3),
    models.VideoLayer(quality=Q.LOW, width=320, height=180, bitrate=1),
    models.VideoLayer(quality=Q.MEDIUM, width=640, height=360, bitrate=2),
]


def published(request: rtc.AddTrackRequest, mime: str, rids: list[str]) -> models.TrackInfo:
    info = track_info.new_track_info(request, "TR_VC1", DEFAULT_CODECS)
    version = models.TimedVersion(unix_micro=7)
    track_info.set_published(info, 0, mime=mime, mid="4", rids=track_info.quality_order(rids), version=version)
    return info


@pytest.mark.parametrize(
    ("kind", "source", "prefix"),
    [
        (VIDEO, SOURCE.CAMERA, "TR_VC"),
        (AUDIO, SOURCE.MICROPHONE, "TR_AM"),
        (VIDEO, SOURCE.SCREEN_SHARE, "TR_VS"),
        (AUDIO, SOURCE.SCREEN_SHARE_AUDIO, "TR_As"),
        (VIDEO, SOURCE.UNKNOWN, "TR_V"),
    ],
)
def test_trap_18_sids_show_their_kind(kind: models.TrackType, source: models.TrackSource, prefix: str) -> None:
    sid = track_sid(kind, source, Random(1))
    assert sid.startswith(prefix)
    assert len(sid) == len(prefix) + 12


@given(st.integers())
def test_sids_use_the_readable_alphabet(seed: int) -> None:
    sid = new_sid("PA_", Random(seed))
    assert set(sid[3:]) <= set(SYMBOLS)
    assert not set(SYMBOLS) & set("01IOl")


def test_a_simulcast_camera() -> None:
    request = rtc.AddTrackRequest(
        cid="c", name="cam", type=VIDEO, source=SOURCE.CAMERA, width=1280, height=720, layers=LAYERS,
        simulcast_codecs=[rtc.SimulcastCodec(codec="vp8", cid="c")],
    )  # fmt: skip
    info = published(request, "video/VP8", ["f", "h", "q"])
    assert [layer.quality for layer in info.layers] == [Q.LOW, Q.MEDIUM, Q.HIGH]
    assert [(layer.rid, layer.spatial_layer) for layer in info.codecs[0].layers] == [("q", 0), ("h", 1), ("f", 2)]
    assert info.simulcast
    assert (info.mime_type, info.mid, info.stream, info.codecs[0].mid) == ("video/VP8", "4", "camera", "4")
    assert info.version.unix_micro == 7


def test_two_layers_are_the_two_announced_qualities() -> None:
    request = rtc.AddTrackRequest(cid="c", type=VIDEO, layers=[LAYERS[0], LAYERS[2]])
    info = published(request, "video/VP8", ["q", "h"])
    assert [(layer.rid, layer.quality) for layer in info.layers] == [("q", Q.MEDIUM), ("h", Q.HIGH)]


def test_scalable_codecs_are_not_simulcast() -> None:
    request = rtc.AddTrackRequest(
        cid="c", type=VIDEO, layers=LAYERS, simulcast_codecs=[rtc.SimulcastCodec(codec="vp9", cid="c")]
    )
    info = published(request, "video/VP9", [])
    assert info.codecs[0].video_layer_mode == track_info.SCALABLE
    assert not info.simulcast
    assert [layer.spatial_layer for layer in info.layers] == [0, 1, 2]


def test_a_codec_that_is_not_enabled_becomes_the_first_that_is() -> None:
    request = rtc.AddTrackRequest(
        cid="c",
        type=VIDEO,
        simulcast_codecs=[rtc.SimulcastCodec(codec="vp9", cid="c"), rtc.SimulcastCodec(codec="vp8", cid="d")],
    )
    info = track_info.new_track_info(request, "TR_V", ("video/H264", "video/VP8"))
    assert [codec.mime_type for codec in info.codecs] == ["video/VP8"]


@given(st.booleans(), st.booleans(), st.lists(st.sampled_from(models.AudioTrackFeature.values())))
def test_features_and_flags_say_the_same(stereo: bool, no_dtx: bool, features: list[models.AudioTrackFeature]) -> None:
    request = rtc.AddTrackRequest(cid="c", type=AUDIO, stereo=stereo, disable_dtx=no_dtx, audio_features=features)
    info = track_info.new_track_info(request, "TR_A", DEFAULT_CODECS)
    assert len(set(info.audio_features)) == len(info.audio_features)
    assert info.stereo == (models.AudioTrackFeature.TF_STEREO in info.audio_features)
    assert info.disable_dtx == (models.AudioTrackFeature.TF_NO_DTX in info.audio_features)
    assert (stereo, no_dtx) <= (info.stereo, info.disable_dtx)
    assert info.backup_codec_policy == models.BackupCodecPolicy.SIMULCAST


def test_layers_of_one_size_are_told_apart_by_quality() -> None:
    layers = [models.VideoLayer(quality=q, width=640, height=360) for q in (Q.LOW, Q.MEDIUM)]
    assert track_info.quality_for_size(layers, 640, 360, Q.HIGH) == Q.MEDIUM
    assert track_info.quality_for_size(layers, 100, 50, Q.HIGH) == Q.MEDIUM


@pytest.mark.parametrize(
    ("size", "quality"),
    [
        ((320, 180), Q.LOW),
        ((180, 320), Q.LOW),
        ((321, 180), Q.MEDIUM),
        ((1280, 720), Q.HIGH),
        ((4000, 4000), Q.HIGH),
        ((1, 1), Q.LOW),
    ],
)
def test_the_smallest_layer_that_covers_the_size(size: tuple[int, int], quality: models.VideoQuality) -> None:
    assert track_info.quality_for_size(LAYERS, *size, Q.LOW) == quality


@given(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True), st.integers(0, 3))
def test_a_layer_is_found_for_every_quality(qualities: list[models.VideoQuality], wanted: models.VideoQuality) -> None:
    layers = [models.VideoLayer(quality=q, spatial_layer=at) for at, q in enumerate(sorted(qualities))]
    spatial = track_info.spatial_for_quality(layers, wanted)
    fitting = [layer for layer in layers if layer.quality <= wanted]
    assert spatial == (fitting[-1] if fitting else layers[0]).spatial_layer


def test_what_no_client_asks_is_refused() -> None:
    for request in (
        rtc.AddTrackRequest(name="n" * 5000),
        rtc.AddTrackRequest(layers=[models.VideoLayer()] * 99),
        rtc.AddTrackRequest(simulcast_codecs=[rtc.SimulcastCodec()] * 9),
        rtc.AddTrackRequest(simulcast_codecs=[rtc.SimulcastCodec(cid="c" * 5000)]),
    ):
        with pytest.raises(MalformedPacket):
            track_info.check_add_track(request)


@pytest.mark.parametrize(("fps", "layer"), [(0, 3), (21, 3), (20, 1), (11, 1), (10, 0), (1, 0)])
def test_a_frame_rate_chooses_the_temporal_layer(fps: int, layer: int) -> None:
    assert TrackSettings.parse(rtc.UpdateTrackSettings(fps=fps)).max_temporal() == layer
