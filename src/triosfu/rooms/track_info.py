"""Builds and changes `TrackInfo`, the description of a published track that every client receives.

Pure functions over protobuf messages (protocol reference, sections 4.2 and 4.6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from livekit.protocol import models

from triosfu.errors import MalformedPacket

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from livekit.protocol import rtc

T = TypeVar("T")

AUDIO, VIDEO = models.TrackType.AUDIO, models.TrackType.VIDEO
LOW, MEDIUM, HIGH = models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH
Source, Feature, BackupPolicy = models.TrackSource, models.AudioTrackFeature, models.BackupCodecPolicy
STREAMS = {  # what a source's stream is called for clients that do not say it
    Source.CAMERA: "camera",
    Source.MICROPHONE: "camera",
    Source.SCREEN_SHARE: "screen",
    Source.SCREEN_SHARE_AUDIO: "screen",
}
FEATURES = frozenset(Feature.values())
STEREO, NO_DTX = Feature.TF_STEREO, Feature.TF_NO_DTX
SIMULCAST, REGRESSION = BackupPolicy.SIMULCAST, BackupPolicy.REGRESSION
SEPARATE_LAYERS = models.VideoLayer.Mode.ONE_SPATIAL_LAYER_PER_STREAM
SCALABLE = models.VideoLayer.Mode.MULTIPLE_SPATIAL_LAYERS_PER_STREAM
SCALABLE_CODECS = frozenset({"video/vp9", "video/av1"})
PREFERRED_VIDEO = ("video/VP8", "video/H264")

MAX_LAYERS = 3
MAX_CODECS = 4
MAX_TEXT = 1024  # characters of a cid, a name, a stream
MAX_REQUEST = 16 * 1024  # bytes; what of it is copied need not be known to us

QUALITY_OF_RID = {
    "q": LOW,
    "h": MEDIUM,
    "f": HIGH,
    "2": LOW,
    "1": MEDIUM,
    "0": HIGH,
}


def check_add_track(request: rtc.AddTrackRequest) -> None:
    """Raise MalformedPacket when a part of `request` is larger than any client makes it.

    What passes is copied to every participant of the room, so it is bounded here, once.
    """
    if request.ByteSize() > MAX_REQUEST:
        raise MalformedPacket("add_track: too large")
    texts = (request.cid, request.name, request.stream, *(codec.cid for codec in request.simulcast_codecs))
    if any(len(text) > MAX_TEXT for text in texts):
        raise MalformedPacket("add_track: text is too long")
    layers = (request.layers, *(codec.layers for codec in request.simulcast_codecs))
    if any(len(some) > 2 * MAX_LAYERS for some in layers) or len(request.simulcast_codecs) > MAX_CODECS:
        raise MalformedPacket("add_track: too many layers or codecs")


def new_track_info(request: rtc.AddTrackRequest, sid: str, enabled: Sequence[str]) -> models.TrackInfo:
    """Return what is known about a track before its media arrives.

    `enabled` are the codecs that the room allows; a codec that is not among them is replaced by the first of its kind
    (section 17, row 10: a publisher that asks for VP9 in a VP8 room publishes VP8).
    """
    info = models.TrackInfo(
        sid=sid,
        type=request.type,
        name=request.name,
        width=request.width,
        height=request.height,
        muted=request.muted,
        source=request.source,
        disable_red=request.disable_red,
        encryption=request.encryption,
        stream=request.stream or default_stream(request.source),
        packet_trailer_features=distinct(request.packet_trailer_features),
        backup_codec_policy=_backup_policy(request),
    )
    features = list(request.audio_features)
    if request.type == AUDIO:
        features += [STEREO] if request.stereo else []
        features += [NO_DTX] if request.disable_dtx else []
    set_audio_features(info, features)
    info.layers.extend(sorted_layers(request.layers))
    for codec in request.simulcast_codecs:
        mime = allowed_mime(canonical_mime(codec.codec, request.type, enabled), request.type, enabled)
        if any(mime.lower() == other.mime_type.lower() for other in info.codecs):
            continue
        info.codecs.append(
            models.SimulcastCodecInfo(
                mime_type=mime,
                cid=codec.cid,
                layers=sorted_layers(codec.layers or request.layers),
                video_layer_mode=_layer_mode(codec.video_layer_mode, mime, request.type),
            )
        )
    if not info.codecs:
        info.codecs.append(models.SimulcastCodecInfo(cid=request.cid, layers=info.layers))
    _set_simulcast(info)
    return info


def set_audio_features(info: models.TrackInfo, features: Iterable[models.AudioTrackFeature]) -> None:
    """Replace the audio features, and the flags that older clients read in their place."""
    del info.audio_features[:]
    info.audio_features.extend(feature for feature in distinct(features) if feature in FEATURES)
    info.stereo = STEREO in info.audio_features
    info.disable_dtx = NO_DTX in info.audio_features


def set_published(
    info: models.TrackInfo, codec_index: int, *, mime: str, mid: str, rids: Sequence[str], version: models.TimedVersion
) -> None:
    """Write down what the publisher's offer has settled for one of the track's codecs.

    `rids` are the simulcast layers in the order of their quality, lowest first; empty when there is one stream.
    """
    codec = info.codecs[codec_index]
    codec.mime_type = mime
    codec.mid = mid
    if info.type == VIDEO:
        codec.video_layer_mode = _layer_mode(codec.video_layer_mode, mime, info.type)
        _place_layers(codec, rids)
    if codec_index == 0:
        info.mime_type = mime
        info.mid = mid
        layers = list(codec.layers)
        del info.layers[:]
        info.layers.extend(layers)
    info.version.CopyFrom(version)
    _set_simulcast(info)


def _place_layers(codec: models.SimulcastCodecInfo, rids: Sequence[str]) -> None:
    """Give each announced layer its place: spatial index and rid; the lowest that is sent is spatial layer 0."""
    layers = sorted_layers(codec.layers)
    del codec.layers[:]
    if rids:
        layers = layers[: len(rids)] + [
            models.VideoLayer(quality=QUALITY_OF_RID.get(rid, LOW)) for rid in rids[len(layers) :]
        ]
        # With fewer layers than three the announced qualities, in ascending order, name what is sent (section 4.4).
        layers.sort(key=lambda layer: layer.quality)
    for spatial, layer in enumerate(layers):
        if codec.video_layer_mode == SCALABLE or not rids:
            layer.spatial_layer = spatial if codec.video_layer_mode == SCALABLE else 0
        else:
            layer.spatial_layer = spatial
            layer.rid = rids[spatial]
    codec.layers.extend(layers)


def quality_order(rids: Sequence[str]) -> list[str]:
    """Return the rids lowest quality first; rids that are not LiveKit's keep the order of the offer."""
    if all(rid in QUALITY_OF_RID for rid in rids):
        return sorted(rids, key=QUALITY_OF_RID.__getitem__)
    return list(rids)


