"""P8: streams are independent: what happens on one neither parks a writer on another nor keeps another from opening."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.virtual import joined, virtual_time
from tests.support.ways import seeds, some
from tests.support.writers import Writers, settled_within
from triosfu.peer import PeerSettings

NARROW = PeerSettings(high_water=5_000)
crowds = st.lists(st.sampled_from([1, 2, 30]), min_size=1, max_size=5)


@some(4)
@given(
    seed=seeds,
    crowds=crowds,
    size=st.sampled_from([10, 3_000, 60_000]),
    dark=st.sampled_from([(), (0,), (1,), (0, 1)]),
    room=st.sampled_from([0, 1, 1190, 1 << 20]),
    waits=st.floats(0, 3),
)
@virtual_time
async def test_p8_a_writer_with_room_on_its_own_channel_is_never_parked(
    *, seed: int, crowds: list[int], size: int, dark: tuple[int, ...], room: int, waits: float
) -> None:
    async with joined(seed=seed, settings=NARROW) as both, trio.open_nursery() as nursery:
        await both.connect()
        ours, _ = await both.channel("ours")
        others = [(await both.channel(f"other {number}"))[0] for number in range(len(crowds))]
        inbound = both.answerer.peer._data._association._connection.inbound
        assert inbound is not None
        inbound._buffer = room
        both.out.rate = 10_000.0
        for direction in dark:
            both.ways[direction].dark = (trio.current_time(), 1e9)
        writers = Writers(nursery, size=size)
        for channel, count in zip(others, crowds, strict=True):
            writers.start(channel, count=count)
        await trio.sleep(waits)
        sent = 0

        async def write() -> None:
            nonlocal sent
            while ours.buffered < NARROW.high_water:
                await ours.send(bytes(1_000))
                sent += 1

        nursery.start_soon(write)
        passes = await settled_within(lambda: ours.buffered >= NARROW.high_water)
        assert sent >= 4
        assert passes <= 2 * sent + 2
        both.offerer.peer.close("enough")
        await writers.over_within()


@some(4)
@given(
    seed=seeds,
    opener=st.integers(0, 1),
    later=st.lists(st.tuples(st.sampled_from([0.0, 0.001, 0.03]), st.integers(0, 1)), min_size=1, max_size=5),
)
@virtual_time
async def test_p8_half_an_open_keeps_no_other_channel_from_opening(
    *, seed: int, opener: int, later: list[tuple[float, int]]
) -> None:
    """One label needs three packets, the second of which never arrives.

    The others are opened before that one fills the congestion window with itself, which is another matter.
    """
    async with joined(seed=seed) as both:
        await both.connect()
        await both.channel("first")
        for way in both.ways:
            way.swallow = lambda datagram: b"MIDDLE" in datagram.packet
        half = "x" * 1500 + "MIDDLE" + "x" * 1500
        both.sides[opener].peer.open_channel(half)
        for number, (seconds, which) in enumerate(later):
            await trio.sleep(seconds)
            near, far = both.sides[which], both.sides[1 - which]
            began = trio.current_time()
            channel = near.peer.open_channel(f"later {number}")
            await near.opened(channel.label)
            await far.opened(channel.label)
            assert trio.current_time() - began < 0.05
        assert half not in both.sides[1 - opener].channels
