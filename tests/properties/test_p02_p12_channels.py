"""P2 and P12 for channels: opening is bounded, and each channel ends once, whatever is done and happens."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.channels import channels
from tests.support.network import Network, Path
from tests.support.schedules import HANDSHAKE, darken_behind, tight_windows
from triosfu.datachannel.core import ChannelClosed, ChannelMessage, ChannelOpened, ChannelState, Ended
from triosfu.sctp.wire import ChunkType

D_OPEN = 10.0


@given(
    behind=st.sampled_from([*HANDSHAKE, ChunkType.DATA, ChunkType.SACK, ChunkType.RE_CONFIG]),
    which=st.integers(1, 3),
    directions=st.sampled_from([(0,), (1,), (0, 1)]),
    queued=st.integers(0, 40),
    window=st.one_of(st.none(), tight_windows),
    later=st.floats(0.0, 3.0),
)
def test_p2_an_open_is_settled_in_time_behind_any_black_hole_and_any_queue(
    *, behind: ChunkType, which: int, directions: tuple[int, ...], queued: int, window: int | None, later: float
) -> None:
    left, right = channels(1, client=True), channels(2, client=False)
    network = Network(left, right)
    darken_behind(network, behind, which, directions)
    asked = {left.open("first", now=0.0): 0.0}
    for _ in range(queued):
        left.send(0, bytes(60_000), now=0.0)
    left.connect(0.0)
    right.connect(0.0)
    network.run(until=later)
    inbound = right._association._connection.inbound
    if window is not None and inbound is not None:
        inbound._buffer = window
    if left.established:
        asked[left.open("second", now=network.now)] = network.now
        left.close(0, network.now)
    network.run(until=later + D_OPEN)
    settled: dict[int, float] = {}
    for event, at in zip(network.events[0], network.times[0], strict=True):
        if isinstance(event, ChannelOpened | ChannelClosed):
            settled.setdefault(event.id, at)
    for channel, at in asked.items():
        assert settled.get(channel, math.inf) <= at + D_OPEN


class ChannelMachine(RuleBasedStateMachine):
    """P12 and P2 under random use over a bad path: one end event per channel, opening is bounded."""

    def __init__(self) -> None:
        super().__init__()
        left, right = channels(1, client=True), channels(2, client=False)
        self.ends = (left, right)
        self.network = Network(left, right, paths=(Path(jitter=0.05), Path(jitter=0.05)))
        left.connect(0.0)
        right.connect(0.0)
        self.asked: tuple[dict[int, float], dict[int, float]] = ({}, {})
        self.over = False

    def alive(self, end: int) -> bool:
        return not self.network.of(end, Ended)

    @rule(end=st.integers(0, 1), ordered=st.booleans(), retransmits=st.sampled_from([None, 0]))
    def open(self, end: int, ordered: bool, retransmits: int | None) -> None:
        if self.alive(end):
            channel = self.ends[end].open("x", ordered=ordered, max_retransmits=retransmits, now=self.network.now)
            self.asked[end][channel] = self.network.now

    @rule(end=st.integers(0, 1), size=st.sampled_from([0, 10, 5000, 60_000]))
    def send(self, end: int, size: int) -> None:
        for info in self.ends[end].channels()[:3]:
            if info.state is not ChannelState.CLOSING:
                self.ends[end].send(info.id, bytes(size), now=self.network.now)

    @rule(end=st.integers(0, 1))
    def close(self, end: int) -> None:
        for info in self.ends[end].channels()[:1]:
            self.ends[end].close(info.id, self.network.now)

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0, 5.0]), loss=st.sampled_from([0.0, 0.1, 0.4]))
    def time_passes(self, seconds: float, loss: float) -> None:
        for path in self.network.paths:
            path.loss = loss
        self.network.run(until=self.network.now + seconds)

    @rule(end=st.integers(0, 1), seconds=st.sampled_from([1.0, 5.0, 12.0]))
    def black_hole(self, end: int, seconds: float) -> None:
        self.network.paths[end].dark = (self.network.now, self.network.now + seconds)

    @precondition(lambda self: self.network.now > 30.0)
    @rule(end=st.integers(0, 1))
    def abort(self, end: int) -> None:
        self.ends[end].abort("enough", self.network.now)

    @invariant()
    def one_terminal_event_each(self) -> None:
        self.network.flush()
        for end in range(2):
            closed: set[int] = set()
            opened: set[int] = set(self.asked[end])
            for event in self.network.events[end]:
                if isinstance(event, ChannelClosed):
                    assert event.id in opened
                    assert event.id not in closed
                    closed.add(event.id)
                elif isinstance(event, ChannelOpened):
                    opened.add(event.id)
                    assert event.id not in closed
                elif isinstance(event, ChannelMessage):
                    assert event.id in opened - closed
                else:
                    assert event is self.network.events[end][-1]
                    assert closed == opened
            assert {info.id for info in self.ends[end].channels()} == opened - closed

    @invariant()
    def opening_is_bounded(self) -> None:
        for end in range(2):
            settled = {
                event.id for event in self.network.events[end] if isinstance(event, ChannelOpened | ChannelClosed)
            }
            for channel, at in self.asked[end].items():
                assert channel in settled or self.network.now <= at + D_OPEN

    def teardown(self) -> None:
        """With a path that works all channels close cleanly."""
        for path in self.network.paths:
            path.loss, path.dark = 0.0, (math.inf, math.inf)
        self.network.run(until=self.network.now + 5.0)
        for end in range(2):
            for info in self.ends[end].channels():
                self.ends[end].close(info.id, self.network.now)
        self.network.run(until=self.network.now + 30.0)
        assert not self.ends[0].channels()
        assert not self.ends[1].channels()
        if self.alive(0) and self.alive(1):
            assert not self.ends[0]._by_stream
            assert not self.ends[1]._by_stream
            assert not self.ends[0].total_buffered
            assert not self.ends[1].total_buffered


ChannelMachine.TestCase.settings = settings()
TestP2P12Channels = ChannelMachine.TestCase
