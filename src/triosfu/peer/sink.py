"""Where outgoing media goes: written into the egress arena, protected there, queued for the next sendmmsg."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket
from triosfu.net.batch import SLOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.net.udp import Egress
    from triosfu.peer.transport import Transport


class TransportSink:
    """The media sink of one peer connection (see `triosfu.media.down_track.MediaSink`)."""

    __slots__ = ("_egress", "_pointers", "_transport", "arena", "dropped", "reserve")

    reserve: Callable[[], int]
    """The offset of a free slot in the arena; the egress itself says it."""

    def __init__(self, transport: Transport, egress: Egress) -> None:
        self._transport = transport
        self._egress = egress
        self._pointers = egress.pointers
        self.arena = egress.arena
        self.reserve = egress.reserve
        self.dropped = 0

    def commit_rtp(self, offset: int, length: int, vital: bool = False) -> None:  # noqa: FBT001, FBT002  of the hot path
        """Protect the packet that stands at `offset` and queue it; dropped and counted while not connected."""
        transport = self._transport
        outbound, destination = transport.outbound, transport.destination
        if outbound is None or destination is None:
            self.dropped += 1
            return
        try:
            size = outbound.protect_in_place(self._pointers[offset // SLOT], length)
        except MalformedPacket:  # libsrtp refuses it; whoever published it has no part in that
            self.dropped += 1
            return
        self._egress.commit(offset, size, destination, vital)
