"""The state cookie: what a responder would have to remember, given to the peer, signed (RFC 9260, section 5.1.3)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass
from enum import Enum, auto

_MAGIC = b"triosfu1"
_FIELDS = struct.Struct("!8sdIIIIIQHHB")
_MAC_SIZE = 16


@dataclass(frozen=True, slots=True)
class Cookie:
    """Both ends' handshake values as the responder saw them when it wrote its INIT ACK."""

    made_at: float
    local_tag: int
    peer_tag: int
    local_tsn: int
    peer_tsn: int
    peer_rwnd: int
    tie_tag: int  # names the association that was up at the time; 0 if none was
    outbound_streams: int
    inbound_streams: int
    capabilities: int


class CookieJar:
    """Signs cookies and reads them back. The key never leaves the object, so only its own cookies pass."""

    __slots__ = ("_key", "_life")

    def __init__(self, *, life: float) -> None:
        self._key = secrets.token_bytes(32)
        self._life = life

    def seal(self, cookie: Cookie) -> bytes:
        """The cookie's bytes, signed."""
        plain = _FIELDS.pack(
            _MAGIC,
            cookie.made_at,
            cookie.local_tag,
            cookie.peer_tag,
            cookie.local_tsn,
            cookie.peer_tsn,
            cookie.peer_rwnd,
            cookie.tie_tag,
            cookie.outbound_streams,
            cookie.inbound_streams,
            cookie.capabilities,
        )
        return plain + self._mac(plain)

    def open(self, sealed: bytes) -> Cookie | None:
        """The cookie, whatever its age, or None if this jar has not sealed it."""
        if len(sealed) != _FIELDS.size + _MAC_SIZE:
            return None
        plain = sealed[: _FIELDS.size]
        if not hmac.compare_digest(self._mac(plain), sealed[_FIELDS.size :]):
            return None
        return Cookie(*_FIELDS.unpack(plain)[1:])

    def is_stale(self, cookie: Cookie, now: float) -> bool:
        """Was the cookie made too long ago?"""
        return now - cookie.made_at > self._life

    def _mac(self, plain: bytes) -> bytes:
        return hmac.digest(self._key, plain, hashlib.sha256)[:_MAC_SIZE]


class Case(Enum):
    """What a COOKIE ECHO means to an association that exists (RFC 9260, section 5.2.4, table 12)."""

    RESTART = auto()  # A: the peer begins anew and knows nothing of the old association
    COLLISION = auto()  # B: both sent an INIT; the peer's tag is the cookie's
    LATE = auto()  # C: the answer to an INIT of ours that is long forgotten
    DUPLICATE = auto()  # D: all as we know it
    FOREIGN = auto()


def judge(cookie: Cookie, *, local_tag: int, peer_tag: int, tie_tag: int) -> Case:
    """Compare a valid cookie with the association it arrives at."""
    match cookie.local_tag == local_tag, cookie.peer_tag == peer_tag:
        case True, True:
            return Case.DUPLICATE
        case True, False:
            return Case.COLLISION
        case False, True if cookie.tie_tag == 0:
            return Case.LATE
        case False, False if cookie.tie_tag == tie_tag:
            return Case.RESTART
    return Case.FOREIGN
