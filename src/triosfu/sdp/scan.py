"""Reading single fields of an SDP line; every surprise is a MalformedPacket (RFC 8866, section 9)."""

from __future__ import annotations

from triosfu.errors import MalformedPacket

MAX_TOKEN = 256  # characters; longer than any mid, rid, ufrag or URI that a client sends

Attributes = dict[str, list[str]]
"""The `a=` lines of one block by name, in order; a flag has the value ""."""


def number(text: str, what: str, maximum: int = 0xFFFF_FFFF) -> int:
    """The decimal number `text`, at most `maximum`; signs, spaces and other scripts' digits are refused."""
    if not (0 < len(text) <= 20 and text.isascii() and text.isdigit()):
        raise MalformedPacket(f"sdp: {what} is not a number")
    value = int(text)
    if value > maximum:
        raise MalformedPacket(f"sdp: {what} is above {maximum}")
    return value


def token(text: str, what: str) -> str:
    """`text` itself, if it is one printable word without spaces."""
    if not 0 < len(text) <= MAX_TOKEN or not text.isprintable() or " " in text:
        raise MalformedPacket(f"sdp: {what} is not a token")
    return text


def words(text: str, what: str, minimum: int) -> list[str]:
    """The space-separated words of `text`, at least `minimum` of them, each a token."""
    found = [word for word in text.split(" ") if word]
    if not text.isprintable() or max(map(len, found), default=0) > MAX_TOKEN:
        raise MalformedPacket(f"sdp: {what} is not made of tokens")
    if len(found) < minimum:
        raise MalformedPacket(f"sdp: {what} is incomplete")
    return found


def last(attributes: Attributes, name: str) -> str | None:
    """The value of the last `a=name` line, or None without one."""
    values = attributes.get(name)
    return values[-1] if values else None
