"""P20: the congestion rules, against a model of them."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.network import FULL, PLAIN, Network, Path
from tests.support.outbound import FIRST, MAX_BURST, UNIT, make, queue, sack, transmit, tsns
from tests.support.schedules import bad_paths, holds, seeds
from triosfu.sctp.core import Association, Settings
from triosfu.sctp.wire import ChunkType


class CongestionMachine(RuleBasedStateMachine):
    """The rules of RFC 9260, section 7.2, written again in the plainest way, beside the real thing (P20)."""

    def __init__(self) -> None:
        super().__init__()
        self.outbound = make(rwnd=60_000)
        self.now = 0.0
        self.unit = self.largest = UNIT
        self.rwnd = 60_000
        self.arrived: set[int] = set()  # offsets from the first TSN
        self.flying: list[int] = []
        self.cumulative = 0  # how many have arrived without a hole
        self.cwnd = min(4 * self.unit, max(2 * self.unit, 4404))
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
                self.cwnd = max(self.cwnd // 2, 4 * self.unit) if self.cwnd > 4 * self.unit else self.cwnd
        packets = transmit(self.outbound, self.now, packets=MAX_BURST, unit=self.unit)
        self.flying += tsns(packets)
        assert len(packets) <= MAX_BURST
        assert self.outbound.flight <= max(self.cwnd, before) + self.largest
        user = sum(sent.size - 16 for sent in self.outbound._outstanding.values() if sent.state == 0)
        assert user <= max(self.rwnd, before) + self.largest, "more than the receiver's window and one probe"

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
            self.ssthresh = max(self.cwnd // 2, 4 * self.unit)
            self.cwnd, self.partial = self.ssthresh, 0
            self.exit = self.outbound.next_tsn - 1 - FIRST
        elif self.cumulative > old and self.exit is None:
            self.grow(result.size, flight_before)

    def grow(self, size: int, flight_before: int) -> None:
        full = flight_before + self.unit >= self.cwnd
        if self.cwnd <= self.ssthresh:
            self.cwnd += min(size, self.unit) if full else 0
        else:
            self.partial += size
            if self.partial >= self.cwnd and full:
                self.partial -= self.cwnd
                self.cwnd += self.unit
        if not self.outbound.flight:
            self.partial = 0

    @rule(rounds=st.integers(0, 2))
    def t3_expires(self, rounds: int) -> None:
        self.now += rounds
        if self.outbound.outstanding:
            self.outbound.timed_out()
            self.ssthresh = max(self.cwnd // 2, 4 * self.unit)
            self.cwnd, self.partial, self.exit = self.unit, 0, None

    @rule(unit=st.sampled_from([UNIT, 1320, 8900]))
    def packets_become_larger_or_smaller(self, unit: int) -> None:
        """RFC 9260, section 7.3: the window is at least a packet; what has a TSN keeps its size."""
        self.outbound.resize(unit)
        self.unit, self.largest = unit, max(unit, self.largest)
        self.cwnd = max(self.cwnd, unit)

    @invariant()
    def the_window_is_what_the_rules_say(self) -> None:
        congestion = self.outbound.congestion
        assert (congestion.bytes, congestion.ssthresh) == (self.cwnd, self.ssthresh)
        assert self.cwnd >= self.unit

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


CongestionMachine.TestCase.settings = settings()
TestP20Congestion = CongestionMachine.TestCase


class Watched(Association):
    """Drained after each input, and what that let out is looked at."""

    def __init__(self, seed: int, settings: Settings) -> None:
        super().__init__(now=0.0, rng=Random(seed), over_dtls=True, settings=settings)
        self.ready: list[bytes] = []
        self.largest = UNIT

    def receive_datagram(self, data: bytes, now: float) -> None:
        super().receive_datagram(data, now)
        self.watch()

    def handle_timeout(self, now: float) -> None:
        before = self._connection.outbound.flight
        super().handle_timeout(now)
        self.watch(before)

    def datagrams_to_send(self) -> list[bytes]:
        self.watch()
        drained, self.ready = self.ready, []
        return drained

    def watch(self, before: int = 0) -> None:
        before = max(before, self._connection.outbound.flight)
        packets = super().datagrams_to_send()
        assert sum(holds(packet, ChunkType.DATA) or holds(packet, ChunkType.I_DATA) for packet in packets) <= MAX_BURST
        outbound = self._connection.outbound
        self.largest = max(self.largest, self._connection.unit)
        assert outbound.flight <= max(before, outbound.congestion.bytes) + self.largest
        self.ready += packets


@given(
    seed=seeds,
    settings=st.sampled_from([PLAIN, FULL]),
    paths=st.tuples(bad_paths, bad_paths),
    sizes=st.lists(st.integers(1, 60_000), min_size=1, max_size=8),
)
def test_p20_one_event_lets_out_four_packets_of_data_at_most(
    seed: int, settings: Settings, paths: tuple[Path, Path], sizes: list[int]
) -> None:
    """Of the whole association: whatever comes in, time or a packet, lets out a burst and no more."""
    left, right = Watched(seed, settings), Watched(seed + 1, settings)
    network = Network(left, right, seed=seed)
    left.connect(0.0)
    network.run(until=1.0)
    network.paths = paths
    for size in sizes:
        left.send(0, bytes(size), ppid=53, now=1.0)
        right.send(0, bytes(size), ppid=53, now=1.0)
    network.run(until=20.0)
