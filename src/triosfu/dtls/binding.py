# ruff: noqa: SLF001  private parts are what this module is for
"""Application data through OpenSSL without detours: the one module that touches private parts of pyOpenSSL.

pyOpenSSL's public calls cost more than the cipher: contexts, checks, and a second read that fails with an exception.
`DirectRecords` calls the same functions of OpenSSL. Should a release move what it needs, `records_of` falls back to
`PublicRecords`, which uses the public API alone, and `tests/dtls/test_binding.py` turns red.
"""

from __future__ import annotations

from typing import Any, Protocol

from OpenSSL import SSL

PARTS = ("_ssl", "_into_ssl", "_from_ssl", "_raise_ssl_error")
FUNCTIONS = ("SSL_write", "SSL_read", "BIO_write", "BIO_read")
READ = 4096  # bytes asked of a BIO at once: most flights; a much larger buffer is a mapping of its own each time
EXPANSION = 128  # bytes that a record adds to its data: header, nonce and tag are 37, or 64 with an older cipher


class Records(Protocol):
    """The application data of one connection whose handshake is complete.

    Errors are pyOpenSSL's: `WantReadError` when there is nothing, `ZeroReturnError` after close_notify, `Error`.
    """

    def seal(self, data: bytes) -> bytes:
        """The one record that carries `data`."""

    def open(self, record: bytes) -> bytes:
        """The data that one whole record carries."""

    def written(self) -> bytes:
        """What OpenSSL has written and nobody has read yet, of the handshake too; empty when there is nothing."""


class PublicRecords:
    """By pyOpenSSL's documented calls."""

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection

    def seal(self, data: bytes) -> bytes:
        """The one record that carries `data`."""
        self._connection.send(data)
        return bytes(self._connection.bio_read(len(data) + EXPANSION))

    def open(self, record: bytes) -> bytes:
        """The data that one whole record carries."""
        self._connection.bio_write(record)
        return bytes(self._connection.recv(len(record)))

    def written(self) -> bytes:
        """What OpenSSL has written and nobody has read yet."""
        chunks: list[bytes] = []
        try:
            while True:
                chunks.append(self._connection.bio_read(READ))
        except SSL.WantReadError:
            return b"".join(chunks)


class DirectRecords:
    """By OpenSSL's own, on the memory BIOs that pyOpenSSL has made."""

    __slots__ = ("_buffer", "_connection", "_from", "_into", "_lib", "_ssl", "_unpack")

    def __init__(self, connection: SSL.Connection) -> None:
        private: Any = connection
        self._connection = private  # keeps the rest alive
        self._ssl, self._into, self._from = private._ssl, private._into_ssl, private._from_ssl
        self._lib, self._buffer, self._unpack = SSL._lib, SSL._no_zero_allocator, SSL._ffi.unpack  # type: ignore[attr-defined]

    def seal(self, data: bytes) -> bytes:
        """The one record that carries `data`."""
        lib = self._lib
        written = lib.SSL_write(self._ssl, data, len(data))
        if written <= 0:
            self._connection._raise_ssl_error(self._ssl, written)
        room = len(data) + EXPANSION
        buffer = self._buffer("char[]", room)
        record: bytes = self._unpack(buffer, lib.BIO_read(self._from, buffer, room))
        return record

    def open(self, record: bytes) -> bytes:
        """The data that one whole record carries."""
        lib, size = self._lib, len(record)
        lib.BIO_write(self._into, record, size)
        buffer = self._buffer("char[]", size)
        length = lib.SSL_read(self._ssl, buffer, size)
        if length <= 0:
            self._connection._raise_ssl_error(self._ssl, length)
        data: bytes = self._unpack(buffer, length)
        return data

    def written(self) -> bytes:
        """What OpenSSL has written and nobody has read yet."""
        chunks: list[bytes] = []
        while True:
            buffer = self._buffer("char[]", READ)
            length = self._lib.BIO_read(self._from, buffer, READ)
            if length > 0:
                chunks.append(self._unpack(buffer, length))
            if length < READ:
                return b"".join(chunks)


def direct_available() -> bool:
    """Is everything where `DirectRecords` looks for it?"""
    lib = getattr(SSL, "_lib", None)
    return (
        all(hasattr(lib, name) for name in FUNCTIONS)
        and all(hasattr(SSL, name) for name in ("_ffi", "_no_zero_allocator"))
        and hasattr(SSL.Connection, "_raise_ssl_error")
    )


def records_of(connection: SSL.Connection, *, public: bool = False) -> Records:
    """The application data of `connection`; `public` forces the slower, documented way."""
    if public or not direct_available() or not all(hasattr(connection, name) for name in PARTS):
        return PublicRecords(connection)
    return DirectRecords(connection)
