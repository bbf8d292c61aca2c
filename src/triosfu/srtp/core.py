"""The two directions of one transport's SRTP: in place for the packet path, on `bytes` for everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.srtp.binding import TAIL, Direction, Pointer, SrtpError, ffi, on_copy, open_session
from triosfu.srtp.gcm import GcmStreams, compiled_gcm
from triosfu.srtp.profiles import SrtpKeys

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.kernel import Record

__all__ = ["TAIL", "Inbound", "Outbound", "SrtpError", "SrtpKeys"]

MAX_STREAMS = 1024  # SSRCs that one peer may keep alive in our memory


class Outbound:
    """Encrypts what we send to one peer; every SSRC that we send gets its own rollover counter (RFC 3711, 3.3.1).

    RTP goes through the compiled kernel where that can do it (`srtp.gcm`), and all else through libsrtp.
    """

    __slots__ = ("_session", "_streams", "profile", "protect_in_place")

    protect_in_place: Callable[[Pointer, int], int]
    """Encrypt `length` bytes of RTP at a cffi `char *` with `TAIL` bytes of room behind them; returns the new length.

    The packet path calls the binding without a step between. Raises SrtpError and leaves the bytes undefined.
    Sending one sequence number twice is allowed for an identical packet only: the cipher's nonce is the same.
    """

    def __init__(self, keys: SrtpKeys, *, compiled: bool = True, copying: bool = False) -> None:
        """Take the keys. Not `compiled`, RTP goes through libsrtp as well; `copying` forces the public path."""
        key = keys.local_key + keys.local_salt
        self.profile = keys.profile
        self._session = open_session(keys.profile, key, Direction.OUTBOUND, copying=copying)
        gcm = compiled_gcm() if compiled and not copying and keys.profile.is_aead else None
        self._streams = None if gcm is None else GcmStreams(gcm, keys.profile, keys.local_key, keys.local_salt)
        self.protect_in_place = (self._streams or self._session).protect

    @property
    def address(self) -> int:
        """Of libsrtp's context, for code that is compiled and calls `srtp_protect` itself; 0 if it must not."""
        return 0 if self._streams else self._session.address

    @property
    def gcm(self) -> Record | None:
        """The kernel's record, with which it protects RTP itself; None if it must not."""
        return None if self._streams is None else self._streams.record

    def protect(self, data: bytes) -> bytes:
        """The SRTP packet for one RTP packet."""
        return on_copy(self.protect_in_place, data)

    def protect_rtcp(self, data: bytes) -> bytes:
        """The SRTCP packet for one compound RTCP packet."""
        return on_copy(self._session.protect_rtcp, data)


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
        """Of libsrtp's context, for code that is compiled and calls libsrtp itself; 0 if it must not.

        It may have packets of RTP decrypted whose stream is `kept`, and RTCP if it says so (`unprotected_rtcp`).
        """
        return self._session.address

    def unprotect_in_place(self, pointer: Pointer, length: int) -> int:
        """Decrypt `length` bytes of SRTP at a cffi `char *`; returns the length of the RTP packet."""
        size = self._session.unprotect(pointer, length)
        ssrc = ffi.unpack(pointer + 8, 4)
        if ssrc not in self._newer:
            self._keep(ssrc)
        return size

    def kept(self, ssrc: bytes) -> bool:
        """Whether the stream with this SSRC, as it is on the wire, has proved itself, and is not the next to go."""
        return ssrc in self._newer

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
        return on_copy(self.unprotect_in_place, data)

    def unprotect_rtcp(self, data: bytes) -> bytes:
        """The compound RTCP packet inside one SRTCP packet."""
        return on_copy(self.unprotect_rtcp_in_place, data)

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
