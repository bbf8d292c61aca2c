"""What was sent lately, and whether it may be sent again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.rtp.wire import RtpPacket

MAX_RESENDS = 3  # of one packet
MAX_ASKED = 512  # packets whose resends are remembered
MAX_SPACING = 0.1  # seconds between two resends of one packet


@dataclass(slots=True)
class _Asked:
    """How often a packet was resent, and when last."""

    count: int
    at: float


class Sequencer:
    """The last packets sent, by extended sequence number. `ring` is written by the forwarder's hot path.

    A slot is empty where a number was left out; whoever leaves numbers out clears their slots. The packets themselves
    are shared by all subscribers, so a subscriber costs a pointer for each.
    """

    __slots__ = ("_asked", "mask", "repeated", "ring")

    def __init__(self, size: int) -> None:
        self.mask = size - 1
        self.ring: list[RtpPacket | None] = [None] * size
        self.repeated = 0  # packets asked for more than once
        self._asked: dict[int, _Asked] = {}

    def leave_out(self, first: int, end: int) -> None:
        """Clear the slots of the numbers from `first` to before `end`."""
        ring, mask = self.ring, self.mask
        for out in range(max(first, end - len(ring)), end):
            ring[out & mask] = None

    def clear(self) -> None:
        """Forget everything: nothing will be asked for any more."""
        self.ring[:] = [None] * len(self.ring)
        self._asked.clear()

    def resend(self, out: int, now: float, rtt: float) -> RtpPacket | None:
        """The packet to send again for a NACK of `out`, which is within the history; None when it may not be."""
        packet = self.ring[out & self.mask]
        if packet is None:
            return None
        asked = self._asked.get(out)
        if asked is None:
            if len(self._asked) >= MAX_ASKED:
                del self._asked[next(iter(self._asked))]
            self._asked[out] = _Asked(1, now)
            return packet
        self.repeated += 1
        if asked.count >= MAX_RESENDS or now - asked.at < min(MAX_SPACING, 2 * rtt):
            return None
        asked.count += 1
        asked.at = now
        return packet
