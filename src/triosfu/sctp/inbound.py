"""The receiving half: which TSNs have arrived, reassembly, ordered delivery, and the limits on all of it."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from triosfu.sctp.events import Event, Message
from triosfu.sctp.interleaved import STREAM_COST, Interleaved
from triosfu.sctp.parameters import CauseCode
from triosfu.sctp.serial import SSN_MASK, TSN_MASK, is_ahead, unwrap
from triosfu.sctp.violation import Violation
from triosfu.sctp.wire import BEGIN, END, IMMEDIATE, UNORDERED, Data, ForwardTsn, IData, IForwardTsn, Sack

MAX_REPORTED = 20  # gap blocks and duplicates in one SACK
_WHOLE = BEGIN | END
# What it costs to hold a run, each of its fragments, and a message that waits, besides their bytes.
RUN_COST = 1024
FRAGMENT_COST = 64
WAITING_COST = 224


class _Run:
    """Adjacent fragments of one message."""

    __slots__ = ("begun", "cost", "end", "ended", "parts", "ppid", "size", "ssn", "start", "stream_id", "unordered")

    def __init__(self, chunk: Data, tsn: int) -> None:
        self.start = self.end = tsn
        self.begun = bool(chunk.flags & BEGIN)
        self.ended = bool(chunk.flags & END)
        self.unordered = bool(chunk.flags & UNORDERED)
        self.stream_id, self.ssn, self.ppid = chunk.stream_id, chunk.ssn, chunk.ppid
        self.parts: deque[bytes] = deque((chunk.payload,))
        self.size = len(chunk.payload)
        self.cost = RUN_COST + FRAGMENT_COST + self.size

    def continues_in(self, other: _Run) -> bool:
        return (
            self.stream_id == other.stream_id
            and self.unordered == other.unordered
            and (self.unordered or self.ssn == other.ssn)
        )

    def absorb(self, right: _Run) -> _Run:
        """The run of this one and the one right behind it; the shorter is copied into the longer."""
        if len(self.parts) >= len(right.parts):
            self.parts.extend(right.parts)
            self.end, self.ended = right.end, right.ended
            self.size += right.size
            self.cost += right.cost - RUN_COST
            return self
        right.parts.extendleft(reversed(self.parts))
        right.start, right.begun, right.ppid = self.start, self.begun, self.ppid
        right.size += self.size
        right.cost += self.cost - RUN_COST
        return right


class Inbound:
    """Takes DATA or I-DATA with its FORWARD-TSN, reports each `Message` into `events`, and gives SACKs to send.

    Memory is bounded by `buffer` (plus one message), by `max_message_size` for each message and by the number of TSNs
    that may be ahead of the cumulative one, whatever the peer sends. What it costs to hold a piece counts too, however
    small that is, and is taken off the window that the peer is told of, so that an honest one does not send in vain.
    """

    __slots__ = (
        "_buffer",
        "_by_end",
        "_by_start",
        "_duplicates",
        "_ends",
        "_events",
        "_interleaved",
        "_limit",
        "_max_message_size",
        "_next_ssn",
        "_number_mask",
        "_partial_reliability",
        "_starts",
        "_streams",
        "_waiting",
        "_window",
        "cumulative",
        "dropped",
        "forward_type",
        "held",
        "interleaving",
        "sack_now",
        "unknown_streams",
        "untaken",
    )

    def __init__(
        self,
        *,
        initial_tsn: int,
        buffer: int,
        max_message_size: int,
        streams: int,
        partial_reliability: bool,
        events: list[Event],
        interleaving: bool = False,
    ) -> None:
        self._events = events
        self.interleaving = interleaving
        self.forward_type: type[ForwardTsn | IForwardTsn] = IForwardTsn if interleaving else ForwardTsn
        self._interleaved = Interleaved(max_message_size=max_message_size)
        self._number_mask = TSN_MASK if interleaving else SSN_MASK  # messages have an SSN, or a longer MID
        self._buffer, self._max_message_size, self._streams = buffer, max_message_size, streams
        self._limit = buffer + 2 * max_message_size  # a message more, and what its fragments cost
        self._window = min(max(4 * buffer // 500, 2_000), 40_000)
        self._partial_reliability = partial_reliability
        self.cumulative = initial_tsn - 1
        self._starts: list[int] = []  # what has arrived above the cumulative TSN: sorted,
        self._ends: list[int] = []  # disjoint, not adjacent, both ends included
        self._duplicates: list[int] = []
        self._by_start: dict[int, _Run] = {}
        self._by_end: dict[int, _Run] = {}
        self._next_ssn: dict[int, int] = {}
        self._waiting: dict[int, dict[int, tuple[int, bytes]]] = {}
        self.held = 0  # what fragments take, and messages that wait for an earlier one
        self.untaken = 0  # bytes of messages that were delivered, and that our user has not taken yet
        self.unknown_streams: list[int] = []  # to be reported in an ERROR
        self.sack_now = True  # the first DATA is acknowledged at once
        self.dropped = 0

    def receive(self, chunk: Data | IData) -> None:
        """Take one chunk of the kind that was negotiated.

        Raises:
            Violation: No peer that follows the rules sends this; nothing can be relied upon any more.
        """
        payload = chunk.payload
        if not payload:
            raise Violation(CauseCode.NO_USER_DATA, "DATA without data")
        flags = chunk.flags
        tsn = unwrap(chunk.tsn, self.cumulative)
        if tsn == self.cumulative + 1 and not self._starts:
            self.cumulative = tsn
        elif not self._accept(tsn):
            return
        if flags & IMMEDIATE:
            self.sack_now = True
        stream_id = chunk.stream_id
        if stream_id >= self._streams:
            self.unknown_streams.append(stream_id)
        elif isinstance(chunk, IData):
            self._receive_interleaved(chunk)
        elif flags & _WHOLE == _WHOLE:
            if self._by_end:
                self._check_neighbours(flags, tsn)
            self._complete(stream_id, chunk.ssn, flags & UNORDERED, chunk.ppid, payload)
        else:
            self._fragment(chunk, tsn)

    def _receive_interleaved(self, chunk: IData) -> None:
        stream_id, unordered, mid = chunk.stream_id, chunk.flags & UNORDERED, chunk.mid
        if chunk.flags & _WHOLE == _WHOLE:
            self._complete(stream_id, mid, unordered, chunk.fsn_or_ppid, chunk.payload)
            return
        expected = self._next_ssn.get(stream_id, 0)
        if not unordered and mid != expected and not is_ahead(mid, expected, TSN_MASK):
            self.dropped += 1  # of a message that has been skipped
            return
        if unordered and self._interleaved.is_skipped(stream_id, mid):
            self.dropped += 1
            return
        before = self._interleaved.held
        message = self._interleaved.add(chunk)
        self.held += self._interleaved.held - before
        if message is None:
            self._check_memory()
        else:
            self._complete(stream_id, mid, unordered, *message)

    def receive_forward(self, forward: ForwardTsn | IForwardTsn) -> None:
        """Give up waiting for what the peer has abandoned (RFC 3758, section 3.6)."""
        tsn = unwrap(forward.cumulative_tsn, self.cumulative)
        if tsn <= self.cumulative:
            return
        if tsn > self.cumulative + self._window:
            self.dropped += 1
            return
        self.cumulative = tsn
        while self._starts and self._starts[0] <= self.cumulative + 1:
            self.cumulative = max(self.cumulative, self._ends.pop(0))
            del self._starts[0]
        for run in list(self._by_start.values()):
            # A run that begins before and reaches the new point misses nothing: its message may not be abandoned.
            if run.start <= tsn + 1 and not (run.begun and run.end >= tsn):
                self._forget(run)
        if isinstance(forward, IForwardTsn):
            # The last of several entries for one stream counts, so that the work stays bounded.
            for (stream_id, unordered), mid in {entry[:2]: entry[2] for entry in forward.streams}.items():
                self._skip_interleaved(stream_id, mid, unordered=unordered)
            return
        for stream_id, ssn in forward.streams:
            if stream_id < self._streams:
                self._skip(stream_id, ssn)

    def reset(self, stream_id: int) -> None:
        """The peer starts the stream anew with SSN 0 (RFC 6525, section 5.2.2)."""
        self._next_ssn.pop(stream_id, None)
        before = self._interleaved.held
        self._interleaved.reset(stream_id)
        self.held += self._interleaved.held - before
        waiting = self._waiting.pop(stream_id, None)
        if waiting is not None:
            self.held -= STREAM_COST + sum(WAITING_COST + len(data) for _ppid, data in waiting.values())

    def known_streams(self) -> list[int]:
        """Streams on which an ordered message has arrived."""
        return list(self._next_ssn)

    @property
    def has_gaps(self) -> bool:
        """Is anything missing below what has arrived?"""
        return bool(self._starts)

    def sack(self) -> Sack:
        """The acknowledgement of all that has arrived; duplicates are reported once."""
        cumulative = self.cumulative
        a_rwnd = max(0, self._buffer - self.held - self.untaken)
        if not self._starts and not self._duplicates:
            return Sack(cumulative & TSN_MASK, a_rwnd)
        gaps: list[int] = []
        for start, end in zip(self._starts[:MAX_REPORTED], self._ends, strict=False):
            if end - cumulative > 0xFFFF:
                break
            gaps += (start - cumulative, end - cumulative)
        duplicates, self._duplicates = self._duplicates, []
        return Sack(cumulative & TSN_MASK, a_rwnd, tuple(gaps), tuple(duplicates))

    def _accept(self, tsn: int) -> bool:
        """Record an arrival; False if it is to be dropped. Whatever gets here wants a SACK at once."""
        self.sack_now = True
        cumulative, starts, ends = self.cumulative, self._starts, self._ends
        if tsn <= cumulative:
            self._duplicate(tsn)
            return False
        at = bisect_right(starts, tsn)
        if at and ends[at - 1] >= tsn:
            self._duplicate(tsn)
            return False
        if tsn == cumulative + 1:
            self.cumulative = tsn
            if starts[0] == tsn + 1:
                self.cumulative = ends.pop(0)
                del starts[0]
            return True
        if tsn > cumulative + self._window or self.held > self._buffer * 9 // 10:
            # Room is kept for what moves the cumulative TSN, so that the peer can always make progress.
            self.dropped += 1
            return False
        joins_left = at > 0 and ends[at - 1] == tsn - 1
        joins_right = at < len(starts) and starts[at] == tsn + 1
        if joins_left and joins_right:
            ends[at - 1] = ends.pop(at)
            del starts[at]
        elif joins_left:
            ends[at - 1] = tsn
        elif joins_right:
            starts[at] = tsn
        else:
            starts.insert(at, tsn)
            ends.insert(at, tsn)
        return True

    def _duplicate(self, tsn: int) -> None:
        self.dropped += 1
        if len(self._duplicates) < MAX_REPORTED:
            self._duplicates.append(tsn & TSN_MASK)

    def _has(self, tsn: int) -> bool:
        if tsn <= self.cumulative:
            return True
        at = bisect_right(self._starts, tsn)
        return bool(at) and self._ends[at - 1] >= tsn

    def _check_neighbours(self, flags: int, tsn: int) -> None:
        """What begins a message ends the run before it, what ends a message begins the run behind it."""
        if flags & BEGIN:
            left = self._by_end.get(tsn - 1)
            if left is not None and not left.ended:
                self._broken("a message begins before the last has ended", left)
        if flags & END:
            right = self._by_start.get(tsn + 1)
            if right is not None and not right.begun:
                self._broken("a fragment continues a message that has ended", right)

    def _fragment(self, chunk: Data, tsn: int) -> None:
        """Add part of a message to what is there of it."""
        self._check_neighbours(chunk.flags, tsn)
        run = _Run(chunk, tsn)
        left = None if run.begun else self._by_end.get(tsn - 1)
        if not run.begun and (self._has(tsn - 1) if left is None else left.ended):
            self._broken("a fragment continues nothing")
            return
        if left is not None:
            self._forget(left)
            run = self._join(left, run)
        right = None if run.ended else self._by_start.get(tsn + 1)
        if not run.ended and (self._has(run.end + 1) if right is None else right.begun):
            self._broken("a message begins before the last has ended")
            return
        if right is not None:
            self._forget(right)
            run = self._join(run, right)
        if run.size > self._max_message_size:
            raise Violation(CauseCode.PROTOCOL_VIOLATION, f"message is larger than {self._max_message_size} bytes")
        if run.begun and run.ended:
            self._complete(run.stream_id, run.ssn, run.unordered, run.ppid, b"".join(run.parts))
        else:
            self._by_start[run.start] = self._by_end[run.end] = run
            self.held += run.cost
            self._check_memory()

    def _join(self, left: _Run, right: _Run) -> _Run:
        if not left.continues_in(right):
            raise Violation(CauseCode.PROTOCOL_VIOLATION, "fragments of different messages follow each other")
        return left.absorb(right)

    def _complete(self, stream_id: int, ssn: int, unordered: int, ppid: int, data: bytes) -> None:
        """Deliver a whole message, and those that waited for it, or let it wait for an earlier one."""
        if unordered:
            self._events.append(Message(stream_id, ppid, data))
            return
        expected = self._next_ssn.get(stream_id, 0)
        if ssn == expected:
            self._events.append(Message(stream_id, ppid, data))
            self._next_ssn[stream_id] = (expected + 1) & self._number_mask
            if stream_id in self._waiting:
                self._deliver_waiting(stream_id)
        elif is_ahead(ssn, expected, self._number_mask):
            self._wait(stream_id, ssn, ppid, data)
        else:
            self.dropped += 1

    def _wait(self, stream_id: int, ssn: int, ppid: int, data: bytes) -> None:
        waiting = self._waiting.get(stream_id)
        if waiting is None:
            waiting = self._waiting[stream_id] = {}
            self.held += STREAM_COST
        if ssn in waiting:
            self.dropped += 1
            return
        waiting[ssn] = (ppid, data)
        self.held += WAITING_COST + len(data)
        self._check_memory()

    def _deliver_waiting(self, stream_id: int) -> None:
        waiting = self._waiting[stream_id]
        ssn = self._next_ssn[stream_id]
        while ssn in waiting:
            ppid, data = waiting.pop(ssn)
            self.held -= WAITING_COST + len(data)
            self._events.append(Message(stream_id, ppid, data))
            ssn = (ssn + 1) & self._number_mask
        self._next_ssn[stream_id] = ssn
        if not waiting:
            del self._waiting[stream_id]
            self.held -= STREAM_COST

    def _skip(self, stream_id: int, ssn: int) -> None:
        """Ordered messages up to `ssn` will not come; those of them that did are delivered all the same."""
        expected = self._next_ssn.get(stream_id, 0)
        mask = self._number_mask
        after = (ssn + 1) & mask
        if not is_ahead(after, expected, mask):
            return
        waiting = self._waiting.get(stream_id, {})
        for early in sorted((s for s in waiting if is_ahead(after, s, mask)), key=lambda s: (s - expected) & mask):
            ppid, data = waiting.pop(early)
            self.held -= WAITING_COST + len(data)
            self._events.append(Message(stream_id, ppid, data))
        self._next_ssn[stream_id] = after
        if stream_id in self._waiting:
            self._deliver_waiting(stream_id)

    def _skip_interleaved(self, stream_id: int, mid: int, *, unordered: bool) -> None:
        before = self._interleaved.held
        self._interleaved.skip(stream_id, mid, unordered=unordered)
        self.held += self._interleaved.held - before
        if not unordered and stream_id < self._streams:
            self._skip(stream_id, mid)

    def _broken(self, text: str, run: _Run | None = None) -> None:
        """Fragments that fit nowhere: left-overs of an abandoned message, or a violation if nothing is ever abandoned.

        Some stacks abandon a message between two fragments without saying where it would have ended.
        """
        if not self._partial_reliability:
            raise Violation(CauseCode.PROTOCOL_VIOLATION, text)
        self.dropped += 1
        if run is not None:
            self._forget(run)

    def _forget(self, run: _Run) -> None:
        del self._by_start[run.start]
        del self._by_end[run.end]
        self.held -= run.cost

    def _check_memory(self) -> None:
        if self.held > self._limit:
            raise Violation(CauseCode.OUT_OF_RESOURCE, "more data is held than the window allows")
