"""Peer connections in each state that they can be in, the ways to end them, and what must be true at once then."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.side import assert_forgotten
from tests.support.virtual import Kind
from tests.support.writers import Writers, settled_within
from triosfu.dtls import core as dtls
from triosfu.ice.core import IceState
from triosfu.peer import PeerSettings, PeerState
from triosfu.sctp.state import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.side import Side
    from tests.support.virtual import Datagram, Joined

NARROW = PeerSettings(high_water=5_000, hard_limit=60_000)
HOWS = ("close", "twice", "scope", "callback")


def association(side: Side) -> State:
    """The state of a side's association."""
    return side.peer._data._association.state


def occupy(side: Side, nursery: trio.Nursery, *, channels: int = 2, writers: int = 3) -> Writers:
    """Channels that are asked for, open or not, and writers that send on them without end."""
    writing = Writers(nursery)
    for _ in range(channels):
        number = len(side.ended) + len(side.peer._channels)  # so that no two have the same label
        writing.start(side.peer.open_channel(f"{side.peer.name} {number}"), count=writers)
    return writing


# --- to each state: the offerer is the one that is in it -------------------------------------------------------------


async def is_new(both: Joined) -> None:
    assert both.offerer.peer.state is PeerState.NEW


async def has_offered(both: Joined) -> None:
    """Its own description waits for an answer, which never comes."""
    both.offerer.peer.negotiation.enable_data()
    both.offerer.peer.create_offer()


async def is_checking(both: Joined) -> None:
    both.darken()
    _negotiate(both)
    await trio.sleep(0.5)
    assert both.offerer.peer._transport.ice.state is IceState.CHECKING


async def is_handshaking(both: Joined) -> None:
    _swallow(both, Kind.SERVER_HELLO, Kind.CLIENT_FINISHED)
    _negotiate(both)
    await trio.sleep(0.5)
    handshake = both.offerer.peer._transport._dtls
    assert handshake is not None
    assert handshake.state is dtls.State.HANDSHAKING


async def waits_for_a_cookie(both: Joined) -> None:
    _swallow(both, Kind.INIT)
    _negotiate(both)
    await trio.sleep(0.5)
    assert association(both.offerer) is State.COOKIE_WAIT


async def has_echoed_a_cookie(both: Joined) -> None:
    _swallow(both, Kind.COOKIE_ECHO)
    _negotiate(both)
    await trio.sleep(0.5)
    assert association(both.offerer) is State.COOKIE_ECHOED


async def is_established(both: Joined) -> None:
    await both.connect()
    await trio.sleep(0.2)
    assert association(both.offerer) is State.ESTABLISHED


async def restarts_ice(both: Joined) -> None:
    """A second description is pending, over a connection that works."""
    await is_established(both)
    both.answerer.peer.accept_offer(both.offerer.peer.create_offer(ice_restart=True))


async def has_shut_down_with_data_left(both: Joined) -> None:
    await _silent_and_full(both)
    _shut_down(both.offerer)
    assert association(both.offerer) is State.SHUTDOWN_PENDING


async def has_shut_down(both: Joined) -> None:
    await is_established(both)
    await wait_until_sent(both)
    both.darken()
    _shut_down(both.offerer)
    await trio.sleep(0.1)
    assert association(both.offerer) is State.SHUTDOWN_SENT


async def was_shut_down_with_data_left(both: Joined) -> None:
    await _silent_and_full(both)
    _shut_down(both.answerer)
    await trio.sleep(0.1)
    assert association(both.offerer) is State.SHUTDOWN_RECEIVED


async def was_shut_down(both: Joined) -> None:
    await is_established(both)
    await wait_until_sent(both)
    both.out.dark = (trio.current_time(), float("inf"))
    _shut_down(both.answerer)
    await trio.sleep(0.1)
    assert association(both.offerer) is State.SHUTDOWN_ACK_SENT


async def has_failed(both: Joined) -> None:
    await is_established(both)
    both.darken()
    await both.offerer.until(lambda side: side.peer.state is PeerState.FAILED, within=40.0)


MOMENTS: dict[str, Callable[[Joined], Awaitable[None]]] = {
    reach.__name__: reach
    for reach in (
        is_new,
        has_offered,
        is_checking,
        is_handshaking,
        waits_for_a_cookie,
        has_echoed_a_cookie,
        is_established,
        restarts_ice,
        has_shut_down_with_data_left,
        has_shut_down,
        was_shut_down_with_data_left,
        was_shut_down,
        has_failed,
    )
}
WITHOUT_WRITERS = {"has_shut_down", "was_shut_down"}  # nothing may be outstanding in these


async def wait_until_sent(both: Joined) -> None:
    """Wait until neither side has anything outstanding."""
    with trio.fail_after(20):
        while any(side.peer._data._association.total_buffered for side in both.sides):  # noqa: ASYNC110  virtual time
            await trio.sleep(0.1)


def _negotiate(both: Joined) -> None:
    both.offerer.peer.negotiation.enable_data()
    both.negotiate()


def _swallow(both: Joined, *kinds: Kind) -> None:
    def swallow(datagram: Datagram) -> bool:
        return not datagram.kinds.isdisjoint(kinds)

    for way in both.ways:
        way.swallow = swallow


async def _silent_and_full(both: Joined) -> None:
    """The offerer has data that is not acknowledged, and is not heard; it still hears."""
    await both.connect()
    ours, _ = await both.channel("full")
    both.out.dark = (trio.current_time(), float("inf"))
    ours.send_nowait(bytes(20_000))


def _shut_down(side: Side) -> None:
    side.peer._data._association.shutdown(trio.current_time())
    side.peer.drain_soon()


# --- to end, and what is true then -----------------------------------------------------------------------------------


async def end(both: Joined, side: Side, how: str) -> None:
    """End one side. It takes no time, whatever state it is in, and once is enough."""
    peer, began = side.peer, trio.current_time()
    match how:
        case "scope":
            both.scopes[side].cancel()
            await settled_within(lambda: peer.closed)
        case "callback":
            side.on_news = lambda: peer.close("from a callback")
            side.peer.drain_soon()
            peer.close("nobody calls back")  # its callbacks close it again
        case _:
            peer.close("enough")
    if how == "twice":
        peer.close("enough, again")
    assert peer.closed
    assert_forgotten(side.mux)
    await settled_within(lambda: both.running <= sum(not one.peer.closed for one in both.sides))
    assert trio.current_time() == began
    assert side.states.count(PeerState.CLOSED) == 1
    assert side.states[-1] is PeerState.CLOSED
    assert side.reasons[-1]
    told = (len(side.states), len(side.ended))
    peer.close("much too late")
    assert (len(side.states), len(side.ended)) == told
    assert not Counter(side.ended) - Counter(dict.fromkeys(side.ended, 1)), "a channel ended twice"


async def nothing_waits(*writers: Writers) -> None:
    """Every writer is gone, at once."""
    for writing in writers:
        await writing.over_within()
    await wait_all_tasks_blocked()
