"""P18: a SACK, FORWARD-TSN or RE-CONFIG that cannot be is applied not at all, at a cost bounded by its size."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.network import FULL, PLAIN, established
from tests.support.outbound import FIRST, make, queue, sack, snapshot, transmit
from tests.support.schedules import both, seeds
from triosfu.sctp.parameters import OutgoingReset, ReconfigResponse
from triosfu.sctp.wire import Chunk, ForwardTsn, IForwardTsn, Packet, ReConfig, Sack

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from triosfu.sctp.core import Settings
    from triosfu.sctp.inbound import Inbound


@pytest.mark.parametrize(
    ("offset", "gaps"),
    [
        (-1, ()),  # older than what we know
        (11, ()),  # of a TSN that was never sent
        (2, (1, 1)),  # a block right behind the cumulative TSN is none
        (2, (0, 1)),
        (2, (4, 3)),  # ends before it starts
        (2, (2, 9)),  # beyond what was sent
        (2, (2, 0xFFFF)),
        (2, (4, 5, 2, 2)),  # not ascending
        (2, (3, 5, 5, 6)),  # overlapping
        (0x80000000, ()),  # half the circle
    ],
)
def test_p18_a_sack_that_cannot_be_changes_nothing(offset: int, gaps: tuple[int, ...]) -> None:
    outbound = make()
    outbound.congestion.bytes = 100_000
    queue(outbound, 10 * 1160)
    transmit(outbound)
    assert sack(outbound, 0, 2, 3)
    before = snapshot(outbound)
    assert sack(outbound, offset, *gaps, rwnd=7) is None
    assert snapshot(outbound) == before


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 0xFFFF), max_size=8), st.integers(0, 2**32 - 1))
def test_p18_any_sack_is_applied_whole_or_not_at_all(cumulative: int, offsets: list[int], rwnd: int) -> None:
    outbound = make()
    outbound.congestion.bytes = 100_000
    queue(outbound, 20 * 1160)
    transmit(outbound)
    sack(outbound, 2, 2, 3)
    before = snapshot(outbound)
    gaps = tuple(offsets[: len(offsets) // 2 * 2])
    if outbound.receive_sack(Sack((FIRST + cumulative % 25) & 0xFFFFFFFF, rwnd, gaps), 0.1) is None:
        assert snapshot(outbound) == before
    assert outbound.flight == sum(sent.size for sent in outbound._outstanding.values() if sent.state == 0)


def forward(core: Inbound, offset: int, streams: list[tuple[int, int]]) -> Chunk:
    """In the form that was negotiated."""
    tsn = (core.cumulative + offset) & 0xFFFFFFFF
    if core.interleaving:
        return IForwardTsn(tsn, tuple((stream, bool(number & 1), number) for stream, number in streams))
    return ForwardTsn(tsn, tuple(streams))


u32 = st.integers(0, 2**32 - 1)
impossible = st.one_of(
    # Far ahead, by more than the receiver has room for, and far behind.
    st.builds(
        lambda offset, streams: lambda core: forward(core, offset, streams),
        st.integers(50_000, 2**32),
        st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)), max_size=140),
    ),
    # Not the number that is next.
    st.builds(
        lambda ahead, last, streams: lambda _: ReConfig((OutgoingReset(ahead, 0, last, tuple(streams)).tlv(),)),
        u32,
        u32,
        st.lists(st.integers(0, 0xFFFF), max_size=200),
    ),
    # Answers to what was never asked.
    st.builds(
        lambda number, result: lambda _: ReConfig((ReconfigResponse(number, result).tlv(),)), u32, st.integers(0, 7)
    ),
    # Of what was never sent.
    st.builds(
        lambda ahead, rwnd: lambda _: Sack((0xFFFFFFF0 + 50 + ahead) & 0xFFFFFFFF, rwnd), st.integers(0, 2**30), u32
    ),
)


@given(seed=seeds, settings=st.sampled_from([PLAIN, FULL]), make_chunk=impossible)
def test_p18_what_cannot_be_changes_neither_half(
    seed: int, settings: Settings, make_chunk: Callable[[Inbound], Chunk]
) -> None:
    network = established(seed, tsns=(0xFFFFFFF0, 0xFFFFFFF0), settings=settings)
    left, right = both(network)
    for end in (left, right):
        end.send(1, bytes(5000), ppid=53, now=1.0)
        end.send(2, bytes(5000), ppid=53, now=1.0, max_retransmits=0)
    network.run(until=1.01)
    inbound = left._connection.inbound
    assert inbound is not None
    chunk = make_chunk(inbound)
    if isinstance(chunk, ReConfig):
        expected = left._connection.reconfig._expected
        assume(_number(chunk) != expected)
    network.flush()
    left.events()

    def halves() -> object:
        received = (inbound.cumulative, inbound.held, dict(inbound._next_ssn), list(inbound._starts))
        return snapshot(left._connection.outbound), received, left._connection.reconfig._expected, left.state

    before = halves()
    packet = Packet(5000, 5000, left._connection.handshake.tag, [chunk]).serialize()
    lines = count_lines(lambda: left.receive_datagram(packet, 1.01))
    assert halves() == before
    assert left.events() == []
    assert len(left.datagrams_to_send()) <= 2
    assert lines <= 300 + 20 * len(packet), "work must be bounded by the packet's size"


def _number(chunk: ReConfig) -> int:
    return int.from_bytes(chunk.parameters[0].body[:4], "big")


def count_lines(action: Callable[[], None]) -> int:
    """How many lines of Python the action runs."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:  # noqa: ANN401  as sys.settrace has it
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count
