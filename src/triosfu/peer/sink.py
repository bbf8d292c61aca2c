"""Where outgoing media goes: written into the egress arena, protected there, queued for the next sendmmsg."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket
from triosfu.net.batch import SLOT
from triosfu.net.kernel_queue import Sink

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.net.udp import Destination, Egress
    from triosfu.srtp.core import Outbound


class TransportSink:
    """The media sink of one peer connection (see `triosfu.media.down_track.MediaSink`)."""

    __slots__ = ("_destination", "_dropped", "_egress", "_outbound", "_pointers", "arena", "compiled", "reserve")

    reserve: Callable[[], int]
    """The offset of a free slot in the arena; the egress itself says it."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._outbound: Outbound | None = None
        self._destination: Destination | None = None
        self.compiled = None if egress.kernel_queue is None else Sink(egress.kernel_queue)
        self._pointers = egress.pointers
        self.arena = egress.arena
        self.reserve = egress.reserve
        self._dropped = 0

    @property
    def outbound(self) -> Outbound | None:
        """What protects media; None until DTLS has made the keys, and after the end."""
        return self._outbound

    @outbound.setter
    def outbound(self, outbound: Outbound | None) -> None:
        self._outbound = outbound
        self._lead()

    @property
    def destination(self) -> Destination | None:
        """Where everything goes; None while ICE knows of no way."""
        return self._destination

    @destination.setter
    def destination(self, destination: Destination | None) -> None:
        self._destination = destination
        self._lead()

    def _lead(self) -> None:
        if self.compiled is not None:
            outbound = self._outbound
            gcm, session = (None, 0) if outbound is None else (outbound.gcm, outbound.address)
            self.compiled.lead(self._destination, gcm=gcm, session=session)

    @property
    def dropped(self) -> int:
        """Packets that were not sent: nothing was connected, or libsrtp refused them."""
        return self._dropped + (0 if self.compiled is None else self.compiled.record.refused)

    def commit_rtp(self, offset: int, length: int, vital: bool = False) -> None:  # noqa: FBT001, FBT002  of the hot path
        """Protect the packet that stands at `offset` and queue it; dropped and counted while not connected."""
        outbound, destination = self._outbound, self._destination
        if outbound is None or destination is None:
            self._dropped += 1
            return
        try:
            size = outbound.protect_in_place(self._pointers[offset // SLOT], length)
        except MalformedPacket:  # libsrtp refuses it; whoever published it has no part in that
            self._dropped += 1
            return
        self._egress.commit(offset, size, destination, vital)
