"""What waits to be sent for the first time: a queue per stream, served in turn, one message at a time.

Without I-DATA the fragments of a message must have adjacent TSNs, so a message once begun is finished first. With it,
`take` would serve another stream after each fragment; nothing outside this module would change.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple


class OutStream:
    """The sending side of one stream."""

    __slots__ = ("buffered", "id", "next_ssn", "queue", "scheduled", "unsent")

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.next_ssn = 0
        self.queue: deque[OutMessage] = deque()
        self.scheduled = False  # is it in the round
        self.unsent = 0  # messages that have fragments without TSN
        self.buffered = 0  # bytes accepted and neither acknowledged nor given up


class OutMessage:
    """A user message on its way."""

    __slots__ = (
        "abandoned",
        "data",
        "expires_at",
        "first_tsn",
        "last_tsn",
        "max_retransmits",
        "offset",
        "ppid",
        "size",
        "ssn",
        "stream",
        "unordered",
        "urgent",
    )

    def __init__(
        self,
        stream: OutStream,
        data: bytes,
        *,
        ppid: int,
        unordered: bool,
        max_retransmits: int | None,
        expires_at: float,
        urgent: bool,
    ) -> None:
        self.stream, self.data, self.ppid, self.unordered, self.urgent = stream, data, ppid, unordered, urgent
        self.max_retransmits = math.inf if max_retransmits is None else max_retransmits
        self.expires_at = expires_at
        self.size = len(data)
        self.offset = 0  # bytes that have a TSN
        # The SSN is given with the first TSN: a message that expires in the queue leaves no hole behind.
        self.ssn = 0
        self.first_tsn = self.last_tsn = -1
        self.abandoned = False


class Fragment(NamedTuple):
    """A piece of a message that gets its TSN now."""

    message: OutMessage
    payload: bytes
    begins: bool
    ends: bool


class SendQueue:
    """Messages of all streams. Urgent ones go first, then streams take turns, a message each."""

    __slots__ = ("_current", "_round", "_streams", "_urgent", "buffered")

    def __init__(self) -> None:
        self._streams: dict[int, OutStream] = {}
        self._urgent: deque[OutMessage] = deque()
        self._round: deque[OutStream] = deque()
        self._current: OutMessage | None = None
        self.buffered = 0  # the sum over all streams

    def stream(self, stream_id: int) -> OutStream:
        """The stream's sending side, made when first asked for."""
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._streams[stream_id] = OutStream(stream_id)
        return stream

    def buffered_on(self, stream_id: int) -> int:
        """Bytes accepted on the stream and neither acknowledged nor given up."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.buffered

    @property
    def empty(self) -> bool:
        """Has everything got its TSN?"""
        return self._current is None and not self._urgent and not self._round

    def known_streams(self) -> list[int]:
        """Streams that have been sent on."""
        return list(self._streams)

    def append(self, message: OutMessage) -> None:
        """Queue a message behind those of its stream; urgent ones behind other urgent ones only."""
        stream = message.stream
        stream.unsent += 1
        if message.urgent:
            self._urgent.append(message)
            return
        stream.buffered += message.size
        self.buffered += message.size
        stream.queue.append(message)
        if not stream.scheduled:
            stream.scheduled = True
            self._round.append(stream)

    def next(self, now: float) -> OutMessage | None:
        """The message that the next fragment comes from, or None. Those whose time is over are given up here."""
        if self._current is not None:
            return self._current
        if self._urgent:
            self._current = self._urgent.popleft()
            return self._current
        while self._round:
            stream = self._round.popleft()
            while stream.queue:
                message = stream.queue.popleft()
                if message.expires_at <= now:
                    self._give_up(message)
                    continue
                if stream.queue:
                    self._round.append(stream)
                else:
                    stream.scheduled = False
                self._current = message
                return message
            stream.scheduled = False
        return None

    def take(self, size: int) -> Fragment:
        """Up to `size` bytes of the message that `next` returned."""
        message = self._current
        assert message is not None  # noqa: S101  next() has returned it
        begins = message.offset == 0
        if begins:
            if not message.unordered:
                stream = message.stream
                message.ssn = stream.next_ssn
                stream.next_ssn = (stream.next_ssn + 1) & 0xFFFF
            if message.size <= size:
                message.offset = message.size
                self._finish(message)
                return Fragment(message, message.data, True, True)
        payload = message.data[message.offset : message.offset + size]
        message.offset += len(payload)
        ends = message.offset == message.size
        if ends:
            self._finish(message)
        return Fragment(message, payload, begins, ends)

    def give_up_rest(self, message: OutMessage) -> bool:
        """Forget the part of `message` that has no TSN yet; False if there is none."""
        if message is not self._current:
            return False
        self.release(message, message.size - message.offset)
        self._finish(message)
        return True

    def release(self, message: OutMessage, size: int) -> None:
        """`size` bytes of `message` are acknowledged or given up."""
        if not message.urgent:
            message.stream.buffered -= size
            self.buffered -= size

    def drop_unsent(self, stream_id: int) -> None:
        """Forget the messages of a stream that have not been begun; urgent ones stay."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            while stream.queue:
                self._give_up(stream.queue.popleft())

    def drained(self, stream_id: int) -> bool:
        """Has every byte accepted on the stream got its TSN?"""
        stream = self._streams.get(stream_id)
        return stream is None or stream.unsent == 0

    def restart(self, stream_id: int) -> None:
        """The stream was reset: it begins again with SSN 0."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.next_ssn = 0

    def _give_up(self, message: OutMessage) -> None:
        message.stream.unsent -= 1
        self.release(message, message.size)

    def _finish(self, message: OutMessage) -> None:
        message.stream.unsent -= 1
        self._current = None
