"""What a peer connection tells its owner, and how it is set up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from triosfu.peer.channel import DataChannel
    from triosfu.peer.connection import PeerConnection
    from triosfu.sdp.negotiation import Section


class PeerState(Enum):
    """The life of a peer connection, ICE and DTLS taken together (as W3C's connectionState)."""

    NEW = "new"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    FAILED = "failed"
    CLOSED = "closed"


class PeerHandler(Protocol):
    """The owner of a peer connection. Every method is synchronous and short: it may enqueue, never wait."""

    def peer_state_changed(self, peer: PeerConnection, state: PeerState, reason: str) -> None:
        """Tell that the connection moved to `state`. After FAILED an ICE restart may follow; CLOSED is the last."""

    def peer_incoming_track(self, peer: PeerConnection, section: Section) -> None:
        """Tell that a description brought a section in which the client sends (new, or with changed media)."""

    def peer_incoming_ended(self, peer: PeerConnection, section: Section) -> None:
        """Tell that the client stopped sending in `section`."""

    def peer_channel_opened(self, peer: PeerConnection, channel: DataChannel) -> None:
        """Tell that `channel` may carry messages, whoever opened it."""

    def peer_channel_closed(self, peer: PeerConnection, channel: DataChannel, reason: str) -> None:
        """Tell that `channel` is over; exactly once for every channel."""

    def peer_message(self, peer: PeerConnection, channel: DataChannel, data: bytes, binary: bool) -> None:  # noqa: FBT001  the last word of a callback
        """Deliver one whole message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """Limits and habits of a peer connection; one value serves all peers of a server."""

    ice_lite: bool = False
    tcp_only: bool = False  # no UDP, where TCP is served
    mtu: int = 1200  # bytes of a DTLS datagram
    max_message_size: int = 262_144  # bytes of one data channel message that we accept
    high_water: int = 1_048_576  # bytes buffered on one channel above which `send` waits
    hard_limit: int = 16_777_216  # bytes buffered on one channel above which `send_nowait` drops
    disconnected_after: float = 5.0  # seconds of silence
    failed_after: float = 15.0  # seconds of silence
    connect_timeout: float = 30.0  # seconds from the remote description to a working transport
