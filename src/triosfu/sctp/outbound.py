"""The sending half: TSNs, retransmission, the windows, and messages that may be abandoned (RFC 9260, RFC 3758).

TSNs are kept unwrapped, as plain growing integers; they are cut to 32 bits on the wire only.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import TYPE_CHECKING

from triosfu.sctp.congestion import CongestionWindow
from triosfu.sctp.sendqueue import OutMessage, SendQueue
from triosfu.sctp.serial import TSN_MASK, unwrap
from triosfu.sctp.wire import (
    BEGIN,
    DATA_HEADER,
    DATA_HEADER_SIZE,
    END,
    IDATA_HEADER,
    IDATA_HEADER_SIZE,
    UNORDERED,
    ChunkType,
    ForwardTsn,
    IForwardTsn,
    Sack,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from triosfu.sctp.rto import RetransmissionTimeout

MISSES_UNTIL_LOST = 3
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_MIN_FRAGMENT = 256  # a long message fills up a packet only if the piece is worth a header
_IDATA = int(ChunkType.I_DATA)
_IN_FLIGHT, _LOST, _ACKED, _ABANDONED = range(4)


class _Sent:
    """A DATA or I-DATA chunk that has its TSN and is not yet cumulatively acknowledged."""

    __slots__ = (
        "flags",
        "fsn_or_ppid",
        "message",
        "misses",
        "payload",
        "resent_before",
        "sent_at",
        "size",
        "state",
        "transmissions",
    )

    def __init__(self, message: OutMessage, payload: bytes, flags: int, now: float, size: int) -> None:
        self.message, self.payload, self.flags, self.sent_at = message, payload, flags, now
        self.size = size  # header included
        self.fsn_or_ppid = message.ppid if flags & BEGIN else message.fragments - 1
        self.state = _IN_FLIGHT
        self.transmissions = 1
        self.misses = 0
        self.resent_before = 0  # the first TSN that was sent after this chunk's last retransmission


def _ranges_without(new: Sequence[tuple[int, int]], old: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What is in `new` but not in `old`; both are sorted and disjoint."""
    at, known = 0, len(old)
    for first, last in new:
        start = first
        while at < known and old[at][1] < start:
            at += 1
        scan = at
        while scan < known and old[scan][0] <= last:
            if old[scan][0] > start:
                yield start, old[scan][0] - 1
            start = old[scan][1] + 1
            scan += 1
        if start <= last:
            yield start, last


class Acknowledged:
    """What a valid SACK said."""

    __slots__ = ("cumulative_moved", "size")

    def __init__(self) -> None:
        self.size = 0  # bytes of chunks that no SACK had acknowledged before
        self.cumulative_moved = False


