"""Codecs as SDP tells them: `rtpmap`, `fmtp` and `rtcp-fb` lines folded into one value, RTX included."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket
from triosfu.sdp.scan import number, token

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_FEEDBACK = 32  # `rtcp-fb` lines kept for one codec
MAX_FMTP = 512  # characters of one codec's parameters
CACHED = 64  # results kept of a pure function: a browser writes the same codecs in a hundred sections

OPUS, RED = "audio/opus", "audio/red"
H264, VP9, AV1 = "video/H264", "video/VP9", "video/AV1"
CANONICAL = {
    mime.lower(): mime
    for mime in (
        "audio/opus",
        "audio/red",
        "audio/PCMU",
        "audio/PCMA",
        "audio/G722",
        "audio/CN",
        "audio/telephone-event",
        "video/VP8",
        "video/VP9",
        "video/H264",
        "video/H265",
        "video/AV1",
        "video/red",
        "video/rtx",
        "video/ulpfec",
    )
}
# The payload types that mean something without an rtpmap line (RFC 3551, section 6).
STATIC = {0: "PCMU/8000", 3: "GSM/8000", 8: "PCMA/8000", 9: "G722/8000", 13: "CN/8000"}


@dataclass(frozen=True, slots=True)
class Codec:
    """One codec of one section, with its retransmission payload type."""

    mime: str  # canonical case: "video/VP8"
    payload_type: int
    clock_rate: int
    channels: int = 1
    fmtp: str = ""
    rtx_payload_type: int | None = None
    feedback: tuple[str, ...] = ()  # "nack pli"

    def __hash__(self) -> int:
        """Enough to tell codecs apart, and quick: whole lists of codecs are keys of the caches around here."""
        return hash((self.mime, self.payload_type))

    @property
    def name(self) -> str:
        """The encoding name, as an rtpmap line spells it."""
        return self.mime.partition("/")[2]

    def parameter(self, key: str) -> str | None:
        """The value of one `fmtp` parameter, or None."""
        return parameters(self.fmtp).get(key)


def canonical_mime(mime: str) -> str:
    """`mime` in the spelling that LiveKit clients expect ("video/VP8"), whatever its case."""
    return CANONICAL.get(mime.lower(), mime)


def parameters(fmtp: str) -> dict[str, str]:
    """The parameters of an `fmtp` value by lower-case name; a word without `=` has the value ""."""
    found: dict[str, str] = {}
    for part in fmtp.split(";"):
        key, _, value = part.strip().partition("=")
        if key:
            found[key.strip().lower()] = value.strip()
    return found


def with_parameter(fmtp: str, key: str, value: str) -> str:
    """`fmtp` with one parameter set: replaced where it stands, appended when it is new."""
    parts = [part for part in fmtp.split(";") if part.strip()]
    for at, part in enumerate(parts):
        if part.partition("=")[0].strip().lower() == key:
            parts[at] = f"{key}={value}"
            return ";".join(parts)
    return ";".join([*parts, f"{key}={value}"])


def read_codecs(
    kind: str,
    formats: Sequence[str],
    rtpmaps: Iterable[str] = (),
    fmtps: Iterable[str] = (),
    feedbacks: Iterable[str] = (),
) -> tuple[Codec, ...]:
    """The codecs of an `m=` line in its order (RFC 8866, section 6.6; RFC 4585; RFC 4588).

    RTX is folded into the codec it repairs; what has no rtpmap and no static meaning is left out.
    """
    order = list(dict.fromkeys(number(text, "payload type", 127) for text in formats))
    names = {payload: STATIC[payload] for payload in order if payload in STATIC} if kind == "audio" else {}
    names.update(_keyed(rtpmaps, "rtpmap"))
    parameters_of = _keyed(fmtps, "fmtp")
    feedback = _feedback(feedbacks)
    repairs: dict[int, int] = {}
    for payload in order:
        if names.get(payload, "").lower().startswith("rtx/"):
            apt = parameters(parameters_of.get(payload, "")).get("apt", "")
            if apt.isascii() and apt.isdigit() and len(apt) <= 3:
                repairs.setdefault(int(apt), payload)
    codecs = []
    for payload in order:
        text = names.get(payload)
        if text is None or text.lower().startswith("rtx/"):
            continue
        name, _, rest = text.partition("/")
        clock, _, channels = rest.partition("/")
        fmtp = parameters_of.get(payload, "")
        if len(fmtp) > MAX_FMTP:
            raise MalformedPacket("sdp: fmtp is too long")
        codecs.append(
            Codec(
                mime=canonical_mime(f"{kind}/{token(name, 'encoding name')}"),
                payload_type=payload,
                clock_rate=number(clock, "clock rate"),
                channels=number(channels, "channels", 255) if channels and kind == "audio" else 1,
                fmtp=fmtp,
                rtx_payload_type=repairs.get(payload),
                feedback=tuple(dict.fromkeys(feedback.get(payload, []) + feedback.get(None, []))),
            )
        )
    return tuple(codecs)


def payload_types(codecs: Iterable[Codec]) -> list[int]:
    """The formats of an `m=` line: every codec's payload type, its RTX after it."""
    order: list[int] = []
    for codec in codecs:
        order.append(codec.payload_type)
        if codec.rtx_payload_type is not None:
            order.append(codec.rtx_payload_type)
    return order


