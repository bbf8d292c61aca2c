"""P18: a SACK, FORWARD-TSN or RE-CONFIG that cannot be is applied not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.outbound import FIRST, make, queue, sack, snapshot, transmit
from triosfu.sctp.wire import Sack


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
