"""P21: what a peer can make us hold is bounded by the window that we advertise, whether or not it keeps to it."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inbound import BUFFER, data, feed, make
from tests.support.network import established
from tests.support.schedules import both, seeds
from triosfu.sctp.core import Message, Settings, State
from triosfu.sctp.inbound import FRAGMENT_COST, RUN_COST, WAITING_COST, Inbound
from triosfu.sctp.interleaved import STREAM_COST
from triosfu.sctp.parameters import CauseCode
from triosfu.sctp.violation import Violation
from triosfu.sctp.wire import BEGIN, END, PACKET_HEADER_SIZE, UNORDERED, Data, IData, parse_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triosfu.sctp.core import Event

LIMIT = BUFFER + 2 * 20_000  # the window, and one message with what its fragments cost


def test_p21_many_messages_that_never_end_hit_the_window() -> None:
    """P21: a sender that ignores the window gets nothing in but what moves the cumulative TSN."""
    inbound, _ = make()
    inbound.receive(data(0))
    for tsn in range(2, 2000, 2):
        inbound.receive(data(tsn, BEGIN | UNORDERED, payload=bytes(1000)))
    assert inbound.held <= BUFFER
    assert inbound.sack().a_rwnd == BUFFER - inbound.held
    inbound.receive(data(1))
    assert inbound.cumulative >= 2


def test_p21_messages_that_wait_for_one_that_never_comes_hit_the_window() -> None:
    inbound, _ = make()
    with pytest.raises(Violation) as caught:
        feed(inbound, [data(tsn, ssn=1 + tsn, payload=bytes(1000)) for tsn in range(1000)])
    assert caught.value.cause == CauseCode.OUT_OF_RESOURCE
    assert inbound.held <= LIMIT + 1000 + WAITING_COST


def pieces(*, interleaving: bool) -> Iterator[list[bytes]]:
    """Chunks of two bytes, in each of the ways that make us hold them; each list is too long to be taken."""

    def chunk(tsn: int, flags: int, stream: int, number: int, fsn: int) -> bytes:
        ppid = 1 << 30 | tsn  # a large number takes more than a small one
        if interleaving:
            return IData(flags, tsn, stream, number, ppid if flags & BEGIN else fsn, b"xx").serialize()
        return Data(flags, tsn, stream, number, ppid, b"xx").serialize()

    whole, most = BEGIN | END, 2500
    yield [chunk(tsn, whole, 1, tsn, 0) for tsn in range(1, most)]  # behind a hole
    yield [chunk(tsn, whole, 1, 1 + tsn, 0) for tsn in range(most)]  # behind a message that never comes
    yield [chunk(tsn, whole, tsn, 1, 0) for tsn in range(most)]  # the same, each on a stream of its own
    yield [chunk(tsn, whole, 1, tsn, 0) for tsn in range(2, most, 2)]  # a hole before each
    yield [chunk(tsn, BEGIN if tsn == 0 else 0, 1, 0, tsn) for tsn in range(most)]  # one message without an end
    yield [chunk(tsn, 0, 1, 0, tsn) for tsn in range(5, most)]
    yield [chunk(tsn, 0, 1, 0, tsn) for tsn in range(5, most, 2)]
    yield [chunk(tsn, BEGIN | UNORDERED, 1, tsn, 0) for tsn in range(2, most, 2)]
    yield [chunk(tsn, BEGIN | UNORDERED, tsn, tsn, 0) for tsn in range(2, most, 2)]
    yield [chunk(tsn, whole | UNORDERED, 1, tsn, 0) for tsn in range(2, most, 2)]
    if interleaving:
        yield [chunk(tsn, BEGIN | UNORDERED, tsn, tsn, 0) for tsn in range(most)]


def memory_taken(chunks: list[bytes], *, interleaving: bool) -> int:
    """What a receiver takes, as Python counts it, when it has been given these chunks."""
    events: list[Event] = []
    inbound = Inbound(
        initial_tsn=0,
        buffer=BUFFER,
        max_message_size=20_000,
        streams=65535,
        partial_reliability=True,
        events=events,
        interleaving=interleaving,
    )
    tracemalloc.start()
    try:
        with contextlib.suppress(Violation):
            for chunk in chunks:
                inbound.receive(parse_chunks(bytes(PACKET_HEADER_SIZE) + chunk)[0])  # type: ignore[arg-type]
                events.clear()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


RANGES = 2000 * 41  # of TSNs that have arrived: half of those that may be ahead, two numbers each


def test_p21_what_is_held_takes_no_more_memory_than_the_window_says() -> None:
    """P21: also in pieces of two bytes, of which each costs many times its size."""
    for interleaving in (False, True):
        for number, chunks in enumerate(pieces(interleaving=interleaving)):
            taken = memory_taken(chunks, interleaving=interleaving)
            assert taken <= LIMIT + RANGES, f"{interleaving=} {number=}"


@given(
    seed=seeds,
    interleaving=st.booleans(),
    buffer=st.integers(5_000, 40_000),
    sizes=st.lists(st.sampled_from([1, 2, 300, 1300]), min_size=1, max_size=4),
    ordered=st.booleans(),
    loss=st.floats(0, 0.15),
)
def test_p21_a_peer_with_many_small_messages_is_never_stalled(
    *, seed: int, interleaving: bool, buffer: int, sizes: list[int], ordered: bool, loss: float
) -> None:
    """What holding them costs is taken off the window, and what fills the hole always finds room."""
    settings = Settings(interleaving=interleaving, zero_checksum=False, receive_buffer=buffer)
    network = established(seed, settings=settings)
    left, right = both(network)
    for path in network.paths:
        path.loss, path.jitter = loss, 0.02
    sent = [bytes([number & 255]) * sizes[number % len(sizes)] for number in range(150)]
    for number, message in enumerate(sent):
        left.send(number % 3, message, ppid=53, now=1.0, ordered=ordered)
    network.run(until=600.0, done=lambda: not left.total_buffered)
    assert left.state is right.state is State.ESTABLISHED
    network.run(until=network.now + 1.0)
    arrived = network.of(1, Message)
    for stream in range(3):
        there = [m.data for m in arrived if m.stream_id == stream]
        assert sorted(there) == sorted(sent[stream::3])
        if ordered:
            assert there == sent[stream::3]
    assert right._connection.inbound is not None
    assert right._connection.inbound.held == 0


hostile_data = st.tuples(
    st.integers(0, 300),
    st.sampled_from([0, BEGIN, END, BEGIN | END, UNORDERED, BEGIN | UNORDERED, BEGIN | END | UNORDERED]),
    st.integers(0, 100),
    st.integers(0, 2),
    st.sampled_from([1, 1163, 20_000]),
)


@given(st.lists(hostile_data, max_size=60))
def test_p21_no_order_of_chunks_makes_us_hold_more_than_the_window_and_a_message(
    chunks: list[tuple[int, int, int, int, int]],
) -> None:
    inbound, _ = make()
    for number, (tsn, flags, ssn, stream, size) in enumerate(chunks):
        # Every other one moves the cumulative TSN, for which room is kept.
        at = tsn if number % 2 else inbound.cumulative + 1
        chunk = data(at, flags, ssn=ssn, stream=stream, payload=bytes(size))
        try:
            inbound.receive(chunk)
        except Violation:
            break
        assert inbound.held <= LIMIT
        held = sum(RUN_COST + FRAGMENT_COST * len(run.parts) + run.size for run in inbound._by_start.values())
        held += sum(STREAM_COST + WAITING_COST * len(stream) for stream in inbound._waiting.values())
        held += sum(len(body) for stream in inbound._waiting.values() for _, body in stream.values())
        assert inbound.held == held
        assert inbound.sack().a_rwnd == max(0, BUFFER - held)
        assert all(end + 1 < start for end, start in zip(inbound._ends, inbound._starts[1:], strict=False))
