"""What must hold for any bytes given to the STUN parser."""

from __future__ import annotations

from contextlib import suppress

from triosfu.errors import MalformedPacket
from triosfu.stun.wire import HEADER, Attribute, Kind, Message, peek

KEY = b"a key that nobody else has"
ROOM = 64  # bytes that a signature and a fingerprint may add, and that must still fit into a length


def check_stun(data: bytes) -> None:
    seen = peek(data)
    assert seen is None or isinstance(seen, str) or len(seen) == 12
    try:
        message = Message.parse(data)
    except MalformedPacket:
        return
    assert not message.signed_with(KEY)
    for read in (
        lambda: message.text(Attribute.USERNAME),
        lambda: message.number(Attribute.PRIORITY),
        lambda: message.address(Attribute.XOR_MAPPED_ADDRESS),
        lambda: message.error,
    ):
        with suppress(MalformedPacket):
            read()
    if message.kind is Kind.REQUEST and message.method == 1 and isinstance(seen, str):
        username = message.get(Attribute.USERNAME)
        # Only what stands behind MESSAGE-INTEGRITY is seen by one and ignored by the other.
        assert username is None or username.partition(b":")[0] == seen.encode()
    if len(data) + ROOM > 0xFFFF + HEADER.size:
        return
    assert Message.parse(message.serialize()) == message
    signed = Message.parse(message.serialize(key=KEY))
    assert signed == message
    assert signed.signed_with(KEY)
    assert not signed.signed_with(KEY + b"!")
