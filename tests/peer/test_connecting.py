"""Two peer connections over loopback: descriptions, data and media both ways, restarts."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from tests.support.side import LIMIT, Side, pair, tables
from triosfu.errors import MalformedPacket, PeerError, UsageError
from triosfu.media.down_track import DownTrack
from triosfu.net.udp import UdpMux
from triosfu.peer import ChannelState, PeerSettings, PeerState
from triosfu.sdp.sections import Sender

ONE_ROUTE = {"routes": 1, "ufrags": 1, "prefixes": 1, "tuples": 1, "bound streams": 0}


@pytest.fixture
def patient_clock() -> trio.testing.MockClock:
    """Virtual time that jumps once loopback has nothing more to deliver."""
    return trio.testing.MockClock(autojump_threshold=0.02)


async def test_a_handshake_that_comes_before_the_answer_is_not_asked_for_again(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with pair() as both:
        both.offerer.peer.negotiation.enable_data()
        both.answerer.peer.accept_offer(both.offerer.peer.create_offer())
        answer = both.answerer.peer.create_answer()
        await trio.sleep(3.3)  # the client repeats its flight 0.1, 0.3, 0.7, 1.5, 3.1 and 6.3 seconds after the first
        both.offerer.peer.accept_answer(answer)
        with trio.fail_after(1):
            await both.offerer.connected()
            await both.answerer.connected()


async def test_the_settings_say_how_long_silence_may_last(patient_clock: trio.testing.MockClock) -> None:
    async with pair(settings=PeerSettings(disconnected_after=2, failed_after=4)) as both:
        await both.connect()
        both.answerer.mux.remove(both.answerer.peer._transport)
        both.answerer.mux.egress.close()
        began = trio.current_time()
        await both.offerer.until(lambda side: side.peer.state is PeerState.FAILED)
        assert 2 < trio.current_time() - began <= 4.5
        assert both.offerer.states[-2:] == [PeerState.DISCONNECTED, PeerState.FAILED]


@pytest.mark.parametrize("single", [False, True])
async def test_both_sides_connect_and_carry_data_both_ways(single: bool) -> None:
    async with pair(single=single) as both:
        await both.connect()
        ours, theirs = await both.channel()
        await ours.send(b"there", binary=True)
        await theirs.send("back, ä".encode(), binary=False)
        await both.answerer.until(lambda side: side.messages == [("chat", b"there", True)])
        await both.offerer.until(lambda side: side.messages == [("chat", "back, ä".encode(), False)])
        for side in both.sides:
            assert side.states == [PeerState.CONNECTING, PeerState.CONNECTED]
            assert tables(side.mux) == ONE_ROUTE
            assert 0 < side.peer.round_trip_time < 1


async def test_a_large_message_arrives_whole() -> None:
    async with pair() as both:
        await both.connect()
        ours, _ = await both.channel()
        message = bytes(range(256)) * 1000
        await ours.send(message)
        await both.answerer.until(lambda side: bool(side.messages))
        assert both.answerer.messages == [("chat", message, True)]


async def test_a_message_larger_than_the_peer_takes_is_refused_and_nothing_ends() -> None:
    async with pair(settings=PeerSettings(max_message_size=100_000)) as both:
        await both.connect()
        ours, _ = await both.channel()
        limit = both.offerer.peer._data.remote_max_message_size
        with pytest.raises(UsageError, match="a message of"):
            await ours.send(bytes(limit + 1))
        with pytest.raises(UsageError, match="a message of"):
            ours.send_nowait(bytes(limit + 1))
        assert ours.send_nowait(b"small")
        await both.answerer.until(lambda side: side.messages == [("chat", b"small", True)])


async def test_channels_may_be_opened_before_anything_is_negotiated() -> None:
    async with pair() as both:
        early = both.offerer.peer.open_channel("early")
        assert early.state is ChannelState.CONNECTING
        await both.connect()
        assert await both.offerer.opened("early") is early
        await both.answerer.opened("early")


async def test_a_section_for_data_may_come_after_the_transport_is_up() -> None:
    async with pair() as both:
        both.offerer.publish()
        both.negotiate()
        await both.offerer.connected()
        await both.answerer.connected()
        both.offerer.peer.negotiation.enable_data()
        both.negotiate()
        ours, _ = await both.channel()
        await ours.send(b"late")
        await both.answerer.until(lambda side: side.messages == [("chat", b"late", True)])


async def test_media_goes_from_one_client_through_the_server_to_another() -> None:
    async with pair() as publishing, pair() as subscribing:
        published = publishing.offerer.publish()
        publishing.negotiate()
        outgoing = Sender(kind="audio", track_id="TR_x", stream_id="PA_x|TR_x", ssrc=99, codecs=["audio/opus"])
        subscribing.offerer.peer.negotiation.add_sender(outgoing)
        subscribing.negotiate()
        for side in (*publishing.sides, *subscribing.sides):
            await side.connected()
        (track,) = publishing.answerer.tracks.values()
        server = subscribing.offerer.peer
        down = DownTrack(
            receiver=track.receiver,
            sink=server.sink,
            ssrc=outgoing.ssrc,
            rtx_ssrc=None,
            rng=server._transport._rng,
            now=trio.current_time(),
            cname="PA_x",
            mid=outgoing.mid or "",
        )
        down.bind(
            payload_types={codec.mime: codec.payload_type for codec in outgoing.negotiated},
            rtx_payload_types={},
            extension_ids=outgoing.extensions,
            now=trio.current_time(),
        )
        server.sender.add(down)
        for number in range(20):
            publishing.offerer.send_rtp(published, 65530 + number & 0xFFFF, b"frame %d" % number)
        (heard,) = subscribing.answerer.tracks.values()
        await subscribing.answerer.until(lambda _: len(heard.packets) == 20)
        assert [packet.payload for packet in heard.packets] == [b"frame %d" % number for number in range(20)]
        assert {packet.ssrc for packet in heard.packets} == {99}
        subscribing.offerer.peer.close("gone")
        assert down._forwarder not in track.receiver.subscribers
        assert len(track.receiver.subscribers) == 1  # the test's own


async def test_media_alone_arms_what_it_makes_due() -> None:
    async with pair() as both:
        published = both.offerer.publish()
        await both.connect()
        (track,) = both.answerer.tracks.values()
        peer = both.answerer.peer
        for count, sequence in enumerate((1, 2, 4), 1):  # each a batch of its own
            peer._alarm.deadline = peer._media_at = math.inf
            both.offerer.send_rtp(published, sequence, b"sound")
            with trio.fail_after(LIMIT):
                while len(track.packets) < count:
                    await trio.testing.wait_all_tasks_blocked(0.001)
            assert peer._alarm.deadline <= peer.ingress.next_timeout() < math.inf


async def test_media_goes_the_other_way_on_a_single_connection() -> None:
    async with pair(single=True) as both:
        up = both.offerer.publish()
        both.negotiate()
        for side in both.sides:
            await side.connected()
        both.offerer.send_rtp(up, 1, b"up")
        (track,) = both.answerer.tracks.values()
        await both.answerer.until(lambda _: [packet.payload for packet in track.packets] == [b"up"])


async def test_an_ice_restart_replaces_credentials_and_interrupts_nothing() -> None:
    async with pair() as both:
        await both.connect()
        ours, theirs = await both.channel()
        before = [side.peer._transport.ice.local for side in both.sides]
        both.negotiate(ice_restart=True)
        for side, old in zip(both.sides, before, strict=True):
            assert side.peer._transport.ice.local != old
        await ours.send(b"during")
        for side in both.sides:
            # Two ufrags while the old pair is in use, one again after.
            await until_selected(side)
            assert tables(side.mux) == ONE_ROUTE
            assert side.states == [PeerState.CONNECTING, PeerState.CONNECTED]
        await theirs.send(b"after")
        await both.answerer.until(lambda side: side.messages == [("chat", b"during", True)])
        await both.offerer.until(lambda side: side.messages == [("chat", b"after", True)])


async def until_selected(side: Side) -> None:
    """Until the restarted generation carries the connection."""
    ice = side.peer._transport.ice
    with trio.fail_after(LIMIT):
        while len(ice.local_ufrags()) > 1:
            await trio.testing.wait_all_tasks_blocked()


async def test_many_restarts_in_a_row_leave_nothing_behind() -> None:
    async with pair() as both:
        await both.connect()
        ours, _ = await both.channel()
        for _ in range(20):
            both.negotiate(ice_restart=True)
            for side in both.sides:
                assert tables(side.mux)["ufrags"] <= 2
        for side in both.sides:
            await until_selected(side)
            assert tables(side.mux) == ONE_ROUTE
            assert not side.peer.counters["candidates_dropped"]
        await ours.send(b"still here")
        await both.answerer.until(lambda side: bool(side.messages))


async def test_a_failed_connection_comes_back_by_an_ice_restart() -> None:
    async with pair() as both:
        await both.connect()
        ours, _ = await both.channel()
        for side in both.sides:
            ice = side.peer._transport.ice
            ice.handle_timeout(trio.current_time() + 60)  # as after a minute of silence
            side.peer.drain_soon()
            assert side.peer.state is PeerState.FAILED
        ours.send_nowait(b"into the void")  # queued, and not sent to an address without consent
        assert both.offerer.peer._transport.destination is None
        assert both.offerer.peer._transport._dtls is not None
        assert not both.offerer.peer._transport._dtls.datagrams_to_send()
        both.negotiate(ice_restart=True)
        for side in both.sides:
            await side.connected()
            assert side.states[-3:] == [PeerState.FAILED, PeerState.CONNECTING, PeerState.CONNECTED]
        await both.answerer.until(lambda side: side.messages == [("chat", b"into the void", True)])


async def test_new_credentials_in_an_answer_without_a_restart_are_the_peers_fault() -> None:
    async with pair() as both:
        await both.connect()
        both.answerer.peer.accept_offer(both.offerer.peer.create_offer())
        answer = both.answerer.peer.create_answer()
        ufrag = both.answerer.peer._transport.ice.local.ufrag
        with pytest.raises(PeerError, match="without a restart"):
            both.offerer.peer.accept_answer(answer.replace(ufrag, "another1"))


async def test_nonsense_for_a_description_changes_nothing() -> None:
    async with pair() as both:
        for nonsense in ("", "v=0\r\n", "\x00" * 100):
            with pytest.raises((MalformedPacket, PeerError)):
                both.answerer.peer.accept_offer(nonsense)
        with pytest.raises(PeerError):
            both.offerer.peer.accept_answer("v=0\r\no=- 0 0 IN IP4 0\r\ns=-\r\nt=0 0\r\n")
        assert both.answerer.peer.state is PeerState.NEW
        await both.connect()


async def test_candidates_of_a_client_are_bounded_and_malformed_ones_counted() -> None:
    async with UdpMux.open(["127.0.0.1"], 0) as mux:
        side = Side("one", mux, offerer=False)
        for number in range(100):
            side.peer.add_remote_candidate(f"candidate:1 1 udp 1 192.0.2.1 {1000 + number} typ host")
        side.peer.add_remote_candidate("nonsense")
        assert side.peer.counters["candidates_dropped"] == 37
        side.peer.close("done")
        side.peer.add_remote_candidate("candidate:1 1 udp 1 192.0.2.1 1 typ host")
        assert side.peer.counters["candidates_dropped"] == 38
