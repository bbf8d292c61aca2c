"""The packets of one stream that may still be asked for again."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Final

from triosfu.rtp.wire import RtpPacket

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LEAST, MOST = 0.5, 1.0  # seconds that a packet is kept: at least, and as long as there is
UNFED = 0.2  # seconds, of a stream that goes to nobody
EVERY = 0.1  # seconds between two looks for what is too old, while packets come
ROOM = 32 * 1024  # bytes of a stream's packets, up to which there is
FIRST = 32  # slots at the beginning

RELEASED: Final = b""  # stands where a packet was: it has come, and is not kept any more


class PacketBuffer:
    """A ring of the last packets by index: `capacity` of them, for a second or, where they are large, for half of it.

    Nobody plays a packet that comes much later, and a publisher's best layer is a megabyte after some seconds. Nobody
    can ask for what was sent to nobody: of that there is what may have overtaken a keyframe that somebody begins with.
    An index is taken once: what was kept, and has been let go of, does not come in a second time.

    Only bytes are kept, which the garbage collector has no interest in, and the packet is read from them again for the
    few that are asked for: its object and what is known of its payload take as much memory as a packet of sound. The
    ring has slots for all indices of the last second; what comes to one that is older is too late.
    """

    __slots__ = ("_arrivals", "_bytes", "_capacity", "_descriptors", "_newest", "_oldest", "_ring", "look_at")

    def __init__(self, capacity: int, *, descriptors: bool = False) -> None:
        """Keep `descriptors` of packets, too, if they cannot be read again from the packet alone."""
        size = min(FIRST, capacity)
        self.look_at = -math.inf  # when to call `expire`
        self._capacity = capacity
        # By index modulo its length: what has come of the last so many indices; None where nothing has.
        self._ring: list[bytes | None] = [None] * size
        self._arrivals = array("d", [-math.inf]) * size  # of these packets, or of the first one behind
        self._descriptors: dict[int, object] | None = {} if descriptors else None
        self._newest = -1
        self._oldest = 0  # nothing is kept below it
        self._bytes = 0

    def put(self, packet: RtpPacket) -> bool:
        """Keep `packet`, which arrives now, under its index; False when the index is taken, or too old."""
        index, newest, arrival, data = packet.index, self._newest, packet.arrival, packet.data
        if index > newest:
            if index != newest + 1:
                self._skip(newest + 1, index, arrival)
            slot = self._slot(index, arrival)
            if replaced := self._ring[slot]:
                self._bytes -= len(replaced)
            self._newest = index
        else:
            slot = index % len(self._ring)
            if index <= newest - len(self._ring) or self._ring[slot] is not None:
                return False
            self._oldest = min(self._oldest, index)
        self._ring[slot] = data
        self._arrivals[slot] = arrival
        self._bytes += len(data)
        return True

    def put_run(self, index: int, run: Sequence[bytes], arrival: float) -> None:
        """Keep packets that arrive now, the first under `index` and the others behind it: newer than all there are."""
        if index != self._newest + 1:
            self._skip(self._newest + 1, index, arrival)
        ring, arrivals = self._ring, self._arrivals
        for data in run:
            slot = index % len(ring)
            if arrival - arrivals[slot] < MOST:  # it is taken, and there may be room for more
                slot = self._slot(index, arrival)
                ring, arrivals = self._ring, self._arrivals
            if replaced := ring[slot]:
                self._bytes -= len(replaced)
            self._newest = index
            ring[slot] = data
            arrivals[slot] = arrival
            self._bytes += len(data)
            index += 1

    def describe(self, packet: RtpPacket) -> None:
        """Keep the descriptor that was found for `packet`, which was put here just now, in a buffer that keeps them."""
        if self._descriptors is not None:
            self._descriptors[packet.index % len(self._ring)] = packet.descriptor

    def get(self, index: int) -> RtpPacket | None:
        """The packet with this index as it came, if it is still here; of what was found in it, only what is kept."""
        if index not in self:
            return None
        slot = index % len(self._ring)
        packet = RtpPacket.parse(self._ring[slot] or b"", self._arrivals[slot])
        packet.index = index
        if self._descriptors is not None:
            packet.descriptor = self._descriptors.get(slot)
        return packet

    def __contains__(self, index: int) -> bool:
        size = len(self._ring)
        return self._newest - size < index <= self._newest and bool(self._ring[index % size])

    def expire(self, now: float, *, fed: bool = True) -> None:
        """Let go of what is too old at `now`; `fed`, if somebody may ask for some of it."""
        self.look_at = now + EVERY
        ring, arrivals, newest = self._ring, self._arrivals, self._newest
        least, most = (LEAST, MOST) if fed else (UNFED, UNFED)
        size = len(ring)
        oldest = max(self._oldest, newest + 1 - size)
        while oldest <= newest:
            slot = oldest % size
            if kept := ring[slot]:
                age = now - arrivals[slot]
                if age < least or (age < most and self._bytes <= ROOM):
                    break
                self._bytes -= len(kept)
                ring[slot] = RELEASED
            oldest += 1
        self._oldest = oldest

    def __iter__(self) -> Iterator[int]:
        """The indices of all that is kept."""
        return (index for index in range(max(0, self._newest + 1 - len(self._ring)), self._newest + 1) if index in self)

    def _slot(self, index: int, now: float) -> int:
        """The slot for an index behind the newest one: none of the last second's, while the ring may grow."""
        size = len(self._ring)
        slot = index % size
        if size < self._capacity and now - self._arrivals[slot] < MOST:
            self._grow()
            return self._slot(index, now)
        return slot

    def _skip(self, first: int, end: int, now: float) -> None:
        """The indices from `first` to before `end` are free: none of them has come."""
        if end - first >= self._capacity or self._newest < 0:
            self._ring[:] = [None] * len(self._ring)
            self._bytes, self._oldest = 0, end
            return
        for index in range(first, end):
            slot = self._slot(index, now)
            if kept := self._ring[slot]:
                self._bytes -= len(kept)
            self._ring[slot] = None
            self._arrivals[slot] = now
            self._newest = index

    def _grow(self) -> None:
        """Twice as many slots, if the capacity is as large; those of older indices are taken."""
        ring, arrivals, before = self._ring, self._arrivals, len(self._ring)
        size = min(2 * before, self._capacity)
        self._ring, self._arrivals = [RELEASED] * size, array("d", [-math.inf]) * size
        for index in range(max(0, self._newest + 1 - before), self._newest + 1):
            self._ring[index % size], self._arrivals[index % size] = ring[index % before], arrivals[index % before]
        if (descriptors := self._descriptors) is not None:
            indices = range(max(0, self._newest + 1 - before), self._newest + 1)
            self._descriptors = {index % size: descriptors.get(index % before) for index in indices}
