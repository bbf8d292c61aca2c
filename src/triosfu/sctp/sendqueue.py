"""What waits to be sent for the first time: a queue per stream, served in turn.

Without I-DATA the fragments of a message must have adjacent TSNs, so a message once begun is finished first: streams
take turns message by message. With it they do fragment by fragment, and nothing waits for the end of a large message.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from triosfu.sctp.serial import SSN_MASK, TSN_MASK

_SMALL = 1024  # a message of one packet, or nearly


class OutStream:
    """The sending side of one stream."""

    __slots__ = ("begun", "buffered", "id", "next_ssn", "next_unordered", "queue", "scheduled", "unsent")

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.next_ssn = 0  # or MID, with I-DATA, which numbers unordered messages too
        self.next_unordered = 0
        self.begun: OutMessage | None = None  # waits for its next turn
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
        "fragments",
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
        self.fragments = 0  # pieces that have one, counted with I-DATA only
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
    """Messages of all streams. Urgent ones go first, then streams take turns, a message or a fragment each."""

    __slots__ = (
        "_begun_size",
        "_chosen",
        "_current",
        "_round",
        "_streams",
        "_urgent",
        "buffered",
        "interleaving",
        "most_begun",
    )

    def __init__(self) -> None:
        self._streams: dict[int, OutStream] = {}
        self._urgent: deque[OutMessage] = deque()
        self._round: deque[OutStream] = deque()
        self._current: OutMessage | None = None  # whose turn it is, urgent ones aside
        self._chosen: OutMessage | None = None  # what `next` has returned
        self.buffered = 0  # the sum over all streams
        self.interleaving = False
        # A receiver holds each message until its end has come. More of them begun than it has room for, and none of
        # them could ever end.
        self.most_begun = 0
        self._begun_size = 0

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
        current = self._current
        if self._urgent and (current is None or not current.offset or self.interleaving):
            self._chosen = self._urgent[0]
            return self._chosen
        if current is not None and not current.offset and current.expires_at <= now:
            self._give_up(current)
            current = None
        if current is None:
            current = self._current = self._next_in_turn(now)
        self._chosen = current
        return current

    def _next_in_turn(self, now: float) -> OutMessage | None:
        turns = len(self._round)
        while turns:
            turns -= 1
            stream = self._round.popleft()
            message, stream.begun = stream.begun, None
            while message is None and stream.queue:
                message = stream.queue.popleft()
                if message.expires_at <= now:
                    self._give_up(message)
                    message = None
            if message is None:
                stream.scheduled = False
                continue
            if self._begun_size and not message.offset and self._is_too_much(message):
                stream.queue.appendleft(message)
                self._round.append(stream)
                continue
            if stream.queue:
                self._round.append(stream)
            else:
                stream.scheduled = False
            return message
        return None

    def _is_too_much(self, message: OutMessage) -> bool:
        return message.size > _SMALL and self._begun_size + message.size > self.most_begun

    def take(self, size: int) -> Fragment:
        """Up to `size` bytes of the message that `next` returned."""
        message = self._chosen
        assert message is not None  # noqa: S101  next() has returned it
        begins = message.offset == 0
        if begins:
            self._number(message)
            if message.size <= size:
                message.offset = message.size
                self._finish(message)
                return Fragment(message, message.data, True, True)
        payload = message.data[message.offset : message.offset + size]
        message.offset += len(payload)
        ends = message.offset == message.size
        if self.interleaving:
            self._pass_on(message, begins=begins, ends=ends)
        if ends:
            self._finish(message)
        return Fragment(message, payload, begins, ends)

    def _number(self, message: OutMessage) -> None:
        stream = message.stream
        if not message.unordered:
            message.ssn = stream.next_ssn
            stream.next_ssn = (stream.next_ssn + 1) & (TSN_MASK if self.interleaving else SSN_MASK)
        elif self.interleaving:
            message.ssn = stream.next_unordered
            stream.next_unordered = (stream.next_unordered + 1) & TSN_MASK

    def _pass_on(self, message: OutMessage, *, begins: bool, ends: bool) -> None:
        """Let the next stream have its turn, between two fragments of this one."""
        message.fragments += 1
        if message.urgent:
            return
        if ends:
            self._begun_size -= message.size
            return
        if begins:
            self._begun_size += message.size
        if not self._round:
            return  # nobody else waits for a turn
        stream = message.stream
        stream.begun, self._current = message, None
        if not stream.scheduled:
            stream.scheduled = True
            self._round.append(stream)

    def give_up_rest(self, message: OutMessage) -> bool:
        """Forget the part of `message` that has no TSN yet; False if there is none."""
        if message.offset == message.size:
            return False
        self.release(message, message.size - message.offset)
        message.offset = message.size
        if message.stream.begun is message:
            message.stream.begun = None
        if self.interleaving and not message.urgent:
            self._begun_size -= message.size
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
            current = self._current
            if current is not None and current.stream is stream and not current.offset:
                self._give_up(current)

    def forget(self) -> None:
        """Let go of all messages; the queue is not used any more.

        They and their streams refer to each other, and would stay, 16 MiB a channel, until the collector comes.
        """
        for stream in self._streams.values():
            stream.queue.clear()
            stream.begun = None
        self._urgent.clear()
        self._round.clear()
        self._current = self._chosen = None

    def drained(self, stream_id: int) -> bool:
        """Has every byte accepted on the stream got its TSN?"""
        stream = self._streams.get(stream_id)
        return stream is None or stream.unsent == 0

    def restart(self, stream_id: int) -> None:
        """The stream was reset: it begins again with SSN 0."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.next_ssn = stream.next_unordered = 0

    def _give_up(self, message: OutMessage) -> None:
        message.stream.unsent -= 1
        self.release(message, message.size)
        if message is self._current:
            self._current = None

    def _finish(self, message: OutMessage) -> None:
        message.stream.unsent -= 1
        if message.urgent:
            self._urgent.remove(message)
        elif message is self._current:
            self._current = None
