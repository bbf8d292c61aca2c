"""The one path that all sections share: its ICE and DTLS parameters on both sides, and who is the DTLS client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from triosfu.errors import PeerError
from triosfu.sdp.directions import Setup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from triosfu.sdp.media import Fingerprint, MediaDescription
    from triosfu.sdp.wire import SessionDescription

MAX_REMOTE_CANDIDATES = 128
DEFAULT_SCTP_PORT = 5000  # RFC 8841, section 5.2
DEFAULT_MAX_MESSAGE_SIZE = 65_536  # of a peer that does not say (RFC 8841, section 6.1)
DEFAULT_MAX_PACKET_SIZE = 1_500  # what DTLS of every peer reads at once; only our own says more
UNLIMITED_MESSAGE_SIZE = 2**30  # stands for the 0 of a peer that takes any size


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTransport:
    """What we tell about our side of the path; replaced as a whole for an ICE restart."""

    ufrag: str
    pwd: str
    fingerprint: str  # SHA-256, "AA:BB:…"
    candidates: list[str] = field(default_factory=list)  # "candidate:…"
    ice_lite: bool = False
    end_of_candidates: bool = True  # the embedded candidates are all there will be
    max_message_size: int = 262_144  # bytes of one data channel message that we accept
    max_packet_size: int = 16_384  # bytes of one SCTP packet that we accept: all of a DTLS record


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTransport:
    """What the client told about its side of the path."""

    ufrag: str
    pwd: str
    fingerprints: list[Fingerprint]
    setup: Setup
    candidates: list[str]  # "candidate:…", of all sections, each once
    sctp_port: int | None  # None without an application section
    max_message_size: int  # bytes of one message that the client accepts; never 0
    max_packet_size: int  # bytes of one SCTP packet that it accepts
    ice_lite: bool
    end_of_candidates: bool

    @classmethod
    def of(cls, description: SessionDescription, sections: Iterable[MediaDescription]) -> RemoteTransport:
        """The transport that `sections` share; PeerError when they say too little to connect.

        The first of them counts: in a bundle it is the one whose transport all use (RFC 9143, section 7.2).
        """
        bundled = list(sections)
        if not bundled:
            raise PeerError("sdp: no section to connect")
        first = bundled[0]
        if first.ice is None or not first.fingerprints:
            raise PeerError("sdp: ICE credentials or fingerprint are missing")
        data = next((section for section in bundled if section.is_data), None)
        size = DEFAULT_MAX_MESSAGE_SIZE
        if data is not None and data.max_message_size is not None:
            size = min(data.max_message_size or UNLIMITED_MESSAGE_SIZE, UNLIMITED_MESSAGE_SIZE)
        candidates = dict.fromkeys(candidate for section in bundled for candidate in section.candidates)
        return cls(
            ufrag=first.ice.ufrag,
            pwd=first.ice.pwd,
            fingerprints=list(first.fingerprints),
            # RFC 4145, section 4: an offer without the attribute means active; no client leaves it out.
            setup=first.setup or Setup.ACTIVE,
            candidates=list(candidates)[:MAX_REMOTE_CANDIDATES],
            sctp_port=None if data is None else data.sctp_port or DEFAULT_SCTP_PORT,
            max_message_size=size,
            max_packet_size=DEFAULT_MAX_PACKET_SIZE
            if data is None or not data.max_packet_size
            else data.max_packet_size,
            ice_lite=description.ice_lite,
            end_of_candidates=any(section.end_of_candidates for section in bundled),
        )

    def restarted(self, earlier: RemoteTransport | None) -> bool:
        """Whether these ICE credentials replace other ones (RFC 8839, section 4.4.1.1.1)."""
        return earlier is not None and (self.ufrag, self.pwd) != (earlier.ufrag, earlier.pwd)

    def same_certificate(self, earlier: RemoteTransport | None) -> bool:
        """Whether the DTLS association may go on: it proved one of these certificates (RFC 8842, section 4)."""
        return earlier is None or not set(self.fingerprints).isdisjoint(earlier.fingerprints)


def bundled(description: SessionDescription) -> list[MediaDescription]:
    """The live sections that share one transport: those of the bundle group, in the group's order.

    Without a group, the first live section: triosfu has one transport a connection.
    """
    live = [section for section in description.media if not section.is_rejected and _is_usable(section)]
    if description.bundle is None:
        return live[:1]
    by_mid = {section.mid: section for section in live}
    return [by_mid[mid] for mid in description.bundle if mid in by_mid]


def answer_setup(offered: Setup, current: Setup | None, preferred: Setup) -> Setup:
    """Our DTLS role in an answer; the one that an association already has stays (RFC 8842, section 5.3).

    `preferred` is what we answer to those who leave the choice to us.
    """
    possible = {
        Setup.ACTPASS: (preferred, Setup.ACTIVE, Setup.PASSIVE),
        Setup.ACTIVE: (Setup.PASSIVE,),
        Setup.PASSIVE: (Setup.ACTIVE,),
    }.get(offered, ())
    if not possible or (current is not None and current not in possible):
        raise PeerError(f"sdp: setup:{offered} does not fit the DTLS association")
    return current or possible[0]


def answered_setup(answer: Setup, current: Setup | None) -> Setup:
    """Our DTLS role, given the client's in its answer."""
    role = {Setup.ACTIVE: Setup.PASSIVE, Setup.PASSIVE: Setup.ACTIVE}.get(answer)
    if role is None or (current is not None and current is not role):
        raise PeerError(f"sdp: setup:{answer} does not fit the DTLS association")
    return role


def _is_usable(section: MediaDescription) -> bool:
    """RTP without rtcp-mux would need a second transport."""
    return section.rtcp_mux or not section.codecs
