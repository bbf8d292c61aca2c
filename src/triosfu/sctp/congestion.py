"""The congestion window (RFC 9260, section 7.2)."""

from __future__ import annotations


class CongestionWindow:
    """How many bytes may be in flight. All sizes are those of DATA chunks, headers included.

    `unit` is the size of the largest set of chunks that one packet carries, PMDCS in RFC 9260.
    """

    __slots__ = ("_partial", "_unit", "bytes", "recovery_exit", "ssthresh")

    def __init__(self, *, unit: int) -> None:
        self._unit = unit
        self.bytes = min(4 * unit, max(2 * unit, 4404))
        self.ssthresh = 1 << 30  # arbitrarily high until the first loss; the peer's window bounds us anyhow
        self._partial = 0
        self.recovery_exit: int | None = None  # fast recovery ends when this TSN is cumulatively acknowledged

    def resize(self, unit: int) -> None:
        """From now on packets carry `unit` bytes of chunks; the window is at least one of them."""
        self._unit = unit
        self.bytes = max(self.bytes, unit)

    def acknowledged(self, size: int, *, flight_before: int, flight: int) -> None:
        """Grow after a SACK that moved the cumulative TSN and acknowledged `size` bytes that were not before."""
        if self.recovery_exit is not None:
            return
        # Only a window that was used up has shown that it is safe to widen it.
        full = flight_before + self._unit >= self.bytes
        if self.bytes <= self.ssthresh:
            if full:
                self.bytes += min(size, self._unit)
        else:
            self._partial += size
            if self._partial >= self.bytes and full:
                self._partial -= self.bytes
                self.bytes += self._unit
        if not flight:
            self._partial = 0

    def loss_reported(self, highest_outstanding: int) -> bool:
        """Halve the window for losses that SACKs showed; False if fast recovery is on and it has been halved."""
        if self.recovery_exit is not None:
            return False
        self._halve()
        self.bytes = self.ssthresh
        self.recovery_exit = highest_outstanding
        return True

    def cumulative_moved(self, tsn: int) -> None:
        """Leave fast recovery once all that was outstanding when it began is acknowledged."""
        if self.recovery_exit is not None and tsn >= self.recovery_exit:
            self.recovery_exit = None

    def timed_out(self) -> None:
        """Start again with one packet: T3 expired."""
        self._halve()
        self.bytes = self._unit
        self.recovery_exit = None

    def idled(self, periods: int) -> None:
        """Decay after `periods` time-outs in which nothing was sent."""
        while periods > 0 and self.bytes > 4 * self._unit:
            self.bytes = max(self.bytes // 2, 4 * self._unit)
            periods -= 1

    def _halve(self) -> None:
        self.ssthresh = max(self.bytes // 2, 4 * self._unit)
        self._partial = 0
