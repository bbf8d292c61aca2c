"""P7: the gate in front of writers is a level: nobody is parked on a channel that has room, at no moment of rest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.stage import Stage
from tests.support.ways import Fault, faults, seeds, some
from triosfu.errors import PeerGone
from triosfu.peer import ChannelState, PeerSettings

if TYPE_CHECKING:
    from triosfu.peer import DataChannel

NARROW = PeerSettings(high_water=5_000)
KINDS: list[dict[str, Any]] = [
    {},
    {"ordered": False},
    {"max_retransmits": 0},
    {"max_retransmits": 1, "ordered": False},
    {"lifetime": 0.3},
]


class GateMachine(RuleBasedStateMachine):
    """Channels of every kind with writers on them, over a path on which things are lost, expire and are given up."""

    @initialize(seed=seeds)
    def connect(self, seed: int) -> None:
        self.inside: Counter[DataChannel] = Counter()  # tasks within `send`
        self.parked: dict[trio.CancelScope, None] = {}  # around each of them, in the order they came
        self.sends = 0
        self.channels: list[DataChannel] = []
        self.stage = Stage(self.look, seed=seed, settings=NARROW)
        self.both = self.stage.both
        self.stage.call(self.both.offerer.peer.negotiation.enable_data)
        self.stage.call(self.both.negotiate)
        self.stage.pass_time(1.0)
        for way in self.both.ways:
            way.rate = 10_000.0
        for kind in KINDS:
            self.open(kind)
        self.stage.pass_time(1.0)

    def look(self, resting: bool) -> None:
        """The property."""
        if not resting:
            return
        for channel, writers in self.inside.items():
            if writers and channel.state is not ChannelState.CONNECTING:
                assert channel.state is ChannelState.OPEN, f"{writers} are parked on {channel}"
                assert channel.buffered >= NARROW.high_water, f"{writers} are parked before {channel.buffered} bytes"

    async def write(self, channel: DataChannel, size: int, count: int, scope: trio.CancelScope) -> None:
        with scope:
            for _ in range(count):
                self.sends += 1
                self.inside[channel] += 1
                self.parked[scope] = None
                try:
                    await channel.send(bytes(size))
                except PeerGone:
                    return
                finally:
                    self.inside[channel] -= 1
                    del self.parked[scope]

    @property
    def alive(self) -> bool:
        return not any(side.peer.closed or side.peer._data.ending for side in self.both.sides)

    @precondition(lambda self: self.alive and len(self.channels) < 10)
    @rule(kind=st.sampled_from(KINDS))
    def open(self, kind: dict[str, Any]) -> None:
        label = str(len(self.channels))
        self.channels.append(self.stage.call(self.both.offerer.peer.open_channel, label, **kind))

    @rule(which=st.integers(0, 9), size=st.sampled_from([1, 1_500, 6_000]), count=st.integers(1, 4))
    def writers_come(self, which: int, size: int, count: int) -> None:
        channel = self.channels[which % len(self.channels)]
        for _ in range(count):
            self.stage.call(self.stage.nursery.start_soon, self.write, channel, size, count, trio.CancelScope())

    @precondition(lambda self: self.parked)
    @rule(which=st.integers(0, 9))
    def a_parked_writer_is_cancelled(self, which: int) -> None:
        parked = list(self.parked)
        self.stage.call(parked[which % len(parked)].cancel)

    @rule(which=st.integers(0, 9))
    def a_channel_is_closed(self, which: int) -> None:
        self.stage.call(self.channels[which % len(self.channels)].close)

    @rule(which=st.integers(0, 9))
    def the_peer_closes_a_channel(self, which: int) -> None:
        if (theirs := self.both.answerer.channels.get(str(which))) is not None:
            self.stage.call(theirs.close)

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0, 4.0]), loss=st.sampled_from([0.0, 0.0, 0.3, 0.7]))
    def time_passes(self, seconds: float, loss: float) -> None:
        self.both.out.loss = loss
        self.stage.pass_time(seconds)

    @rule(
        which=st.integers(0, 9),
        size=st.sampled_from([1, 1_500, 6_000]),
        count=st.integers(1, 4),
        seconds=st.floats(0.05, 1.5),
        loss=st.sampled_from([0.0, 0.3, 0.7]),
    )
    def writers_come_and_go(self, which: int, size: int, count: int, seconds: float, loss: float) -> None:
        self.writers_come(which, size, count)
        self.time_passes(seconds, loss)

    @rule(direction=st.integers(0, 1), seconds=st.sampled_from([0.1, 2.0, 8.0]))
    def black_hole(self, direction: int, seconds: float) -> None:
        now = self.stage.call(trio.current_time)
        self.both.ways[direction].dark = (now, now + seconds)

    @rule(fault=faults.filter(lambda fault: not fault.dark))
    def something_is_to_go_wrong(self, fault: Fault) -> None:
        fault.apply(self.both)

    @rule(room=st.sampled_from([0, 1, 1190, 1 << 20]))
    def the_reader_has_other_room(self, room: int) -> None:
        inbound = self.both.answerer.peer._data._association._connection.inbound
        if inbound is not None:
            inbound._buffer = room

    @precondition(lambda self: self.alive and self.sends > 30)
    @rule(end=st.sampled_from(["shutdown", "abort"]))
    def the_peer_ends_the_association(self, end: str) -> None:
        def act() -> None:
            peer, now = self.both.answerer.peer, trio.current_time()
            if end == "shutdown":
                peer._data.shutdown(now)
            else:
                peer._data.abort("enough", now)
            peer.drain_soon()

        self.stage.call(act)

    @invariant()
    def nobody_was_seen_parked_before_an_open_gate(self) -> None:
        if hasattr(self, "stage"):
            self.stage.check()

    def teardown(self) -> None:
        if hasattr(self, "stage"):
            try:
                self.stage.call(self.both.offerer.peer.close, "enough")
                assert not self.inside.total()
            finally:
                self.stage.close()


GateMachine.TestCase.settings = settings(some(4), stateful_step_count=30)
TestP7Gate = GateMachine.TestCase
