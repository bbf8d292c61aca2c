"""One data channel's record, and what is told about channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.datachannel.wire import Open
    from triosfu.sctp.events import Message


class ChannelState(Enum):
    """The life of a channel; it is forgotten once it is closed on both sides."""

    CONNECTING = auto()
    OPEN = auto()
    CLOSING = auto()


@dataclass(frozen=True, slots=True)
class ChannelInfo:
    """What a channel is. `stream_id` is None until the DTLS role, and with it the parity, is known."""

    id: int
    stream_id: int | None
    label: str
    protocol: str
    ordered: bool
    max_retransmits: int | None
    lifetime: float | None
    by_peer: bool
    state: ChannelState


@dataclass(frozen=True, slots=True)
class ChannelOpened:
    """The channel is open, by our OPEN or by the peer's."""

    id: int
    label: str
    protocol: str
    ordered: bool
    by_peer: bool


@dataclass(frozen=True, slots=True)
class ChannelMessage:
    """A message arrived on the channel."""

    id: int
    data: bytes
    binary: bool


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """The channel is over. Reported once for each channel, and nothing about it after."""

    id: int
    reason: str


class Channel:
    """The state of one channel."""

    __slots__ = (
        "by_peer",
        "deadline",
        "held",
        "held_reset",
        "id",
        "lifetime",
        "max_retransmits",
        "negotiated",
        "open",
        "ordered",
        "peer_side_reset",
        "pending",
        "pending_size",
        "reported",
        "side_reset",
        "state",
        "stream_id",
    )

    def __init__(self, channel_id: int, stream_id: int | None, open_: Open, *, by_peer: bool) -> None:
        self.id = channel_id
        self.stream_id = stream_id
        self.open = open_
        self.by_peer = by_peer
        self.negotiated = False  # both ends have agreed on it elsewhere: no OPEN is sent or expected
        self.state = ChannelState.OPEN if by_peer else ChannelState.CONNECTING
        self.ordered = open_.ordered
        self.max_retransmits, self.lifetime = open_.max_retransmits, open_.lifetime
        self.pending: list[tuple[bytes, int]] = []  # messages sent before the channel had a stream
        self.pending_size = 0
        self.deadline = math.inf  # when opening or closing, whichever is on, takes too long
        self.reported = False  # has ChannelClosed been reported
        self.side_reset = False  # the peer has confirmed the reset of our side
        self.peer_side_reset = False  # the peer has reset its side
        self.held: list[
            Message
        ] = []  # what arrived for the stream's next channel before our side's reset was confirmed
        self.held_reset = False  # and so did that channel's end

    def info(self) -> ChannelInfo:
        """What may be known about it."""
        return ChannelInfo(
            self.id,
            self.stream_id,
            self.open.label,
            self.open.protocol,
            self.ordered,
            self.max_retransmits,
            self.lifetime,
            self.by_peer,
            self.state,
        )