def sorted_layers(layers: Iterable[models.VideoLayer]) -> list[models.VideoLayer]:
    """Return copies of at most three layers, lowest quality first."""
    copies: list[models.VideoLayer] = []
    for layer in sorted(layers, key=lambda layer: layer.quality)[:MAX_LAYERS]:
        copy = models.VideoLayer()
        copy.CopyFrom(layer)
        copies.append(copy)
    return copies


def spatial_for_quality(layers: Sequence[models.VideoLayer], quality: int) -> int:
    """Return the highest spatial layer whose quality is not above `quality`; the lowest layer when all are above."""
    fitting = [layer.spatial_layer for layer in layers if layer.quality <= quality]
    return max(fitting, default=min((layer.spatial_layer for layer in layers), default=0))


def quality_for_size(
    layers: Sequence[models.VideoLayer], width: int, height: int, fallback: models.VideoQuality
) -> models.VideoQuality:
    """Return the lowest quality that covers `width` x `height`; `fallback` when layers do not tell their sizes.

    Layers of equal size are told apart by quality: the highest of them is meant (section 17, row 8: Python announces
    two layers of one size, and the lower one would be half as good as what was asked for).
    """
    known = [layer for layer in layers if layer.width and layer.height]
    if not known:
        return fallback
    wanted, longest = sorted((width, height)), max(max(layer.width, layer.height) for layer in known)
    for layer in sorted(known, key=lambda layer: (layer.width * layer.height, layer.quality)):
        size = sorted((layer.width, layer.height))
        if size[0] >= wanted[0] and size[1] >= wanted[1]:
            same = [other.quality for other in known if sorted((other.width, other.height)) == size]
            return max(same)
        if max(size) == longest:
            break
    return max(layer.quality for layer in known)


def canonical_mime(codec: str, kind: models.TrackType, enabled: Sequence[str]) -> str:
    """Return `vp8` or `video/VP8` in the one spelling that the wire uses, as the list of enabled codecs spells it."""
    prefix = "audio/" if kind == AUDIO else "video/"
    mime = codec if "/" in codec else prefix + codec
    return next((known for known in enabled if known.lower() == mime.lower()), mime)


def allowed_mime(mime: str, kind: models.TrackType, enabled: Sequence[str]) -> str:
    """Return `mime` when it is enabled, else the first enabled codec of the kind."""
    if any(known.lower() == mime.lower() for known in enabled):
        return mime
    return next(iter(publishable(kind, enabled)), mime)


def publishable(kind: models.TrackType, enabled: Sequence[str]) -> list[str]:
    """Return the enabled codecs of a kind in the server's order of preference: VP8, H264, then the rest."""
    prefix = "audio/" if kind == AUDIO else "video/"
    some = [mime for mime in enabled if mime.startswith(prefix) and not mime.lower().endswith("/rtx")]
    if kind == AUDIO:
        return sorted(some, key=lambda mime: mime.lower() != "audio/opus")
    return sorted(some, key=lambda mime: PREFERRED_VIDEO.index(mime) if mime in PREFERRED_VIDEO else 2)


def default_stream(source: models.TrackSource) -> str:
    """Return the stream name of a source for clients that do not give one."""
    return STREAMS.get(source, "unknown")


def distinct(values: Iterable[T]) -> list[T]:
    """Return the values without repetition, in their order."""
    return list(dict.fromkeys(values))


def _backup_policy(request: rtc.AddTrackRequest) -> models.BackupCodecPolicy:
    if request.type == AUDIO and request.backup_codec_policy != REGRESSION:
        return SIMULCAST
    return request.backup_codec_policy


def _layer_mode(given: models.VideoLayer.Mode, mime: str, kind: models.TrackType) -> models.VideoLayer.Mode:
    if kind != VIDEO or given != models.VideoLayer.Mode.MODE_UNUSED:
        return given
    return SCALABLE if mime.lower() in SCALABLE_CODECS else SEPARATE_LAYERS


def _set_simulcast(info: models.TrackInfo) -> None:
    primary = info.codecs[0]
    info.simulcast = info.type == VIDEO and primary.video_layer_mode != SCALABLE and len(primary.layers) > 1
