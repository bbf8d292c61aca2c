"""P5: whatever waits for an answer, total silence ends the association within D_abort."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.network import Network, associations, established
from tests.support.schedules import HANDSHAKE, both, darken_behind, near_the_wrap, seeds, tight_windows
from triosfu.sctp.core import Ended, State

if TYPE_CHECKING:
    from triosfu.sctp.wire import ChunkType

D_ABORT = 33.5


@pytest.mark.parametrize("dark", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("size", [1, 5_000, 500_000])
def test_p5_silence_ends_an_association_with_data_in_bounded_time(dark: tuple[int, ...], size: int) -> None:
    """In both directions of a black hole."""
    network = established()
    left, _ = both(network)
    for direction in dark:
        network.paths[direction].dark = (1.0, math.inf)
    left.send(0, bytes(size)[:262_144], ppid=53, now=1.0)
    network.run(until=100.0, done=lambda: left.state is State.ENDED)
    assert left.state is State.ENDED
    assert network.now - 1.0 <= D_ABORT
    assert left.total_buffered == 0
    assert left.next_timeout() == math.inf


@pytest.mark.parametrize("kind", HANDSHAKE)
def test_p5_a_black_hole_behind_any_step_ends_in_bounded_time(kind: ChunkType) -> None:
    left, right = associations()
    network = Network(left, right)

    darken_behind(network, kind, 1, (0, 1))
    left.connect(0.0)
    left.send(0, b"x" * 5000, ppid=53, now=0.0)
    network.run(until=1000.0, done=lambda: left.state is State.ENDED)
    assert left.state is State.ENDED
    assert network.now < D_ABORT
    assert len(network.of(0, Ended)) == 1
    assert left.next_timeout() == math.inf


@given(
    seed=seeds,
    tsns=st.tuples(near_the_wrap, near_the_wrap),
    sizes=st.lists(st.tuples(st.integers(1, 20_000), st.sampled_from([None, 0, 3])), max_size=8),
    reset=st.booleans(),
    window=st.one_of(st.none(), tight_windows),
    lasted=st.floats(0.0, 2.0),
    directions=st.sampled_from([(0, 1), (1,)]),
)
def test_p5_nothing_that_is_under_way_outlives_silence(
    *,
    seed: int,
    tsns: tuple[int, int],
    sizes: list[tuple[int, int | None]],
    reset: bool,
    window: int | None,
    lasted: float,
    directions: tuple[int, ...],
) -> None:
    """Data of all kinds, a reset, a closed window, and then nothing of the peer is heard any more."""
    network = established(seed, tsns=tsns)
    left, right = both(network)
    if window is not None:
        assert right._connection.inbound is not None
        right._connection.inbound._buffer = window
    for size, retransmits in sizes:
        left.send(0, bytes(size), ppid=53, now=1.0, max_retransmits=retransmits)
    if reset:
        left.reset_stream(1, 1.0)
    network.run(until=1.0 + lasted)
    for direction in directions:
        network.paths[direction].dark = (network.now, math.inf)
    left.send(0, b"x", ppid=53, now=network.now)
    heard = network.now + network.paths[1].latency  # the last of what was on its way
    network.run(until=heard + D_ABORT, done=lambda: left.state is State.ENDED)
    assert left.state is State.ENDED
    assert len(network.of(0, Ended)) == 1
    assert left.next_timeout() == math.inf
    assert left.total_buffered == 0


@given(seed=seeds, later=st.floats(0.0, 2.0))
def test_p5_a_reset_alone_does_not_outlive_silence(seed: int, later: float) -> None:
    network = established(seed)
    left, _ = both(network)
    network.run(until=1.0 + later)
    for path in network.paths:
        path.dark = (network.now, math.inf)
    left.reset_stream(1, network.now)
    network.run(until=network.now + D_ABORT, done=lambda: left.state is State.ENDED)
    assert left.state is State.ENDED
