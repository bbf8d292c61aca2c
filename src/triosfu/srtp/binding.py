"""libsrtp on memory that we own: the one module that touches private parts of pylibsrtp.

pylibsrtp's public calls copy each packet twice and refuse more than 1,356 bytes. `InPlaceSession` calls the same
libsrtp functions straight on the caller's memory. Should a release move what it needs, `open_session` falls back to
`CopyingSession`, which uses only the public API, and `tests/srtp/test_binding.py` turns red.
"""

from __future__ import annotations

from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import pylibsrtp
from cffi import FFI

from triosfu.errors import MalformedPacket

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.srtp.profiles import SrtpProfile

Pointer: TypeAlias = Any
"""A cffi `char *`, from whichever `FFI` instance."""

WINDOW = 1024  # packets of replay window; as large as our retransmission buffers reach back, with room

# srtp_err_status_t
OK, AUTH_FAIL, REPLAY_FAIL, REPLAY_OLD = 0, 7, 9, 10
REASONS = {AUTH_FAIL: "auth", REPLAY_FAIL: "replay", REPLAY_OLD: "replay"}

SIGNATURE = "srtp_err_status_t(*)(struct srtp_ctx_t_ *, void *, int *)"
OPERATIONS = ("srtp_protect", "srtp_unprotect", "srtp_protect_rtcp", "srtp_unprotect_rtcp")

TAIL = 32  # bytes of room that protection may need behind a packet; the largest overhead is 20
MAX_COPIED = 2016  # bytes that the `bytes` calls take; more than any datagram we send or accept

ffi = FFI()
_room = ffi.new_allocator(should_clear_after_alloc=False)


class SrtpError(MalformedPacket):
    """Protection was refused or did not verify; `reason` is "auth", "replay" or "other", for the counters."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"srtp: {reason}")
        self.reason = reason


class Direction(Enum):
    """Which way the packets of a session travel: libsrtp makes a stream for every SSRC that it meets."""

    INBOUND = pylibsrtp.Policy.SSRC_ANY_INBOUND
    OUTBOUND = pylibsrtp.Policy.SSRC_ANY_OUTBOUND


class Session(Protocol):
    """One direction of one transport. Each operation works in place and returns the new length, or raises SrtpError.

    Protection needs `SrtpProfile.rtp_overhead` (or `rtcp_overhead`) writable bytes behind the packet.
    """

    address: int  # of libsrtp's context, for code that is compiled; 0 where there is no way but the public one

    def protect(self, pointer: Pointer, length: int) -> int:
        """Encrypt an RTP packet."""

    def unprotect(self, pointer: Pointer, length: int) -> int:
        """Verify and decrypt an RTP packet."""

    def protect_rtcp(self, pointer: Pointer, length: int) -> int:
        """Encrypt an RTCP packet."""

    def unprotect_rtcp(self, pointer: Pointer, length: int) -> int:
        """Verify and decrypt an RTCP packet."""

    def remove_stream(self, ssrc: int) -> None:
        """Forget the rollover counter and replay window of `ssrc`; unknown ones are ignored."""


def open_session(profile: SrtpProfile, key: bytes, direction: Direction, *, copying: bool = False) -> Session:
    """A libsrtp session for `key` (master key and salt); `copying` forces the slower public path."""
    policy = pylibsrtp.Policy(key=key, ssrc_type=direction.value, srtp_profile=int(profile))
    policy.window_size = WINDOW
    # A repeated packet is a retransmission without RTX: the same bytes under the same index give the same ciphertext.
    policy.allow_repeat_tx = direction is Direction.OUTBOUND
    session = pylibsrtp.Session(policy)
    if copying or not in_place_available():
        return CopyingSession(session)
    return InPlaceSession(session)


@cache
def in_place_available() -> bool:
    """Whether this pylibsrtp has the private pieces that `InPlaceSession` uses, with the types it expects.

    Looked at once: it makes a session of libsrtp's to find out.
    """
    try:
        binding = pylibsrtp._binding  # noqa: SLF001  the adapter's purpose
        return hasattr(pylibsrtp.Session(), "_srtp") and all(
            binding.ffi.typeof(getattr(binding.lib, name)).cname == SIGNATURE for name in OPERATIONS
        )
    except (AttributeError, TypeError):
        return False


@cache
def protect_address() -> int:
    """Where libsrtp's `srtp_protect` is, for code that is compiled; 0 if this pylibsrtp does not tell."""
    return _address_of("srtp_protect")


@cache
def unprotect_address() -> int:
    """Where libsrtp's `srtp_unprotect` is, for code that is compiled; 0 if this pylibsrtp does not tell."""
    return _address_of("srtp_unprotect")


@cache
def unprotect_rtcp_address() -> int:
    """Where libsrtp's `srtp_unprotect_rtcp` is, for code that is compiled; 0 if this pylibsrtp does not tell."""
    return _address_of("srtp_unprotect_rtcp")


def _address_of(name: str) -> int:
    if not in_place_available():
        return 0
    binding = pylibsrtp._binding  # noqa: SLF001
    return int(binding.ffi.cast("uintptr_t", binding.ffi.addressof(binding.lib, name)))


