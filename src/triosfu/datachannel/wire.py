"""The Data Channel Establishment Protocol on the wire (RFC 8832, section 5), and payload protocol identifiers."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from triosfu.errors import MalformedPacket

_OPEN = struct.Struct("!BBHIHH")
_OPEN_TYPE, _ACK_TYPE = 3, 2
_KINDS = frozenset((0x00, 0x01, 0x02))
_UNORDERED = 0x80
PRIORITY_LOW = 256  # what browsers say by default; nobody schedules by it


class Ppid(IntEnum):
    """What a message is (RFC 8831, section 8)."""

    DCEP = 50
    TEXT = 51
    BINARY_PARTIAL = 52  # the partial ones are deprecated: understood, never sent
    BINARY = 53
    TEXT_PARTIAL = 54
    TEXT_EMPTY = 56  # SCTP has no empty messages: these two carry one byte that does not count
    BINARY_EMPTY = 57


TEXT_PPIDS = frozenset({Ppid.TEXT, Ppid.TEXT_PARTIAL, Ppid.TEXT_EMPTY})
BINARY_PPIDS = frozenset({Ppid.BINARY, Ppid.BINARY_PARTIAL, Ppid.BINARY_EMPTY})
EMPTY_PPIDS = frozenset({Ppid.TEXT_EMPTY, Ppid.BINARY_EMPTY})


@dataclass(frozen=True, slots=True)
class Open:
    """DATA_CHANNEL_OPEN (RFC 8832, section 5.1)."""

    channel_type: int
    priority: int
    reliability: int
    label: str
    protocol: str

    @classmethod
    def for_channel(
        cls, label: str, protocol: str, *, ordered: bool, max_retransmits: int | None, lifetime: float | None
    ) -> Open:
        """The OPEN that announces a channel with these properties; `lifetime` is in seconds."""
        kind, reliability = 0, 0
        if max_retransmits is not None:
            kind, reliability = 1, max_retransmits
        elif lifetime is not None:
            kind, reliability = 2, round(lifetime * 1000)
        channel_type = kind if ordered else kind | _UNORDERED
        return cls(channel_type, PRIORITY_LOW, min(reliability, 0xFFFFFFFF), label, protocol)

    @property
    def ordered(self) -> bool:
        """Are messages delivered in the order they were sent?"""
        return not self.channel_type & _UNORDERED

    @property
    def max_retransmits(self) -> int | None:
        """After how many retransmissions a message is given up, if that is the channel's rule."""
        return self.reliability if self.channel_type & ~_UNORDERED == 1 else None

    @property
    def lifetime(self) -> float | None:
        """After how many seconds a message is given up, if that is the channel's rule."""
        return self.reliability / 1000 if self.channel_type & ~_UNORDERED == 2 else None

    def serialize(self) -> bytes:
        """The message's bytes."""
        label, protocol = self.label.encode(), self.protocol.encode()
        return (
            _OPEN.pack(_OPEN_TYPE, self.channel_type, self.priority, self.reliability, len(label), len(protocol))
            + label
            + protocol
        )


@dataclass(frozen=True, slots=True)
class Ack:
    """DATA_CHANNEL_ACK (RFC 8832, section 5.2)."""

    def serialize(self) -> bytes:
        """The message's bytes."""
        return bytes((_ACK_TYPE,))


def parse_dcep(data: bytes) -> Open | Ack:
    """Read a DCEP message.

    Raises:
        MalformedPacket: Neither OPEN nor ACK, lengths that disagree, an unknown channel type, or no UTF-8.
    """
    if data[:1] == bytes((_ACK_TYPE,)):
        return Ack()  # pion pads it to four bytes
    if len(data) < _OPEN.size or data[0] != _OPEN_TYPE:
        raise MalformedPacket(f"dcep: {len(data)} bytes are no OPEN and no ACK")
    _, channel_type, priority, reliability, label_size, protocol_size = _OPEN.unpack_from(data)
    if channel_type & ~_UNORDERED not in _KINDS:
        raise MalformedPacket(f"dcep: unknown channel type {channel_type:#04x}")
    if len(data) != _OPEN.size + label_size + protocol_size:
        raise MalformedPacket("dcep: OPEN's lengths disagree with its size")
    try:
        label = data[_OPEN.size : _OPEN.size + label_size].decode()
        protocol = data[_OPEN.size + label_size :].decode()
    except UnicodeDecodeError:
        raise MalformedPacket("dcep: label or protocol is not UTF-8") from None
    return Open(channel_type, priority, reliability, label, protocol)
