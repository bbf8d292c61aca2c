"""What an offer asks for, found out before anybody joins: a bad one must not end the session that it would replace.

The offer is tried on a negotiation that is then thrown away, so the rules are those of the real one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from livekit.protocol import models, rtc

from triosfu.errors import MalformedPacket, PeerError
from triosfu.rooms.joining import JoinRefused
from triosfu.rooms.track_info import QUALITY_OF_RID, quality_order
from triosfu.sdp.negotiation import LocalTransport, Negotiation

if TYPE_CHECKING:
    from random import Random

    from triosfu.sdp.policy import MediaPolicy
    from triosfu.sdp.sections import Incoming, Section

MAX_BYTES = 256 * 1024  # a browser's section has some five thousand
MAX_SECTIONS = 64
MEDIA = frozenset({"audio", "video"})
QUALITIES = (models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH)


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer that can be answered as a whole."""

    sdp: str
    tracks: tuple[rtc.AddTrackRequest, ...]  # what the client sends, as if it had been announced
    receives: bool  # whether the client wants anything


def read_offer(body: bytes, policy: MediaPolicy, rng: Random, *, sends: bool) -> Offer:
    """Read the offer of a client that publishes (`sends`), or of one that only watches.

    Raises:
        JoinRefused: With 400 it is no offer, with 413 it is too large, with 422 there is a section that nobody could
            answer: WHIP has no half successes (RFC 9725, section 4.4.3).
    """
    if len(body) > MAX_BYTES:
        raise JoinRefused(413, "the offer is too large")
    try:
        sdp = body.decode()
    except UnicodeDecodeError:
        raise JoinRefused(400, "the offer is not text") from None
    local = LocalTransport(ufrag="", pwd="", fingerprint="")
    trial = Negotiation(local=local, policy=policy if sends else replace(policy, receive=()), single=True, rng=rng)
    try:
        trial.accept_offer(sdp)
    except MalformedPacket as error:
        raise JoinRefused(400, f"not an offer: {error}") from None
    except PeerError as error:
        raise JoinRefused(422, f"not an offer to answer: {error}") from None
    if len(trial.sections) > MAX_SECTIONS:
        raise JoinRefused(422, f"more than {MAX_SECTIONS} sections")
    media = [section for section in trial.sections if section.kind != "application"]
    for section in media:
        _check(section, sends=sends)
    sent = [section.incoming for section in media if section.incoming is not None]
    if not media or (sends and not sent):
        raise JoinRefused(422, "the offer has no section to send in" if sends else "the offer has no section to watch")
    tracks = tuple(_announced(section.kind, section.incoming) for section in media if section.incoming is not None)
    return Offer(sdp, tracks, receives=len(media) > len(sent))


def _check(section: Section, *, sends: bool) -> None:
    """Refuse an offer for one section of it."""
    direction = None if section.remote is None else section.remote.direction
    if section.kind not in MEDIA or direction is None:
        raise JoinRefused(422, f"section {section.mid}: neither audio nor video")
    if not (direction.sends or direction.receives) or (not sends and not direction.receives):
        raise JoinRefused(422, f"section {section.mid}: {direction} has no use here")
    if section.rejected or (sends and direction.sends and section.incoming is None):
        raise JoinRefused(422, f"section {section.mid}: no codec in common, or not in the bundle")


def _announced(kind: str, incoming: Incoming) -> rtc.AddTrackRequest:
    """The announcement that other clients send before their offer (protocol reference, section 16)."""
    audio = kind == "audio"
    return rtc.AddTrackRequest(
        cid=incoming.track_id,
        name="synthesized-microphone" if audio else "synthesized-camera",
        type=models.TrackType.AUDIO if audio else models.TrackType.VIDEO,
        source=models.TrackSource.MICROPHONE if audio else models.TrackSource.CAMERA,
        disable_dtx=True,
        layers=[] if audio else _layers(incoming.rids),
    )


def _layers(rids: list[str]) -> list[models.VideoLayer]:
    """The layers of a simulcast section, whatever its rids are called; one layer without simulcast."""
    if not rids:
        return [models.VideoLayer(quality=models.VideoQuality.HIGH)]
    return [
        models.VideoLayer(quality=QUALITY_OF_RID.get(rid, quality))
        for rid, quality in zip(quality_order(rids), QUALITIES, strict=False)
    ]
