"""The sending half alone: SACK validation, fast retransmit, time-outs, a model of the congestion rules (P18, P20)."""

from __future__ import annotations

import copy
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from triosfu.sctp.congestion import CongestionWindow
from triosfu.sctp.outbound import Acknowledged, Outbound
from triosfu.sctp.rto import RetransmissionTimeout
from triosfu.sctp.sendqueue import OutMessage
from triosfu.sctp.wire import Data, Sack, parse_chunks

UNIT = 1176
FIRST = 0xFFFFFFF0  # TSNs wrap soon
MAX_BURST = 4


def make(tsn: int = FIRST, *, rwnd: int = 1 << 20) -> Outbound:
    outbound = Outbound(initial_tsn=tsn, unit=UNIT, rto=RetransmissionTimeout(initial=1.0, minimum=0.4, maximum=3.0))
    outbound.a_rwnd = rwnd
    outbound.partial_reliability = True
    return outbound


def queue(
    outbound: Outbound, size: int, *, max_retransmits: int | None = None, expires_at: float = math.inf
) -> OutMessage:
    message = OutMessage(
        outbound.queue.stream(0),
        bytes(size),
        ppid=53,
        unordered=False,
        max_retransmits=max_retransmits,
        expires_at=expires_at,
        urgent=False,
    )
    outbound.queue.append(message)
    return message


def transmit(outbound: Outbound, now: float = 0.0, *, packets: int = 100) -> list[list[Data]]:
    """The DATA of up to so many packets."""
    sent: list[list[Data]] = []
    while len(sent) < packets:
        pieces: list[bytes] = []
        room = outbound.fill(pieces, UNIT, now)
        assert room >= 0
        if not pieces:
            break
        body = b"".join(pieces)
        assert len(body) == UNIT - room
        sent.append([chunk for chunk in parse_chunks(bytes(12) + body) if isinstance(chunk, Data)])
    return sent


def sack(outbound: Outbound, offset: int, *gaps: int, now: float = 0.1, rwnd: int = 1 << 20) -> Acknowledged | None:
    """A SACK whose cumulative TSN is `offset` TSNs after the first."""
    return outbound.receive_sack(Sack((FIRST - 1 + offset) & 0xFFFFFFFF, rwnd, gaps), now)


def newly(outbound: Outbound, offset: int, *gaps: int) -> int:
    result = sack(outbound, offset, *gaps)
    assert result is not None
    return result.size


def tsns(packets: list[list[Data]]) -> list[int]:
    return [(chunk.tsn - FIRST) & 0xFFFFFFFF for packet in packets for chunk in packet]


def snapshot(outbound: Outbound) -> object:
    fields = ("cumulative", "flight", "in_flight", "a_rwnd", "next_tsn", "_gaps", "_lost", "_advanced")
    states = {tsn: (sent.state, sent.misses) for tsn, sent in outbound._outstanding.items()}
    window = (outbound.congestion.bytes, outbound.congestion.ssthresh, outbound.congestion.recovery_exit)
    return copy.deepcopy([getattr(outbound, name) for name in fields]), states, window