@lru_cache(maxsize=CACHED)
def write_codecs(codecs: tuple[Codec, ...]) -> tuple[str, ...]:
    """The `a=` lines that `read_codecs` reads back, without the `a=`."""
    lines: list[str] = []
    for codec in codecs:
        payload = codec.payload_type
        channels = f"/{codec.channels}" if codec.channels != 1 else ""
        lines.append(f"rtpmap:{payload} {codec.name}/{codec.clock_rate}{channels}")
        lines += [f"rtcp-fb:{payload} {feedback}" for feedback in codec.feedback]
        if codec.fmtp:
            lines.append(f"fmtp:{payload} {codec.fmtp}")
        if codec.rtx_payload_type is not None:
            lines.append(f"rtpmap:{codec.rtx_payload_type} rtx/{codec.clock_rate}")
            lines.append(f"fmtp:{codec.rtx_payload_type} apt={payload}")
    return tuple(lines)


def h264_rank(codec: Codec) -> tuple[int, int, int]:
    """How widely this form of H.264 is decoded: constrained baseline in mode 1 sorts first (RFC 6184, section 8.1).

    Other codecs have no rank among their forms.
    """
    if codec.mime != H264:
        return 0, 0, 0
    values = parameters(codec.fmtp)
    profile = values.get("profile-level-id", "42000a").lower()
    family = {"42": 0, "4d": 1}.get(profile[:2], 2)
    return family, 0 if values.get("packetization-mode") == "1" else 1, 0 if profile[2:3] == "e" else 1


def best_match(candidates: Sequence[Codec], mime: str, fmtp: str | None = None) -> Codec | None:
    """The entry for `mime` that a stream with parameters `fmtp` should travel as; None when it is not there.

    Without `fmtp`, or when nothing matches it, the form that is decoded most widely.
    """
    same = [codec for codec in candidates if codec.mime.lower() == mime.lower()]
    if not same:
        return None
    return min(same, key=lambda codec: (_distance(codec, fmtp), h264_rank(codec)))


def _distance(codec: Codec, fmtp: str | None) -> tuple[int, int]:
    """How far the entry's profile is from the stream's; without a stream's, from the profile all decoders have."""
    theirs = parameters(codec.fmtp)
    if codec.mime in {VP9, AV1}:
        key = "profile-id" if codec.mime == VP9 else "profile"
        return int(theirs.get(key, "0") != parameters(fmtp or "").get(key, "0")), 0
    if codec.mime != H264 or not fmtp:
        return 0, 0
    ours = parameters(fmtp)
    mode = int(theirs.get("packetization-mode", "0") != ours.get("packetization-mode", "0"))
    profile = int(_h264_profile(theirs) != _h264_profile(ours))
    return profile, mode


def _h264_profile(values: Mapping[str, str]) -> str:
    """Profile and constraint set without the level: levels may differ between the two directions."""
    return values.get("profile-level-id", "42000a").lower()[:4]


def _keyed(values: Iterable[str], what: str) -> dict[int, str]:
    """Lines of the form `<payload type> <rest>` by payload type; the last one counts."""
    found = {}
    for value in values:
        payload, _, rest = value.partition(" ")
        found[number(payload, what, 127)] = rest.strip()
    return found


def _feedback(values: Iterable[str]) -> dict[int | None, list[str]]:
    """Feedback types by payload type; None holds those of every payload type (`*`)."""
    found: dict[int | None, list[str]] = {}
    for value in values:
        payload, _, rest = value.partition(" ")
        kept = found.setdefault(None if payload == "*" else number(payload, "rtcp-fb", 127), [])
        if rest.strip() and len(kept) < MAX_FEEDBACK:
            kept.append(" ".join(rest.split()))
    return found
