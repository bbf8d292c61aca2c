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
    CLOSING = "closing"
    CLOSED = "closed"


OVER = {ChannelState.CLOSING, ChannelState.CLOSED}


class DataChannel:
    """One data channel of a peer connection; made by `PeerConnection.open_channel` or by the peer's OPEN."""

    __slots__ = ("_id", "_line", "_peer", "_taken", "label", "protocol", "state")

    def __init__(self, peer: PeerConnection, channel_id: int, *, label: str, protocol: str = "") -> None:
        self._peer = peer
        self._id = channel_id
        self._taken = False  # one writer has the turn: its message is the channel's next
        self._line = trio.lowlevel.ParkingLot()  # the writers behind it, in the order they came
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

    @property
    def queued(self) -> int:
        """How many tasks wait for those before them to send."""
        return len(self._line)

    async def send(self, data: bytes, *, binary: bool = True) -> None:
        """Queue one message for delivery.

        Waits while the channel is still opening, or has more than the high-water mark of bytes buffered. Cancelled,
        it has queued nothing.

        Raises:
            PeerGone: The channel or its peer connection ended, before or during the wait.
            UsageError: The message is larger than the peer accepts; nothing was queued.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._taken and self.state not in OVER:
            # Woken by the writer before us, which hands its turn on, or by `over`, after which nobody has a turn.
            await self._line.park()
        self._taken = True
        try:
            await self._peer.waiting.wait_until(self._settled)
            if self.state in OVER or not self._peer.send_message(self, data, binary=binary):
                raise PeerGone("the data channel is closed")
        finally:
            self._taken = bool(self._line)
            self._line.unpark()

    def _settled(self) -> bool:
        if self.state is ChannelState.OPEN:
            return self.buffered < self._peer.settings.high_water
        return self.state in OVER

    def send_nowait(self, data: bytes, *, binary: bool = True) -> bool:
        """Queue one message unless the channel is not open or the hard bound of its buffer is reached.

        Returns whether the message was queued; False means that it was dropped and counted.

        Raises:
            UsageError: The message is larger than the peer accepts; nothing was queued.
        """
        fits = self.state is ChannelState.OPEN and self.buffered + len(data) <= self._peer.settings.hard_limit
        if fits and self._peer.send_message(self, data, binary=binary):
            return True
        self._peer.counters["messages_dropped"] += 1
        return False

    def close(self) -> None:
        """Close the channel; what was queued before is still delivered, and who waits to send gets PeerGone.

        Closing twice is the same as once.
        """
        if self.state not in OVER:
            self.over(ChannelState.CLOSING)
            self._peer.close_channel(self)

    def over(self, state: ChannelState) -> None:
        """Move to CLOSING or CLOSED, for the peer connection; wakes every writer of this channel at once."""
        self.state = state
        self._line.unpark_all()
