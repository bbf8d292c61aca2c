"""Bytes read as a script of operations: every input is one, and the end of the input is the end of the script."""

from __future__ import annotations


class Script:
    """Takes numbers and strings from the front of the input; what it does not hold any more is zero or empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether there is more to do."""
        return self._at < len(self._data)

    def number(self, size: int = 1) -> int:
        """An unsigned number of so many bytes."""
        return int.from_bytes(self._take(size).ljust(size, b"\0"), "big")

    def flag(self) -> bool:
        """Yes or no, of a byte of its own."""
        return bool(self.number() & 1)

    def chunk(self, length_bytes: int = 1) -> bytes:
        """A string, after its length."""
        return self._take(self.number(length_bytes))

    def rest(self) -> bytes:
        """All that is left."""
        return self._take(len(self._data))

    def _take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken
