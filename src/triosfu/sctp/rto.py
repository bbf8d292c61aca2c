"""The retransmission time-out (RFC 9260, section 6.3), with a low cap so that silence ends in bounded time."""

from __future__ import annotations

_ALPHA, _BETA = 1 / 8, 1 / 4


class RetransmissionTimeout:
    """How long to wait for an acknowledgement, learnt from round trips and doubled by failures.

    Eleven expiries end an association. Capped at `maximum` = 3 s they take 33 s at most, which is D_abort.
    """

    __slots__ = ("_base", "_factor", "_initial", "_maximum", "_minimum", "rttvar", "srtt")

    def __init__(self, *, initial: float, minimum: float, maximum: float) -> None:
        self._initial, self._minimum, self._maximum = min(initial, maximum), minimum, maximum
        self.reset()

    def reset(self) -> None:
        """Forget everything: there is a new peer."""
        self._base = self._initial
        self._factor = 1
        self.srtt: float | None = None
        self.rttvar = 0.0

    @property
    def value(self) -> float:
        """Seconds to wait now, back-off included."""
        return min(self._base * self._factor, self._maximum)

    def measured(self, rtt: float) -> None:
        """Learn from one round trip of something that was sent only once (Karn's rule)."""
        if self.srtt is None:
            self.srtt, self.rttvar = rtt, rtt / 2
        else:
            self.rttvar += _BETA * (abs(self.srtt - rtt) - self.rttvar)
            self.srtt += _ALPHA * (rtt - self.srtt)
        self._base = min(max(self.srtt + 4 * self.rttvar, self._minimum), self._maximum)

    def back_off(self) -> None:
        """Double the wait, up to the cap, after an expiry."""
        if self.value < self._maximum:
            self._factor *= 2

    def recovered(self) -> None:
        """Forget the back-off: the peer has acknowledged something new."""
        self._factor = 1
