"""The way of transport-wide feedback into an estimate, which the compiled kernel walks without Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from triosfu.srtp.binding import SrtpError, unprotect_rtcp_address

if TYPE_CHECKING:
    from triosfu.kernel import Kernel, Record
    from triosfu.media.estimate import Estimate
    from triosfu.media.sent_log import SentLog


class FeedbackLane:
    """Takes one subscriber's feedback: what `TransportFeedback`, `SentLog` and `Estimate` do for it, compiled.

    What is not such feedback alone, or not well-formed, is left to them, which know what is wrong with it.
    """

    __slots__ = ("_estimate", "_held", "_kernel", "_length", "_log", "_record", "_unprotect")

    def __init__(self, kernel: Kernel, log: SentLog, estimate: Estimate) -> None:
        self._kernel, self._log, self._estimate = kernel, log, estimate
        self._record: Record = kernel.ffi.new("struct feedback_lane *")
        self._length = kernel.ffi.new("int *")
        self._unprotect = kernel.ffi.cast("void *", unprotect_rtcp_address())
        self._held: tuple[Record, ...] = ()  # what the record points to

    def secure(self, session: int) -> bool:
        """Unprotect with libsrtp's context at `session`, or, where that is 0, no more; whether it can."""
        ffi = self._kernel.ffi
        self._record.session = ffi.cast("void *", session)
        return session != 0 and self._unprotect != ffi.NULL

    def receive(self, pointer: Any, length: int, now: float) -> int:  # noqa: ANN401  a cffi pointer of whichever instance
        """Decrypt SRTCP in place; 0 if that was feedback and has been taken, or else how long the compound is.

        Raises:
            SrtpError: It is not authentic.
        """
        if not self._held:
            self._attach()
        size = self._length
        size[0] = length
        taken: int = self._kernel.lib.kernel_feedback_lane(self._unprotect, self._record, pointer, size, now)
        if taken < 0:
            raise SrtpError("auth")
        return 0 if taken else size[0]

    def take(self, compound: bytes, now: float) -> bool:
        """Take `compound` if it is feedback alone, well-formed, and something was sent; whether it was."""
        if not self._held:
            self._attach()
        record = self._record
        return bool(
            self._held
            and self._kernel.lib.kernel_feedback(compound, len(compound), record.log, record.estimate, now)
        )  # fmt: skip

    def _attach(self) -> None:
        """Point to the log and the estimate; they have no room before the first packet that is numbered."""
        if self._log.empty:
            return
        ffi, record = self._kernel.ffi, self._record
        log, estimate = self._log.record(ffi), self._estimate.record(ffi)
        self._held = log + estimate
        record.log, record.estimate = log[0], estimate[0]

    def forget(self) -> None:
        """Let go of the log, which is about to forget what was sent."""
        self._record.log, self._held = self._kernel.ffi.NULL, ()
