"""The records of an association whose handshake is complete: protected with the keys that OpenSSL agreed on.

A connection of OpenSSL's keeps 62 KiB for as long as it lives, most of it for further handshakes. Ours has one; what
follows is a number and an AEAD for each record (RFC 6347, section 4.1.2; RFC 5246, section 6.2.3.3; RFC 5288; RFC
7905). So OpenSSL's is let go of then, and `Sealer` and `Opener` go on from there, with the AEADs of cryptography.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from triosfu.dtls.records import HEADER
from triosfu.srtp.profiles import cut

if TYPE_CHECKING:
    from OpenSSL import SSL

    from triosfu.dtls.records import Record

    Aead: TypeAlias = AESGCM | ChaCha20Poly1305

VERSION = 0xFEFD  # DTLS 1.2
EPOCH = 1  # the first one that is protected, and the last: nothing is negotiated twice
TAG = 16  # bytes behind the data
EXPLICIT = 8  # bytes of the nonce that a record of GCM carries
WINDOW = 64  # records, within which an older one is told from one that came already (RFC 6347, section 4.1.2.6)
NUMBERS = 1 << 64
MOST = 1 << 14  # bytes of data in a record

lead = struct.Struct("!BHQH")  # a header, epoch and sequence number in one
additional = struct.Struct("!QBHH")  # what is authenticated besides: the same, in another order, and the data's length


@dataclass(frozen=True, slots=True)
class Suite:
    """What a cipher suite says about records."""

    aead: type[Aead]
    key: int  # bytes
    iv: int  # bytes of the nonce that both ends know; 12 are all of it
    digest: str  # of the key derivation


# By the end of OpenSSL's name for it; how keys are agreed on and signed is of no interest any more.
SUITES = {
    "AES128-GCM-SHA256": Suite(AESGCM, 16, 4, "sha256"),
    "AES256-GCM-SHA384": Suite(AESGCM, 32, 4, "sha384"),
    "CHACHA20-POLY1305": Suite(ChaCha20Poly1305, 32, 12, "sha256"),
}


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of both directions. Never printed: the representation hides them."""

    suite: Suite
    local_key: bytes = field(repr=False)
    local_iv: bytes = field(repr=False)
    remote_key: bytes = field(repr=False)
    remote_iv: bytes = field(repr=False)

    @classmethod
    def of(cls, connection: SSL.Connection, *, client: bool) -> Keys | None:
        """What `connection` has agreed on, whose handshake is complete; None for a cipher that is no AEAD of ours."""
        name = connection.get_cipher_name() or ""
        suite = next((suite for end, suite in SUITES.items() if name.endswith(end)), None)
        secret, ours, theirs = connection.master_key(), connection.client_random(), connection.server_random()
        if suite is None or secret is None or ours is None or theirs is None:
            return None
        key, iv = suite.key, suite.iv
        block = expanded(secret, b"key expansion" + theirs + ours, 2 * (key + iv), suite.digest)
        return cls(suite, *cut(block, key, iv, client=client))


def expanded(secret: bytes, seed: bytes, length: int, digest: str) -> bytes:
    """The pseudorandom function of TLS 1.2 (RFC 5246, section 5); `seed` begins with the label."""
    block, link = b"", seed
    while len(block) < length:
        link = hmac.digest(secret, link, digest)
        block += hmac.digest(secret, link + seed, digest)
    return block[:length]


class Sealer:
    """Our records, each under the number behind the last one's."""

    __slots__ = ("_aead", "_iv", "_offset", "_place")

    def __init__(self, keys: Keys, last: bytes) -> None:
        """Go on behind `last`, the last record under these keys that OpenSSL has made: no nonce serves twice.

        A record of GCM tells its nonce, which began anywhere; with ChaCha20 it is the record's number.
        """
        self._aead = keys.suite.aead(keys.local_key)
        self._iv = keys.local_iv
        self._place = int.from_bytes(last[3:11], "big")  # epoch and sequence number
        told = last[HEADER.size : HEADER.size + EXPLICIT]
        self._offset = (int.from_bytes(told, "big") - self._place) % NUMBERS

    def seal(self, content_type: int, data: bytes) -> bytes:
        """The record that carries `data`."""
        place = self._place = self._place + 1
        authenticated = additional.pack(place, content_type, VERSION, len(data))
        if len(self._iv) == 12:
            sealed = self._aead.encrypt(_mixed(self._iv, place), data, authenticated)
            return lead.pack(content_type, VERSION, place, len(sealed)) + sealed
        told = ((place + self._offset) % NUMBERS).to_bytes(EXPLICIT, "big")
        sealed = self._aead.encrypt(self._iv + told, data, authenticated)
        return lead.pack(content_type, VERSION, place, EXPLICIT + len(sealed)) + told + sealed

    def seal_again(self, record: Record) -> Record:
        """One of our own records under a new number: with the old one it may pass for a replay."""
        content_type, _, place, _ = lead.unpack_from(record.data)
        data = _opened(self._aead, self._iv, record.data, content_type, place)
        return record._replace(data=self.seal(content_type, data))


class Opener:
    """The peer's records, each genuine one once, in whatever order they come."""

    __slots__ = ("_aead", "_came", "_iv", "_newest")

    def __init__(self, keys: Keys) -> None:
        self._aead = keys.suite.aead(keys.remote_key)
        self._iv = keys.remote_iv
        self._newest = EPOCH << 48
        self._came = 0  # a bit for each of the last numbers, the newest is the lowest

    def open(self, record: bytes) -> bytes | None:
        """What one whole record carries; None for a replay, for what is too old to tell, and for what is forged."""
        content_type, version, place, _ = lead.unpack_from(record)
        behind = self._newest - place
        if version != VERSION or place >> 48 != EPOCH:
            return None
        if behind >= WINDOW or (behind >= 0 and self._came >> behind & 1):
            return None
        try:
            data = _opened(self._aead, self._iv, record, content_type, place)
        except InvalidTag:
            return None
        if behind < 0:
            self._came = (self._came << min(-behind, WINDOW) | 1) & (1 << WINDOW) - 1
            self._newest = place
        else:
            self._came |= 1 << behind
        return data if len(data) <= MOST else None


def _opened(aead: Aead, iv: bytes, record: bytes, content_type: int, place: int) -> bytes:
    """The data of a record.

    Raises:
        InvalidTag: It is forged, or damaged.
    """
    if len(iv) == 12:
        nonce, sealed = _mixed(iv, place), record[HEADER.size :]
    else:
        at = HEADER.size + EXPLICIT
        nonce, sealed = iv + record[HEADER.size : at], record[at:]
    if len(sealed) < TAG:
        raise InvalidTag
    return aead.decrypt(nonce, sealed, additional.pack(place, content_type, VERSION, len(sealed) - TAG))


def _mixed(iv: bytes, place: int) -> bytes:
    """The nonce of ChaCha20-Poly1305 (RFC 7905, section 2)."""
    return (int.from_bytes(iv, "big") ^ place).to_bytes(12, "big")
