"""P15: over a path that loses, doubles and reorders, messages arrive as their channel promises."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.network import FULL, PLAIN, Network, Path, associations, established
from tests.support.schedules import bad_paths, both, chunk_types, lose, near_the_wrap, seeds
from triosfu.sctp.core import Message, State

if TYPE_CHECKING:
    from triosfu.sctp.core import Settings
    from triosfu.sctp.wire import ChunkType

abilities = st.sampled_from([PLAIN, FULL])  # DATA with checksums, or I-DATA without


@given(
    seed=st.integers(0, 2**32),
    settings=abilities,
    paths=st.tuples(bad_paths, bad_paths),
    tsns=st.tuples(near_the_wrap, near_the_wrap),
    messages=st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 9000), st.integers(0, 1)), max_size=40
    ),
)
def test_p15_every_reliable_message_arrives_once_and_in_order(
    seed: int,
    settings: Settings,
    paths: tuple[Path, Path],
    tsns: tuple[int, int],
    messages: list[tuple[int, bool, int, int]],
) -> None:
    """P15, with TSNs that start anywhere."""
    ends = associations(seed, tsns=tsns, settings=settings)
    network = Network(*ends, seed=seed)
    for end in ends:
        end.connect(0.0)
    network.run(until=1.0)
    network.paths = paths
    expected: tuple[dict[Any, list[bytes]], dict[Any, list[bytes]]] = ({}, {})
    for number, (stream, ordered, size, source) in enumerate(messages):
        data = number.to_bytes(2, "big") + bytes(size)
        ends[source].send(stream, data, ppid=53 + ordered, now=1.0, ordered=ordered)
        expected[1 - source].setdefault((stream, ordered), []).append(data)
    network.run(until=2000.0, done=lambda: not any(end.total_buffered for end in ends))
    assert [end.state for end in ends] == [State.ESTABLISHED] * 2
    for index in range(2):
        arrived: dict[Any, list[bytes]] = {}
        for message in network.of(index, Message):
            arrived.setdefault((message.stream_id, message.ppid == 54), []).append(message.data)
        for (stream, ordered), sent in expected[index].items():
            got = arrived.pop((stream, ordered), [])
            assert (got if ordered else sorted(got)) == sent
        assert not arrived


@given(
    seed=st.integers(0, 2**32),
    settings=abilities,
    path=st.builds(Path, loss=st.floats(0, 0.4), duplicate=st.floats(0, 0.3), jitter=st.floats(0, 0.1)),
    tsn=st.integers(2**32 - 60, 2**32 - 1),
    messages=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.booleans(),
            st.integers(1, 5000),
            st.sampled_from([{}, {"max_retransmits": 0}, {"max_retransmits": 2}, {"lifetime": 0.5}]),
        ),
        max_size=40,
    ),
)
def test_p15_partial_reliability_never_blocks(
    seed: int, settings: Settings, path: Path, tsn: int, messages: list[tuple[int, bool, int, Any]]
) -> None:
    """P15: at most once, in order, the reliable ones all, and nothing is left behind."""
    network = established(seed % 1000, tsns=(tsn, tsn), settings=settings)
    left, right = both(network)
    network.rng.seed(seed)
    network.paths = (path, replace(path, loss=path.loss / 4, sent=[]))
    sent: dict[tuple[int, bool], list[tuple[bytes, bool]]] = {}
    for number, (stream, ordered, size, policy) in enumerate(messages):
        data = number.to_bytes(2, "big") + bytes(size)
        left.send(stream, data, ppid=53 + ordered, now=1.0, ordered=ordered, **policy)
        sent.setdefault((stream, ordered), []).append((data, not policy))
    network.run(until=500.0, done=lambda: not left.total_buffered and not left._connection.outbound.outstanding)
    assert left.state is right.state is State.ESTABLISHED
    assert left.total_buffered == 0
    for (stream, ordered), expected in sent.items():
        got = [m.data for m in network.of(1, Message) if (m.stream_id, m.ppid == 54) == (stream, ordered)]
        assert len(set(got)) == len(got), "twice"
        order = [data for data, _ in expected if data in got]
        assert (got if ordered else sorted(got)) == order
        assert {data for data, reliable in expected if reliable} <= set(got)
    assert right._connection.inbound is not None
    assert right._connection.inbound.held == 0
    assert not right._connection.inbound._by_start
    assert not right._connection.inbound._waiting


@given(
    seed=seeds,
    settings=abilities,
    tsns=st.tuples(near_the_wrap, near_the_wrap),
    kind=chunk_types,
    which=st.integers(1, 3),
)
def test_p15_one_lost_packet_of_any_type_loses_no_message(
    seed: int, settings: Settings, tsns: tuple[int, int], kind: ChunkType, which: int
) -> None:
    left, right = associations(seed, tsns=tsns, settings=settings)
    network = Network(left, right, seed=seed, paths=(Path(swallow=lose(kind, which)), Path(swallow=lose(kind, which))))
    left.connect(0.0)
    sent = [bytes([number]) * 3000 for number in range(8)]
    for data in sent:
        left.send(1, data, ppid=53, now=0.0)
        left.send(2, data, ppid=53, now=0.0, max_retransmits=0)
    left.reset_stream(3, 0.0)
    network.run(until=30.0)
    assert [message.data for message in network.of(1, Message) if message.stream_id == 1] == sent
    given_up = [message.data for message in network.of(1, Message) if message.stream_id == 2]
    assert given_up == [data for data in sent if data in given_up]
    assert not left.total_buffered