@pytest.mark.parametrize(
    ("offset", "gaps"),
    [
        (-1, ()),  # older than what we know
        (11, ()),  # of a TSN that was never sent
        (2, (1, 1)),  # a block right behind the cumulative TSN is none
        (2, (0, 1)),
        (2, (4, 3)),  # ends before it starts
        (2, (2, 9)),  # beyond what was sent
        (2, (2, 0xFFFF)),
        (2, (4, 5, 2, 2)),  # not ascending
        (2, (3, 5, 5, 6)),  # overlapping
        (0x80000000, ()),  # half the circle
    ],
)
def test_a_sack_that_cannot_be_changes_nothing(offset: int, gaps: tuple[int, ...]) -> None:
    outbound = make()
    outbound.congestion.bytes = 100_000
    queue(outbound, 10 * 1160)
    transmit(outbound)
    assert sack(outbound, 0, 2, 3)
    before = snapshot(outbound)
    assert sack(outbound, offset, *gaps, rwnd=7) is None
    assert snapshot(outbound) == before


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 0xFFFF), max_size=8), st.integers(0, 2**32 - 1))
def test_any_sack_is_applied_whole_or_not_at_all(cumulative: int, offsets: list[int], rwnd: int) -> None:
    outbound = make()
    outbound.congestion.bytes = 100_000
    queue(outbound, 20 * 1160)
    transmit(outbound)
    sack(outbound, 2, 2, 3)
    before = snapshot(outbound)
    gaps = tuple(offsets[: len(offsets) // 2 * 2])
    if outbound.receive_sack(Sack((FIRST + cumulative % 25) & 0xFFFFFFFF, rwnd, gaps), 0.1) is None:
        assert snapshot(outbound) == before
    assert outbound.flight == sum(sent.size for sent in outbound._outstanding.values() if sent.state == 0)


def test_a_sack_acknowledges_bytes_once() -> None:
    outbound = make()
    outbound.congestion.bytes = 100_000
    queue(outbound, 10 * 1160)
    transmit(outbound)
    assert outbound.queue.buffered == 11_600
    assert newly(outbound, 0, 3, 4) == 2 * 1176
    assert outbound.queue.buffered == 8 * 1160
    assert newly(outbound, 0, 3, 4) == 0
    assert newly(outbound, 0, 2, 5) == 2 * 1176
    assert newly(outbound, 10) == 6 * 1176
    assert outbound.queue.buffered == outbound.flight == outbound.in_flight == 0
    assert outbound.idle


def test_three_reports_make_a_loss_and_halve_the_window_once() -> None:
    outbound = make()
    outbound.congestion.bytes = 20 * UNIT
    queue(outbound, 12 * 1160)
    transmit(outbound)
    for last in (2, 3):
        sack(outbound, 0, 2, last)
        assert transmit(outbound) == []
    assert outbound.congestion.bytes == 20 * UNIT
    sack(outbound, 0, 2, 4)
    assert outbound.congestion.bytes == outbound.congestion.ssthresh == 10 * UNIT
    assert tsns(transmit(outbound)) == [0]
    # More losses within the same recovery cost nothing more.
    for last in (8, 9, 10):
        sack(outbound, 0, 2, 4, 6, last)
    assert outbound.congestion.bytes == 10 * UNIT
    assert tsns(transmit(outbound)) == [4]
    sack(outbound, 12)
    assert outbound.congestion.recovery_exit is None


def test_only_what_was_sent_before_something_new_counts_as_missing() -> None:
    """HTNA: repeated SACKs that acknowledge nothing new are no evidence."""
    outbound = make()
    outbound.congestion.bytes = 20 * UNIT
    queue(outbound, 12 * 1160)
    transmit(outbound)
    for _ in range(10):
        sack(outbound, 0, 2, 2)
    assert transmit(outbound) == []


def test_a_retransmission_is_repeated_only_when_reported_missing_anew() -> None:
    outbound = make()
    outbound.congestion.bytes = 30 * UNIT
    queue(outbound, 16 * 1160)
    transmit(outbound, packets=10)
    for last in (2, 3, 4):
        sack(outbound, 0, 2, last)
    assert tsns(transmit(outbound, packets=1))[0] == 0
    # These were sent before the retransmission and say nothing about it.
    for last in (5, 6, 7, 8, 9, 10):
        sack(outbound, 0, 2, last)
    later = tsns(transmit(outbound))
    assert 0 not in later
    assert later[-1] == 15
    # These were sent after it.
    for last in (11, 12, 13):
        sack(outbound, 0, 2, last)
    assert tsns(transmit(outbound)) == [0]


def test_the_first_fast_retransmission_ignores_the_congestion_window() -> None:
    outbound = make()
    outbound.congestion.bytes = 40 * UNIT
    queue(outbound, 40 * 1160)
    transmit(outbound)
    for last in (2, 3, 4):
        sack(outbound, 0, 2, last)
    assert outbound.flight > outbound.congestion.bytes
    assert tsns(transmit(outbound)) == [0]


def test_a_time_out_sends_one_packet_and_starts_slowly() -> None:
    outbound = make()
    outbound.congestion.bytes = 20 * UNIT
    queue(outbound, 12 * 1160)
    transmit(outbound)
    outbound.timed_out()
    assert outbound.flight == 0
    assert outbound.congestion.ssthresh == 10 * UNIT
    assert outbound.congestion.bytes == UNIT
    assert tsns(transmit(outbound)) == [0]
    sack(outbound, 1)
    assert outbound.congestion.bytes == 2 * UNIT
    assert tsns(transmit(outbound)) == [1, 2]


def test_a_peer_that_takes_back_its_report_gets_the_data_again() -> None:
    outbound = make()
    outbound.congestion.bytes = 20 * UNIT
    message = queue(outbound, 4 * 1160)
    transmit(outbound)
    sack(outbound, 0, 2, 4)
    assert message.stream.buffered == 1160
    sack(outbound, 0)  # it has thrown 2 to 4 away
    outbound.timed_out()
    assert message.stream.buffered == 4 * 1160
    sent = []
    for acknowledged in range(1, 5):
        sent += tsns(transmit(outbound))
        sack(outbound, acknowledged)
    assert sorted(set(sent)) == [0, 1, 2, 3]
    assert message.stream.buffered == 0


def test_the_first_missing_chunk_goes_out_though_the_window_is_closed() -> None:
    """A full receiver may be waiting for just that one."""
    outbound = make()
    outbound.congestion.bytes = 20 * UNIT
    queue(outbound, 12 * 1160)
    transmit(outbound)
    for last in (2, 3, 4):
        sack(outbound, 0, 2, last, rwnd=0)
    assert outbound.flight
    assert tsns(transmit(outbound)) == [0]


def test_the_end_of_an_abandoned_message_has_a_tsn_that_is_never_sent() -> None:
    """Or the next message would begin right behind one that has not ended, which receivers call a violation."""
    outbound = make()
    queue(outbound, 60_000, max_retransmits=0)
    last = tsns(transmit(outbound))[-1]
    outbound.timed_out()
    queue(outbound, 100)
    assert tsns(transmit(outbound)) == [last + 2]
    forward = outbound.forward_tsn(UNIT, 0.0)
    assert forward is not None
    assert int.from_bytes(forward[4:8], "big") == (FIRST + last + 1) & 0xFFFFFFFF


def test_a_message_whose_time_ends_midway_is_not_sent_to_its_end() -> None:
    outbound = make()
    queue(outbound, 100_000, expires_at=0.5)
    sent = len(tsns(transmit(outbound)))
    sack(outbound, sent, now=0.6)
    assert transmit(outbound, 0.6) == []
    assert outbound.queue.empty
    assert outbound.queue.buffered == 0


def test_a_forward_tsn_is_repeated_when_a_round_trip_has_passed_without_effect() -> None:
    outbound = make()
    outbound._rto.measured(0.1)
    queue(outbound, 100, max_retransmits=0)
    transmit(outbound)
    outbound.timed_out()
    assert outbound.forward_tsn(UNIT, 1.0) is not None
    sack(outbound, 0, now=1.05)
    assert not outbound.forward_is_due
    sack(outbound, 0, now=1.15)
    assert outbound.forward_is_due


def test_a_closed_window_lets_one_probe_out() -> None:
    outbound = make(rwnd=0)
    queue(outbound, 5000)
    assert len(tsns(transmit(outbound))) == 1
    assert transmit(outbound) == []
    sack(outbound, 1, rwnd=0)
    assert tsns(transmit(outbound)) == [1]


def test_rtt_is_measured_once_per_round_trip_and_never_from_retransmissions() -> None:
    outbound = make()
    outbound.congestion.bytes = 20 * UNIT
    queue(outbound, 4 * 1160)
    transmit(outbound, 0.0)
    sack(outbound, 1, now=0.1)
    assert outbound._rto.srtt == pytest.approx(0.1)
    sack(outbound, 2, now=0.5)  # sent in the same round
    assert outbound._rto.srtt == pytest.approx(0.1)
    outbound.timed_out()
    transmit(outbound, 1.0)
    sack(outbound, 4, now=9.0)
    assert outbound._rto.srtt == pytest.approx(0.1)
    fresh = make()
    queue(fresh, 100)
    transmit(fresh, 0.0)
    fresh.timed_out()
    transmit(fresh, 1.0)
    sack(fresh, 1, now=1.1)
    assert fresh._rto.srtt is None, "which of the two was acknowledged?"


def test_congestion_avoidance_adds_one_packet_for_each_full_window() -> None:
    window = CongestionWindow(unit=UNIT)
    window.bytes, window.ssthresh = 8 * UNIT, 4 * UNIT
    grown = []
    for _ in range(36):
        window.acknowledged(UNIT, flight_before=window.bytes, flight=window.bytes)
        grown.append(window.bytes // UNIT)
    assert [grown.index(size) + 1 for size in (9, 10, 11)] == [8, 17, 27]
    window.acknowledged(100 * UNIT, flight_before=UNIT, flight=UNIT)
    assert window.bytes == 11 * UNIT, "a window that was not used up does not grow"


def test_back_off_doubles_up_to_the_cap_until_something_is_acknowledged() -> None:
    rto = RetransmissionTimeout(initial=1.0, minimum=0.4, maximum=3.0)
    values = []
    for _ in range(11):
        values.append(rto.value)
        rto.back_off()
    assert values[:4] == [1.0, 2.0, 3.0, 3.0]
    assert sum(values) == 30.0, "D_abort"
    rto.recovered()
    assert rto.value == 1.0
    rto.measured(0.01)
    assert rto.value == 0.4
    rto.measured(60.0)
    assert rto.value == 3.0


def test_the_window_decays_when_nothing_is_sent() -> None:
    outbound = make()
    outbound.congestion.bytes = 64 * UNIT
    queue(outbound, 100)
    transmit(outbound, 0.0)
    sack(outbound, 1, now=0.1)
    queue(outbound, 100)
    transmit(outbound, 0.1 + 3.5 * outbound._rto.value)
    assert outbound.congestion.bytes == 8 * UNIT


class CongestionMachine(RuleBasedStateMachine):
    """The rules of RFC 9260, section 7.2, written again in the plainest way, beside the real thing (P20)."""

    def __init__(self) -> None:
        super().__init__()
        self.outbound = make(rwnd=60_000)
        self.now = 0.0
        self.rwnd = 60_000
        self.arrived: set[int] = set()  # offsets from the first TSN
        self.flying: list[int] = []
        self.cumulative = 0  # how many have arrived without a hole
        self.cwnd = min(4 * UNIT, max(2 * UNIT, 4404))
        self.ssthresh = 1 << 30
        self.partial = 0
        self.exit: int | None = None

    @rule(count=st.integers(1, 6), size=st.sampled_from([1, 100, 1160, 5000]))
    def user_sends(self, count: int, size: int) -> None:
        for _ in range(count):
            queue(self.outbound, size)

    @rule()
    def packets_leave(self) -> None:
        before = self.outbound.flight
        if not self.outbound.outstanding and not self.outbound.queue.empty:
            for _ in range(int((self.now - self.outbound.last_sent_at) / self.outbound._rto.value)):
                self.cwnd = max(self.cwnd // 2, 4 * UNIT) if self.cwnd > 4 * UNIT else self.cwnd
        packets = transmit(self.outbound, self.now, packets=MAX_BURST)
        self.flying += tsns(packets)
        assert self.outbound.flight <= max(self.cwnd, before) + UNIT

    @precondition(lambda self: self.flying)
    @rule(keep=st.lists(st.booleans(), min_size=1, max_size=30), rwnd=st.sampled_from([0, 1, 1162, 60_000]))
    def some_arrive_and_are_acknowledged(self, keep: list[bool], rwnd: int) -> None:
        flight_before = self.outbound.flight
        batch, self.flying = self.flying[: len(keep)], self.flying[len(keep) :]
        self.arrived |= {tsn for tsn, kept in zip(batch, keep, strict=False) if kept}
        old = self.cumulative
        while self.cumulative in self.arrived:
            self.cumulative += 1
        gaps: list[int] = []
        for tsn in sorted(tsn for tsn in self.arrived if tsn > self.cumulative):
            offset = tsn - self.cumulative + 1
            if gaps and gaps[-1] == offset - 1:
                gaps[-1] = offset
            else:
                gaps += [offset, offset]
        self.rwnd = rwnd
        result = sack(self.outbound, self.cumulative, *gaps, now=self.now, rwnd=rwnd)
        assert result is not None
        if self.exit is not None and self.cumulative > self.exit:
            self.exit = None
        if self.exit is None and self.outbound.congestion.recovery_exit is not None:
            self.ssthresh = max(self.cwnd // 2, 4 * UNIT)
            self.cwnd, self.partial = self.ssthresh, 0
            self.exit = self.outbound.next_tsn - 1 - FIRST
        elif self.cumulative > old and self.exit is None:
            self.grow(result.size, flight_before)

    def grow(self, size: int, flight_before: int) -> None:
        full = flight_before + UNIT >= self.cwnd
        if self.cwnd <= self.ssthresh:
            self.cwnd += min(size, UNIT) if full else 0
        else:
            self.partial += size
            if self.partial >= self.cwnd and full:
                self.partial -= self.cwnd
                self.cwnd += UNIT
        if not self.outbound.flight:
            self.partial = 0

    @rule(rounds=st.integers(0, 2))
    def t3_expires(self, rounds: int) -> None:
        self.now += rounds
        if self.outbound.outstanding:
            self.outbound.timed_out()
            self.ssthresh = max(self.cwnd // 2, 4 * UNIT)
            self.cwnd, self.partial, self.exit = UNIT, 0, None

    @invariant()
    def the_window_is_what_the_rules_say(self) -> None:
        congestion = self.outbound.congestion
        assert (congestion.bytes, congestion.ssthresh) == (self.cwnd, self.ssthresh)
        assert self.cwnd >= UNIT

    @invariant()
    def the_books_agree(self) -> None:
        in_flight = [sent for sent in self.outbound._outstanding.values() if sent.state == 0]
        assert self.outbound.flight == sum(sent.size for sent in in_flight)
        assert self.outbound.in_flight == len(in_flight)
        assert self.outbound.queue.buffered >= 0

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """What is outstanding is in flight, acknowledged by a gap block, or due to be sent again."""
        heap = set(self.outbound._lost)
        for tsn, sent in self.outbound._outstanding.items():
            assert sent.state in (0, 2) or tsn in heap


CongestionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCongestion = CongestionMachine.TestCase
