"""P14: where the path works the peer learns of the end within a round trip; where it does not, close waits for nothing.

Two goodbyes leave, the ABORT of SCTP and the close_notify of DTLS. Either is enough.
"""

from __future__ import annotations

import errno
import math

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.endings import NARROW, end, nothing_waits, occupy
from tests.support.virtual import Kind, Way, joined, virtual_time
from tests.support.ways import errnos, seeds, some
from triosfu.peer import ChannelState, PeerState

RATE = 20_000.0  # bytes a second that the path takes; what the writers send is not what this is about
latencies = st.floats(0.0, 1.0)
hows = st.sampled_from(["close", "twice", "scope"])


@some(6)
@given(
    seed=seeds,
    latency=st.tuples(latencies, latencies),
    closing=st.integers(0, 1),
    how=hows,
    channels=st.integers(0, 3),
    after=st.floats(0.0, 2.0),
)
@virtual_time
async def test_p14_the_peer_knows_within_a_round_trip(
    *, seed: int, latency: tuple[float, float], closing: int, how: str, channels: int, after: float
) -> None:
    """Busy or idle, whichever side it is: not a packet later than the path takes."""
    ways = (Way(latency=latency[0], rate=RATE), Way(latency=latency[1], rate=RATE))
    async with joined(ways=ways, seed=seed, settings=NARROW) as both, trio.open_nursery() as nursery:
        await both.connect()
        writers = [occupy(side, nursery, channels=channels) for side in both.sides]
        await trio.sleep(after)
        side, other = both.sides[closing], both.sides[1 - closing]
        queued = max(0.0, ways[closing].busy_until - trio.current_time())  # ahead of it, in the network
        await end(both, side, how)
        with trio.fail_after(queued + latency[closing] + 0.01):
            await other.until(lambda other: other.peer.closed)
        assert other.states.count(PeerState.CLOSED) == 1
        await nothing_waits(*writers)


@pytest.mark.parametrize("lost", [Kind.ABORT, Kind.CLOSE_NOTIFY])
@pytest.mark.parametrize("closing", [0, 1])
@virtual_time
async def test_p14_one_goodbye_is_enough(lost: Kind, closing: int) -> None:
    """The other is lost; all channels are over then, which is what the peer's users see."""
    async with joined(settings=NARROW) as both:
        await both.connect()
        channels = await both.channel()
        side, other = both.sides[closing], both.sides[1 - closing]
        both.network.lose(lost, 1, both.ways)
        await end(both, side, "close")
        await trio.sleep(0.021)
        assert channels[1 - closing].state is ChannelState.CLOSED
        assert other.ended == ["chat"]


@some(6)
@given(
    seed=seeds,
    closing=st.integers(0, 1),
    how=hows,
    obstacle=st.sampled_from(["dark", "unwritable"]),
    number=st.one_of(errnos, st.just(errno.EAGAIN)),
    after=st.floats(0.0, 2.0),
)
@virtual_time
async def test_p14_a_goodbye_that_cannot_be_sent_delays_nothing(
    *, seed: int, closing: int, how: str, obstacle: str, number: int, after: float
) -> None:
    ways = (Way(rate=RATE), Way(rate=RATE))
    async with joined(ways=ways, seed=seed, settings=NARROW) as both, trio.open_nursery() as nursery:
        await both.connect()
        writers = [occupy(side, nursery) for side in both.sides]
        await trio.sleep(after)
        for way in both.ways:
            way.errno = number
            setattr(way, obstacle, (trio.current_time(), math.inf))
        await end(both, both.sides[closing], how)  # takes no time
        await nothing_waits(writers[closing])
        assert not both.sides[1 - closing].peer.closed
        nursery.cancel_scope.cancel()
