"""P24: what is queued may wait for the network; closing does not wait for what is queued."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.properties.endings import HOWS, NARROW, end, nothing_waits, occupy
from tests.support.virtual import Kind, Way, joined, virtual_time
from tests.support.ways import seeds, some
from triosfu.net.egress import SLOTS
from triosfu.peer import ChannelState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.side import Side
    from tests.support.virtual import Datagram, Joined
    from tests.support.writers import Writers
    from triosfu.peer import DataChannel

SILENT = 2.0  # seconds that all of it waits


async def send_buffers(both: Joined, side: Side, nursery: trio.Nursery) -> list[Writers]:
    """As many bytes as every channel takes at all, and writers behind them."""

    def opened() -> list[DataChannel]:
        return [channel for channel in side.channels.values() if channel.state is ChannelState.OPEN]

    writers = occupy(side, nursery, channels=3, writers=5)
    await trio.sleep(0.3)
    # Behind other queues that were full before, the first OPEN may go again after some seconds only.
    await side.until(lambda _: bool(opened()))
    both.darken()
    channels = opened()
    for channel in channels:
        while channel.send_nowait(bytes(5_000)):
            pass
        assert channel.buffered > NARROW.hard_limit - 5_000
    return [writers]


async def opens(both: Joined, side: Side, nursery: trio.Nursery) -> list[Writers]:
    """Channels that nobody answers for, with their OPENs under way, and writers behind them."""
    both.darken()
    return [occupy(side, nursery, channels=30, writers=1)]


async def resets(both: Joined, side: Side, nursery: trio.Nursery) -> list[Writers]:
    """Channels that were closed and are not over: each waits for an answer, or for the one before it."""
    writers = occupy(side, nursery, channels=10, writers=1)
    await trio.sleep(0.5)
    both.darken()
    for channel in list(side.channels.values()):
        channel.close()
    return [writers]


async def reassembly(both: Joined, side: Side, nursery: trio.Nursery) -> list[Writers]:
    """What came is held, for the one packet that does not come."""
    other = both.sides[1 - both.sides.index(side)]
    writers = occupy(other, nursery, channels=1, writers=1)
    await trio.sleep(0.3)
    first: set[bytes] = set()

    def swallow(datagram: Datagram) -> bool:
        if Kind.DATA in datagram.kinds and not first:
            first.add(datagram.data)
            return True
        return False

    for way in both.ways:
        way.swallow = swallow
    for channel in other.channels.values():
        channel.send_nowait(bytes(50_000))
    await trio.sleep(0.05)
    both.darken()
    nursery.start_soon(_close_later, other)
    return [writers]


async def _close_later(side: Side) -> None:
    await trio.sleep(SILENT + 1.0)
    side.peer.close("the test is over")


async def egress(both: Joined, side: Side, nursery: trio.Nursery) -> list[Writers]:
    """Every slot of the mux but one, and a kernel that takes nothing."""
    for way in both.ways:
        way.unwritable, way.errno = (trio.current_time(), math.inf), 11
    destination = side.peer._transport.destination
    assert destination is not None
    side.mux.egress.held = True
    while side.mux.egress.queued < SLOTS - 1:
        side.mux.egress.send(bytes([128]) * 1200, destination)
    return []


async def candidates(both: Joined, side: Side, nursery: trio.Nursery) -> list[Writers]:
    """All the addresses that one peer may name, each of which is asked, and none answers."""
    both.darken()
    for number in range(64):
        side.peer.add_remote_candidate(f"candidate:{number} 1 udp {number + 1} 198.51.100.{number} 9 typ host")
    return []


QUEUES: dict[str, Callable[[Joined, Side, trio.Nursery], Awaitable[list[Writers]]]] = {
    fill.__name__: fill for fill in (send_buffers, opens, resets, reassembly, egress, candidates)
}


async def check(names: list[str], closing: int, how: str, seed: int) -> None:
    ways = (Way(rate=100_000.0), Way(rate=100_000.0))
    async with joined(ways=ways, seed=seed, settings=NARROW) as both, trio.open_nursery() as nursery:
        side = both.sides[closing]
        await both.connect()
        writers: list[Writers] = []
        for name in names:
            both.mend()
            writers += await QUEUES[name](both, side, nursery)
        if "egress" not in names:
            await trio.sleep(SILENT)
        await end(both, side, how)
        await wait_all_tasks_blocked()
        if "reassembly" not in names:
            await nothing_waits(*writers)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("closing", [0, 1])
@virtual_time
async def test_p24_close_while_a_queue_is_full(queue: str, closing: int) -> None:
    await check([queue], closing, "close", 1)


@some(20)
@given(
    seed=seeds,
    names=st.lists(st.sampled_from(sorted(QUEUES)), min_size=2, max_size=6, unique=True),
    closing=st.integers(0, 1),
    how=st.sampled_from(HOWS),
)
@example(seed=0, names=sorted(QUEUES), closing=0, how="close")
@virtual_time
async def test_p24_close_while_several_queues_are_full(*, seed: int, names: list[str], closing: int, how: str) -> None:
    await check(sorted(names, key=lambda name: name == "egress"), closing, how, seed)
