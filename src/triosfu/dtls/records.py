"""DTLS records as they lie in datagrams (RFC 6347, section 4.1): cut, packed, and renumbered while still plaintext.

OpenSSL's memory BIOs are byte streams; datagrams are not. What comes out is cut here at record boundaries, and only
whole records go in.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from triosfu.errors import MalformedPacket

HEADER = struct.Struct("!BHHHIH")  # type, version, epoch, sequence number (16 + 32 bits), length
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
TYPES = frozenset({CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA})
MAX_FRAGMENT = 2**14 + 2048  # section 4.1.1: ciphertext may expand a fragment by so much


class Record(NamedTuple):
    """One record, header included; its content is OpenSSL's business."""

    content_type: int
    epoch: int
    data: bytes


def split(data: bytes) -> list[Record]:
    """The whole records at the front of `data`; a damaged rest is left out (section 4.1.2.7: discard silently).

    Raises:
        MalformedPacket: Not even the first record is whole.
    """
    records: list[Record] = []
    at = 0
    while at + HEADER.size <= len(data):
        content_type, version, epoch, _, _, length = HEADER.unpack_from(data, at)
        end = at + HEADER.size + length
        if content_type not in TYPES or version >> 8 != 0xFE or length > MAX_FRAGMENT or end > len(data):
            break
        records.append(Record(content_type, epoch, data[at:end]))
        at = end
    if not records:
        raise MalformedPacket(f"dtls: {len(data)} bytes do not begin with a record")
    return records


def is_one_of_data(data: bytes) -> bool:
    """Is it a single whole record of encrypted application data?"""
    if len(data) < HEADER.size:
        return False
    content_type, version, epoch, _, _, length = HEADER.unpack_from(data)
    whole: bool = HEADER.size + length == len(data)
    return whole and content_type == APPLICATION_DATA and epoch > 0 and version >> 8 == 0xFE


def pack(records: list[Record], mtu: int) -> list[bytes]:
    """As few datagrams of at most `mtu` bytes as keep the order; a record that is larger travels alone."""
    datagrams: list[bytes] = []
    room = 0
    for record in records:
        if len(record.data) <= room:
            datagrams[-1] += record.data
            room -= len(record.data)
        else:
            datagrams.append(record.data)
            room = mtu - len(record.data)
    return datagrams


class PlaintextNumbers:
    """Gives every plaintext record that leaves us a number of its own.

    A retransmitted record needs a new number (section 4.2.4), or the peer's replay check drops it: a peer that had to
    discard an early ChangeCipherSpec would then never see it again. Epoch 0 is not authenticated, so we may number it;
    all of it, lest our numbers and OpenSSL's collide.
    """

    def __init__(self) -> None:
        self._next = 0

    def renumber(self, record: Record) -> Record:
        """The same record under the next number; records of later epochs come back unchanged."""
        if record.epoch:
            return record
        number = self._next.to_bytes(6, "big")
        self._next += 1
        return Record(record.content_type, 0, record.data[:5] + number + record.data[11:])
