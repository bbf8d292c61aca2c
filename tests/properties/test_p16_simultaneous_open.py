"""P16: however two handshakes meet, both ends come to the same association, or both give up in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.network import Network, Path, associations
from tests.support.schedules import HANDSHAKE, darken_behind, holds, lose, seeds
from triosfu.sctp.core import Ended, Established, Message, State
from triosfu.sctp.wire import ChunkType

if TYPE_CHECKING:
    from triosfu.sctp.core import Association

bad_path = st.builds(Path, loss=st.floats(0, 0.5), duplicate=st.floats(0, 0.5), jitter=st.floats(0, 2.0))
T1_BUDGET = 1 + 2 + 7 * 3.0  # nine INITs, then the same for COOKIE ECHO, then for heartbeats at an end that is up
DOUBT = 1.0 + T1_BUDGET + 0.1  # the first of them after a time-out


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
    network.run(until=network.now + DOUBT + 4.0)
    if left.state is State.ESTABLISHED and right.state is State.ESTABLISHED:
        assert left._connection.handshake.tag == right._connection.handshake.peer_tag
        assert right._connection.handshake.tag == left._connection.handshake.peer_tag
        left.send(0, b"there", ppid=53, now=network.now)
        right.send(0, b"back", ppid=53, now=network.now)
        network.run(until=network.now + 40.0)
        assert [m.data for m in network.of(1, Message)] == [b"there"]
        assert [m.data for m in network.of(0, Message)] == [b"back"]
    else:
        assert {left.state, right.state} <= {State.ENDED, State.CLOSED}, "though no ABORT may have arrived"
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


def agreed(left: Association, right: Association) -> bool:
    """Are both up, with each other?"""
    ours, theirs = left._connection.handshake, right._connection.handshake
    together = left.state is right.state is State.ESTABLISHED
    return together and (ours.tag, ours.peer_tag) == (theirs.peer_tag, theirs.tag)


@given(
    seed=seeds,
    behind=st.tuples(st.sampled_from(HANDSHAKE), st.integers(1, 9)),
    directions=st.sampled_from([(0,), (1,), (0, 1)]),
    lost=st.sampled_from([*HANDSHAKE, None]),
    both=st.booleans(),
    data=st.tuples(st.booleans(), st.booleans()),
)
def test_p16_no_end_stays_up_alone_behind_a_black_hole(
    *,
    seed: int,
    behind: tuple[ChunkType, int],
    directions: tuple[int, ...],
    lost: ChunkType | None,
    both: bool,
    data: tuple[bool, bool],
) -> None:
    """From any step on nothing arrives, not even an ABORT, and before it all packets of a kind are lost, one way."""
    left, right = associations(seed)
    network = Network(left, right, seed=seed)
    darken_behind(network, *behind, directions)
    watch = network.paths[0].swallow
    assert watch is not None
    network.paths[1].swallow = lambda packet, now: watch(packet, now) or (lost is not None and holds(packet, lost))
    for end, sends in zip((left, right), data, strict=True):
        if sends:
            end.send(0, b"x" * 2000, ppid=53, now=0.0)
    left.connect(0.0)
    if both:
        right.connect(0.0)
    network.run(until=3 * T1_BUDGET + 2.0, done=lambda: agreed(left, right))
    assert agreed(left, right) or {left.state, right.state} <= {State.ENDED, State.CLOSED}


def test_p16_an_end_whose_peer_gave_up_unheard_gives_up_in_the_same_time() -> None:
    """No COOKIE ACK arrives, nor anything else, and not the ABORT either."""
    left, right = associations()
    network = Network(left, right)
    darken_behind(network, ChunkType.COOKIE_ECHO, 1, (1,))
    left.connect(0.0)
    network.run(until=1.0)
    assert right.state is State.ESTABLISHED
    up = network.times[1][0]
    network.paths[0].dark = (20.0, 1000.0)
    network.run(until=100.0, done=lambda: right.state is State.ENDED)
    assert network.now - up <= DOUBT


@given(sends=st.tuples(st.booleans(), st.booleans()))
def test_p16_lost_cookie_acks_do_not_matter_if_anything_else_arrives(sends: tuple[bool, bool]) -> None:
    """A HEARTBEAT, DATA or SACK of the peer shows that it has taken the cookie."""
    left, right = associations()
    network = Network(left, right)

    def swallow(packet: bytes, _now: float) -> bool:
        return holds(packet, ChunkType.COOKIE_ACK)

    network.paths[1].swallow = swallow
    left.connect(0.0)
    for end, sending in zip((left, right), sends, strict=True):
        if sending:
            end.send(0, b"x", ppid=53, now=0.0)
    network.run(until=5.0)
    assert agreed(left, right)
    assert [len(network.of(1, Message)), len(network.of(0, Message))] == [int(sending) for sending in sends]


@pytest.mark.parametrize(("both", "data", "beats"), [(True, False, 0), (False, True, 0), (False, False, 1)])
def test_p16_heartbeats_right_after_the_handshake_are_few(*, both: bool, data: bool, beats: int) -> None:
    left, right = associations()
    network = Network(left, right)
    left.connect(0.0)
    if both:
        right.connect(0.0)
    if data:
        left.send(0, b"x", ppid=53, now=0.0)
        right.send(0, b"x", ppid=53, now=0.0)
    network.run(until=12.0)
    assert agreed(left, right)
    sent = [packet for path in network.paths for _, packet in path.sent]
    assert sum(holds(packet, ChunkType.HEARTBEAT) for packet in sent) == beats
