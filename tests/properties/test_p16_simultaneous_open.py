"""P16: however two handshakes meet, both ends come to the same association, or both give up in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.network import Network, Path, associations
from tests.support.schedules import HANDSHAKE, lose, seeds
from triosfu.sctp.core import Ended, Established, Message, State

if TYPE_CHECKING:
    from triosfu.sctp.wire import ChunkType

bad_path = st.builds(Path, loss=st.floats(0, 0.5), duplicate=st.floats(0, 0.5), jitter=st.floats(0, 2.0))
T1_BUDGET = 1 + 2 + 7 * 3.0  # nine INITs, then the same for COOKIE ECHO


@given(
    st.integers(0, 2**32),
    st.tuples(bad_path, bad_path),
    st.floats(0, 1.0),
    st.booleans(),
)
def test_p16_every_interleaving_of_two_handshakes_comes_to_one_association(
    seed: int, paths: tuple[Path, Path], later: float, both: bool
) -> None:
    """P16: the same association at both ends, or both give up within the budget of T1."""
    left, right = associations(seed)
    network = Network(left, right, seed=seed, paths=paths)
    left.connect(0.0)
    network.run(until=later)
    if both:
        right.connect(network.now)
    settled = {State.ESTABLISHED, State.ENDED}
    network.run(until=2 * T1_BUDGET + 1, done=lambda: {left.state, right.state} <= settled)
    for path in paths:
        path.loss = 0.0
    network.run(until=network.now + 60.0)
    if left.state is State.ESTABLISHED and right.state is State.ESTABLISHED:
        assert left._connection.handshake.tag == right._connection.handshake.peer_tag
        assert right._connection.handshake.tag == left._connection.handshake.peer_tag
        left.send(0, b"there", ppid=53, now=network.now)
        right.send(0, b"back", ppid=53, now=network.now)
        network.run(until=network.now + 40.0)
        assert [m.data for m in network.of(1, Message)] == [b"there"]
        assert [m.data for m in network.of(0, Message)] == [b"back"]
    else:
        # One end may be up while the other has given up and its ABORT was lost: its heartbeats find out.
        network.run(until=network.now + 900.0)
        assert {left.state, right.state} <= {State.ENDED, State.CLOSED}
    for end in range(2):
        assert len(network.of(end, Established)) <= 1
        assert len(network.of(end, Ended)) <= 1


@pytest.mark.parametrize("kind", [1, 2, 10, 11])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_p16_the_first_few_packets_of_one_kind_are_lost(kind: int, both: bool, lost: int) -> None:
    left, right = associations()
    counts = [0]

    def swallow(data: bytes, _now: float) -> bool:
        if data[12] == kind:
            counts[0] += 1
            return counts[0] <= lost
        return False

    network = Network(left, right, paths=(Path(swallow=swallow), Path(swallow=swallow)))
    left.connect(0.0)
    if both:
        right.connect(0.0)
    left.send(3, b"x", ppid=53, now=0.0)
    network.run(until=30.0)
    assert left.state is right.state is State.ESTABLISHED
    assert network.of(1, Message) == [Message(3, 53, b"x")]


@given(
    seed=seeds, lost=st.tuples(st.sampled_from(HANDSHAKE), st.integers(1, 3)), back=st.booleans(), both=st.booleans()
)
def test_p16_one_lost_packet_of_the_handshake_costs_nothing_but_time(
    seed: int, lost: tuple[ChunkType, int], back: bool, both: bool
) -> None:
    left, right = associations(seed)
    network = Network(left, right, seed=seed)
    network.paths[back].swallow = lose(*lost)
    left.connect(0.0)
    if both:
        right.connect(0.0)
    network.run(until=10.0)
    assert left.state is right.state is State.ESTABLISHED
    assert left._connection.handshake.tag == right._connection.handshake.peer_tag
    assert right._connection.handshake.tag == left._connection.handshake.peer_tag
