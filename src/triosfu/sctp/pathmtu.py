"""How large a packet the path carries, found by trying (RFC 8899, as RFC 8831, section 5, asks of data channels).

A probe is a HEARTBEAT as large as the size that is tried, which must not be fragmented on its way. Nothing hangs on it:
one that is lost costs a packet, and the association goes on as before. RFC 8899 would have a small HEARTBEAT padded by
a PAD chunk (RFC 4820), so that the answer is small; but there are peers that break at a chunk that they do not know,
and some that cut off what is too much for a buffer of theirs and answer the rest (docs/interop.md). Who echoes all of
it has read all of it; and what a peer's buffers have no room for (`limit`) is not tried.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from triosfu.sctp.parameters import ParameterType, Tlv
from triosfu.sctp.settings import unit_of
from triosfu.sctp.wire import Heartbeat

if TYPE_CHECKING:
    from random import Random

    from triosfu.sctp.settings import Settings

HEADERS = 8  # of the chunk and of its parameter
NONCE = 16  # bytes
TRIES = 3  # of one size, MAX_PROBES of RFC 8899
BULK = 64  # TSNs that are acknowledged before a search is worth its packets
SEARCH_AGAIN = 600.0  # seconds until a path is tried for more, PMTU_RAISE_TIMER of RFC 8899
AFTER_BLACK_HOLE = 60.0  # seconds until a path that had carried more is tried again
SILENT_T3 = 2  # expiries in a row that say that large packets do not arrive any more


class PathMtu:
    """The search for the largest packet of one path: upwards over `Settings.larger_mtus`, until one is not answered.

    Small talk needs no large packets, so the search begins with the `BULK`th TSN that the peer acknowledges.
    """

    __slots__ = ("_base", "_info", "_ladder", "_rng", "_tried", "_tries", "limit", "search_at", "search_from", "size")

    def __init__(self, *, rng: Random, settings: Settings, initial_tsn: int, limit: int) -> None:
        self._rng, self._base, self._ladder = rng, settings.mtu, settings.larger_mtus
        self._info: bytes | None = None  # of the probe that is under way
        self._tried = self._tries = 0
        self.limit = limit  # what the peer takes in
        self.size = self._base  # bytes of an SCTP packet that arrives
        self.search_from: float = initial_tsn + BULK if self._ladder else math.inf
        self.search_at = -math.inf

    def begin(self) -> None:
        """Search from now on; the next one may begin when this one has long ended."""
        self.search_from, self._tries = math.inf, 0

    def probe(self, now: float, next_tsn: int) -> bytes | None:
        """The chunk that is the next probe; None if the search is over."""
        size = next((size for size in self._ladder if self.size < size <= self.limit), None)
        if size is None or self._tries == TRIES:
            self._over(now + SEARCH_AGAIN, next_tsn)
            return None
        self._tried = size
        self._tries += 1
        padding = bytes(unit_of(size) - HEADERS - NONCE)
        self._info = Tlv(ParameterType.HEARTBEAT_INFO, self._rng.randbytes(NONCE) + padding).serialize()
        return Heartbeat(False, self._info).serialize()

    def is_answer(self, ack: Heartbeat) -> bool:
        """Does this HEARTBEAT ACK answer the probe that is under way? Then `size` has grown."""
        if self._info is None or ack.body != self._info:
            return False
        self._info = None
        self.size, self._tries = self._tried, 0
        return True

    def is_black_hole(self, errors: int) -> bool:
        """Do so many expiries of T3 in a row mean that the path has become narrower?"""
        return errors >= SILENT_T3 and self.size > self._base

    def start_over(self, now: float, next_tsn: int, *, after: float) -> None:
        """Send what every path carries, and do not search for `after` seconds: the path is another, or has changed."""
        self.size = self._base
        self._over(now + after, next_tsn)

    def _over(self, search_at: float, next_tsn: int) -> None:
        self._info = None
        self.search_at = search_at
        if self._ladder:
            self.search_from = next_tsn + BULK
