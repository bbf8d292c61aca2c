"""What of the numbers sent lately may be sent again, and how often.

The packets themselves are in the receiver's buffer, once for all subscribers. Here is only what differs from it: the
numbers that were left out, the packets that we made ourselves, and what was asked for.
"""

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
    """The exceptions among the last `history` numbers, by extended sequence number."""

    __slots__ = ("_asked", "_floor", "_history", "_made", "_missing", "repeated")

    def __init__(self, history: int) -> None:
        self._history = history
        self._floor = 0  # of what came before nothing is sent again
        self._missing: set[int] = set()  # left out, and not sent since
        self._made: dict[int, RtpPacket] = {}  # sent in place of what the buffer has
        self._asked: dict[int, _Asked] = {}
        self.repeated = 0  # packets asked for more than once

    def leave_out(self, first: int, end: int) -> None:
        """Note that nothing was sent under the numbers from `first` to before `end`."""
        oldest = end - self._history
        if len(self._missing) > self._history:
            self._missing = {out for out in self._missing if out >= oldest}
        self._missing.update(range(max(first, oldest), end))

    def missing(self, out: int) -> bool:
        """Whether `out` was left out, and its place is still empty."""
        return out in self._missing

    def fill(self, out: int, made: RtpPacket | None = None) -> None:
        """Note that `out`, which was left out, is sent now: as the receiver has it, or as we have `made` it."""
        self._missing.discard(out)
        if made is not None:
            if len(self._made) >= self._history:
                del self._made[next(iter(self._made))]
            self._made[out] = made

    def made(self, out: int) -> RtpPacket | None:
        """What was sent under `out`, if the receiver does not have it so."""
        return self._made.get(out)

    def clear(self, floor: int) -> None:
        """Forget everything before `floor`: nothing of it will be asked for any more."""
        self._floor = floor
        self._missing.clear()
        self._made.clear()
        self._asked.clear()

    def may_resend(self, out: int, now: float, rtt: float) -> bool:
        """Whether to send `out`, which was sent within the history, once more for a NACK; then it is counted."""
        if out < self._floor or out in self._missing:
            return False
        asked = self._asked.get(out)
        if asked is None:
            if len(self._asked) >= MAX_ASKED:
                del self._asked[next(iter(self._asked))]
            self._asked[out] = _Asked(1, now)
            return True
        self.repeated += 1
        if asked.count >= MAX_RESENDS or now - asked.at < min(MAX_SPACING, 2 * rtt):
            return False
        asked.count += 1
        asked.at = now
        return True
