"""Writing our side of each section: answers echo the client's numbers, offers bring our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from triosfu.errors import UsageError
from triosfu.sdp.directions import Direction
from triosfu.sdp.extmap import Extension
from triosfu.sdp.media import (
    DATA_CHANNEL,
    SCTP_PROTOCOL,
    Fingerprint,
    IceCredentials,
    MediaDescription,
)
from triosfu.sdp.policy import (
    OFFERED_IDS,
    answered_extensions,
    forwarded_codecs,
    forwarded_extensions,
    offered_codecs,
    published_codecs,
    published_extensions,
)
from triosfu.sdp.streams import Msid, Rid, Simulcast, Ssrc, SsrcGroup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from triosfu.sdp.codecs import Codec
    from triosfu.sdp.directions import Setup
    from triosfu.sdp.policy import MediaPolicy
    from triosfu.sdp.sections import Section, Sender
    from triosfu.sdp.transport import LocalTransport

SCTP_PORT = 5000


@dataclass(frozen=True, slots=True)
class Writer:
    """What all sections of one description have in common."""

    local: LocalTransport
    setup: Setup
    policy: MediaPolicy
    single: bool

    def answer(self, section: Section, *, first: bool) -> MediaDescription:
        """Our answer to the client's latest words on `section`; `first` for the one that carries candidates."""
        media = section.remote
        if media is None:
            raise UsageError("sdp: nothing was offered in this section")
        if section.rejected:
            return rejected(media)
        if media.kind == "application":
            return self._data(section.mid, first=first)
        if section.incoming is not None:
            return self._receiving(section, media, first=first)
        return self._sending(section, media, first=first)

    def offer(self, section: Section, *, first: bool) -> MediaDescription:
        """Our description of `section` in an offer."""
        if section.kind == "application":
            return self._data(section.mid, first=first)
        sender = None if section.rejected else section.outgoing
        codecs = offered_codecs(
            section.kind,
            self.policy,
            red=sender is not None and sender.has_red,
            stereo=sender is not None and sender.stereo,
        )
        if section.rejected:
            return MediaDescription(
                kind=section.kind, port=0, mid=section.mid, direction=Direction.INACTIVE, codecs=codecs
            )
        allowed = forwarded_extensions(section.kind, self.policy)
        return MediaDescription(
            kind=section.kind,
            mid=section.mid,
            direction=Direction.SENDONLY if sender is not None else Direction.INACTIVE,
            codecs=codecs,
            extensions=tuple(Extension(number, uri) for uri, number in OFFERED_IDS.items() if uri in allowed),
            rtcp_mux=True,
            rtcp_rsize=True,
            **_track(sender, codecs),
            **self._transport(first=first),
        )

    def _receiving(self, section: Section, media: MediaDescription, *, first: bool) -> MediaDescription:
        """A section in which the client sends: its payload types, extension ids and simulcast layers."""
        codecs = published_codecs(media.codecs, media.kind, self.policy, section.preferences, single=self.single)
        allowed = published_extensions(media.kind, single=self.single)
        rids = tuple(section.incoming.rids) if section.incoming else ()
        return MediaDescription(
            kind=media.kind,
            protocol=media.protocol,
            mid=section.mid,
            direction=Direction.RECVONLY,
            codecs=codecs,
            extensions=tuple(answered_extensions(media.extensions, allowed, Direction.RECVONLY)),
            rids=tuple(Rid(name, "recv") for name in rids),
            simulcast=Simulcast(recv=rids) if rids and media.simulcast else None,
            rtcp_mux=True,
            rtcp_rsize=media.rtcp_rsize,
            **self._transport(first=first),
        )

    def _sending(self, section: Section, media: MediaDescription, *, first: bool) -> MediaDescription:
        """A section in which the client receives, or nobody sends (yet)."""
        sender = section.outgoing if media.direction.receives else None
        codecs = forwarded_codecs(
            media.codecs,
            media.kind,
            self.policy,
            red=sender is not None and sender.has_red,
            stereo=sender is not None and sender.stereo,
        )
        allowed = forwarded_extensions(media.kind, self.policy)
        if self.single:
            # libwebrtc offers a new section only the extensions that earlier sections of its kind have kept: without
            # these, a client that first receives can never send simulcast (docs/interop.md).
            allowed |= published_extensions(media.kind, single=True)
        extensions = answered_extensions(media.extensions, allowed, Direction.SENDONLY)
        return MediaDescription(
            kind=media.kind,
            protocol=media.protocol,
            mid=section.mid,
            direction=Direction.SENDONLY if sender is not None else Direction.INACTIVE,
            codecs=codecs,
            extensions=tuple(extensions),
            rtcp_mux=True,
            rtcp_rsize=media.rtcp_rsize,
            **_track(sender, sender.negotiated if sender is not None else []),
            **self._transport(first=first),
        )

    def _data(self, mid: str, *, first: bool) -> MediaDescription:
        """The application section (RFC 8841)."""
        return MediaDescription(
            kind="application",
            protocol=SCTP_PROTOCOL,
            formats=(DATA_CHANNEL,),
            mid=mid,
            sctp_port=SCTP_PORT,
            max_message_size=self.local.max_message_size,
            max_packet_size=self.local.max_packet_size,
            **self._transport(first=first),
        )

    def _transport(self, *, first: bool) -> dict[str, Any]:
        """The fields that tell our side of the path; candidates only in the `first` live section."""
        local = self.local
        return {
            "ice": IceCredentials(local.ufrag, local.pwd),
            "trickle": True,
            "fingerprints": (Fingerprint("sha-256", local.fingerprint),),
            "setup": self.setup,
            "candidates": tuple(local.candidates) if first else (),
            "end_of_candidates": first and local.end_of_candidates and bool(local.candidates),
        }


def rejected(media: MediaDescription) -> MediaDescription:
    """The answer that refuses a section: port 0, the rest as it was (RFC 3264, section 6)."""
    return MediaDescription(
        kind=media.kind,
        port=0,
        protocol=media.protocol,
        formats=media.formats or (() if media.codecs else ("0",)),
        mid=media.mid,
        direction=Direction.INACTIVE,
        codecs=media.codecs,
    )


def _track(sender: Sender | None, codecs: Iterable[Codec]) -> dict[str, Any]:
    """The lines that name what goes out: msid, its sources, and which of them repairs the other."""
    if sender is None:
        return {}
    msid = Msid(sender.stream_id, sender.track_id)
    ssrcs = [sender.ssrc]
    if sender.rtx_ssrc is not None and any(codec.rtx_payload_type is not None for codec in codecs):
        ssrcs.append(sender.rtx_ssrc)
    return {
        "msids": (msid,),
        "ssrcs": tuple(Ssrc(ssrc, sender.stream_id, msid) for ssrc in ssrcs),
        "ssrc_groups": (SsrcGroup("FID", tuple(ssrcs)),) if len(ssrcs) == 2 else (),
    }
