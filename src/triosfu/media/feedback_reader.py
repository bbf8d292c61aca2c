"""Transport-wide feedback, read by the compiled kernel."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from triosfu.media.sent_log import Arrivals

if TYPE_CHECKING:
    from triosfu.kernel import Kernel
    from triosfu.media.sent_log import SentLog

LONGEST = 2048  # bytes of a packet, of which each may tell of another share; a longer one is for Python


class FeedbackReader:
    """Does for one packet what `TransportFeedback.parse_body` and `SentLog.resolve` do."""

    __slots__ = ("_counts", "_ffi", "_kernel", "_numbers", "_room", "_told")

    def __init__(self, kernel: Kernel) -> None:
        self._ffi = ffi = kernel.ffi
        self._kernel = kernel
        self._room = ffi.new("double[]", 3 + 2 * LONGEST)
        self._told = ffi.new("struct told *", {"numbers": self._room})
        self._counts = memoryview(ffi.buffer(self._told)).cast("B").cast("I")
        self._numbers = memoryview(ffi.buffer(self._room)).cast("B").cast("d")

    def read(self, packet: bytes, log: SentLog) -> tuple[int, int, Arrivals | None] | None:
        """How many packets it covers, how many of these came, and what it tells of those in `log`, of each once.

        None, and nothing has happened, if `packet` is not well-formed feedback and nothing else: Python says then what
        is wrong with it.
        """
        if not self._kernel.lib.kernel_feedback(packet, len(packet), log.record(self._ffi)[0], self._told):
            return None
        covered, received, shares = self._counts[:3]
        if not shares:
            return covered, received, None
        numbers = self._numbers[: 3 + 2 * shares].tolist()
        pairs = list(zip(numbers[3::2], numbers[4::2], strict=True))
        return covered, received, Arrivals(pairs, numbers[0], numbers[1], numbers[2])


@cache
def reader_of(kernel: Kernel) -> FeedbackReader:
    """The one that all transports share."""
    return FeedbackReader(kernel)
