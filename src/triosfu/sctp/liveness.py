"""Is the peer alive? The association's error counter and its heartbeats (RFC 9260, sections 8.1 to 8.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.sctp.parameters import ParameterType, Tlv
from triosfu.sctp.wire import Heartbeat

if TYPE_CHECKING:
    from random import Random

    from triosfu.sctp.rto import RetransmissionTimeout


class Liveness:
    """Counts what went unanswered in a row. Every failure also doubles the time-out, every answer resets both."""

    __slots__ = ("_info", "_maximum", "_rng", "_rto", "errors")

    def __init__(self, *, rng: Random, rto: RetransmissionTimeout, max_retransmits: int) -> None:
        self._rng, self._rto, self._maximum = rng, rto, max_retransmits
        self._info: bytes | None = None  # of the heartbeat under way
        self.errors = 0

    def failed(self) -> bool:
        """Count one more failure; True if the peer is to be given up."""
        self.errors += 1
        self._rto.back_off()
        return self.errors > self._maximum

    def proven(self) -> None:
        """The peer has answered."""
        self.errors = 0
        self._rto.recovered()

    def heartbeat(self) -> bytes:
        """The chunk to send; only the very same info in a HEARTBEAT ACK answers it."""
        self._info = Tlv(ParameterType.HEARTBEAT_INFO, self._rng.randbytes(16)).serialize()
        return Heartbeat(False, self._info).serialize()

    def is_answer(self, ack: Heartbeat) -> bool:
        """Does this HEARTBEAT ACK answer the heartbeat under way? It does so once."""
        if self._info is None or ack.body != self._info:
            return False
        self._info = None
        return True

    def heartbeat_lost(self) -> bool:
        """No answer came in time; True if the peer is to be given up."""
        self._info = None
        return self.failed()
