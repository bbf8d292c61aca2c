"""A data channel as its users see it: a label, a state, and two ways to send."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import trio

from triosfu.errors import PeerGone

if TYPE_CHECKING:
    from triosfu.peer.connection import PeerConnection


class ChannelState(Enum):
    """The life of a data channel (RFC 8831, section 6; W3C RTCDataChannelState)."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSED = "closed"


class DataChannel:
    """One data channel of a peer connection; made by `PeerConnection.open_channel` or by the peer's OPEN."""

    __slots__ = ("_id", "_peer", "_turn", "label", "protocol", "state")

    def __init__(self, peer: PeerConnection, channel_id: int, *, label: str, protocol: str = "") -> None:
        self._peer = peer
        self._id = channel_id
        self._turn = trio.Lock()  # fair: the writers of one channel are served in the order they came
        self.label = label
        self.protocol = protocol
        self.state = ChannelState.CONNECTING

    def __repr__(self) -> str:
        return f"<DataChannel {self.label!r} {self.state.value}>"

    @property
    def id(self) -> int:
        """The handle of this channel within its peer connection (not the SCTP stream)."""
        return self._id

    @property
    def buffered(self) -> int:
        """Bytes accepted and not yet acknowledged by the peer."""
        return self._peer.buffered(self)

    async def send(self, data: bytes, *, binary: bool = True) -> None:
        """Queue one message for delivery.

        Waits while the channel is still opening, or has more than the high-water mark of bytes buffered. Cancelled,
        it has queued nothing.

        Raises:
            PeerGone: The channel or its peer connection ended, before or during the wait.
            UsageError: The message is larger than the peer accepts; nothing was queued.
        """
        # A waiter for the turn has both wake-ups too: its predecessor's progress, and its predecessor's end, after
        # which the gate answers at once.
        async with self._turn:
            await self._peer.waiting.wait_until(self._settled)
            if self.state is ChannelState.CLOSED:
                raise PeerGone("the data channel is closed")
            self._peer.send_message(self, data, binary=binary)

    def _settled(self) -> bool:
        if self.state is ChannelState.OPEN:
            return self.buffered < self._peer.settings.high_water
        return self.state is ChannelState.CLOSED

    def send_nowait(self, data: bytes, *, binary: bool = True) -> bool:
        """Queue one message unless the channel is not open or the hard bound of its buffer is reached.

        Returns whether the message was queued; False means that it was dropped and counted.
        """
        if self.state is not ChannelState.OPEN or self.buffered + len(data) > self._peer.settings.hard_limit:
            self._peer.counters["messages_dropped"] += 1
            return False
        self._peer.send_message(self, data, binary=binary)
        return True

    def close(self) -> None:
        """Close the channel; what was queued before is still delivered. Closing twice is the same as once."""
        self._peer.close_channel(self)
