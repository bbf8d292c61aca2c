"""P3: closing releases every parked writer, in no time and within fifty passes of the scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.side import assert_forgotten
from tests.support.virtual import Joined, Way, joined, virtual_time
from tests.support.ways import Fault, faults, seeds, some, ways
from tests.support.writers import Writers
from triosfu.peer import ChannelState, PeerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.side import Side

NARROW = PeerSettings(high_water=5_000)


def close(_both: Joined, side: Side) -> None:
    side.peer.close("enough")


def cancel(both: Joined, side: Side) -> None:
    both.scopes[side].cancel()


def close_the_last_channel_first(_both: Joined, side: Side) -> None:
    for channel in list(side.channels.values())[-1:]:
        channel.close()
    side.peer.close("enough")


def expel(_both: Joined, side: Side) -> None:
    """As the mux does with a route that raises."""
    side.mux.remove(side.peer._transport)
    side.peer._transport.receive_failed(ValueError("a bug"))


moments = st.one_of(st.floats(0, 0.3), st.sampled_from([0.5, 1.0, 3.0]))
crowds = st.lists(st.sampled_from([1, 2, 3, 120]), min_size=1, max_size=4)
PATHS = (st.builds(Way, rate=st.just(100_000.0)), ways())


@some(1)
@given(
    seed=seeds,
    both_ways=st.tuples(st.one_of(PATHS), st.one_of(PATHS)),
    fault=st.one_of(st.none(), faults),
    crowds=crowds,
    moment=moments,
    end=st.sampled_from([close, cancel, close_the_last_channel_first, expel]),
    which=st.integers(0, 1),
)
@virtual_time
async def test_p3_no_writer_outlives_its_connection_however_and_whenever_that_is_ended(
    *,
    seed: int,
    both_ways: tuple[Way, Way],
    fault: Fault | None,
    crowds: list[int],
    moment: float,
    end: Callable[[Joined, Side], None],
    which: int,
) -> None:
    async with joined(seed=seed, ways=both_ways, settings=NARROW) as both, trio.open_nursery() as nursery:
        if fault is not None:
            fault.apply(both)
        ending, other = both.sides[which], both.sides[1 - which]
        writers = Writers(nursery, size=3_000)
        opened = []
        for number, count in enumerate(crowds):
            opened.append(channel := ending.peer.open_channel(f"ours {number}"))
            writers.start(channel, count=count)
        theirs = other.peer.open_channel("theirs")
        both.offerer.peer.negotiation.enable_data()
        both.negotiate()
        await trio.sleep(moment)
        for channel in ending.channels.values():
            writers.start(channel, count=2)  # begin to send only after the end
        end(both, ending)
        await writers.over_within()
        assert_forgotten(ending.mux)
        assert {channel.state for channel in opened} == {ChannelState.CLOSED}
        known = {channel.label for channel in opened} | set(ending.channels)
        assert sorted(ending.ended) == sorted(known)
        other.peer.close("never told")
        assert theirs.state is ChannelState.CLOSED


@some(4)
@given(seed=seeds, crowds=crowds)
@virtual_time
async def test_p3_closing_a_channel_releases_its_writers_and_no_others(*, seed: int, crowds: list[int]) -> None:
    async with joined(seed=seed, settings=NARROW) as both, trio.open_nursery() as nursery:
        await both.connect()
        opened = [(await both.channel(f"ours {number}"))[0] for number in range(len(crowds))]
        both.darken()
        writers = [Writers(nursery, size=3_000) for _ in crowds]
        for mine, channel, count in zip(writers, opened, crowds, strict=True):
            mine.start(channel, count=count)
        await trio.sleep(1)
        assert [mine.left for mine in writers] == crowds
        for number, channel in enumerate(opened):
            channel.close()
            await writers[number].over_within()
            assert [mine.left for mine in writers] == [0] * (number + 1) + crowds[number + 1 :]
