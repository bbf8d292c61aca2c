"""RTP header extensions: their names, and the `extmap` lines that number them (RFC 8285)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket
from triosfu.sdp.directions import Direction
from triosfu.sdp.scan import number, words

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_EXTENSIONS = 64  # per section; Chromium offers 13

MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
RID = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"
REPAIRED_RID = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"
AUDIO_LEVEL = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
FRAME_MARKING = "urn:ietf:params:rtp-hdrext:framemarking"
TRANSPORT_CC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
ABS_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
ABS_CAPTURE_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time"
PLAYOUT_DELAY = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
DEPENDENCY_DESCRIPTOR = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"


@dataclass(frozen=True, slots=True)
class Extension:
    """One `extmap` line. A direction is rare; without one the extension goes both ways."""

    id: int
    uri: str
    direction: Direction = Direction.SENDRECV

    @classmethod
    def parse(cls, value: str) -> Extension:
        """Read `<id>[/<direction>] <uri> [<attributes>]`; attributes are left out."""
        head, uri, *_ = words(value, "extmap", 2)
        text, _, direction = head.partition("/")
        identifier = number(text, "extmap id", 0xFFFF)
        try:
            return cls(identifier, uri, Direction(direction or "sendrecv"))
        except ValueError:
            raise MalformedPacket("sdp: extmap has an unknown direction") from None

    def serialize(self) -> str:
        """The value that `parse` reads back."""
        direction = "" if self.direction is Direction.SENDRECV else f"/{self.direction}"
        return f"{self.id}{direction} {self.uri}"


def read_extensions(values: Iterable[str]) -> tuple[Extension, ...]:
    """The usable `extmap` lines: ids that RTP can carry, each id and each URI once, the first one counting."""
    ids: set[int] = set()
    uris: set[str] = set()
    found = []
    for value in values:
        extension = Extension.parse(value)
        # 4096 and above are an offerer's provisional numbers (RFC 8285, section 7), which nobody sends.
        if not 0 < extension.id < 256 or extension.id in ids or extension.uri in uris:
            continue
        ids.add(extension.id)
        uris.add(extension.uri)
        found.append(extension)
    return tuple(found[:MAX_EXTENSIONS])
