"""STUN on the wire (RFC 8489): messages, attributes, integrity and fingerprint.

    datagram -> peek()          which transport is it for? (cheap, trusts nothing)
             -> Message.parse() a value, or MalformedPacket
             -> .signed_with(password)   only now may anything be believed

Parsing is total: whatever the bytes, the outcome is a `Message` or `MalformedPacket`. What a message says about itself
(length, fingerprint) is checked by `parse`; what only a secret can prove is checked by `signed_with`.

Peers ask, and are asked, the same thing for hours. Nothing but the transaction changes then, and the proofs that it is
under: `Message.parse_again` reads, and `Template` writes such messages for the price of their proofs.
"""

from __future__ import annotations

import hmac
import struct
import zlib
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, Self

from triosfu.errors import MalformedPacket, UsageError

Address = tuple[str, int]
"""A numeric IP address and a port."""

HEADER: Final = struct.Struct("!HHI12s")  # type, length, cookie, transaction id
FIELD: Final = struct.Struct("!HH")  # attribute type, length of its value without padding
U32: Final = struct.Struct("!I")
U64: Final = struct.Struct("!Q")

COOKIE: Final = 0x2112A442
COOKIE_BYTES: Final = U32.pack(COOKIE)
XOR_COOKIE: Final = COOKIE_BYTES[:2] + COOKIE_BYTES  # what masks a port and the host behind it
TRANSACTION_SIZE: Final = 12
BINDING: Final = 0x001

DIGEST_SIZE: Final = 20  # HMAC-SHA1
INTEGRITY_SIZE: Final = FIELD.size + DIGEST_SIZE
FINGERPRINT_SIZE: Final = FIELD.size + 4
FINGERPRINT_MASK: Final = 0x5354554E

MAX_ATTRIBUTES: Final = 64
"""More attributes than any real peer sends; a stranger's datagram may not make us walk thousands."""

PROOFS: Final = 2  # MESSAGE-INTEGRITY and FINGERPRINT, which come on top: whatever was parsed can be signed and parsed

INTEGRITY_FIELD: Final = FIELD.pack(0x0008, DIGEST_SIZE)
FINGERPRINT_FIELD: Final = FIELD.pack(0x8028, 4)

MAX_VALUE: Final = 0xFFFF
FIRST_OPTIONAL: Final = 0x8000  # attributes from here on may be ignored (RFC 8489, section 14)
IPV4, IPV6 = 0x01, 0x02

BINDING_REQUEST, BINDING_SUCCESS, BINDING_ERROR = b"\x00\x01", b"\x01\x01", b"\x01\x11"


class Kind(IntEnum):
    """The class of a message: the two bits C1 and C0, where they stand in the type (RFC 8489, section 5)."""

    REQUEST = 0x000
    INDICATION = 0x010
    SUCCESS = 0x100
    ERROR = 0x110


class Attribute(IntEnum):
    """Attribute types of STUN, ICE and TURN (IANA registry "STUN Attributes")."""

    MAPPED_ADDRESS = 0x0001
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    CHANNEL_NUMBER = 0x000C
    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    REALM = 0x0014
    NONCE = 0x0015
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_ADDRESS_FAMILY = 0x0017
    EVEN_PORT = 0x0018
    REQUESTED_TRANSPORT = 0x0019
    DONT_FRAGMENT = 0x001A
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    XOR_MAPPED_ADDRESS = 0x0020
    RESERVATION_TOKEN = 0x0022
    PRIORITY = 0x0024
    USE_CANDIDATE = 0x0025
    SOFTWARE = 0x8022
    ALTERNATE_SERVER = 0x8023
    FINGERPRINT = 0x8028
    ICE_CONTROLLED = 0x8029
    ICE_CONTROLLING = 0x802A


