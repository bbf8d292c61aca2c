"""Messages whose fragments arrive between those of others: I-DATA (RFC 8260)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.sctp.parameters import CauseCode
from triosfu.sctp.serial import TSN_MASK
from triosfu.sctp.violation import Violation
from triosfu.sctp.wire import BEGIN, END, UNORDERED

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.sctp.wire import IData

# What it costs to hold one, besides its bytes: a peer that sends bytes one by one must not make us hold a hundred
# times what it sends.
STREAM_COST = 256
MESSAGE_COST = 400
FRAGMENT_COST = 96


class _Partial:
    """A message that is not whole."""

    __slots__ = ("highest", "last", "parts", "ppid", "size")

    def __init__(self) -> None:
        self.parts: dict[int, bytes] = {}  # by fragment number
        self.size = 0
        self.ppid = 0
        self.highest = 0
        self.last = -1  # the number of the last fragment, once that is known

    @property
    def cost(self) -> int:
        return MESSAGE_COST + self.size + FRAGMENT_COST * len(self.parts)


class Interleaved:
    """The messages of all streams that are not whole yet, by stream, by whether they are ordered, and by their MID.

    `held` is what they take; who owns this bounds it. Each message is bounded here.
    """

    __slots__ = ("_max_message_size", "_partial", "_skipped", "held")

    def __init__(self, *, max_message_size: int) -> None:
        self._max_message_size = max_message_size
        self._partial: dict[tuple[int, bool], dict[int, _Partial]] = {}
        self._skipped: dict[int, int] = {}  # by stream, up to which MID unordered messages are abandoned
        self.held = 0

    def add(self, chunk: IData) -> tuple[int, bytes] | None:
        """Take a fragment; the payload protocol id and the bytes of its message once that is whole.

        Raises:
            Violation: It contradicts the fragments that are there, or the message is too large.
        """
        key = (chunk.stream_id, bool(chunk.flags & UNORDERED))
        messages = self._partial.get(key)
        if messages is None:
            messages = self._partial[key] = {}
            self.held += STREAM_COST
        message = messages.get(chunk.mid)
        if message is None:
            message = messages[chunk.mid] = _Partial()
            self.held += MESSAGE_COST
        begins = chunk.flags & BEGIN
        fsn = 0 if begins else chunk.fsn_or_ppid
        if fsn in message.parts or (not begins and fsn == 0) or -1 < message.last < fsn:
            raise Violation(CauseCode.PROTOCOL_VIOLATION, "a fragment has the number of another, or one that cannot be")
        if begins:
            message.ppid = chunk.fsn_or_ppid
        if chunk.flags & END:
            if message.last >= 0 or fsn < message.highest:
                raise Violation(CauseCode.PROTOCOL_VIOLATION, "a message ends before its last fragment")
            message.last = fsn
        message.highest = max(message.highest, fsn)
        message.parts[fsn] = chunk.payload
        message.size += len(chunk.payload)
        self.held += FRAGMENT_COST + len(chunk.payload)
        if message.size > self._max_message_size:
            raise Violation(CauseCode.PROTOCOL_VIOLATION, f"message is larger than {self._max_message_size} bytes")
        if len(message.parts) != message.last + 1:
            return None
        self._drop(key, chunk.mid)
        parts = message.parts
        return message.ppid, b"".join([parts[number] for number in range(len(parts))])

    def skip(self, stream_id: int, mid: int, *, unordered: bool) -> None:
        """Let go of the messages up to `mid`: the peer has abandoned them."""
        self._drop_if((stream_id, unordered), lambda other: (mid - other) & TSN_MASK < 1 << 31)
        if unordered:
            self._skipped[stream_id] = mid

    def is_skipped(self, stream_id: int, mid: int) -> bool:
        """Is it a fragment of an unordered message that is abandoned, and came behind the news of that?

        Other streams' fragments may lie between: then the peer's new cumulative TSN is in the middle of the message.
        """
        skipped = self._skipped.get(stream_id)
        if skipped is None:
            return False
        ahead = (mid - skipped) & TSN_MASK
        if 1 << 20 < ahead < 1 << 31:
            del self._skipped[stream_id]  # of long ago: before MIDs come round again
        return not 0 < ahead < 1 << 31

    def reset(self, stream_id: int) -> None:
        """Let go of all messages of the stream: it starts anew."""
        self._skipped.pop(stream_id, None)
        for unordered in (False, True):
            self._drop_if((stream_id, unordered), lambda _mid: True)

    def _drop_if(self, key: tuple[int, bool], is_over: Callable[[int], bool]) -> None:
        for mid in [mid for mid in self._partial.get(key, ()) if is_over(mid)]:
            self._drop(key, mid)

    def _drop(self, key: tuple[int, bool], mid: int) -> None:
        messages = self._partial[key]
        self.held -= messages.pop(mid).cost
        if not messages:
            del self._partial[key]
            self.held -= STREAM_COST
