"""What a client sends in a section, read from its offer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from triosfu.sdp.directions import Direction
from triosfu.sdp.policy import answered_extensions, published_codecs, published_extensions
from triosfu.sdp.sections import MAX_LAYERS, AnswerPreferences, Incoming

if TYPE_CHECKING:
    from triosfu.sdp.media import MediaDescription
    from triosfu.sdp.policy import MediaPolicy


def read_incoming(
    media: MediaDescription, policy: MediaPolicy, preferences: AnswerPreferences, *, single: bool
) -> Incoming | None:
    """The track in `media`, or None when the client does not send there anything that we can use."""
    if media.is_rejected or media.kind not in {"audio", "video"} or not media.direction.sends:
        return None
    codecs = published_codecs(media.codecs, media.kind, policy, preferences, single=single)
    if not codecs:
        return None
    stream, track = _identity(media)
    allowed = published_extensions(media.kind, single=single)
    extensions = answered_extensions(media.extensions, allowed, Direction.RECVONLY)
    fid = {group.ssrcs[0]: group.ssrcs[1] for group in media.ssrc_groups if _is_pair(group.semantics, group.ssrcs)}
    return Incoming(
        track_id=track,
        stream_id=stream,
        codecs=list(codecs),
        extensions={extension.id: extension.uri for extension in extensions},
        rids=_rids(media),
        ssrcs=_ssrcs(media, fid),
        fid=fid,
    )


def in_answered_order(incoming: Incoming, media: MediaDescription) -> Incoming:
    """`incoming` with the codecs that our answer `media` has."""
    return replace(incoming, codecs=list(media.codecs))


def _identity(media: MediaDescription) -> tuple[str, str]:
    """Stream and track id: of `msid`, of the first `ssrc` that has one, or else the mid."""
    msids = [*media.msids, *(ssrc.msid for ssrc in media.ssrcs if ssrc.msid)]
    if not msids:
        return "", media.mid or ""
    stream = "" if msids[0].stream == "-" else msids[0].stream
    return stream, msids[0].track or msids[0].stream


def _rids(media: MediaDescription) -> list[str]:
    """The layers in the offered order; those that only a `rid` line names count when there is no simulcast line."""
    sent = [rid.id for rid in media.rids if rid.direction == "send"]
    if media.simulcast is None:
        return sent[:MAX_LAYERS]
    return [name for name in media.simulcast.send if name in sent][:MAX_LAYERS]


def _ssrcs(media: MediaDescription, fid: dict[int, int]) -> list[int]:
    """Media sources, in the order of a SIM group when there is one."""
    layers = next((group.ssrcs for group in media.ssrc_groups if group.semantics == "SIM"), ())
    announced = dict.fromkeys([*layers, *(ssrc.ssrc for ssrc in media.ssrcs)])
    return [ssrc for ssrc in announced if ssrc not in fid.values()]


def _is_pair(semantics: str, ssrcs: tuple[int, ...]) -> bool:
    return semantics == "FID" and len(ssrcs) == 2
