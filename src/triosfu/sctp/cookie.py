"""The state cookie: what a responder would have to remember, given to the peer, signed (RFC 9260, section 5.1.3)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass

from triosfu.sctp.capabilities import Capability, Peer

_MAGIC = b"triosfu1"
_FIELDS = struct.Struct("!8sdIIQIIIHHB")
_MAC_SIZE = 16


@dataclass(frozen=True, slots=True)
class Cookie:
    """Both ends' handshake values as the responder saw them when it wrote its INIT ACK."""

    made_at: float
    local_tag: int
    local_tsn: int
    tie_tag: int  # names the association that was up at the time; 0 if none was
    peer: Peer


class CookieJar:
    """Signs cookies and reads them back. The key never leaves the object, so only its own cookies pass."""

    __slots__ = ("_key",)

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def seal(self, cookie: Cookie) -> bytes:
        """The cookie's bytes, signed."""
        peer = cookie.peer
        plain = _FIELDS.pack(
            _MAGIC,
            cookie.made_at,
            cookie.local_tag,
            cookie.local_tsn,
            cookie.tie_tag,
            peer.tag,
            peer.initial_tsn,
            peer.a_rwnd,
            peer.outbound_streams,
            peer.inbound_streams,
            peer.capabilities,
        )
        return plain + self._mac(plain)

    def open(self, sealed: bytes) -> Cookie | None:
        """The cookie, whatever its age, or None if this jar has not sealed it."""
        if len(sealed) != _FIELDS.size + _MAC_SIZE:
            return None
        plain = sealed[: _FIELDS.size]
        if not hmac.compare_digest(self._mac(plain), sealed[_FIELDS.size :]):
            return None
        _, made_at, tag, tsn, tie_tag, peer_tag, peer_tsn, rwnd, outbound, inbound, extensions = _FIELDS.unpack(plain)
        peer = Peer(peer_tag, peer_tsn, rwnd, outbound, inbound, Capability(extensions))
        return Cookie(made_at, tag, tsn, tie_tag, peer)

    def _mac(self, plain: bytes) -> bytes:
        return hmac.digest(self._key, plain, hashlib.sha256)[:_MAC_SIZE]