class Outbound:
    """Everything between `send` and the acknowledgement of the last fragment."""

    __slots__ = (
        "_advanced",
        "_fast_packet",
        "_forward_due",
        "_forward_sent_at",
        "_gaps",
        "_header",
        "_largest",
        "_lost",
        "_measure_from",
        "_outstanding",
        "_resets_after",
        "_rto",
        "_unit",
        "a_rwnd",
        "congestion",
        "cumulative",
        "earliest_resent",
        "flight",
        "in_flight",
        "interleaving",
        "last_sent_at",
        "next_tsn",
        "partial_reliability",
        "queue",
    )

    def __init__(self, *, initial_tsn: int, unit: int, rto: RetransmissionTimeout) -> None:
        self._rto = rto
        self.queue = SendQueue()
        self.congestion = CongestionWindow(unit=unit)
        self._unit = unit
        self._header = DATA_HEADER_SIZE
        self._largest = unit - DATA_HEADER_SIZE
        self.next_tsn = initial_tsn
        self.cumulative = initial_tsn - 1  # all up to here is acknowledged
        self._advanced = self.cumulative  # all up to here is acknowledged or abandoned
        self._outstanding: dict[int, _Sent] = {}
        self._gaps: list[tuple[int, int]] = []  # as in the last SACK
        self._lost: list[int] = []  # heap of TSNs to send again; entries may be stale
        self._fast_packet = False  # the next packet of retransmissions ignores the congestion window
        self._forward_due = False
        self._forward_sent_at = -math.inf
        self._resets_after: deque[int] = deque()  # the last TSNs ahead of resets of streams, not acknowledged yet
        self._measure_from = initial_tsn
        self.flight = 0  # bytes of chunks in flight, headers included
        self.in_flight = 0  # their number
        self.a_rwnd = 0
        self.partial_reliability = False
        self.interleaving = False
        self.last_sent_at = 0.0
        self.earliest_resent = False  # for T3: the chunk it runs for has just been sent again

    def peer_known(self, *, a_rwnd: int, partial_reliability: bool, interleaving: bool) -> None:
        """Learn what the peer takes, before anything is sent."""
        self.a_rwnd, self.partial_reliability = a_rwnd, partial_reliability
        self.interleaving = self.queue.interleaving = interleaving
        self.queue.most_begun = a_rwnd // 2
        self._header = IDATA_HEADER_SIZE if interleaving else DATA_HEADER_SIZE
        self._largest = self._unit - self._header

    def resize(self, unit: int) -> None:
        """Fill packets with `unit` bytes of chunks from now on; what has a TSN keeps its size."""
        self._unit = unit
        self._largest = unit - self._header
        self.congestion.resize(unit)

    def reset_requested(self) -> None:
        """The peer is asked to reset streams as soon as it has all that was sent before.

        Until that is acknowledged no FORWARD-TSN goes beyond it: a peer that has performed the reset would take SSNs
        from before it for those of the streams that have begun anew, and drop what comes on them.
        """
        last_tsn = self.next_tsn - 1
        if last_tsn > self.cumulative and last_tsn not in self._resets_after:
            self._resets_after.append(last_tsn)

    @property
    def outstanding(self) -> bool:
        """Is a TSN not yet cumulatively acknowledged? Then T3 runs."""
        return bool(self._outstanding)

    @property
    def idle(self) -> bool:
        """Is there nothing to send and nothing to wait for?"""
        return not self._outstanding and self.queue.empty

    @property
    def ready(self) -> bool:
        """May anything go out, as far as the congestion window is concerned?"""
        if self._lost or self._forward_due:
            return True
        return self.flight < self.congestion.bytes and not self.queue.empty

    @property
    def forward_is_due(self) -> bool:
        """Is there a FORWARD-TSN to send?"""
        return self._forward_due

    # Acknowledgements

    def receive_sack(self, sack: Sack, now: float) -> Acknowledged | None:
        """Apply a SACK; None if it is old, or says what cannot be: then nothing has changed."""
        cumulative = unwrap(sack.cumulative_tsn, self.cumulative)
        highest = self.next_tsn - 1
        if not self.cumulative <= cumulative <= highest:
            return None
        gaps: list[tuple[int, int]] = []
        if sack.gaps:
            last = cumulative + 1  # a block that starts there would belong to the cumulative TSN
            offsets = iter(sack.gaps)
            for offset in offsets:
                start, end = cumulative + offset, cumulative + next(offsets)
                if not last < start <= end <= highest:
                    return None
                gaps.append((start, end))
                last = end
        result = Acknowledged()
        flight_before = self.flight
        if cumulative > self.cumulative:
            self._acknowledge_up_to(cumulative, result, now)
        if gaps or self._gaps:
            self._acknowledge_gaps(gaps, result)
        self.a_rwnd = sack.a_rwnd
        if result.cumulative_moved:
            self.congestion.acknowledged(result.size, flight_before=flight_before, flight=self.flight)
        if self.partial_reliability:
            self._advance()
            round_trip = self._rto.srtt if self._rto.srtt is not None else self._rto.value
            if self._advanced > self.cumulative and now - self._forward_sent_at > round_trip:
                self._forward_due = True
        return result

    def acknowledge(self, cumulative_tsn: int, now: float) -> Acknowledged | None:
        """Apply the cumulative TSN of a SHUTDOWN; what the last SACK said besides stays true."""
        cumulative = unwrap(cumulative_tsn, self.cumulative)
        if not self.cumulative < cumulative < self.next_tsn:
            return None
        result = Acknowledged()
        self._acknowledge_up_to(cumulative, result, now)
        self._advance()
        return result

    def _acknowledge_up_to(self, cumulative: int, result: Acknowledged, now: float) -> None:
        outstanding, release = self._outstanding, self.queue.release
        measure_from, rtt = self._measure_from, -1.0
        for tsn in range(self.cumulative + 1, cumulative + 1):
            sent = outstanding.pop(tsn)
            state = sent.state
            if state == _IN_FLIGHT:
                self.flight -= sent.size
                self.in_flight -= 1
            elif state != _LOST:
                continue
            result.size += sent.size
            release(sent.message, len(sent.payload))
            if sent.transmissions == 1 and tsn >= measure_from:
                rtt = now - sent.sent_at
        if rtt >= 0:
            self._rto.measured(rtt)
            self._measure_from = self.next_tsn  # one sample per round trip
        self.cumulative = cumulative
        self._advanced = max(self._advanced, cumulative)
        result.cumulative_moved = True
        while self._resets_after and self._resets_after[0] <= cumulative:
            self._resets_after.popleft()
            self._forward_due = self._advanced > cumulative  # as the last one may have ended here
        self.congestion.cumulative_moved(cumulative)

    def _acknowledge_gaps(self, gaps: list[tuple[int, int]], result: Acknowledged) -> None:
        highest_new = 0
        for first, last in _ranges_without(gaps, self._gaps):
            for tsn in range(first, last + 1):
                sent = self._outstanding[tsn]
                if sent.state == _IN_FLIGHT:
                    self.flight -= sent.size
                    self.in_flight -= 1
                elif sent.state != _LOST:
                    continue
                sent.state = _ACKED
                result.size += sent.size
                self.queue.release(sent.message, len(sent.payload))
                highest_new = tsn
        self._gaps = gaps
        if not gaps:
            return
        # HTNA: only what was sent before something that has now arrived can be missing (RFC 9260, section 7.2.4).
        in_recovery = self.congestion.recovery_exit is not None
        limit = gaps[-1][1] if in_recovery and result.cumulative_moved else highest_new
        newly_lost = False
        below = self.cumulative
        for first, last in gaps:
            for tsn in range(below + 1, min(first, limit)):
                sent = self._outstanding[tsn]
                if sent.state != _IN_FLIGHT or sent.resent_before > highest_new:
                    continue
                sent.misses += 1
                if sent.misses >= MISSES_UNTIL_LOST:
                    self._lose(tsn, sent)
                    newly_lost = True
            if last >= limit:
                break
            below = last
        if newly_lost and self.congestion.loss_reported(self.next_tsn - 1):
            self._fast_packet = True

    # Losses

    def _lose(self, tsn: int, sent: _Sent) -> None:
        """A chunk in flight has not arrived: it goes again unless its message's budget is spent."""
        sent.state = _LOST
        self.flight -= sent.size
        self.in_flight -= 1
        heapq.heappush(self._lost, tsn)
        if self.partial_reliability and sent.transmissions > sent.message.max_retransmits:
            self._abandon(sent.message)

    def timed_out(self) -> None:
        """T3 expired: all that is not acknowledged counts as lost, also what the peer has reported and taken back."""
        self.congestion.timed_out()
        held = dict(self._gaps)
        covered = -1  # the end of the gap block that we are in
        for tsn, sent in list(self._outstanding.items()):
            covered = held.get(tsn, covered)
            if sent.state == _IN_FLIGHT:
                self._lose(tsn, sent)
            elif sent.state == _ACKED and tsn > covered:
                sent.state = _LOST
                self._reclaim(sent)
                heapq.heappush(self._lost, tsn)
        self._fast_packet = False
        self._advance()
        if self._advanced > self.cumulative:
            self._forward_due = True

    def _reclaim(self, sent: _Sent) -> None:
        """What was acknowledged is not: the user's bytes are buffered again."""
        self.queue.release(sent.message, -len(sent.payload))

    def _abandon(self, message: OutMessage) -> None:
        """Give the whole message up, all fragments of it (RFC 3758, section 3.5)."""
        message.abandoned = True
        for tsn in range(message.first_tsn, message.last_tsn + 1):
            sent = self._outstanding.get(tsn)
            if sent is None or sent.message is not message:  # with I-DATA there are others between
                continue
            if sent.state == _IN_FLIGHT:
                self.flight -= sent.size
                self.in_flight -= 1
            if sent.state in (_IN_FLIGHT, _LOST):
                self.queue.release(message, len(sent.payload))
            sent.state = _ABANDONED
            sent.payload = b""
        if self.queue.give_up_rest(message):
            # A TSN for the end that is never sent, or the next message would begin right behind an open one.
            end = _Sent(message, b"", END, self.last_sent_at, self._header)
            end.state = _ABANDONED
            self._outstanding[self.next_tsn] = end
            message.last_tsn = self.next_tsn
            self.next_tsn += 1

    def _advance(self) -> None:
        """Move the point up to which the peer need not wait (Advanced.Peer.Ack.Point)."""
        advanced = self._advanced
        while (sent := self._outstanding.get(advanced + 1)) is not None and sent.state == _ABANDONED:
            advanced += 1
        if advanced > self._advanced:
            self._advanced = advanced
            self._forward_due = True

    # Sending

    def forward_tsn(self, room: int, now: float) -> bytes | None:
        """The FORWARD-TSN to send now, at most `room` bytes, or None."""
        if not self._forward_due:
            return None
        self._forward_due = False
        if self._advanced <= self.cumulative:
            return None
        self._forward_sent_at = now
        last = min([self._advanced, *self._resets_after])
        tsns = range(self.cumulative + 1, last + 1)
        if self.interleaving:
            return self._interleaved_forward(tsns, (room - 8) // 8)
        most = (room - 8) // 4
        skipped: dict[int, int] = {}
        reached = self.cumulative
        for tsn in tsns:
            message = self._outstanding[tsn].message
            if not message.unordered:
                if message.stream.id not in skipped and len(skipped) >= most:
                    break
                skipped[message.stream.id] = message.ssn
            reached = tsn
        return ForwardTsn(reached & TSN_MASK, tuple(skipped.items())).serialize()

    def _interleaved_forward(self, tsns: range, most: int) -> bytes:
        skipped: dict[tuple[int, bool], int] = {}
        reached = self.cumulative
        for tsn in tsns:
            message = self._outstanding[tsn].message
            key = (message.stream.id, message.unordered)
            if key not in skipped and len(skipped) >= most:
                break
            skipped[key] = message.ssn
            reached = tsn
        streams = tuple([(stream_id, unordered, mid) for (stream_id, unordered), mid in skipped.items()])
        return IForwardTsn(reached & TSN_MASK, streams).serialize()

    def fill(self, pieces: list[bytes], room: int, now: float) -> int:
        """Append chunks to `pieces`, at most `room` bytes of what the windows let go; the room that is left."""
        if self._lost:
            room = self._fill_lost(pieces, room, now)
        self._fast_packet = False
        return self._fill_new(pieces, room, now)

    def _fill_lost(self, pieces: list[bytes], room: int, now: float) -> int:
        lost = self._lost
        while lost:
            tsn = lost[0]
            sent = self._outstanding.get(tsn)
            if sent is None or sent.state != _LOST:
                heapq.heappop(lost)
                continue
            message = sent.message
            if self.partial_reliability and message.expires_at <= now:
                self._abandon(message)
                self._advance()
                continue
            size = (sent.size + 3) & ~3
            if size > room and room < self._unit:
                break  # it goes into the next packet: alone, and fragmented by IP, if packets have become smaller since
            if self.flight >= self.congestion.bytes and not self._fast_packet:
                break
            earliest = tsn == self.cumulative + 1
            # The first missing chunk may be what a full receiver waits for: its window does not hold that one back.
            if self.flight and not earliest and not self._fits_receiver(sent.size):
                break
            heapq.heappop(lost)
            sent.state = _IN_FLIGHT
            sent.transmissions += 1
            sent.misses = 0
            sent.resent_before = self.next_tsn
            self.flight += sent.size
            self.in_flight += 1
            self.last_sent_at = now
            self.earliest_resent |= earliest
            self._write(pieces, tsn, sent)
            room -= size
        return room

    def _fill_new(self, pieces: list[bytes], room: int, now: float) -> int:
        queue, congestion, header = self.queue, self.congestion, self._header
        while self.flight < congestion.bytes and room > header:
            message = queue.next(now)
            if message is None:
                break
            if not self._outstanding:
                congestion.idled(int((now - self.last_sent_at) / self._rto.value))
                self.last_sent_at = now
            if message.offset and message.expires_at <= now and self.partial_reliability:
                self._abandon(message)
                self._advance()
                continue
            left = message.size - message.offset
            size = room - header
            if left > size and (left <= self._largest or size < _MIN_FRAGMENT):
                break  # it fits better into the next packet
            size = min(size, left)
            flight = self.flight
            if flight and flight + size - self.in_flight * header > self.a_rwnd:
                break  # with nothing in flight one chunk goes out all the same: the zero window probe
            message, payload, begins, ends = queue.take(size)
            tsn = self.next_tsn
            self.next_tsn = tsn + 1
            flags = UNORDERED if message.unordered else 0
            if begins:
                message.first_tsn = tsn
                flags |= BEGIN
            if ends:
                flags |= END
            message.last_tsn = tsn
            size += header
            sent = self._outstanding[tsn] = _Sent(message, payload, flags, now, size)
            self.flight = flight + size
            self.in_flight += 1
            self.last_sent_at = now
            self._write(pieces, tsn, sent)
            room -= (size + 3) & ~3
        return room

    def _fits_receiver(self, size: int) -> bool:
        """Is there room at the receiver for another chunk? Its window counts user data only."""
        return self.flight + size - (self.in_flight + 1) * self._header <= self.a_rwnd

    def _write(self, pieces: list[bytes], tsn: int, sent: _Sent) -> None:
        message, tsn, flags, size = sent.message, tsn & TSN_MASK, sent.flags, sent.size
        stream_id, number = message.stream.id, message.ssn
        if self.interleaving:
            pieces.append(IDATA_HEADER.pack(_IDATA, flags, size, tsn, stream_id, 0, number, sent.fsn_or_ppid))
        else:
            pieces.append(DATA_HEADER.pack(0, flags, size, tsn, stream_id, number, message.ppid))
        pieces.append(sent.payload)
        if sent.size & 3:
            pieces.append(_PADDING[sent.size & 3])
