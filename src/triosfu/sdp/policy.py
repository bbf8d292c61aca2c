"""What triosfu negotiates: LiveKit's tables of codecs, feedback and header extensions, and the choice among them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from triosfu.sdp import extmap
from triosfu.sdp.codecs import CACHED, H264, OPUS, RED, VP9, Codec, best_match, h264_rank, parameters, with_parameter
from triosfu.sdp.directions import Setup

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from triosfu.sdp.directions import Direction
    from triosfu.sdp.extmap import Extension
    from triosfu.sdp.sections import AnswerPreferences, Sender

DEFAULT_MIMES = (
    "audio/opus",
    "audio/red",
    "audio/PCMU",
    "audio/PCMA",
    "video/VP8",
    "video/H264",
    "video/VP9",
    "video/AV1",
    "video/H265",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPolicy:
    """What one connection may negotiate; codecs by canonical mime."""

    receive: tuple[str, ...] = DEFAULT_MIMES  # from the client
    send: tuple[str, ...] = DEFAULT_MIMES  # to the client
    rtx: bool = True  # retransmissions on a stream of their own (RFC 4588)
    only_preferred: bool = False  # answer just the preferred codec: Firefox on Linux and Android ignores the order
    transport_cc: bool = False  # measure the path to the client with TWCC instead of REMB
    reuse_sections: bool = True  # Safari does not like another track in an old section
    answers: Setup = Setup.ACTIVE  # our DTLS role where an offer leaves it to us (RFC 8842, section 5.3)


# --- header extensions -------------------------------------------------------------------------------------

PUBLISHED_AUDIO = frozenset({extmap.MID, extmap.RID, extmap.AUDIO_LEVEL, extmap.ABS_CAPTURE_TIME})
PUBLISHED_VIDEO = frozenset(
    {
        extmap.MID,
        extmap.RID,
        extmap.REPAIRED_RID,
        extmap.TRANSPORT_CC,
        extmap.FRAME_MARKING,
        extmap.DEPENDENCY_DESCRIPTOR,
        extmap.ABS_CAPTURE_TIME,
    }
)
# One URI has one id in all sections of a bundle (RFC 9143, section 9.1); ids of a server offer.
OFFERED_IDS = {
    extmap.ABS_SEND_TIME: 2,
    extmap.TRANSPORT_CC: 3,
    extmap.DEPENDENCY_DESCRIPTOR: 4,
    extmap.ABS_CAPTURE_TIME: 5,
    extmap.PLAYOUT_DELAY: 6,
}


def published_extensions(kind: str, *, single: bool) -> frozenset[str]:
    """The extensions that a client may send to us."""
    if kind == "audio":
        return PUBLISHED_AUDIO
    return PUBLISHED_VIDEO | {extmap.ABS_SEND_TIME} if single else PUBLISHED_VIDEO


def forwarded_extensions(kind: str, policy: MediaPolicy) -> frozenset[str]:
    """The extensions that we may send to a client."""
    if kind == "audio":
        return frozenset({extmap.ABS_CAPTURE_TIME})
    estimate = extmap.TRANSPORT_CC if policy.transport_cc else extmap.ABS_SEND_TIME
    # The delay is negotiated with everybody, and written where a room has one. Whoever is moved to such a room later
    # needs it then, and browsers never offer again what was once answered without it.
    return frozenset({extmap.DEPENDENCY_DESCRIPTOR, extmap.ABS_CAPTURE_TIME, extmap.PLAYOUT_DELAY, estimate})


def answered_extensions(offered: Iterable[Extension], allowed: frozenset[str], ours: Direction) -> list[Extension]:
    """The offered extensions that we take, with the client's ids, turned to our side."""
    taken = []
    for extension in offered:
        direction = extension.direction.reversed
        usable = (ours.sends and direction.sends) or (ours.receives and direction.receives)
        if extension.uri in allowed and usable:
            taken.append(replace(extension, direction=direction))
    return taken


# --- codecs that clients send ------------------------------------------------------------------------------

PUBLISHED_FEEDBACK = {
    "audio": frozenset({"nack"}),
    "video": frozenset({"transport-cc", "ccm fir", "nack", "nack pli"}),
}


@lru_cache(maxsize=CACHED)
def published_codecs(
    offered: tuple[Codec, ...], kind: str, policy: MediaPolicy, preferences: AnswerPreferences, *, single: bool
) -> tuple[Codec, ...]:
    """The codecs of an answer to a section in which the client sends, the one that it should use first."""
    feedback = PUBLISHED_FEEDBACK[kind] | ({"goog-remb"} if single and kind == "video" else frozenset())
    codecs = [_fit(codec, feedback, policy) for codec in offered if _is_enabled(codec, policy.receive)]
    if kind == "audio":
        codecs = [_publish_opus(codec, preferences) if codec.mime == OPUS else codec for codec in codecs]
        return _order_red(codecs, preferences)
    preferred = (preferences.mime or "").lower()
    chosen = sorted((codec for codec in codecs if codec.mime.lower() == preferred), key=h264_rank)
    if chosen and policy.only_preferred:
        return tuple(chosen)
    others = [codec for codec in codecs if codec not in chosen]
    # A client encodes with the first form of H.264 that it reads: let it be the one that all can decode.
    forms = iter(sorted((codec for codec in others if codec.mime == H264), key=h264_rank))
    return (*chosen, *(next(forms) if codec.mime == H264 else codec for codec in others))


