"""Closing: from any side, in any state, from anywhere, and nothing is left: neither a writer nor a routing entry."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.side import LIMIT, Pair, Side, assert_forgotten, pair
from tests.support.writers import PASSES, Writers
from triosfu.errors import PeerGone, UsageError
from triosfu.net.udp import UdpMux
from triosfu.peer import ChannelState, DataChannel, PeerSettings, PeerState

NARROW = PeerSettings(high_water=5_000)


@pytest.fixture
def patient_clock() -> MockClock:
    """Virtual time that jumps once loopback has nothing more to deliver."""
    return MockClock(autojump_threshold=0.02)


def black_hole(both: Pair) -> None:
    """The answerer gets nothing any more, and says nothing: its process has been killed."""
    both.answerer.mux.remove(both.answerer.peer._transport)
    both.answerer.mux.egress.close()


async def parked(both: Pair, nursery: trio.Nursery) -> tuple[Writers, list[DataChannel]]:
    """Two hundred writers that wait: a hundred on one channel, the others on twenty."""
    await both.connect()
    channels = [(await both.channel(f"channel {number}"))[0] for number in range(21)]
    black_hole(both)
    writers = Writers(nursery)
    for channel in [channels[0]] * 100 + channels[1:] * 5:
        writers.start(channel)
    await wait_all_tasks_blocked()
    assert all(channel.buffered >= NARROW.high_water for channel in channels)
    assert not writers.reasons
    return writers, channels


async def test_close_wakes_every_parked_writer_at_once() -> None:
    async with pair(settings=NARROW) as both, trio.open_nursery() as nursery:
        writers, channels = await parked(both, nursery)
        assert both.offerer.peer.parked == writers.left == 200
        before = trio.current_time()
        both.offerer.peer.close("enough")
        assert both.offerer.peer.parked == 0
        assert {channel.state for channel in channels} == {ChannelState.CLOSED}
        await writers.over_within(PASSES)
        assert trio.current_time() - before < 1
        assert set(writers.reasons) == {"enough"}
        assert sorted(both.offerer.ended) == sorted(channel.label for channel in channels)


async def test_cancelling_run_wakes_every_parked_writer() -> None:
    async with pair(settings=NARROW) as both, trio.open_nursery() as nursery:
        writers, _ = await parked(both, nursery)
        both.scopes[both.offerer].cancel()
        await writers.over_within(PASSES)
        assert both.offerer.reasons[-1] == "cancelled"
        assert_forgotten(both.offerer.mux)


async def test_closing_one_channel_wakes_its_writers_and_no_others() -> None:
    async with pair(settings=NARROW) as both, trio.open_nursery() as nursery:
        writers, channels = await parked(both, nursery)
        channels[0].close()
        for _ in range(PASSES):
            await trio.lowlevel.checkpoint()
        assert len(writers.reasons) == 100
        assert channels[0].state is ChannelState.CLOSING
        assert not channels[0].send_nowait(b"late")
        with pytest.raises(PeerGone):
            await channels[0].send(b"late")
        channels[0].close()
        both.offerer.peer.close("enough")
        await writers.over_within(PASSES)
        assert both.offerer.ended.count("channel 0") == 1


async def test_a_vanished_peer_is_noticed_and_releases_writers_though_nobody_closes(patient_clock: MockClock) -> None:
    async with pair(settings=NARROW) as both, trio.open_nursery() as nursery:
        writers, _ = await parked(both, nursery)
        vanished = trio.current_time()
        await both.offerer.until(lambda side: side.peer.state is PeerState.DISCONNECTED)
        assert trio.current_time() - vanished < 8
        await both.offerer.until(lambda side: side.peer.state is PeerState.FAILED, within=60)
        assert 12 < trio.current_time() - vanished < 18
        await both.offerer.until(lambda side: len(side.ended) == 21, within=60)
        assert trio.current_time() - vanished < 33.5  # D_abort
        await writers.over_within(PASSES)
        both.offerer.peer.close("enough")


async def test_the_peers_close_wakes_writers_and_ends_the_connection() -> None:
    async with pair(settings=NARROW) as both, trio.open_nursery() as nursery:
        await both.connect()
        ours, _ = await both.channel()
        writers = Writers(nursery)
        for _ in range(50):
            writers.start(ours)
        await both.answerer.until(lambda side: len(side.messages) > 20)
        both.answerer.peer.close("bye")
        await both.offerer.until(lambda side: side.peer.closed)
        await writers.over_within(PASSES)
        await both.ended()
        assert both.offerer.states[-1] is PeerState.CLOSED
        assert both.offerer.ended == both.answerer.ended == ["chat"]


async def test_a_cancelled_writer_has_sent_nothing_and_hands_its_turn_on() -> None:
    async with pair(settings=NARROW) as both, trio.open_nursery() as nursery:
        await both.connect()
        ours, _ = await both.channel()
        done: list[int] = []
        scopes = [trio.CancelScope() for _ in range(4)]

        async def write(number: int) -> None:
            with scopes[number]:
                await ours.send(b"%d" % number)
                done.append(number)

        for _ in range(10):
            assert ours.send_nowait(bytes(250_000))  # more than can be acknowledged before the writers are cancelled
        for number in range(4):
            nursery.start_soon(write, number)
            await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert ours.buffered > NARROW.high_water
        scopes[0].cancel()  # has the turn
        scopes[2].cancel()  # is in the line
        await both.answerer.until(lambda side: len(side.messages) == 12)
        assert [data for _, data, _ in both.answerer.messages[10:]] == [b"1", b"3"]
        assert done == [1, 3]


async def test_messages_of_one_channel_leave_in_the_order_of_their_writers() -> None:
    async with pair(settings=NARROW) as both, trio.open_nursery() as nursery:
        await both.connect()
        ours, _ = await both.channel()
        for number in range(30):
            nursery.start_soon(ours.send, bytes([number]) * 3_000)
            await trio.lowlevel.checkpoint()
        await both.answerer.until(lambda side: len(side.messages) == 30)
        assert [data[0] for _, data, _ in both.answerer.messages] == list(range(30))


@pytest.mark.parametrize("closing", ["offerer", "answerer", "both"])
async def test_close_at_every_pass_of_connecting(closing: str) -> None:
    """Before ICE, in its checks, in the handshake, while channels open: a step of the loop later each time."""
    connected = False
    passes = 0
    async with UdpMux.open(["127.0.0.1"], 0) as near, UdpMux.open(["127.0.0.1"], 0) as far:
        while not connected:
            passes += 1
            async with trio.open_nursery() as nursery:
                both = Pair(Side("offerer", near, offerer=True), Side("answerer", far, offerer=False), nursery)
                channel = both.offerer.peer.open_channel("chat")
                writers = Writers(nursery)
                writers.start(channel)
                both.offerer.peer.negotiation.enable_data()
                both.negotiate()
                for _ in range(passes):
                    await trio.lowlevel.checkpoint()
                connected = all(side.messages or "chat" in side.channels for side in both.sides)
                for side in (both.offerer, both.answerer):
                    if closing in {"both", side.peer.name}:
                        side.peer.close("enough")
                with trio.fail_after(LIMIT):
                    if closing == "answerer" and not both.offerer.peer.closed:
                        both.offerer.peer.close("never told")
                    both.answerer.peer.close("never told")
                    while both.running or not writers.reasons:
                        await trio.lowlevel.checkpoint()
                assert both.offerer.ended == ["chat"]
            assert_forgotten(near)
            assert_forgotten(far)
    assert passes > 5


async def test_close_in_each_state() -> None:
    async with UdpMux.open(["127.0.0.1"], 0) as mux:
        new = Side("new", mux, offerer=True)
        new.peer.close("new")
        assert new.states == [PeerState.CLOSED]
        assert new.reasons == ["new"]
        assert_forgotten(mux)
        await new.peer.run()  # returns
        with pytest.raises(UsageError):
            new.peer.open_channel("late")
        new.peer.close("again")
        assert new.reasons == ["new"]
    for state in (PeerState.CONNECTING, PeerState.CONNECTED, PeerState.DISCONNECTED, PeerState.FAILED):
        async with pair() as both:
            both.offerer.peer.negotiation.enable_data()
            both.negotiate()
            if state is not PeerState.CONNECTING:
                await both.offerer.connected()
                ice = both.offerer.peer._transport.ice
                silence = {PeerState.CONNECTED: 0.0, PeerState.DISCONNECTED: 6.0, PeerState.FAILED: 60.0}[state]
                ice.handle_timeout(trio.current_time() + silence)
                both.offerer.peer.drain_soon()
            assert both.offerer.peer.state is state
            both.offerer.peer.close("enough")
            assert both.offerer.states[-1] is PeerState.CLOSED
            assert_forgotten(both.offerer.mux)


async def test_descriptions_after_the_end_change_nothing() -> None:
    async with pair() as both:
        await both.connect()
        offer = both.offerer.peer.create_offer(ice_restart=True)
        both.answerer.peer.close("enough")
        told = len(both.answerer.states), len(both.answerer.tracks)
        both.answerer.peer.accept_offer(offer)
        assert both.answerer.peer.create_answer()
        assert (len(both.answerer.states), len(both.answerer.tracks)) == told
        assert_forgotten(both.answerer.mux)


@pytest.mark.parametrize("closing", [0, 1])
async def test_close_from_within_every_callback(closing: int) -> None:
    """The nth callback closes its own connection, for each n of a conversation with data and media."""
    number = told = 1
    while told >= number:
        async with pair() as both:
            side = both.sides[closing]
            told = 0

            def news(side: Side = side, number: int = number) -> None:
                nonlocal told
                told += 1
                if told == number:
                    side.peer.close("from a callback")
                    side.peer.close("twice")

            side.on_news = news
            track = both.offerer.publish()
            both.offerer.peer.negotiation.enable_data()
            both.offerer.peer.open_channel("chat")
            both.negotiate()
            with trio.fail_after(LIMIT):
                while not all(one.peer.closed for one in both.sides):
                    if both.offerer.peer.state is PeerState.CONNECTED:
                        both.offerer.send_rtp(track, 1, b"x")
                    for one in both.sides:
                        if (channel := one.channels.get("chat")) is not None:
                            channel.send_nowait(b"hello")
                    if not side.peer.closed and all(len(one.messages) > 1 for one in both.sides):
                        side.peer.close("that was the last callback")
                    if side.peer.closed:
                        both.sides[1 - closing].peer.close("its peer may never have known of it")
                    await trio.lowlevel.checkpoint()
            await both.ended()
            for one in both.sides:
                assert one.states.count(PeerState.CLOSED) == 1
                assert len(one.ended) == len(set(one.ended))
                assert set(one.channels) <= set(one.ended)
        number += 1
    assert number > 5


async def test_close_from_a_callback_voids_the_news_behind_it_in_the_same_batch() -> None:
    """Two checks come in one batch. The handler closes at the first; for the second nothing may be bound any more."""
    async with pair() as both:
        await both.connect()
        checking, silent = both.offerer.peer._transport, both.answerer.peer._transport
        now = trio.current_time()
        silent.ice.handle_timeout(now + 6)
        both.answerer.peer.drain_soon()
        assert both.answerer.peer.state is PeerState.DISCONNECTED
        checking.ice.handle_timeout(now + 4)
        (check,) = checking.ice.datagrams_to_send()
        both.answerer.on_news = lambda: both.answerer.peer.close("from a callback")
        for _ in range(2):
            silent.receive_stun(check.data, check.source, check.destination, now)
        silent.end_of_batch(now)
        assert both.answerer.states[-2:] == [PeerState.CONNECTED, PeerState.CLOSED]
        assert_forgotten(both.answerer.mux)


async def test_a_channel_that_the_peer_never_answers_is_closed_at_its_deadline(patient_clock: MockClock) -> None:
    async with pair() as both:
        await both.connect()
        black_hole(both)
        began = trio.current_time()
        channel = both.offerer.peer.open_channel("late")
        with pytest.raises(PeerGone):
            await channel.send(b"never")
        assert trio.current_time() - began == pytest.approx(10, abs=0.5)
        assert both.offerer.ended == ["late"]
        both.offerer.peer.close("enough")


async def test_a_channel_of_a_connection_that_nobody_negotiates_is_closed_at_its_deadline(
    autojump_clock: MockClock,
) -> None:
    async with UdpMux.open(["127.0.0.1"], 0) as mux, trio.open_nursery() as nursery:
        side = Side("alone", mux, offerer=True)
        nursery.start_soon(side.peer.run)
        channel = side.peer.open_channel("chat")
        began = trio.current_time()
        with pytest.raises(PeerGone):
            await channel.send(b"never")
        assert trio.current_time() - began == pytest.approx(10, abs=0.1)
        nursery.cancel_scope.cancel()


async def test_a_peer_that_never_comes_is_given_up(patient_clock: MockClock) -> None:
    async with pair() as both:
        black_hole(both)
        began = trio.current_time()
        both.offerer.peer.negotiation.enable_data()
        both.negotiate()
        await both.offerer.until(lambda side: side.peer.state is PeerState.FAILED, within=60)
        assert trio.current_time() - began == pytest.approx(30, abs=1)


async def test_a_bug_in_a_core_ends_its_own_connection_only() -> None:
    async with pair() as both:
        await both.connect()
        ours, _ = await both.channel()

        def broken(*_: object) -> None:
            raise IndexError("a bug")

        both.answerer.peer._transport.receive_dtls = broken  # type: ignore[method-assign, assignment]
        ours.send_nowait(b"x")
        await both.answerer.until(lambda side: side.peer.closed)
        assert both.answerer.reasons[-1] == "internal error: IndexError"
        assert_forgotten(both.answerer.mux)
        assert both.answerer.mux.counters["route_failed"] == 1
        await both.offerer.until(lambda side: side.peer.closed)  # told by close_notify


async def test_a_bug_that_another_connections_wish_brings_out_stays_where_it_is() -> None:
    async with pair() as both:
        both.offerer.publish()
        both.negotiate()
        for side in both.sides:
            await side.connected()

        def broken() -> list[bytes]:
            raise IndexError("a bug")

        both.answerer.peer.ingress.rtcp_to_send = broken  # type: ignore[method-assign]
        assert both.answerer.peer.ingress.wake is not None
        both.answerer.peer.ingress.wake()  # as from a subscriber's PLI
        assert both.answerer.reasons[-1] == "internal error: IndexError"
        assert_forgotten(both.answerer.mux)


async def test_a_bug_while_closing_still_takes_the_rest_apart() -> None:
    async with pair() as both:
        await both.connect()
        await both.channel()

        def broken(*_: object) -> None:
            raise IndexError("a bug")

        both.offerer.peer._data.abort = broken  # type: ignore[method-assign, assignment]
        both.offerer.peer.close("enough")
        assert both.offerer.states[-1] is PeerState.CLOSED
        assert both.offerer.ended == ["chat"]
        assert both.offerer.peer.counters["bugs"] == 1
        assert_forgotten(both.offerer.mux)
        await both.answerer.until(lambda side: side.peer.closed)
        await both.ended()
