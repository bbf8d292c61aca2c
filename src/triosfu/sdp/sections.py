"""The state of one section: what comes in through it, what goes out, and what the client was last told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from triosfu.sdp.codecs import RED
from triosfu.sdp.directions import Direction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from triosfu.sdp.codecs import Codec
    from triosfu.sdp.media import MediaDescription

MAX_LAYERS = 3  # simulcast layers of one track; further ones are not answered, so the client does not send them


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A track that the client sends in a section."""

    track_id: str  # the client's: second word of msid, or what stands for it
    stream_id: str  # "" without a stream
    codecs: list[Codec]  # those both sides can use; in the order of the answer, once there is one
    extensions: dict[int, str]  # URI by id
    rids: list[str]  # in the offered order; [] without simulcast
    ssrcs: list[int]  # announced media sources without their RTX; [] when the client announces none
    fid: dict[int, int]  # RTX source by media source


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPreferences:
    """How the client should send its track; the defaults leave everything as offered."""

    mime: str | None = None  # the codec to put first
    stereo: bool = False
    dtx: bool = False
    red: bool | None = None  # True: before Opus; False: not at all


@dataclass(eq=False, slots=True, kw_only=True)
class Sender:
    """A track that goes out to the client, in one section."""

    kind: str  # "audio" or "video"
    track_id: str  # "TR_…"
    stream_id: str  # "PA_…|TR_…"
    ssrc: int
    rtx_ssrc: int | None = None
    codecs: Sequence[str]  # the publisher's mimes, in its order
    fmtp: Mapping[str, str] = field(default_factory=dict)  # the publisher's parameters by mime, where known
    stereo: bool = False
    # What the negotiation fills in:
    mid: str | None = None
    negotiated: list[Codec] = field(default_factory=list)  # one for each codec that both have, in the wanted order
    extensions: dict[str, int] = field(default_factory=dict)  # id by URI
    refused: bool = False  # the client has answered, and takes none of our codecs

    @property
    def has_red(self) -> bool:
        """Whether the publisher sends redundant audio."""
        return any(mime.lower() == RED for mime in self.codecs)

    def reset(self) -> None:
        """Forget what was negotiated."""
        self.mid = None
        self.negotiated = []
        self.extensions = {}
        self.refused = False


@dataclass(eq=False, slots=True, kw_only=True)
class Section:
    """One `m=` line through the life of a connection."""

    mid: str
    kind: str
    direction: Direction = Direction.INACTIVE  # ours, in the latest description we wrote
    remote_direction: Direction = Direction.INACTIVE  # the client's, in the latest it wrote
    incoming: Incoming | None = None
    outgoing: Sender | None = None
    preferences: AnswerPreferences = field(default_factory=AnswerPreferences)
    rejected: bool = False  # port 0
    remote: MediaDescription | None = field(default=None, repr=False)  # the client's latest words on this section
    # The track that the client believes to be here. A section must have been inactive in the client's eyes before
    # another track moves in: `ontrack` fires on that transition (W3C webrtc-pc, 4.4.1.5); that Chromium also fires
    # it when only the msid changes is its own kindness.
    announced: Sender | None = None

    @property
    def is_vacant(self) -> bool:
        """Whether another outgoing track may move in, as far as we are concerned."""
        return not self.rejected and self.outgoing is None and self.announced is None and self.kind != "application"
