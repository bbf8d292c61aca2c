"""P23: in a black hole a connection has failed within D_consent, and leaves nobody waiting and nothing behind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.endings import NARROW, association, end, nothing_waits, occupy
from tests.support.side import tables
from tests.support.virtual import Kind, Way, joined, virtual_time
from tests.support.ways import Fault, seeds, some
from triosfu.peer import PeerState
from triosfu.sctp.state import State

if TYPE_CHECKING:
    from tests.support.side import Side
    from tests.support.virtual import Joined

D_CONSENT = 31.0
D_ABORT = 33.5
RATE = 20_000.0
OVER = (PeerState.FAILED, PeerState.CLOSED)

directions = st.sampled_from([(0,), (1,), (0, 1)])


async def fails(side: Side, since: float) -> None:
    """Wait for the state that says so; it comes in time."""
    left = max(0.0, since + D_CONSENT - trio.current_time())
    await side.until(lambda side: side.peer.state in OVER, within=left)


@some(6)
@given(
    seed=seeds,
    dark=directions,
    channels=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    after=st.one_of(st.just(0.0), st.floats(0.0, 12.0)),
    how=st.sampled_from(["close", "scope", "wait"]),
)
@virtual_time
async def test_p23_a_black_hole_ends_a_connection_with_or_without_data(
    *, seed: int, dark: tuple[int, ...], channels: tuple[int, int], after: float, how: str
) -> None:
    """One way or both, at any moment: both sides have failed; their writers are gone, by then or when it is closed."""
    ways = (Way(rate=RATE), Way(rate=RATE))
    async with joined(ways=ways, seed=seed, settings=NARROW) as both, trio.open_nursery() as nursery:
        await both.connect()
        writers = [occupy(side, nursery, channels=count) for side, count in zip(both.sides, channels, strict=True)]
        await trio.sleep(after)
        began = trio.current_time()
        for direction in dark:
            both.ways[direction].dark = (began, math.inf)
        # What waits in a slow way when it goes dark still arrives: a check, and its answer, which may have to wait too.
        under_way = sum(max(0.0, way.busy_until - began) for way in both.ways)
        for side in both.sides:
            await fails(side, began + under_way + ways[0].latency)
        if how == "wait":
            await trio.sleep(began + D_ABORT + 5.0 - trio.current_time())
            for side, writing in zip(both.sides, writers, strict=True):
                if writing.started:  # what it had under way was never acknowledged
                    assert side.peer.closed or association(side) is State.ENDED
            await nothing_waits(*writers)
        for side in both.sides:
            if not side.peer.closed:
                await end(both, side, "scope" if how == "scope" else "close")
        await nothing_waits(*writers)
        await nothing_left(both)


@some(6)
@given(
    seed=seeds,
    kind=st.sampled_from([Kind.STUN_REQUEST, Kind.STUN_RESPONSE, Kind.CLIENT_HELLO, Kind.SERVER_HELLO]),
    which=st.integers(1, 4),
    dark=directions,
    channels=st.integers(0, 2),
)
@virtual_time
async def test_p23_a_black_hole_while_connecting_ends_it_too(
    *, seed: int, kind: Kind, which: int, dark: tuple[int, ...], channels: int
) -> None:
    ways = (Way(rate=RATE), Way(rate=RATE))
    async with joined(ways=ways, seed=seed, settings=NARROW) as both, trio.open_nursery() as nursery:
        Fault(kind, which, dark, dark=True).apply(both)
        writers = [occupy(side, nursery, channels=channels) for side in both.sides]
        both.offerer.peer.negotiation.enable_data()
        both.negotiate()
        await trio.sleep(10.0)
        for side in both.sides:
            if any(way.dark[0] <= trio.current_time() for way in both.ways):
                await fails(side, 10.0)
                if not side.peer.closed:
                    await end(both, side, "close")
        for side, writing in zip(both.sides, writers, strict=True):
            if not side.peer.closed:
                await end(both, side, "close")
            await nothing_waits(writing)
        await nothing_left(both)


async def nothing_left(both: Joined) -> None:
    """Of both connections: no task, no timer, nothing that the mux knows (P10)."""
    assert not both.running
    for side in both.sides:
        assert not any(tables(side.mux).values())
        assert side.peer._transport.next_timeout() == side.peer._data.next_timeout() == math.inf
