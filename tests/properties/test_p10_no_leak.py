"""P10: of a connection that is over nothing is left: no task, no deadline, no entry in the mux, no memory."""

from __future__ import annotations

import gc
import math
import tracemalloc
import weakref
from random import Random
from typing import TYPE_CHECKING, Any

import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.conftest import PROVE
from tests.properties.endings import NARROW, end, occupy
from tests.support.side import tables
from tests.support.virtual import NEVER, Way, joined, virtual_time
from tests.support.ways import Fault, faults, seeds, some, ways

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.side import Side

CYCLES = 1000 if PROVE else 40
WARM = 60 if PROVE else 15  # cycles until all that is made once, and kept, has been made
RATE = 20_000.0


def parts(side: Side) -> Iterator[Any]:
    """What a connection is made of."""
    peer = side.peer
    yield from (peer, peer._transport, peer._transport.ice, peer._data, peer._data._association, peer.waiting)
    yield from side.channels.values()


async def one_life(
    network: tuple[Way, Way], seed: int, fault: Fault | None, lasts: float, closing: tuple[str, ...]
) -> list[weakref.ref[Any]]:
    """A pair that connects, if it can, talks, and is closed, one side or both; the rest is left to the block's end."""
    async with joined(ways=network, seed=seed, settings=NARROW) as both, trio.open_nursery() as nursery:
        if fault is not None:
            fault.apply(both)
        writers = [occupy(side, nursery, channels=1, writers=2) for side in both.sides]
        both.offerer.peer.negotiation.enable_data()
        both.negotiate()
        await trio.sleep(lasts)
        left = []
        for side, how in zip(both.sides, closing, strict=False):
            if not side.peer.closed:
                await end(both, side, how)
            left += [weakref.ref(part) for part in parts(side) if "__weakref__" in dir(part)]
            assert not any(tables(side.mux).values())
        for side, writing in zip(both.sides, writers, strict=True):
            if side.peer.closed:
                await writing.over_within()
        nursery.cancel_scope.cancel()
    return left


@some(6)
@given(
    seed=seeds,
    there=ways(1.0),
    back=ways(1.0),
    fault=st.one_of(st.none(), faults),
    lasts=st.floats(0.0, 4.0),
    closing=st.lists(st.sampled_from(["close", "scope"]), min_size=1, max_size=2),
)
@virtual_time
async def test_p10_nothing_is_left_of_a_connection(
    *, seed: int, there: Way, back: Way, fault: Fault | None, lasts: float, closing: list[str]
) -> None:
    there.rate = back.rate = RATE
    before = trio.lowlevel.current_statistics()
    left = await one_life((there, back), seed, fault, lasts, tuple(closing))
    after = trio.lowlevel.current_statistics()
    assert after.tasks_living == before.tasks_living
    assert after.seconds_to_next_deadline == math.inf
    gc.collect()
    assert left
    assert [reference() for reference in left if reference() is not None] == []


def test_p10_a_thousand_connections_leave_the_memory_as_it_was() -> None:
    """Under schedules drawn by dice; forty of them in the suite, a thousand under `make prove`.

    Each has a run of trio to itself: within one, trio keeps up to a thousand deadlines that are off. Python keeps
    a little for itself; of each connection less than a hundredth of what it takes while it lives may be left.
    """
    rng = Random(10)
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    try:
        for _ in range(WARM):
            _random_life(rng)
        before = _memory()
        living = _memory_of_a_connection()
        for _ in range(CYCLES):
            _random_life(rng)
        after = _memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / CYCLES <= living / 100, (before, after, living)


@virtual_time
async def _random_life(rng: Random) -> None:
    lasts = rng.choice([0.0, 0.01, 0.1, 0.3, 1.0, 2.0]) * rng.random()
    network = tuple(
        Way(
            latency=rng.choice([0.0, 0.01, 0.1]),
            rate=RATE,
            loss=rng.choice([0.0, 0.0, 0.1, 0.4]),
            duplicate=rng.choice([0.0, 0.2]),
            jitter=rng.choice([0.0, 0.05]),
            dark=rng.choice([NEVER, NEVER, (rng.random(), math.inf)]),
        )
        for _ in range(2)
    )
    closing = rng.choice([("close",), ("scope",), ("close", "close"), ("scope", "close"), ("twice",)])
    await one_life((network[0], network[1]), rng.randrange(2**32), None, lasts, closing)


def _memory_of_a_connection() -> int:
    """What a pair takes that is connected and idle."""
    before, within = _memory(), 0

    @virtual_time
    async def live() -> None:
        nonlocal within
        async with joined(settings=NARROW) as both:
            await both.connect()
            await both.channel()
            within = _memory()

    live()
    return within - before


def _memory() -> int:
    """Bytes that Python has allocated, when nothing but what is referenced is left."""
    for _ in range(3):
        gc.collect()
    return tracemalloc.get_traced_memory()[0]
