"""Is the peer alive? The association's error counter and its heartbeats (RFC 9260, sections 8.1 to 8.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.sctp.parameters import ParameterType, Tlv
from triosfu.sctp.wire import Heartbeat

if TYPE_CHECKING:
    from random import Random

    from triosfu.sctp.rto import RetransmissionTimeout
    from triosfu.sctp.settings import Settings


class Liveness:
    """Counts what went unanswered in a row. Every failure also doubles the time-out, every answer resets both.

    An association that is up because a COOKIE ECHO came is `doubtful` at first: every COOKIE ACK may be lost, and the
    peer gives up without our hearing of it. So the peer has as many tries as the handshake has, until it sends what
    only an end that is up sends. A further COOKIE ECHO raises the doubt again.
    """

    __slots__ = ("_info", "_maximum", "_maximum_in_doubt", "_rng", "_rto", "_sent_at", "doubtful", "errors")

    def __init__(self, *, rng: Random, rto: RetransmissionTimeout, settings: Settings) -> None:
        self._rng, self._rto = rng, rto
        self._maximum, self._maximum_in_doubt = settings.max_retransmits, settings.max_init_retransmits
        self._info: bytes | None = None  # of the last heartbeat
        self._sent_at = 0.0
        self.doubtful = True
        self.errors = 0

    def failed(self) -> bool:
        """Count one more failure; True if the peer is to be given up."""
        self.errors += 1
        self._rto.back_off()
        return self.errors > (self._maximum_in_doubt if self.doubtful else self._maximum)

    def proven(self) -> None:
        """The peer has answered."""
        self.errors = 0
        self.doubtful = False
        self._rto.recovered()

    def heartbeat(self, now: float) -> bytes:
        """The chunk to send; only the very same info in a HEARTBEAT ACK answers it."""
        self._sent_at = now
        self._info = Tlv(ParameterType.HEARTBEAT_INFO, self._rng.randbytes(16)).serialize()
        return Heartbeat(False, self._info).serialize()

    def is_answer(self, ack: Heartbeat, now: float) -> bool:
        """Does this HEARTBEAT ACK answer the last heartbeat? It does so once, and tells the round trip time.

        A late one does too: no two heartbeats have the same info, so there is no doubt about which one it answers.
        """
        if self._info is None or ack.body != self._info:
            return False
        self._info = None
        self._rto.measured(now - self._sent_at)
        return True
