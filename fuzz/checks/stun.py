"""What must hold for any bytes given to the STUN parser."""

from __future__ import annotations

from contextlib import suppress

from triosfu.errors import MalformedPacket
from triosfu.stun.wire import BINDING, HEADER, Attribute, Kind, Message, Template, peek

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
    check_again(message, data)
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
    check_again(signed, message.serialize(key=KEY))
    template = Template(message.kind, message.attributes, KEY)
    if message.method == BINDING:
        assert template.message(message.transaction) == message.serialize(key=KEY)
        other = bytes(12 * [0x5A])
        following = signed.parse_again(template.message(other))
        assert following == Message(message.kind, other, message.attributes)
        assert following.signed_with(KEY)


def check_again(message: Message, data: bytes) -> None:
    """What is read as one that was read before is read as if it had never been."""
    for changed in (data, data[:8] + data[12:20] + data[8:12] + data[20:], data[:-1] + b"?", data + bytes(4)):
        again = message.parse_again(changed)
        if again is not None:
            told = Message.parse(changed)
            assert again == told
            assert again._raw == told._raw == changed  # noqa: SLF001
            assert again._signed == told._signed  # noqa: SLF001