def _publish_opus(codec: Codec, preferences: AnswerPreferences) -> Codec:
    fmtp = codec.fmtp
    if preferences.dtx:
        fmtp = with_parameter(fmtp, "usedtx", "1")
    if preferences.stereo:
        fmtp = with_parameter(with_parameter(fmtp, "stereo", "1"), "maxaveragebitrate", "510000")
    return replace(codec, fmtp=fmtp)


def _order_red(codecs: list[Codec], preferences: AnswerPreferences) -> tuple[Codec, ...]:
    """Preferred codec first; RED, which wraps Opus, before all when wanted and nowhere when refused."""
    mime = (preferences.mime or "").lower()
    if preferences.red is False:
        codecs = [codec for codec in codecs if codec.mime != RED]
    first = [RED, OPUS] if preferences.red and mime in {"", RED, OPUS} else [mime]
    rank = {wanted: at for at, wanted in enumerate(first)}
    return tuple(sorted(codecs, key=lambda codec: rank.get(codec.mime.lower(), len(rank))))


# --- codecs that we send -----------------------------------------------------------------------------------

_H264 = "level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id=42e01f"
OFFERED_AUDIO = (
    Codec(OPUS, 111, 48000, 2, "minptime=10;useinbandfec=1"),
    Codec(RED, 63, 48000, 2, "111/111"),
    Codec("audio/PCMU", 0, 8000, feedback=("nack",)),
    Codec("audio/PCMA", 8, 8000, feedback=("nack",)),
)
# High profile is never offered: Firefox and Go clients do not decode it.
OFFERED_VIDEO = (
    Codec("video/VP8", 96, 90000, rtx_payload_type=97),
    Codec("video/VP9", 98, 90000, fmtp="profile-id=0", rtx_payload_type=99),
    Codec("video/VP9", 100, 90000, fmtp="profile-id=1", rtx_payload_type=101),
    Codec("video/H264", 125, 90000, fmtp=_H264.format(mode=0), rtx_payload_type=126),
    Codec("video/H264", 108, 90000, fmtp=_H264.format(mode=1), rtx_payload_type=109),
    Codec("video/AV1", 35, 90000, rtx_payload_type=36),
    Codec("video/H265", 116, 90000, rtx_payload_type=117),
)


@lru_cache(maxsize=CACHED)
def offered_codecs(kind: str, policy: MediaPolicy, *, red: bool, stereo: bool) -> tuple[Codec, ...]:
    """The codecs of a section in an offer of ours: all enabled ones, whatever the track is sent as.

    `red`: the track has redundancy, which makes NACK of its audio pointless.
    """
    if kind == "audio":
        enabled = [codec for codec in OFFERED_AUDIO if _is_enabled(codec, policy.send)]
        opus = () if red else ("nack",)
        return tuple(
            _stereo(replace(codec, feedback=opus), stereo=stereo) if codec.mime == OPUS else codec for codec in enabled
        )
    feedback = ("transport-cc" if policy.transport_cc else "goog-remb", "ccm fir", "nack", "nack pli")
    enabled = [replace(codec, feedback=feedback) for codec in OFFERED_VIDEO if _is_enabled(codec, policy.send)]
    return tuple(_fit(codec, feedback, policy) for codec in enabled)


@lru_cache(maxsize=CACHED)
def forwarded_codecs(
    offered: tuple[Codec, ...], kind: str, policy: MediaPolicy, *, red: bool = False, stereo: bool = False
) -> tuple[Codec, ...]:
    """The codecs of an answer to a section in which the client receives: its own payload types, in its order."""
    feedback = {"ccm fir", "nack", "nack pli", "transport-cc" if policy.transport_cc else "goog-remb"}
    if kind == "audio":
        feedback = set() if red else {"nack"}
    codecs = [_fit(codec, feedback, policy) for codec in offered if _is_enabled(codec, policy.send)]
    decodable = [codec for codec in codecs if h264_rank(codec)[0] < 2]
    return tuple(_stereo(codec, stereo=stereo) if codec.mime == OPUS else codec for codec in decodable)


def choose(wanted: Sender, negotiated: Sequence[Codec]) -> list[Codec]:
    """For each codec that the publisher has, in its order with RED before Opus, how it travels to this client."""
    mimes = sorted(dict.fromkeys(wanted.codecs), key=lambda mime: mime.lower() != RED)
    found = (best_match(negotiated, mime, wanted.fmtp.get(mime)) for mime in mimes)
    return [codec for codec in found if codec is not None]


def _stereo(codec: Codec, *, stereo: bool) -> Codec:
    return replace(codec, fmtp=with_parameter(codec.fmtp, "sprop-stereo", "1")) if stereo else codec


def _is_enabled(codec: Codec, mimes: Iterable[str]) -> bool:
    """Whether the codec may be used at all; of VP9 only the 8-bit profiles, which are those that are forwarded."""
    if codec.mime == VP9 and parameters(codec.fmtp).get("profile-id", "0") not in {"0", "1"}:
        return False
    return codec.mime in mimes


def _fit(codec: Codec, allowed: Iterable[str], policy: MediaPolicy) -> Codec:
    """`codec` with no other feedback than what is allowed, and with RTX only where the policy has it."""
    feedback = tuple(kind for kind in codec.feedback if kind in allowed)
    repairs = codec.rtx_payload_type if policy.rtx else None
    if (feedback, repairs) == (codec.feedback, codec.rtx_payload_type):
        return codec
    return replace(codec, feedback=feedback, rtx_payload_type=repairs)