@dataclass(frozen=True, slots=True)
class StunError:
    """The ERROR-CODE of an error response (RFC 8489, section 14.8)."""

    code: int
    reason: str = ""

    @classmethod
    def parse(cls, value: bytes) -> Self:
        """Read the attribute's value; MalformedPacket unless it is a code from 300 to 699."""
        if len(value) < 4 or not 3 <= value[2] & 7 <= 6 or value[3] > 99:
            raise MalformedPacket("stun: not an error code")
        return cls((value[2] & 7) * 100 + value[3], value[4:].decode("utf-8", "replace"))

    def serialize(self) -> bytes:
        """The attribute's value."""
        return bytes((0, 0, self.code // 100, self.code % 100)) + self.reason.encode()


@dataclass(frozen=True, slots=True)
class Message:
    """A STUN message without its MESSAGE-INTEGRITY and FINGERPRINT, which `serialize` adds and `parse` takes away.

    `attributes` holds (type, value) in the order of the wire. Where a type occurs twice, the first one counts.
    """

    kind: Kind
    transaction: bytes
    attributes: tuple[tuple[int, bytes], ...] = ()
    method: int = BINDING
    _raw: bytes = field(default=b"", repr=False, compare=False)
    _signed: int = field(default=0, repr=False, compare=False)  # offset of MESSAGE-INTEGRITY in `_raw`; 0: unsigned

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one datagram. A FINGERPRINT, where there is one, is right; integrity is the caller's to check."""
        if len(data) < HEADER.size:
            raise MalformedPacket(f"stun: {len(data)} bytes is shorter than a header")
        packed, length, cookie, transaction = HEADER.unpack_from(data)
        if packed >> 14 or cookie != COOKIE:
            raise MalformedPacket("stun: no magic cookie")
        if length % 4 or length != len(data) - HEADER.size:
            raise MalformedPacket(f"stun: length says {length}, body disagrees")
        attributes, signed = _parse_attributes(data)
        method = packed & 0xF | packed >> 1 & 0x70 | packed >> 2 & 0xF80
        return cls(Kind(packed & 0x110), transaction, attributes, method, data, signed)

    def parse_again(self, data: bytes) -> Message | None:
        """Read a datagram that differs from this received message in its transaction and its proofs alone, else None.

        It is what `parse` makes of it. The FINGERPRINT is checked here, too; integrity still is the caller's to check.
        """
        raw, signed = self._raw, self._signed
        behind = signed + INTEGRITY_SIZE
        if (
            not signed
            or len(data) != len(raw)
            or data[:8] != raw[:8]
            or data[HEADER.size : signed + FIELD.size] != raw[HEADER.size : signed + FIELD.size]
        ):
            return None
        if len(data) != behind and (
            len(data) != behind + FINGERPRINT_SIZE
            or data[behind : behind + FIELD.size] != FINGERPRINT_FIELD
            or data[behind + FIELD.size :] != U32.pack(_crc(data[:behind]))
        ):
            return None
        return Message(self.kind, data[8 : HEADER.size], self.attributes, self.method, data, signed)

    def serialize(self, *, key: bytes | None = None, fingerprint: bool = True) -> bytes:
        """The datagram: signed with `key` when one is given, and ended by a FINGERPRINT unless told otherwise."""
        body = _packed(self.attributes)
        if key is not None:
            header = self._header(len(body) + INTEGRITY_SIZE)
            body += FIELD.pack(Attribute.MESSAGE_INTEGRITY, DIGEST_SIZE) + _digest(key, header + body)
        if fingerprint:
            header = self._header(len(body) + FINGERPRINT_SIZE)
            body += FIELD.pack(Attribute.FINGERPRINT, 4) + U32.pack(_crc(header + body))
        return self._header(len(body)) + body

    def _header(self, length: int) -> bytes:
        method = self.method & 0xF | (self.method & 0x70) << 1 | (self.method & 0xF80) << 2
        if length > MAX_VALUE:
            raise UsageError(f"stun: a body of {length} bytes does not fit")
        return HEADER.pack(method | self.kind, length, COOKIE, self.transaction)

    def signed_with(self, key: bytes) -> bool:
        """Whether this received message carries a MESSAGE-INTEGRITY made with `key` (RFC 8489, section 14.5)."""
        at = self._signed
        if not at:
            return False
        # The length that was signed ends with MESSAGE-INTEGRITY, whatever follows it.
        length = at + INTEGRITY_SIZE - HEADER.size
        expected = _digest(key, self._raw[:2] + length.to_bytes(2) + self._raw[4:at])
        return hmac.compare_digest(expected, self._raw[at + FIELD.size : at + INTEGRITY_SIZE])

    def get(self, kind: int) -> bytes | None:
        """The value of the first attribute of this type, or None."""
        for found, value in self.attributes:
            if found == kind:
                return value
        return None

    def unknown(self, understood: frozenset[int]) -> tuple[int, ...]:
        """The attributes that demand to be understood and are not: grounds for a 420 (RFC 8489, section 6.3.1)."""
        return tuple(kind for kind, _ in self.attributes if kind < FIRST_OPTIONAL and kind not in understood)

    def text(self, kind: int) -> str | None:
        """The attribute as text; MalformedPacket when it is not UTF-8."""
        value = self.get(kind)
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError:
            raise MalformedPacket(f"stun: attribute {kind:#06x} is not UTF-8") from None

    def number(self, kind: int, size: struct.Struct = U32) -> int | None:
        """The attribute as an unsigned number, of 32 bits unless told otherwise."""
        value = self.get(kind)
        if value is None:
            return None
        if len(value) != size.size:
            raise MalformedPacket(f"stun: attribute {kind:#06x} has {len(value)} bytes instead of {size.size}")
        number: int = size.unpack(value)[0]
        return number

    def address(self, kind: int) -> Address | None:
        """The attribute as an XOR address, such as XOR-MAPPED-ADDRESS."""
        value = self.get(kind)
        return None if value is None else unpack_xor_address(value, self.transaction)

    @property
    def error(self) -> StunError | None:
        """The ERROR-CODE, if there is one."""
        value = self.get(Attribute.ERROR_CODE)
        return None if value is None else StunError.parse(value)


class Template:
    """Signed messages that have everything in common but their transaction."""

    __slots__ = ("_body", "_head", "_key", "_signed_head")

    def __init__(self, kind: Kind, attributes: tuple[tuple[int, bytes], ...], key: bytes) -> None:
        """Prepare what the messages have in common; none of the attributes may depend on the transaction."""
        message = Message(kind, bytes(TRANSACTION_SIZE))
        self._body = _packed(attributes)
        signed = len(self._body) + INTEGRITY_SIZE
        self._signed_head = message._header(signed)[:8]  # noqa: SLF001  of this module
        self._head = message._header(signed + FINGERPRINT_SIZE)[:8]  # noqa: SLF001
        self._key = key

    def message(self, transaction: bytes) -> bytes:
        """The datagram: what `Message.serialize` makes of the same."""
        body = transaction + self._body
        proven = self._head + body + INTEGRITY_FIELD + _digest(self._key, self._signed_head + body)
        return proven + FINGERPRINT_FIELD + U32.pack(_crc(proven))


def peek(data: bytes) -> str | bytes | None:
    """Tell whom a STUN datagram is for, at the price of a few comparisons. Nothing is verified.

    Returns:
        A `str`: a binding request, for the transport whose local ufrag this is (USERNAME up to its colon).
        A `bytes`: a binding response, to the request with this transaction id.
        None: neither; drop it.
    """
    if len(data) < HEADER.size or data[4:8] != COOKIE_BYTES:
        return None
    kind = data[:2]
    if kind == BINDING_REQUEST:
        return _peek_ufrag(data)
    if kind in (BINDING_SUCCESS, BINDING_ERROR):
        return data[8 : HEADER.size]
    return None


def _peek_ufrag(data: bytes) -> str | None:
    at = HEADER.size
    for _ in range(MAX_ATTRIBUTES):
        if at + FIELD.size > len(data):
            return None
        kind, length = FIELD.unpack_from(data, at)
        at += FIELD.size
        if kind == Attribute.USERNAME:
            ufrag, colon, _ = data[at : at + length].partition(b":")
            return ufrag.decode("ascii") if colon and ufrag and ufrag.isascii() else None
        at += length + (-length % 4)
    return None


def pack_address(address: Address) -> bytes:
    """The value of a MAPPED-ADDRESS (RFC 8489, section 14.1)."""
    host, port = address
    packed = _packed_host(host)
    return struct.pack("!BBH", 0, IPV4 if len(packed) == 4 else IPV6, port) + packed


def unpack_address(value: bytes) -> Address:
    """Read the value of a MAPPED-ADDRESS."""
    if len(value) == 8 and value[1] == IPV4:
        host = f"{value[4]}.{value[5]}.{value[6]}.{value[7]}"
    elif len(value) == 20 and value[1] == IPV6:
        host = str(IPv6Address(value[4:]))
    else:
        raise MalformedPacket(f"stun: not an address ({len(value)} bytes)")
    return host, int.from_bytes(value[2:4])


def pack_xor_address(address: Address, transaction: bytes) -> bytes:
    """The value of an XOR-MAPPED-ADDRESS: an address that no NAT finds and rewrites (RFC 8489, section 14.2)."""
    return _xor(pack_address(address), transaction)


def unpack_xor_address(value: bytes, transaction: bytes) -> Address:
    """Read the value of an XOR-MAPPED-ADDRESS."""
    return unpack_address(_xor(value, transaction))


def _xor(value: bytes, transaction: bytes) -> bytes:
    """Mask, or unmask, port and host: the port with half a cookie, the host with the cookie and the transaction."""
    masked = value[2 : 2 + len(XOR_COOKIE) + TRANSACTION_SIZE]
    mask = (XOR_COOKIE + transaction)[: len(masked)]
    return value[:2] + (int.from_bytes(masked) ^ int.from_bytes(mask)).to_bytes(len(masked))


@lru_cache(maxsize=4096)  # it takes 10 µs, and each answer to a check names an address that was answered before
def _packed_host(host: str) -> bytes:
    try:
        # A link-local address may name its interface after a percent sign; that is nobody else's business.
        return (IPv6Address(host.partition("%")[0]) if ":" in host else IPv4Address(host)).packed
    except AddressValueError:
        raise UsageError("stun: the address is not numeric") from None


def _parse_attributes(data: bytes) -> tuple[tuple[tuple[int, bytes], ...], int]:
    """The attributes that count, and where MESSAGE-INTEGRITY stands (0: nowhere)."""
    found: list[tuple[int, bytes]] = []
    signed, at, end = 0, HEADER.size, len(data)
    for _ in range(MAX_ATTRIBUTES + PROOFS):
        if at == end:
            break
        kind, length = FIELD.unpack_from(data, at)
        start, following = at + FIELD.size, at + FIELD.size + length + (-length % 4)
        if following > end:
            raise MalformedPacket(f"stun: attribute {kind:#06x} runs past the end")
        if kind == Attribute.FINGERPRINT:
            if length != 4 or following != end:
                raise MalformedPacket("stun: fingerprint is not at the end")
            if U32.unpack_from(data, start)[0] != _crc(data[:at]):
                raise MalformedPacket("stun: fingerprint does not match")
        elif signed:
            pass  # nothing after MESSAGE-INTEGRITY is protected by it, so nothing there is believed
        elif kind == Attribute.MESSAGE_INTEGRITY:
            if length != DIGEST_SIZE:
                raise MalformedPacket(f"stun: integrity of {length} bytes")
            signed = at
        else:
            found.append((kind, data[start : start + length]))
        at = following
    if at < end or len(found) > MAX_ATTRIBUTES:
        raise MalformedPacket(f"stun: more than {MAX_ATTRIBUTES} attributes")
    return tuple(found), signed


def _packed(attributes: tuple[tuple[int, bytes], ...]) -> bytes:
    return b"".join([FIELD.pack(kind, len(value)) + value + bytes(-len(value) % 4) for kind, value in attributes])


def _digest(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha1")


def _crc(covered: bytes) -> int:
    return zlib.crc32(covered) ^ FINGERPRINT_MASK
