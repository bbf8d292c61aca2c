"""P13: a connection can be closed in every state, at every moment, more than once, and from within its callbacks."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.endings import HOWS, MOMENTS, NARROW, WITHOUT_WRITERS, end, nothing_waits, occupy
from tests.support.virtual import Way, joined, virtual_time
from tests.support.ways import Fault, faults, seeds, some, ways
from triosfu.peer import PeerState

hows = st.sampled_from(HOWS)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("how", HOWS)
@virtual_time
async def test_p13_close_in_each_state(moment: str, how: str) -> None:
    async with joined(settings=NARROW) as both, trio.open_nursery() as nursery:
        writers = [] if moment in WITHOUT_WRITERS else [occupy(both.offerer, nursery)]
        await MOMENTS[moment](both)
        await end(both, both.offerer, how)
        await nothing_waits(*writers)
        await end(both, both.answerer, how) if not both.answerer.peer.closed else None


@some(6)
@given(
    seed=seeds,
    there=ways(1.0),
    back=ways(1.0),
    fault=st.one_of(st.none(), faults),
    after=st.floats(0.0, 3.0),
    between=st.sampled_from([0.0, 0.0, 0.005, 0.1]),
    endings=st.lists(st.tuples(st.integers(0, 1), hows), min_size=1, max_size=4),
    loads=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
@virtual_time
async def test_p13_close_at_any_moment(
    *,
    seed: int,
    there: Way,
    back: Way,
    fault: Fault | None,
    after: float,
    between: float,
    endings: list[tuple[int, str]],
    loads: tuple[int, int],
) -> None:
    """On any network, in any order, both sides one behind the other or in the same moment."""
    async with (
        joined(ways=(there, back), seed=seed, settings=NARROW) as both,
        trio.open_nursery() as nursery,
    ):
        if fault is not None:
            fault.apply(both)
        writers = [occupy(side, nursery, channels=channels) for side, channels in zip(both.sides, loads, strict=True)]
        both.offerer.peer.negotiation.enable_data()
        both.negotiate()
        await trio.sleep(after)
        for index, how in endings:
            side = both.sides[index]
            if side.peer.closed:
                side.peer.close("once more")
            else:
                await end(both, side, how)
                await nothing_waits(writers[index])
            if between:
                await trio.sleep(between)
        for side in both.sides:
            assert side.states.count(PeerState.CLOSED) == side.peer.closed
        nursery.cancel_scope.cancel()


@virtual_time
async def test_p13_two_close_at_the_same_time() -> None:
    """Two tasks, and the end of the scope, in one pass of the scheduler."""
    async with joined(settings=NARROW) as both, trio.open_nursery() as nursery:
        writers = occupy(both.offerer, nursery)
        await both.connect()

        async def close(reason: str) -> None:
            both.offerer.peer.close(reason)

        nursery.start_soon(close, "one")
        nursery.start_soon(close, "two")
        both.scopes[both.offerer].cancel()
        await writers.over_within()
        assert both.offerer.states.count(PeerState.CLOSED) == 1


@virtual_time
async def test_p13_close_from_within_a_message() -> None:
    async with joined(settings=NARROW) as both, trio.open_nursery() as nursery:
        await both.connect()
        _, theirs = await both.channel()
        writers = occupy(both.offerer, nursery)
        await trio.sleep(1.0)
        told = len(both.offerer.messages)

        def close() -> None:
            if len(both.offerer.messages) > told:
                both.offerer.peer.close("heard enough")

        both.offerer.on_news = close
        await theirs.send(b"stop")
        await theirs.send(b"never read")
        await both.offerer.until(lambda side: side.peer.closed)
        await nothing_waits(writers)
        assert [data for _, data, _ in both.offerer.messages[told:]] == [b"stop"]
        assert both.offerer.states.count(PeerState.CLOSED) == 1
