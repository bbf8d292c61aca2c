"""The two directions of one transport's SRTP: in place for the packet path, on `bytes` for everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.srtp.binding import Direction, Pointer, SrtpError, ffi, open_session
from triosfu.srtp.profiles import SrtpKeys

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TAIL", "Inbound", "Outbound", "SrtpError", "SrtpKeys"]

TAIL = 32  # bytes of room that protection may need behind a packet; the largest overhead is 20
MAX_COPIED = 2016  # bytes that the `bytes` calls take; more than any datagram we send or accept
MAX_STREAMS = 1024  # SSRCs that one peer may keep alive in our memory

_room = ffi.new_allocator(should_clear_after_alloc=False)


class Outbound:
    """Encrypts what we send to one peer; every SSRC that we send gets its own rollover counter (RFC 3711, 3.3.1)."""

    __slots__ = ("_session", "protect_in_place")

    protect_in_place: Callable[[Pointer, int], int]
    """Encrypt `length` bytes of RTP at a cffi `char *` with `TAIL` bytes of room behind them; returns the new length.

    The packet path calls the binding without a step between. Raises SrtpError and leaves the bytes undefined.
    Sending one sequence number twice is allowed for an identical packet only: the cipher's nonce is the same.
    """

    def __init__(self, keys: SrtpKeys, *, copying: bool = False) -> None:
        key = keys.local_key + keys.local_salt
        self._session = open_session(keys.profile, key, Direction.OUTBOUND, copying=copying)
        self.protect_in_place = self._session.protect

    @property
    def address(self) -> int:
        """Of libsrtp's context, for code that is compiled and calls `srtp_protect` itself; 0 if it must not."""
        return self._session.address

    def protect(self, data: bytes) -> bytes:
        """The SRTP packet for one RTP packet."""
        return _on_copy(self._session.protect, data)

    def protect_rtcp(self, data: bytes) -> bytes:
        """The SRTCP packet for one compound RTCP packet."""
        return _on_copy(self._session.protect_rtcp, data)

    def remove_stream(self, ssrc: int) -> None:
        """Free what is kept for `ssrc`, which must never be sent again under these keys: its nonces would repeat."""
        self._session.remove_stream(ssrc)


class Inbound:
    """Verifies and decrypts what one peer sends; failures are SrtpError with a reason to count.

    libsrtp makes a stream for each authentic SSRC, so only the peer itself can make memory grow. Two generations
    bound it: a stream that was silent while half of `max_streams` others spoke up for the first time is dropped.
    """

    __slots__ = ("_half", "_newer", "_older", "_session")

    def __init__(self, keys: SrtpKeys, *, copying: bool = False, max_streams: int = MAX_STREAMS) -> None:
        key = keys.remote_key + keys.remote_salt
        self._session = open_session(keys.profile, key, Direction.INBOUND, copying=copying)
        self._half = max(1, max_streams // 2)
        self._newer: set[bytes] = set()  # SSRCs as they are on the wire
        self._older: set[bytes] = set()

    @property
    def address(self) -> int:
        """Of libsrtp's context, for code that is compiled and calls `srtp_unprotect_rtcp` itself; 0 if it must not."""
        return self._session.address

    def unprotect_in_place(self, pointer: Pointer, length: int) -> int:
        """Decrypt `length` bytes of SRTP at a cffi `char *`; returns the length of the RTP packet."""
        size = self._session.unprotect(pointer, length)
        ssrc = ffi.unpack(pointer + 8, 4)
        if ssrc not in self._newer:
            self._keep(ssrc)
        return size

    def unprotect_rtcp_in_place(self, pointer: Pointer, length: int) -> int:
        """Decrypt `length` bytes of SRTCP at a cffi `char *`; returns the length of the RTCP compound."""
        size = self._session.unprotect_rtcp(pointer, length)
        self.unprotected_rtcp(pointer)
        return size

    def unprotected_rtcp(self, pointer: Pointer) -> None:
        """Learn that libsrtp has decrypted the SRTCP at a cffi `char *`: it keeps a stream for who has sent it."""
        ssrc = ffi.unpack(pointer + 4, 4)
        if ssrc not in self._newer:
            self._keep(ssrc)

    def unprotect(self, data: bytes) -> bytes:
        """The RTP packet inside one SRTP packet."""
        return _on_copy(self.unprotect_in_place, data)

    def unprotect_rtcp(self, data: bytes) -> bytes:
        """The compound RTCP packet inside one SRTCP packet."""
        return _on_copy(self.unprotect_rtcp_in_place, data)

    def remove_stream(self, ssrc: int) -> None:
        """Free what is kept for `ssrc`: its track has ended."""
        wire = ssrc.to_bytes(4, "big")
        self._newer.discard(wire)
        self._older.discard(wire)
        self._session.remove_stream(ssrc)

    @property
    def streams(self) -> int:
        """How many SSRCs are kept."""
        return len(self._newer) + len(self._older)

    def _keep(self, ssrc: bytes) -> None:
        self._older.discard(ssrc)
        if len(self._newer) >= self._half:
            for silent in self._older:
                self._session.remove_stream(int.from_bytes(silent, "big"))
            self._older, self._newer = self._newer, set()
        self._newer.add(ssrc)


def _on_copy(operation: Callable[[Pointer, int], int], data: bytes) -> bytes:
    length = len(data)
    if length > MAX_COPIED:
        raise SrtpError("other")
    copy = _room("char[]", length + TAIL)
    ffi.memmove(copy, data, length)
    return ffi.unpack(copy, operation(copy, length))  # type: ignore[no-any-return]
