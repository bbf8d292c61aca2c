"""P4: the death of the association releases every parked writer at that moment, whatever it died of."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import trio
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.virtual import Datagram, Joined, Kind, joined, virtual_time, watching
from tests.support.ways import errnos, seeds, some
from tests.support.writers import PASSES, Writers
from triosfu.datachannel.core import DataChannels
from triosfu.peer import PeerSettings
from triosfu.sctp.core import Association, State

if TYPE_CHECKING:
    from collections.abc import Callable

NARROW = PeerSettings(high_water=5_000)
D_ABORT = 33.5
D_ICE = 15.0 + 4.0  # silence after which ICE fails, and a keepalive's time
D_SHUTDOWN = 15.0 + 0.5  # in which what is queued drains, or is given up
SOON = 3.0  # for what the peer says, on a slow way and told again once


class Life:
    """Watches the offerer's association, and that its writers are gone when it is."""

    def __init__(self, both: Joined, writers: Writers) -> None:
        self._peer = both.offerer.peer
        self._half = self.association._connection.outbound  # a restart begins another one
        self._writers = writers
        self._passes = 0
        self.died: float | None = None

    @property
    def association(self) -> Association:
        return self._peer._data._association

    @property
    def over(self) -> bool:
        state, half = self.association.state, self.association._connection.outbound
        return self._peer.closed or state is not State.ESTABLISHED or half is not self._half

    def look(self, resting: bool) -> None:
        if self.died is None:
            if not self.over:
                return
            self.died = trio.current_time()
        self._passes += 1
        if self._writers.left:
            assert trio.current_time() == self.died
            assert self._passes <= PASSES
            assert not resting


def abort(both: Joined, _errno: int) -> float:
    both.answerer.peer._data.abort("enough", trio.current_time())
    both.answerer.peer.drain_soon()
    return SOON


def shutdown(both: Joined, _errno: int) -> float:
    both.answerer.peer._data.shutdown(trio.current_time())
    both.answerer.peer.drain_soon()
    return SOON


def restart(both: Joined, _errno: int) -> float:
    """The peer's SCTP begins anew over the same DTLS."""
    peer, now = both.answerer.peer, trio.current_time()
    peer._data = DataChannels(Association(now=now, rng=Random(3)), dtls_client=True)
    peer._data.connect(now)
    peer.drain_soon()
    return SOON


def close_notify(both: Joined, _errno: int) -> float:
    """A goodbye of DTLS alone."""
    dtls = both.answerer.peer._transport._dtls
    assert dtls is not None
    dtls.close("enough")
    both.answerer.peer._transport.flush()
    return SOON


def close(both: Joined, _errno: int) -> float:
    both.answerer.peer.close("enough")
    return SOON


def silence(both: Joined, _errno: int) -> float:
    both.darken()
    return D_ABORT


def deafness(both: Joined, _errno: int) -> float:
    both.back.dark = (trio.current_time(), 1e9)
    return D_ABORT


def dumbness(both: Joined, _errno: int) -> float:
    both.out.dark = (trio.current_time(), 1e9)
    return D_ABORT


def read_errors(both: Joined, errno: int) -> float:
    both.back.errno = errno
    both.back.unreadable = (trio.current_time(), 1e9)
    return D_ABORT


def write_errors(both: Joined, errno: int) -> float:
    both.out.errno = errno
    both.out.unwritable = (trio.current_time(), 1e9)
    return D_ABORT


def no_data(both: Joined, _errno: int) -> float:
    """ICE goes on, and nothing else comes back: it is for the error counter to notice."""
    both.back.swallow = lambda datagram: not datagram.kinds & {Kind.STUN_REQUEST, Kind.STUN_RESPONSE}
    return D_ABORT


def _lose_stun(both: Joined, lost: frozenset[Kind]) -> None:
    def swallow(datagram: Datagram) -> bool:
        return bool(datagram.kinds & lost)

    for way in both.ways:
        way.swallow = swallow


def ice_failure(both: Joined, _errno: int) -> float:
    """Data flows, and no check gets through."""
    _lose_stun(both, frozenset({Kind.STUN_REQUEST, Kind.STUN_RESPONSE}))
    return D_ICE + D_ABORT


def consent_loss(both: Joined, _errno: int) -> float:
    """Checks are heard, but none is answered."""
    _lose_stun(both, frozenset({Kind.STUN_RESPONSE}))
    return 31.0 + D_ABORT


def handler_closes_at_ice_failure(both: Joined, errno: int) -> float:
    ice_failure(both, errno)
    both.offerer.on_news = lambda: both.offerer.peer.close("as a server may")
    return D_ICE


CAUSES = [
    abort,
    shutdown,
    restart,
    close_notify,
    close,
    silence,
    deafness,
    dumbness,
    read_errors,
    write_errors,
    no_data,
    ice_failure,
    consent_loss,
    handler_closes_at_ice_failure,
]


def with_each_cause(test: Callable[..., None]) -> Callable[..., None]:
    """Have every cause among the examples."""
    for cause in CAUSES:
        test = example(cause=cause, seed=1, errno=101, crowds=[3, 120], latency=0.01, after=0.2)(test)
    return test


@some(5)
@with_each_cause
@given(
    cause=st.sampled_from(CAUSES),
    seed=seeds,
    errno=errnos,
    crowds=st.lists(st.sampled_from([1, 2, 3, 120]), min_size=1, max_size=4),
    latency=st.sampled_from([0.0, 0.01, 0.2]),
    after=st.floats(0, 0.5),
)
@virtual_time
async def test_p4_no_writer_outlives_the_association(
    *,
    cause: Callable[[Joined, int], float],
    seed: int,
    errno: int,
    crowds: list[int],
    latency: float,
    after: float,
) -> None:
    async with joined(seed=seed, settings=NARROW) as both, trio.open_nursery() as nursery:
        await both.connect()
        writers = Writers(nursery, size=3_000)
        opened = [(await both.channel(f"ours {number}"))[0] for number in range(len(crowds))]
        for way in both.ways:
            way.latency, way.rate = latency, 5_000.0  # so slow that writers park, and that little is computed
        life = Life(both, writers)
        with watching(life.look):
            for channel, count in zip(opened, crowds, strict=True):
                writers.start(channel, count=count)
            await trio.sleep(after)
            assert writers.left == sum(crowds)
            bound = cause(both, errno)
            began = trio.current_time()
            await trio.sleep(bound + 1.0)
            assert life.died is not None
            assert life.died - began <= bound
        assert not writers.left
        await both.offerer.until(lambda side: len(side.ended) == len(opened), within=D_SHUTDOWN)
        assert sorted(both.offerer.ended) == sorted(channel.label for channel in opened)