class InPlaceSession:
    """Calls libsrtp on the caller's memory: no copy, no size limit of its own."""

    __slots__ = (
        "_context",
        "_length",
        "_protect",
        "_protect_rtcp",
        "_session",
        "_unprotect",
        "_unprotect_rtcp",
        "address",
    )

    def __init__(self, session: Any) -> None:  # noqa: ANN401  pylibsrtp publishes no types
        lib = pylibsrtp._binding.lib  # noqa: SLF001
        self._session = session  # owns the context
        self._context = session._srtp[0]  # noqa: SLF001
        self.address = int(pylibsrtp._binding.ffi.cast("uintptr_t", self._context))  # noqa: SLF001
        self._length = ffi.new("int *")
        self._protect, self._unprotect = lib.srtp_protect, lib.srtp_unprotect
        self._protect_rtcp, self._unprotect_rtcp = lib.srtp_protect_rtcp, lib.srtp_unprotect_rtcp

    # Four times the same body, because a shared one would cost the hot path a call.

    def protect(self, pointer: Pointer, length: int) -> int:
        """Encrypt an RTP packet in place."""
        size = self._length
        size[0] = length
        if status := self._protect(self._context, pointer, size):
            raise SrtpError(REASONS.get(status, "other"))
        return size[0]  # type: ignore[no-any-return]

    def unprotect(self, pointer: Pointer, length: int) -> int:
        """Verify and decrypt an RTP packet in place."""
        size = self._length
        size[0] = length
        if status := self._unprotect(self._context, pointer, size):
            raise SrtpError(REASONS.get(status, "other"))
        return size[0]  # type: ignore[no-any-return]

    def protect_rtcp(self, pointer: Pointer, length: int) -> int:
        """Encrypt an RTCP packet in place."""
        size = self._length
        size[0] = length
        if status := self._protect_rtcp(self._context, pointer, size):
            raise SrtpError(REASONS.get(status, "other"))
        return size[0]  # type: ignore[no-any-return]

    def unprotect_rtcp(self, pointer: Pointer, length: int) -> int:
        """Verify and decrypt an RTCP packet in place."""
        size = self._length
        size[0] = length
        if status := self._unprotect_rtcp(self._context, pointer, size):
            raise SrtpError(REASONS.get(status, "other"))
        return size[0]  # type: ignore[no-any-return]

    def remove_stream(self, ssrc: int) -> None:
        """Forget `ssrc`."""
        _remove(self._session, ssrc)


class CopyingSession:
    """The same through pylibsrtp's public calls: slower, and packets over 1,356 bytes are refused ("other")."""

    __slots__ = ("_session", "address")

    def __init__(self, session: Any) -> None:  # noqa: ANN401  pylibsrtp publishes no types
        self._session = session
        self.address = 0

    def protect(self, pointer: Pointer, length: int) -> int:
        """Encrypt an RTP packet by way of a copy."""
        return _through_copy(self._session.protect, pointer, length)

    def unprotect(self, pointer: Pointer, length: int) -> int:
        """Verify and decrypt an RTP packet by way of a copy."""
        return _through_copy(self._session.unprotect, pointer, length)

    def protect_rtcp(self, pointer: Pointer, length: int) -> int:
        """Encrypt an RTCP packet by way of a copy."""
        return _through_copy(self._session.protect_rtcp, pointer, length)

    def unprotect_rtcp(self, pointer: Pointer, length: int) -> int:
        """Verify and decrypt an RTCP packet by way of a copy."""
        return _through_copy(self._session.unprotect_rtcp, pointer, length)

    def remove_stream(self, ssrc: int) -> None:
        """Forget `ssrc`."""
        _remove(self._session, ssrc)


def _through_copy(operation: Any, pointer: Pointer, length: int) -> int:  # noqa: ANN401  a pylibsrtp method
    try:
        result: bytes = operation(ffi.unpack(pointer, length))
    except pylibsrtp.Error as error:
        raise SrtpError(_reason(str(error))) from None
    except ValueError:  # too long for pylibsrtp's own buffer
        raise SrtpError("other") from None
    ffi.memmove(pointer, result, len(result))
    return len(result)


def _reason(text: str) -> str:
    """Public errors carry a text and no code."""
    if text.startswith("replay check failed"):
        return "replay"
    return "auth" if text == "authentication failure" else "other"


def _remove(session: Any, ssrc: int) -> None:  # noqa: ANN401  a pylibsrtp session
    try:
        session.remove_stream(ssrc)
    except pylibsrtp.Error:
        return  # libsrtp never met it


def on_copy(operation: Callable[[Pointer, int], int], data: bytes) -> bytes:
    """What `operation`, which works in place, makes of `data`."""
    length = len(data)
    if length > MAX_COPIED:
        raise SrtpError("other")
    copy = _room("char[]", length + TAIL)
    ffi.memmove(copy, data, length)
    return ffi.unpack(copy, operation(copy, length))  # type: ignore[no-any-return]
