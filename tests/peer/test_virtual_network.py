"""The virtual network itself: the same run each time, every kind of datagram known, and each fault at work."""

from __future__ import annotations

import errno
import math

import trio

from tests.support.side import tables
from tests.support.virtual import Datagram, Joined, Kind, Way, joined, kinds, virtual_time
from triosfu.peer import PeerState

ONE_ROUTE = {"routes": 1, "ufrags": 1, "prefixes": 1, "tuples": 1, "bound streams": 0}


def trace(both: Joined) -> list[tuple[float, int, frozenset[Kind]]]:
    """Everything that is sent from now on: when, which way, what."""
    seen: list[tuple[float, int, frozenset[Kind]]] = []
    for direction, way in enumerate(both.ways):

        def swallow(datagram: Datagram, direction: int = direction) -> bool:
            seen.append((datagram.at, direction, datagram.kinds))
            return False

        way.swallow = swallow
    return seen


async def conversation(seed: int) -> list[tuple[float, int, frozenset[Kind]]]:
    """Two messages each way on two channels of which one closes, over a bad network."""
    ways = (Way(loss=0.1, jitter=0.05), Way(duplicate=0.2, jitter=0.05))
    async with joined(seed=seed, ways=ways) as both:
        seen = trace(both)
        await both.connect()
        ours, theirs = await both.channel()
        lossy = both.offerer.peer.open_channel("lossy", max_retransmits=0)
        await both.answerer.opened("lossy")
        for _ in range(2):
            await ours.send(bytes(20_000))
            await theirs.send(bytes(20_000))
            await lossy.send(bytes(20_000))
        lossy.close()
        await trio.sleep(100)
        assert len(both.offerer.messages) == 2
    return seen


def test_the_same_seed_is_the_same_run() -> None:
    runs: list[list[tuple[float, int, frozenset[Kind]]]] = []

    @virtual_time
    async def run(seed: int) -> None:
        runs.append(await conversation(seed))

    for seed in (1, 2, 1, 2):
        run(seed)
    assert runs[:2] == runs[2:]
    assert runs[0] != runs[1]


def test_every_kind_is_recognised() -> None:
    met: set[Kind] = set()

    @virtual_time
    async def run() -> None:
        for _, _, found in await conversation(1):
            met.update(found)
        async with joined() as both:
            track = both.offerer.publish()
            seen = trace(both)
            await both.connect()
            await both.channel()
            both.offerer.send_rtp(track, 1, b"frame")
            both.answerer.peer._data.shutdown(trio.current_time())
            both.answerer.peer.drain_soon()
            await trio.sleep(1)
            for _, _, found in seen:
                met.update(found)

    run()
    assert met == set(Kind)


@virtual_time
async def test_both_ends_connect_in_virtual_time() -> None:
    async with joined() as both:
        await both.connect()
        ours, _ = await both.channel()
        await ours.send(b"there")
        await both.answerer.until(lambda side: side.messages == [("chat", b"there", True)])
        assert trio.current_time() < 0.5
        for side in both.sides:
            assert side.states == [PeerState.CONNECTING, PeerState.CONNECTED]
            assert tables(side.mux) == ONE_ROUTE


@virtual_time
async def test_the_kth_datagram_of_a_kind_is_lost_alone() -> None:
    async with joined() as both:
        await both.connect()
        ours, _ = await both.channel()
        sacks: list[float] = []

        def count(datagram: Datagram) -> bool:
            if Kind.SACK in datagram.kinds:
                sacks.append(datagram.at)
            return lose(datagram)

        both.network.lose(Kind.SACK, 1, (both.back,))
        assert both.back.swallow is not None
        lose, both.back.swallow = both.back.swallow, count
        await ours.send(b"x")
        await trio.sleep(5)
        assert len(sacks) == 2  # the second answers the retransmission
        assert not ours.buffered


@virtual_time
async def test_behind_the_kth_datagram_of_a_kind_is_darkness() -> None:
    async with joined() as both:
        await both.connect()
        both.network.darken_behind(Kind.OPEN, 1, both.ways, both.ways)
        both.offerer.peer.open_channel("chat")
        await both.answerer.opened("chat")
        await trio.sleep(2)
        assert "chat" not in both.offerer.channels
        assert both.out.dark[1] == math.inf


@virtual_time
async def test_a_script_says_what_becomes_of_each_datagram() -> None:
    ways = (Way(script=[(), (0.0, 0.5), (0.25,)]), Way(dark=(0, math.inf)))
    async with joined(ways=ways) as both:
        near, far = both.offerer.mux, both.answerer.mux
        (destination,) = far.local_addresses
        for _ in range(4):
            near.egress.send(b"\x80 and nobody knows it", near.egress.destination(destination))
        arrivals = []
        for at in (0.0, 0.01, 0.26, 0.51):
            await trio.sleep(at + 0.001 - trio.current_time())
            arrivals.append(far.counters["datagrams"])
        assert arrivals == [0, 2, 3, 4]
        assert kinds(b"\x80 and nobody knows it") == {Kind.RTP}


@virtual_time
async def test_sockets_fail_as_told() -> None:
    errors = (Way(unwritable=(0, 1), errno=errno.EPERM), Way(unreadable=(0, 1), errno=errno.ECONNREFUSED))
    async with joined(ways=errors) as both:
        await both.connect()
        assert trio.current_time() > 1
        assert both.offerer.mux.counters["send_eperm"] > 0
        assert both.offerer.mux.counters["receive_error"] > 0


@virtual_time
async def test_a_slow_way_takes_its_time() -> None:
    async with joined(ways=(Way(rate=10_000), Way())) as both:
        await both.connect()
        ours, _ = await both.channel()
        began = trio.current_time()
        await ours.send(bytes(20_000))
        await both.answerer.until(lambda side: bool(side.messages))
        assert 2 < trio.current_time() - began < 4
