"""P1: applying a description never waits for the network, whatever that does and whatever is queued."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import assert_no_checkpoints

from tests.support.virtual import Joined, Way, joined, virtual_time
from tests.support.ways import Fault, faults, seeds, some, ways
from tests.support.writers import Writers
from triosfu.peer import PeerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

NARROW = PeerSettings(high_water=5_000)


async def in_no_time(apply: Callable[[], object]) -> None:
    """Apply a description; should that give something to await, it is awaited."""
    began = trio.current_time()
    with trio.move_on_after(1), assert_no_checkpoints():
        result = apply()
        if inspect.isawaitable(result):
            await result
    assert trio.current_time() == began


async def negotiate(both: Joined, *, ice_restart: bool) -> None:
    offerer, answerer = both.offerer.peer, both.answerer.peer
    offer = offerer.create_offer(ice_restart=ice_restart)
    await in_no_time(lambda: answerer.accept_offer(offer))
    answer = answerer.create_answer()
    await in_no_time(lambda: offerer.accept_answer(answer))


@some(3)
@given(
    seed=seeds,
    both_ways=st.tuples(ways(), ways()),
    fault=faults,
    channels=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    label=st.sampled_from(["", "chat", "a label that needs two packets" * 60]),
    single=st.booleans(),
    later=st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=3),
)
@virtual_time
async def test_p1_a_description_is_applied_at_once_with_any_number_of_channels_before_it(
    *,
    seed: int,
    both_ways: tuple[Way, Way],
    fault: Fault,
    channels: tuple[int, int],
    label: str,
    single: bool,
    later: list[tuple[float, bool]],
) -> None:
    async with (
        joined(seed=seed, ways=both_ways, single=single, settings=NARROW) as both,
        trio.open_nursery() as nursery,
    ):
        fault.apply(both)
        writers = Writers(nursery, size=20_000)
        for side, count in zip(both.sides, channels, strict=True):
            for _ in range(count):
                writers.start(side.peer.open_channel(label), count=2)
        both.offerer.peer.negotiation.enable_data()
        await negotiate(both, ice_restart=False)
        for seconds, ice_restart in later:
            await trio.sleep(seconds)
            await negotiate(both, ice_restart=ice_restart)
        for side in both.sides:
            side.peer.close("enough")
        await writers.over_within()
