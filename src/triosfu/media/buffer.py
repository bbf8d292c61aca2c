"""The packets of one stream that may still be asked for again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.rtp.wire import RtpPacket


class PacketBuffer:
    """A ring of the last `capacity` packets by index; an older packet never takes the place of a newer one."""

    __slots__ = ("_capacity", "_ring")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._ring: list[RtpPacket | None] = [None] * capacity

    def put(self, packet: RtpPacket) -> bool:
        """Keep `packet` under its index; False when the index is taken, or too old."""
        slot = packet.index % self._capacity
        kept = self._ring[slot]
        if kept is not None and kept.index >= packet.index:
            return False
        self._ring[slot] = packet
        return True

    def get(self, index: int) -> RtpPacket | None:
        """The packet with this index, if it is still here."""
        packet = self._ring[index % self._capacity]
        return packet if packet is not None and packet.index == index else None
