"""What an end announces in INIT and INIT ACK (RFC 9260, sections 3.3.2 and 3.3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING

from triosfu.sctp.parameters import ParameterType, Tlv, find
from triosfu.sctp.wire import ChunkType, Init

if TYPE_CHECKING:
    from typing import Self

_PROTECTED_BY_DTLS = b"\0\0\0\1"  # the error detection method of RFC 9653, section 6
_MAX_REPORTED = 512  # bytes of unrecognized parameters that we send back


class Capability(IntFlag):
    """Extensions that both ends must announce before either uses them."""

    NONE = 0
    PARTIAL_RELIABILITY = 1  # RFC 3758
    RECONFIG = 2  # RFC 6525
    INTERLEAVING = 4  # RFC 8260: I-DATA in place of DATA
    INTERLEAVED_FORWARD = 8  # RFC 8260: what partial reliability needs with it
    ZERO_CHECKSUM = 16  # RFC 9653, with DTLS


_BY_CHUNK = {
    ChunkType.FORWARD_TSN: Capability.PARTIAL_RELIABILITY,
    ChunkType.RE_CONFIG: Capability.RECONFIG,
    ChunkType.I_DATA: Capability.INTERLEAVING,
    ChunkType.I_FORWARD_TSN: Capability.INTERLEAVED_FORWARD,
}


def announcement(*, interleaving: bool, zero_checksum: bool) -> tuple[Tlv, ...]:
    """The parameters of INIT and INIT ACK that say what we can do."""
    extensions = [ChunkType.RE_CONFIG, ChunkType.FORWARD_TSN]
    if interleaving:
        extensions += [ChunkType.I_DATA, ChunkType.I_FORWARD_TSN]
    found = [Tlv(ParameterType.FORWARD_TSN, b""), Tlv(ParameterType.SUPPORTED_EXTENSIONS, bytes(extensions))]
    if zero_checksum:
        found.append(Tlv(ParameterType.ZERO_CHECKSUM, _PROTECTED_BY_DTLS))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Peer:
    """What the peer has announced."""

    tag: int
    initial_tsn: int
    a_rwnd: int
    outbound_streams: int
    inbound_streams: int
    capabilities: Capability

    @classmethod
    def announced(cls, init: Init) -> Self | None:
        """The peer behind an INIT or INIT ACK; None if it announces what RFC 9260 forbids."""
        if not init.tag or not init.outbound_streams or not init.inbound_streams or init.a_rwnd < 1500:
            return None
        extensions = find(init.parameters, ParameterType.SUPPORTED_EXTENSIONS) or b""
        found = [capability for chunk, capability in _BY_CHUNK.items() if chunk in extensions]
        if find(init.parameters, ParameterType.FORWARD_TSN) is not None:
            found.append(Capability.PARTIAL_RELIABILITY)
        if find(init.parameters, ParameterType.ZERO_CHECKSUM) == _PROTECTED_BY_DTLS:
            found.append(Capability.ZERO_CHECKSUM)
        capabilities = Capability(sum(set(found)))  # `|` of an IntFlag is slow
        return cls(init.tag, init.tsn, init.a_rwnd, init.outbound_streams, init.inbound_streams, capabilities)


def unrecognized(init: Init) -> tuple[Tlv, ...]:
    """Parameters to report back: unknown ones whose type asks for it, until one that says stop."""
    found: list[Tlv] = []
    room = _MAX_REPORTED
    for parameter in init.parameters:
        if parameter.known:
            continue
        room -= 8 + len(parameter.body)
        if parameter.type & 0x4000 and room >= 0:
            found.append(Tlv(ParameterType.UNRECOGNIZED, parameter.serialize()[: 4 + len(parameter.body)]))
        if not parameter.type & 0x8000:
            break
    return tuple(found)
