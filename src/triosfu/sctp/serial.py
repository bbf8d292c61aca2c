"""Serial numbers that wrap: kept unwrapped inside, cut to their width on the wire (RFC 1982)."""

from __future__ import annotations

TSN_MASK = 0xFFFFFFFF
SSN_MASK = 0xFFFF
_HALF = 1 << 31


def unwrap(value: int, near: int) -> int:
    """The integer equal to `value` modulo 2^32 that is nearest to `near`.

    A distance of exactly half the circle is undefined in RFC 1982; it counts as behind, never as ahead.
    """
    ahead = (value - near) & TSN_MASK
    return near + ahead if ahead < _HALF else near + ahead - (1 << 32)


def is_ahead(value: int, expected: int, mask: int) -> bool:
    """Does the number of a message, `mask` wide, come after `expected`?"""
    return 0 < ((value - expected) & mask) <= mask >> 1
