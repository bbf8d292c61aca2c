"""The packets of one stream that may still be asked for again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from triosfu.rtp.wire import RtpPacket

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST, MOST = 0.5, 1.0  # seconds that a packet is kept: at least, and as long as there is
EVERY = 0.1  # seconds between two looks for what is too old, while packets come
ROOM = 64 * 1024  # bytes for a stream's packets

RELEASED: Final = RtpPacket.__new__(RtpPacket)  # stands where a packet was: it has come, and is not kept any more
RELEASED.index = -1


class PacketBuffer:
    """A ring of the last packets by index: `capacity` of them, for a second or, where they are large, for half of it.

    Nobody plays a packet that comes much later, and a publisher's best layer is a megabyte after some seconds. An index
    is taken once: what was kept, and has been let go of, does not come in a second time.
    """

    __slots__ = ("_bytes", "_capacity", "_look_at", "_newest", "_oldest", "_ring")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._ring: list[RtpPacket | None] = [None] * capacity
        self._newest = -1
        self._oldest = 0  # nothing is kept below it
        self._bytes = 0
        self._look_at = -math.inf  # when to look for what is too old

    def put(self, packet: RtpPacket) -> bool:
        """Keep `packet`, which arrives now, under its index; False when the index is taken, or too old."""
        index, ring, newest = packet.index, self._ring, self._newest
        slot = index % self._capacity
        kept = ring[slot]
        if index > newest:
            if index != newest + 1:
                self._skip(newest + 1, index)
                kept = ring[slot]
            self._newest = index
        elif index <= newest - self._capacity or kept is RELEASED or (kept is not None and kept.index == index):
            return False
        elif index < self._oldest:
            self._oldest = index
        if kept is not None and kept is not RELEASED:
            self._bytes -= len(kept.data)
        ring[slot] = packet
        self._bytes += len(packet.data)
        if packet.arrival >= self._look_at:
            self.expire(packet.arrival)
        return True

    def get(self, index: int) -> RtpPacket | None:
        """The packet with this index, if it is still here."""
        packet = self._ring[index % self._capacity]
        return packet if packet is not None and packet.index == index else None

    def expire(self, now: float) -> None:
        """Let go of what is too old at `now`."""
        self._look_at = now + EVERY
        ring, capacity, newest = self._ring, self._capacity, self._newest
        oldest = max(self._oldest, newest + 1 - capacity)
        while oldest <= newest:
            slot = oldest % capacity
            kept = ring[slot]
            if kept is not None and kept is not RELEASED:
                age = now - kept.arrival
                if age < LEAST or (age < MOST and self._bytes <= ROOM):
                    break
                self._bytes -= len(kept.data)
                ring[slot] = RELEASED
            oldest += 1
        self._oldest = oldest

    def __iter__(self) -> Iterator[RtpPacket]:
        """All that is kept, in no order."""
        return (packet for packet in self._ring if packet is not None and packet is not RELEASED)

    def _skip(self, first: int, end: int) -> None:
        """The indices from `first` to before `end` are free: none of them has come."""
        ring, capacity = self._ring, self._capacity
        if end - first >= capacity:
            ring[:] = [None] * capacity
            self._bytes, self._oldest = 0, end
            return
        for index in range(first, end):
            slot = index % capacity
            kept = ring[slot]
            if kept is not None and kept is not RELEASED:
                self._bytes -= len(kept.data)
            ring[slot] = None
