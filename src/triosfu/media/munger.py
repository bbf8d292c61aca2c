"""One outgoing stream's numbers: continuous sequence numbers and timestamps, whatever its sources do.

A packet's outgoing number is its index in the source plus a shift. A shift holds from some packet on until the next one
takes over: when a packet is dropped on purpose, when the server inserts padding, when the source changes. The shifts of
the recent past are kept, so that a packet that comes late, or is asked for again, gets the number it always had.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

NOWHERE = -1  # the ssrc and the index that no packet has
_first_out = attrgetter("first_out")


@dataclass(slots=True)
class Shifts:
    """What is added to the numbers of the packets of `source` from `first_index` on."""

    source: int  # ssrc
    first_index: int
    sequence: int = 0
    timestamp: int = 0
    picture: int = 0  # VP8 picture id
    tl0: int = 0  # VP8 TL0PICIDX
    key: int = 0  # VP8 KEYIDX
    frame: int = 0  # frame number of the dependency descriptor
    # Whether any of the last four is not zero: the payload or an extension must be changed.
    renumbers: bool = False
    temporal: int = 7  # the highest temporal layer that passes meanwhile
    end_out: int | None = None  # the first sequence number not given out under these; None for the current ones

    @property
    def first_out(self) -> int:
        """The extended outgoing sequence number of the first packet."""
        return self.first_index + self.sequence

    def from_index(self, index: int, sequence: int) -> Shifts:
        """The same shifts, but for the sequence number, from the packet `index` on."""
        return Shifts(
            self.source,
            index,
            sequence,
            self.timestamp,
            self.picture,
            self.tl0,
            self.key,
            self.frame,
            self.renumbers,
            self.temporal,
        )


class Munger:
    """Maps (source, index) to extended outgoing sequence numbers; the first one is random (RFC 3550, section 5.1).

    The forwarder's hot path reads `current` and advances `next_index` itself; everything else goes through methods.
    """

    __slots__ = ("_past", "current", "history", "next_index", "start")

    def __init__(self, *, rng: Random, history: int, start: int | None = None) -> None:
        # The third quarter of the space: far from a wrap that would confuse SRTP's guess of its roll-over counter.
        self.start = 2**15 + rng.randrange(2**14) if start is None else start
        self.history = history
        self.current = Shifts(NOWHERE, 0, self.start)
        self.next_index = 0
        self._past: list[Shifts] = []  # ends with the current one, once there is a source

    @property
    def next_out(self) -> int:
        """The extended sequence number that the next packet in order gets."""
        return self.next_index + self.current.sequence

    def switch(self, source: int, index: int, timestamp_shift: int) -> Shifts:
        """Carry on with `source`, whose packet `index` comes next; its numbers follow the last one sent."""
        out = self.next_out
        shifts = Shifts(source, index, out - index, timestamp_shift)
        self.next_index = index
        self._begin(shifts, out)
        return shifts

    def stop(self) -> None:
        """Leave the source: no packet is in order until the next `switch`."""
        out = self.next_out
        self.current = Shifts(NOWHERE, NOWHERE, out - NOWHERE)
        self.next_index = NOWHERE

    def skip(self, index: int, *, picture: int = 0) -> None:
        """Take the packet `index`, in order, out of the stream; `picture` is added to the picture ids behind it."""
        current = self.current
        self.next_index = index + 1
        if current.first_index == index:
            # Nothing was sent under the current shifts yet: they can begin one packet later.
            current.first_index = index + 1
            current.sequence -= 1
        else:
            current = current.from_index(index + 1, current.sequence - 1)
            self._begin(current, current.first_out)
        if picture:
            current.picture += picture
            current.renumbers = True

    def limit(self, index: int, temporal: int) -> None:
        """Note that from the packet `index` on, in order, temporal layers up to `temporal` pass."""
        limited = self.current.from_index(index, self.current.sequence)
        limited.temporal = temporal
        self._begin(limited, limited.first_out)

    def insert(self) -> int:
        """Make room for one packet of the server's own; its extended sequence number."""
        out = self.next_out
        self._begin(self.current.from_index(self.next_index, self.current.sequence + 1), out)
        return out

    def late(self, source: int, index: int) -> Shifts | None:
        """The shifts that held when the packet `index` of `source` was due; None if it has no place any more."""
        next_out = self.next_out
        for shifts in reversed(self._past):
            if shifts.source != source:
                return None
            if shifts.first_index <= index:
                # At the end or behind it the number belongs to another packet: this one was taken out.
                end = next_out if shifts.end_out is None else shifts.end_out
                return shifts if next_out - self.history <= index + shifts.sequence < end else None
        return None

    def sent(self, out: int) -> Shifts | None:
        """The shifts under which the packet `out` was sent; None if it is too old, ours, or never was."""
        if not self.next_out - self.history <= out < self.next_out:
            return None
        place = bisect_right(self._past, out, key=_first_out)
        if not place:
            return None
        shifts = self._past[place - 1]
        return None if shifts.end_out is not None and out >= shifts.end_out else shifts

    def unwrap(self, sequence: int) -> int:
        """The newest extended sequence number, already given out, with these 16 bits."""
        newest = self.next_out - 1
        return newest - ((newest - sequence) & 0xFFFF)

    def _begin(self, shifts: Shifts, end_out: int) -> None:
        """Make `shifts` the current ones, the former end at `end_out`; forget what is older than the history."""
        self.current = shifts
        past = self._past
        if past:
            past[-1].end_out = end_out
        if past and past[-1].first_out == shifts.first_out:
            past[-1] = shifts  # nothing was sent under it
        else:
            past.append(shifts)
        if len(past) > 1 and past[1].first_out <= shifts.first_out - self.history:
            oldest = shifts.first_out - self.history
            del past[: bisect_right(past, oldest, key=_first_out) - 1]
