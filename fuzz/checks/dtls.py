"""What must hold for the DTLS record parser, whatever the bytes."""

from __future__ import annotations

from triosfu.dtls.records import PlaintextNumbers, pack, split
from triosfu.errors import MalformedPacket

MTU = 1200


def check_records(data: bytes) -> None:
    """Records are a cut of the front of the datagram; packing and renumbering lose nothing."""
    try:
        records = split(data)
    except MalformedPacket:
        return
    joined = b"".join(record.data for record in records)
    assert data.startswith(joined)
    datagrams = pack(records, MTU)
    assert b"".join(datagrams) == joined
    assert all(len(datagram) <= MTU or len(split(datagram)) == 1 for datagram in datagrams)
    numbers = PlaintextNumbers()
    for record in records:
        renumbered = numbers.renumber(record)
        assert len(renumbered.data) == len(record.data)
        assert split(renumbered.data) == [renumbered]
