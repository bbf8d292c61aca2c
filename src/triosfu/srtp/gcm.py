"""AES-GCM for the RTP that is sent, by the compiled kernel: libsrtp's work with less of looking things up.

The kernel calls the OpenSSL that pylibsrtp's binding contains, whose functions libsrtp calls as well. `compiled_gcm`
looks whether they are there, and whether a packet comes out as libsrtp makes it; where not, libsrtp does it all.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pylibsrtp
from cffi import FFI
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from triosfu.kernel import Kernel, Record, installed
from triosfu.srtp.binding import WINDOW, Direction, Pointer, SrtpError, on_copy, open_session
from triosfu.srtp.profiles import SrtpProfile

BLOCK = 16  # bytes of AES
KEY, SALT = 0, 2  # labels (RFC 3711, section 4.3.2)
UNKNOWN, OLD = -1, -2  # what the kernel says of a packet
FIRST_STREAMS = 8  # places for streams, at first; a power of two

CIPHERS = {SrtpProfile.AEAD_AES_128_GCM: b"AES-128-GCM", SrtpProfile.AEAD_AES_256_GCM: b"AES-256-GCM"}
FUNCTIONS = {  # the kernel's name for it
    "init": "EVP_EncryptInit_ex",
    "update": "EVP_EncryptUpdate",
    "final": "EVP_EncryptFinal_ex",
    "parameters": "EVP_CIPHER_CTX_get_params",
}

PROBES = (  # packets to compare, with and without an extension
    bytes.fromhex("8060ffff0000000100000002") + bytes(40),
    bytes.fromhex("906000010000000100000002bede000110ff0000") + bytes(40),
)

ffi = FFI()
ffi.cdef("""
    void *EVP_CIPHER_fetch(void *, const char *, const char *);
    void *EVP_CIPHER_CTX_new(void);
    void EVP_CIPHER_CTX_free(void *);
    int EVP_EncryptInit_ex(void *, const void *, void *, const char *, const char *);
    int EVP_EncryptUpdate(void *, char *, int *, const char *, int);
    int EVP_EncryptFinal_ex(void *, char *, int *);
    int EVP_CIPHER_CTX_get_params(void *, void *);
""")


class CompiledGcm:
    """OpenSSL's functions, and the kernel that calls them."""

    def __init__(self, kernel: Kernel) -> None:
        """Look for them.

        Raises:
            OSError: The binding cannot be opened as a library.
            AttributeError: It has another OpenSSL, or hides it.
        """
        self.kernel = kernel
        self._openssl = openssl = ffi.dlopen(pylibsrtp._binding.__file__)  # noqa: SLF001  as in `binding`
        self._ciphers = {
            profile: openssl.EVP_CIPHER_fetch(ffi.NULL, name, ffi.NULL) for profile, name in CIPHERS.items()
        }
        if ffi.NULL in self._ciphers.values():
            raise AttributeError("no AES-GCM")
        places = {
            kind: kernel.ffi.cast("void *", int(ffi.cast("uintptr_t", ffi.addressof(openssl, name))))
            for kind, name in FUNCTIONS.items()
        }
        self.record: Record = kernel.ffi.new("struct openssl *", places)

    def context(self, profile: SrtpProfile, key: bytes) -> Any:  # noqa: ANN401  a cffi pointer
        """An `EVP_CIPHER_CTX` with this key; who holds it no more has it wiped and freed."""
        openssl = self._openssl
        context = ffi.gc(openssl.EVP_CIPHER_CTX_new(), openssl.EVP_CIPHER_CTX_free)
        if openssl.EVP_EncryptInit_ex(context, self._ciphers[profile], ffi.NULL, key, ffi.NULL) != 1:
            raise MemoryError
        return context


class GcmStreams:
    """The RTP that one transport sends: every SSRC has a rollover counter of its own (RFC 3711, section 3.3.1).

    None of them is ever forgotten: the same numbers again would be the same nonces.
    """

    __slots__ = ("_context", "_kernel", "_known", "_table", "record")

    def __init__(self, compiled: CompiledGcm, profile: SrtpProfile, master_key: bytes, master_salt: bytes) -> None:
        key, salt = session_keys(master_key, master_salt)
        kernel = self._kernel = compiled.kernel
        self._context = compiled.context(profile, key)
        self._known = 0
        self._table = kernel.ffi.new("struct stream[]", FIRST_STREAMS)
        self.record: Record = kernel.ffi.new(
            "struct gcm *",
            {
                "openssl": compiled.record,
                "context": kernel.ffi.cast("void *", int(ffi.cast("uintptr_t", self._context))),
                "streams": self._table,
                "mask": FIRST_STREAMS - 1,
                "window": WINDOW,
                "salt": list(salt),
            },
        )
        """For the kernel: `struct gcm *`."""

    def protect(self, pointer: Pointer, length: int) -> int:
        """Encrypt an RTP packet in place, with 16 bytes of room behind it; the new length."""
        protect = self._kernel.lib.kernel_protect
        size: int = protect(self.record, pointer, length)
        if size == UNKNOWN:
            self._meet(int.from_bytes(ffi.unpack(pointer + 8, 4), "big"))
            size = protect(self.record, pointer, length)
        if size <= 0:
            raise SrtpError("replay" if size == OLD else "other")
        return size

    def _meet(self, ssrc: int) -> None:
        """Add a stream."""
        self._known += 1
        if 2 * self._known > self.record.mask + 1:
            old, size = self._table, 2 * len(self._table)
            self._table = self._kernel.ffi.new("struct stream[]", size)
            self.record.streams, self.record.mask = self._table, size - 1
            for stream in old:
                if stream.met:
                    self._place(stream.ssrc, stream.index)
        self._place(ssrc, 0)

    def _place(self, ssrc: int, index: int) -> None:
        self._kernel.lib.kernel_meet(self.record, ssrc, index)


def session_keys(master_key: bytes, master_salt: bytes) -> tuple[bytes, bytes]:
    """The key and the salt of AES-GCM for RTP (RFC 3711, section 4.3; RFC 7714, section 11)."""
    start = int.from_bytes(master_salt.ljust(14, b"\0"), "big")
    blocks = [(KEY, number) for number in range(len(master_key) // BLOCK)] + [(SALT, 0)]
    counters = b"".join(((start ^ label << 48) << 16 | number).to_bytes(BLOCK, "big") for label, number in blocks)
    stream = Cipher(algorithms.AES(master_key), modes.ECB()).encryptor().update(counters)  # noqa: S305  of counters
    return stream[: len(master_key)], stream[len(master_key) :][:12]


@cache
def compiled_gcm() -> CompiledGcm | None:
    """What `GcmStreams` need; None where the kernel or its OpenSSL is missing, or packets are not those of libsrtp."""
    kernel = installed()
    if kernel is None:
        return None
    try:
        compiled = CompiledGcm(kernel)
        same = all(_as_libsrtp(compiled, profile) for profile in CIPHERS)
    except (OSError, AttributeError, MemoryError, SrtpError):  # what is not there, or does not work, is not used
        return None
    return compiled if same else None


def _as_libsrtp(compiled: CompiledGcm, profile: SrtpProfile) -> bool:
    """Whether packets are protected as libsrtp does it."""
    key, salt = bytes(range(profile.key_length)), bytes(range(profile.salt_length))
    streams, session = GcmStreams(compiled, profile, key, salt), open_session(profile, key + salt, Direction.OUTBOUND)
    return all(on_copy(streams.protect, packet) == on_copy(session.protect, packet) for packet in PROBES)
