"""The packets of one stream that may still be asked for again."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Final

from triosfu.rtp.wire import RtpPacket

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST, MOST = 0.5, 1.0  # seconds that a packet is kept: at least, and as long as there is
EVERY = 0.1  # seconds between two looks for what is too old, while packets come
ROOM = 32 * 1024  # bytes of a stream's packets, up to which there is

RELEASED: Final = b""  # stands where a packet was: it has come, and is not kept any more


class PacketBuffer:
    """A ring of the last packets by index: `capacity` of them, for a second or, where they are large, for half of it.

    Nobody plays a packet that comes much later, and a publisher's best layer is a megabyte after some seconds. An index
    is taken once: what was kept, and has been let go of, does not come in a second time.

    Only bytes are kept, which the garbage collector has no interest in, and the packet is read from them again for the
    few that are asked for: its object and what is known of its payload take as much memory as a packet of sound.
    """

    __slots__ = ("_arrivals", "_bytes", "_capacity", "_descriptors", "_look_at", "_newest", "_oldest", "_ring")

    def __init__(self, capacity: int, *, descriptors: bool = False) -> None:
        """Keep `descriptors` of packets, too, if they cannot be read again from the packet alone."""
        self._capacity = capacity
        # By index modulo capacity: what has come of the last so many indices; None where nothing has.
        self._ring: list[bytes | None] = [None] * capacity
        self._arrivals = array("d", [0.0]) * capacity
        self._descriptors: dict[int, object] | None = {} if descriptors else None
        self._newest = -1
        self._oldest = 0  # nothing is kept below it
        self._bytes = 0
        self._look_at = -math.inf  # when to look for what is too old

    def put(self, packet: RtpPacket) -> bool:
        """Keep `packet`, which arrives now, under its index; False when the index is taken, or too old."""
        index, newest, arrival, data = packet.index, self._newest, packet.arrival, packet.data
        slot = index % self._capacity
        if index > newest:
            if index != newest + 1:
                self._skip(newest + 1, index)
            if replaced := self._ring[slot]:
                self._bytes -= len(replaced)
            self._newest = index
        elif index <= newest - self._capacity or self._ring[slot] is not None:
            return False
        elif index < self._oldest:
            self._oldest = index
        self._ring[slot] = data
        self._arrivals[slot] = arrival
        self._bytes += len(data)
        if arrival >= self._look_at:
            self.expire(arrival)
        return True

    def describe(self, packet: RtpPacket) -> None:
        """Keep the descriptor that was found for `packet`, which was put here just now, in a buffer that keeps them."""
        if self._descriptors is not None:
            self._descriptors[packet.index % self._capacity] = packet.descriptor

    def get(self, index: int) -> RtpPacket | None:
        """The packet with this index as it came, if it is still here; of what was found in it, only what is kept."""
        if index not in self:
            return None
        slot = index % self._capacity
        packet = RtpPacket.parse(self._ring[slot] or b"", self._arrivals[slot])
        packet.index = index
        if self._descriptors is not None:
            packet.descriptor = self._descriptors.get(slot)
        return packet

    def __contains__(self, index: int) -> bool:
        return self._newest - self._capacity < index <= self._newest and bool(self._ring[index % self._capacity])

    def expire(self, now: float) -> None:
        """Let go of what is too old at `now`."""
        self._look_at = now + EVERY
        ring, arrivals, capacity, newest = self._ring, self._arrivals, self._capacity, self._newest
        oldest = max(self._oldest, newest + 1 - capacity)
        while oldest <= newest:
            slot = oldest % capacity
            if kept := ring[slot]:
                age = now - arrivals[slot]
                if age < LEAST or (age < MOST and self._bytes <= ROOM):
                    break
                self._bytes -= len(kept)
                ring[slot] = RELEASED
            oldest += 1
        self._oldest = oldest

    def __iter__(self) -> Iterator[int]:
        """The indices of all that is kept."""
        return (index for index in range(max(0, self._newest + 1 - self._capacity), self._newest + 1) if index in self)

    def _skip(self, first: int, end: int) -> None:
        """The indices from `first` to before `end` are free: none of them has come."""
        ring, capacity = self._ring, self._capacity
        if end - first >= capacity:
            ring[:] = [None] * capacity
            self._bytes, self._oldest = 0, end
            return
        for index in range(first, end):
            slot = index % capacity
            if kept := ring[slot]:
                self._bytes -= len(kept)
            ring[slot] = None
