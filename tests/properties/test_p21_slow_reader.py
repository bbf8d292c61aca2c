"""P21: what a peer can make us hold is bounded by the window that we advertise, whether or not it keeps to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inbound import BUFFER, data, feed, make
from triosfu.sctp.parameters import CauseCode
from triosfu.sctp.violation import Violation
from triosfu.sctp.wire import BEGIN, END, UNORDERED


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
    assert inbound.held <= BUFFER + 21_000


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
        assert inbound.held <= BUFFER + 20_000
        held = sum(run.size for run in inbound._by_start.values())
        held += sum(len(body) for stream in inbound._waiting.values() for _, body in stream.values())
        assert inbound.held == held
        assert inbound.sack().a_rwnd == max(0, BUFFER - held)
        assert all(end + 1 < start for end, start in zip(inbound._ends, inbound._starts[1:], strict=False))
