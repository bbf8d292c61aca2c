"""What two ends agree on in INIT and INIT ACK."""

from __future__ import annotations

from enum import IntFlag

from triosfu.sctp.parameters import ParameterType, Tlv, find
from triosfu.sctp.wire import ChunkType, Init


class Capability(IntFlag):
    """Extensions that both ends must announce before either uses them."""

    NONE = 0
    PARTIAL_RELIABILITY = 1  # RFC 3758
    RECONFIG = 2  # RFC 6525


OURS = (
    Tlv(ParameterType.FORWARD_TSN, b""),
    Tlv(ParameterType.SUPPORTED_EXTENSIONS, bytes((ChunkType.RE_CONFIG, ChunkType.FORWARD_TSN))),
)


def announced(init: Init) -> Capability:
    """What the sender of this INIT or INIT ACK can do, of what we can."""
    extensions = find(init.parameters, ParameterType.SUPPORTED_EXTENSIONS) or b""
    found = Capability.NONE
    if ChunkType.FORWARD_TSN in extensions or find(init.parameters, ParameterType.FORWARD_TSN) is not None:
        found |= Capability.PARTIAL_RELIABILITY
    if ChunkType.RE_CONFIG in extensions:
        found |= Capability.RECONFIG
    return found


def unrecognized(init: Init) -> tuple[Tlv, ...]:
    """Parameters to report back: unknown ones whose type asks for it, until one that says stop."""
    found: list[Tlv] = []
    for parameter in init.parameters:
        if parameter.known:
            continue
        if parameter.type & 0x4000:
            found.append(Tlv(ParameterType.UNRECOGNIZED, parameter.serialize()[: 4 + len(parameter.body)]))
        if not parameter.type & 0x8000:
            break
    return tuple(found)
