"""P12 and P19 for an association: it ends once; a timer runs exactly while there is something to wait for."""

from __future__ import annotations

import math
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.network import Network
from tests.support.schedules import bad_paths, near_the_wrap
from triosfu.sctp.core import Association, Ended, Established, State
from triosfu.sctp.state import OPENING

QUIET = (State.CLOSED, State.ENDED)


class AssociationMachine(RuleBasedStateMachine):
    """Two associations used at random over a bad path."""

    @initialize(tsns=st.tuples(near_the_wrap, near_the_wrap), path=bad_paths, back=bad_paths)
    def begin(self, tsns: tuple[int, int], path: object, back: object) -> None:
        self.ends = [Association(now=0.0, rng=Random(end), initial_tsn=tsns[end]) for end in range(2)]
        self.network = Network(*self.ends, paths=(path, back))  # type: ignore[arg-type]

    @rule(end=st.integers(0, 1))
    def connect(self, end: int) -> None:
        self.ends[end].connect(self.network.now)

    @rule(
        end=st.integers(0, 1),
        stream=st.integers(0, 3),
        size=st.sampled_from([1, 1163, 1164, 30_000]),
        retransmits=st.sampled_from([None, 0]),
    )
    def send(self, end: int, stream: int, size: int, retransmits: int | None) -> None:
        core = self.ends[end]
        usable = core.state in OPENING or core.state is State.ESTABLISHED
        if usable and not core.is_resetting(stream):
            core.send(stream, bytes(size), ppid=53, now=self.network.now, max_retransmits=retransmits)

    @rule(end=st.integers(0, 1), stream=st.integers(0, 3))
    def reset(self, end: int, stream: int) -> None:
        self.ends[end].reset_stream(stream, self.network.now)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.1, 1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.network.run(until=self.network.now + seconds)

    @rule(end=st.integers(0, 1), seconds=st.sampled_from([1.0, 40.0]))
    def black_hole(self, end: int, seconds: float) -> None:
        self.network.paths[end].dark = (self.network.now, self.network.now + seconds)

    @rule(end=st.integers(0, 1), early=st.floats(0.0, 5.0))
    def a_spurious_timeout(self, end: int, early: float) -> None:
        core = self.ends[end]
        at = core.next_timeout()
        if at < math.inf:
            core.handle_timeout(max(self.network.now, at - 5.0 + early) if at > self.network.now else self.network.now)
            self.network.now = max(self.network.now, core._connection.now)

    @rule(end=st.integers(0, 1), how=st.sampled_from(["shutdown", "shutdown", "abort"]), sure=st.integers(0, 3))
    def finish(self, end: int, how: str, sure: int) -> None:
        core = self.ends[end]
        if sure:
            return
        if how == "abort":
            core.abort("enough", self.network.now)
        else:
            core.shutdown(self.network.now)

    @invariant()
    def p12_one_end_and_nothing_after_it(self) -> None:
        self.network.flush()
        for end, core in enumerate(self.ends):
            events = self.network.events[end]
            assert len(self.network.of(end, Established)) <= 1
            assert len(self.network.of(end, Ended)) == (core.state is State.ENDED)
            assert not any(isinstance(event, Ended) for event in events[:-1])
            if core.state is State.ENDED:
                assert isinstance(events[-1], Ended)
                assert events[-1].reason

    @invariant()
    def p19_a_timer_if_and_only_if_something_is_waited_for(self) -> None:
        for core in self.ends:
            at = core.next_timeout()
            assert (at == math.inf) == (core.state in QUIET)
            if at <= self.network.now:
                core.handle_timeout(self.network.now)
                assert core.next_timeout() > self.network.now

    def teardown(self) -> None:
        """In a black hole all comes to rest within the time of its timers."""
        if not hasattr(self, "network"):
            return
        for path in self.network.paths:
            path.dark = (self.network.now, math.inf)
        self.network.run(until=self.network.now + 1000.0)
        assert {core.state for core in self.ends} <= set(QUIET)


AssociationMachine.TestCase.settings = settings()
TestP12P19Association = AssociationMachine.TestCase
