"""ICE news without a description: `application/trickle-ice-sdpfrag` (RFC 8840, section 9; RFC 9725, section 4.3).

    a=group:BUNDLE 0 1
    m=audio 9 UDP/TLS/RTP/SAVPF 111
    a=mid:0
    a=ice-ufrag:EsAw
    a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1
    a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host
    a=end-of-candidates

A connection has one bundle, so what stands at one section, or at none, is said of the connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from triosfu.errors import MalformedPacket
from triosfu.ice.credentials import Credentials

if TYPE_CHECKING:
    from triosfu.sdp.transport import LocalTransport

MEDIA_TYPE = "application/trickle-ice-sdpfrag"
MAX_BYTES = 64 * 1024
MAX_LINES = 1024
MAX_LINE = 4096  # characters
MAX_CANDIDATES = 64  # as many as one ICE session of a connection takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """Candidates, and whose they are if the fragment tells."""

    credentials: Credentials | None = None
    candidates: tuple[str, ...] = ()  # "candidate:…", each once; whether one can be used is for ICE to say
    end_of_candidates: bool = False

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a fragment; anything else is a MalformedPacket."""
        if len(body) > MAX_BYTES:
            raise MalformedPacket("sdpfrag: too long")
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise MalformedPacket("sdpfrag: not text") from None
        lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
        if len(lines) > MAX_LINES or max(map(len, lines)) > MAX_LINE:
            raise MalformedPacket("sdpfrag: too many lines, or one is too long")
        said: dict[str, list[str]] = {"candidate": [], "ice-ufrag": [], "ice-pwd": [], "end-of-candidates": []}
        for line in lines:
            if line[:1] not in {"a", "m"} or line[1:2] != "=" or not line.isprintable():
                raise MalformedPacket("sdpfrag: a line is neither an attribute nor a section")
            name, _, value = line[2:].partition(":")
            if line[0] == "a" and name in said:
                said[name].append(value.strip())
        return cls(
            credentials=_credentials(said["ice-ufrag"], said["ice-pwd"]),
            candidates=tuple(dict.fromkeys(f"candidate:{value}" for value in said["candidate"]))[:MAX_CANDIDATES],
            end_of_candidates=bool(said["end-of-candidates"]),
        )


def describe(local: LocalTransport, *, mids: list[str], media: str) -> str:
    """Our side after a restart; `media` is the `m=` line's value of the section that stands for the bundle."""
    lines = [
        *(["a=ice-lite"] if local.ice_lite else []),
        "a=ice-options:trickle",
        f"a=group:BUNDLE {' '.join(mids)}",
        f"m={media}",
        f"a=mid:{mids[0]}",
        f"a=ice-ufrag:{local.ufrag}",
        f"a=ice-pwd:{local.pwd}",
        *(f"a={candidate}" for candidate in local.candidates),
        "a=end-of-candidates",
    ]
    return "\r\n".join([*lines, ""])


def _credentials(ufrags: list[str], pwds: list[str]) -> Credentials | None:
    """What all sections of the fragment say alike."""
    if not ufrags and not pwds:
        return None
    if len(set(ufrags)) != 1 or len(set(pwds)) != 1:
        raise MalformedPacket("sdpfrag: ice-ufrag and ice-pwd come together, and only one of each")
    return Credentials(ufrags[0], pwds[0])
