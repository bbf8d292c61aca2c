"""The TLVs inside SCTP chunks: parameters (RFC 9260, section 3.2.1), re-config (RFC 6525) and error causes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_TLV = struct.Struct("!HH")
_OUTGOING_RESET = struct.Struct("!III")
_TWO_WORDS = struct.Struct("!II")
_WORD = struct.Struct("!I")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class ParameterType(IntEnum):
    """Parameter types that this implementation knows."""

    HEARTBEAT_INFO = 1
    IPV4 = 5
    IPV6 = 6
    STATE_COOKIE = 7
    UNRECOGNIZED = 8
    COOKIE_PRESERVATIVE = 9
    HOST_NAME = 11
    ADDRESS_TYPES = 12
    OUTGOING_RESET = 13
    INCOMING_RESET = 14
    TSN_RESET = 15
    RECONFIG_RESPONSE = 16
    ADD_OUTGOING = 17
    ADD_INCOMING = 18
    ZERO_CHECKSUM = 0x8001
    RANDOM = 0x8002
    CHUNK_LIST = 0x8003
    HMAC_ALGORITHMS = 0x8004
    SUPPORTED_EXTENSIONS = 0x8008
    FORWARD_TSN = 0xC000


class CauseCode(IntEnum):
    """Error causes (RFC 9260, section 3.3.10)."""

    INVALID_STREAM = 1
    MISSING_PARAMETER = 2
    STALE_COOKIE = 3
    OUT_OF_RESOURCE = 4
    UNRESOLVABLE_ADDRESS = 5
    UNRECOGNIZED_CHUNK = 6
    INVALID_PARAMETER = 7
    UNRECOGNIZED_PARAMETERS = 8
    NO_USER_DATA = 9
    COOKIE_WHILE_SHUTTING_DOWN = 10
    RESTART_WITH_NEW_ADDRESSES = 11
    USER_ABORT = 12
    PROTOCOL_VIOLATION = 13


class ReconfigResult(IntEnum):
    """Answers to a re-configuration request (RFC 6525, section 4.4)."""

    NOTHING_TO_DO = 0
    PERFORMED = 1
    DENIED = 2
    WRONG_SSN = 3
    ALREADY_IN_PROGRESS = 4
    BAD_SEQUENCE_NUMBER = 5
    IN_PROGRESS = 6


def pad(data: bytes) -> bytes:
    """`data` with zero bytes up to the next multiple of four."""
    return data + _PADDING[len(data) & 3]


@dataclass(frozen=True, slots=True)
class Tlv:
    """One parameter or error cause: a type and its body, padding left out."""

    type: int
    body: bytes

    def serialize(self) -> bytes:
        """The bytes of this TLV with its padding."""
        return pad(_TLV.pack(self.type, 4 + len(self.body)) + self.body)

    @property
    def known(self) -> bool:
        """Is this a parameter type that we know, if only to ignore it?"""
        return self.type in _KNOWN


_KNOWN = frozenset(int(kind) for kind in ParameterType)
_CAUSE_NAMES = {int(code): code.name.lower().replace("_", " ") for code in CauseCode}


def parse_tlvs(body: bytes) -> tuple[Tlv, ...]:
    """Split `body` into TLVs; the padding of the last may be missing.

    Raises:
        MalformedPacket: A length below four or past the end.
    """
    found: list[Tlv] = []
    position, end = 0, len(body)
    while position < end:
        if end - position < 4:
            # What is left cannot hold a header. Three zero bytes are the padding of what came before.
            raise MalformedPacket(f"sctp: {end - position} bytes left where a parameter should start")
        kind, length = _TLV.unpack_from(body, position)
        if length < 4 or position + length > end:
            raise MalformedPacket(f"sctp: parameter {kind:#x} of length {length} does not fit")
        found.append(Tlv(kind, body[position + 4 : position + length]))
        position += (length + 3) & ~3
    return tuple(found)


def serialize_tlvs(tlvs: Iterable[Tlv]) -> bytes:
    """The bytes of a list of TLVs, each padded."""
    return b"".join([tlv.serialize() for tlv in tlvs])


def find(tlvs: Iterable[Tlv], kind: int) -> bytes | None:
    """The body of the first parameter of type `kind`, or None."""
    for tlv in tlvs:
        if tlv.type == kind:
            return tlv.body
    return None


def cause(code: CauseCode, text: str | bytes = b"") -> Tlv:
    """An error cause, with an explanation for whoever reads the capture."""
    return Tlv(code, text.encode() if isinstance(text, str) else text)


def describe_causes(causes: Sequence[Tlv]) -> str:
    """A short text for logs: the names of the causes and any text the peer sent along."""
    words = []
    for tlv in causes:
        name = _CAUSE_NAMES.get(tlv.type, f"cause {tlv.type}")
        text = ""
        if tlv.type in (CauseCode.USER_ABORT, CauseCode.PROTOCOL_VIOLATION):
            text = "".join(c for c in tlv.body[:80].decode(errors="replace") if c.isprintable())
        words.append(f"{name} ({text})" if text else name)
    return ", ".join(words) or "no cause given"


@dataclass(frozen=True, slots=True)
class OutgoingReset:
    """Outgoing SSN Reset Request (RFC 6525, section 4.1): "I have reset these streams of mine"."""

    request: int
    response: int
    last_tsn: int
    streams: tuple[int, ...]

    @classmethod
    def parse(cls, body: bytes) -> OutgoingReset:
        """Read the body of a parameter 13; MalformedPacket if its length cannot be."""
        if len(body) < 12 or len(body) & 1:
            raise MalformedPacket(f"sctp: outgoing reset request of {len(body)} bytes")
        request, response, last_tsn = _OUTGOING_RESET.unpack_from(body)
        return cls(request, response, last_tsn, struct.unpack_from(f"!{(len(body) - 12) // 2}H", body, 12))

    def tlv(self) -> Tlv:
        """This request as a parameter."""
        fixed = _OUTGOING_RESET.pack(self.request, self.response, self.last_tsn)
        return Tlv(ParameterType.OUTGOING_RESET, fixed + struct.pack(f"!{len(self.streams)}H", *self.streams))


@dataclass(frozen=True, slots=True)
class OtherRequest:
    """A re-configuration request that we refuse: only its type and its sequence number matter."""

    type: int
    request: int

    @classmethod
    def parse(cls, kind: int, body: bytes) -> OtherRequest:
        """Read the sequence number that every request starts with."""
        if len(body) < 4:
            raise MalformedPacket(f"sctp: re-config request {kind} of {len(body)} bytes")
        return cls(kind, _WORD.unpack_from(body)[0])


@dataclass(frozen=True, slots=True)
class ReconfigResponse:
    """Re-configuration Response (RFC 6525, section 4.4); the optional TSNs are not used in WebRTC."""

    response: int
    result: int

    @classmethod
    def parse(cls, body: bytes) -> ReconfigResponse:
        """Read the body of a parameter 16; MalformedPacket if its length cannot be."""
        if len(body) not in (8, 16):
            raise MalformedPacket(f"sctp: re-config response of {len(body)} bytes")
        return cls(*_TWO_WORDS.unpack_from(body))

    def tlv(self) -> Tlv:
        """This response as a parameter."""
        return Tlv(ParameterType.RECONFIG_RESPONSE, _TWO_WORDS.pack(self.response, self.result))


def parse_reconfig(parameter: Tlv) -> OutgoingReset | OtherRequest | ReconfigResponse:
    """The typed form of one parameter of a RE-CONFIG chunk.

    Raises:
        MalformedPacket: It is no re-config parameter, or its length is wrong.
    """
    match parameter.type:
        case ParameterType.OUTGOING_RESET:
            return OutgoingReset.parse(parameter.body)
        case ParameterType.RECONFIG_RESPONSE:
            return ReconfigResponse.parse(parameter.body)
        case (
            ParameterType.INCOMING_RESET
            | ParameterType.TSN_RESET
            | ParameterType.ADD_OUTGOING
            | ParameterType.ADD_INCOMING
        ):
            return OtherRequest.parse(parameter.type, parameter.body)
    raise MalformedPacket(f"sctp: parameter {parameter.type:#x} in RE-CONFIG")
