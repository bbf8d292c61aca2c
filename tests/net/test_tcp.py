"""ICE's TCP connections over loopback: framed both ways, one route each, bounded, and gone with their route."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from fuzz.checks.frames import check_frames
from tests.net.connection import CancelAtStep
from tests.net.test_udp import DTLS, LIMIT, RTCP, RTP, RecordingRoute, stun_request
from triosfu.net import tcp
from triosfu.net.batch import BATCH, LARGEST
from triosfu.net.udp import MAX_TUPLES, UdpMux
from triosfu.server.task_tree import Bound, look, watching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from triosfu.net.address import Address


def framed(*packets: bytes) -> bytes:
    return b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets)


@given(st.binary(max_size=60))
def test_any_bytes_are_packets_or_none(data: bytes) -> None:
    check_frames(data)


@given(st.lists(st.binary(max_size=40), max_size=2 * BATCH), st.integers(0, 255))
def test_packets_come_out_however_the_stream_is_cut(packets: list[bytes], step: int) -> None:
    check_frames(bytes([step]) + framed(*packets))


class World:
    """A mux with a TCP port."""

    def __init__(self, mux: UdpMux, server: Address) -> None:
        self.mux, self.server = mux, server
        self.streams: list[trio.SocketStream] = []

    async def connect(self) -> trio.SocketStream:
        before = self.mux.counters["tcp_accepted"]
        stream = await trio.open_tcp_stream(*self.server)
        self.streams.append(stream)
        await until(lambda: self.mux.counters["tcp_accepted"] > before)
        return stream

    async def bound(self, route: RecordingRoute, ufrag: str) -> trio.SocketStream:
        """A connection that has proven to be the route's."""
        before = len(route.got)
        stream = await self.connect()
        await stream.send_all(framed(stun_request(ufrag)))
        await route.wait_for(before + 1)
        self.mux.bind_stream(stream.socket.getsockname(), self.server, route)
        return stream

    def write(self, stream: trio.SocketStream, *packets: bytes) -> None:
        destination = self.mux.egress.destination(stream.socket.getsockname(), self.server)
        for packet in packets:
            self.mux.egress.send(packet, destination)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    listeners = tcp.listen(["127.0.0.1"], 0)
    with listeners[0]:
        async with UdpMux.open(["127.0.0.1"], 0, listeners=listeners) as mux:
            (candidate,) = mux.stream_candidates()
            assert (candidate.protocol, candidate.tcptype) == ("tcp", "passive")
            assert candidate.priority < mux.host_candidates()[0].priority
            here = World(mux, candidate.address)
            try:
                yield here
            finally:
                for stream in here.streams:
                    stream.socket.close()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(LIMIT):
        while not condition():
            await trio.lowlevel.checkpoint()


async def is_over(stream: trio.SocketStream) -> bool:
    """Whether the server closes the connection."""
    with trio.fail_after(LIMIT):
        try:
            return await stream.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True


async def test_a_connection_is_one_more_path() -> None:
    async with world() as here:
        route = RecordingRoute()
        here.mux.register("alice", route)
        stream = await here.bound(route, "alice")
        await stream.send_all(framed(DTLS, RTP, RTCP, DTLS + bytes(5000)))
        await route.wait_for(5)
        assert [kind for kind, _ in route.got] == ["stun", "dtls", "rtp", "rtcp", "dtls"]
        here.write(stream, b"\x16one", b"\x80two", b"\x16" + bytes(5000))
        expected = framed(b"\x16one", b"\x80two", b"\x16" + bytes(5000))
        got = b""
        with trio.fail_after(LIMIT):
            while len(got) < len(expected):
                got += await stream.receive_some(65536)
        assert got == expected


async def test_more_packets_than_a_batch_arrive_in_order() -> None:
    async with world() as here:
        route = RecordingRoute()
        here.mux.register("alice", route)
        stream = await here.bound(route, "alice")
        packets = [DTLS + number.to_bytes(2, "big") for number in range(3 * BATCH)]
        stream_of = framed(*packets)
        await stream.send_all(stream_of[:1001])
        await trio.lowlevel.checkpoint()
        await stream.send_all(stream_of[1001:])
        await route.wait_for(1 + len(packets))
        assert [data for _, data in route.got[1:]] == packets


async def test_what_nobody_has_proven_carries_checks_only() -> None:
    async with world() as here:
        route = RecordingRoute()
        here.mux.register("alice", route)
        stream = await here.connect()
        await stream.send_all(framed(DTLS, RTP, stun_request("nobody"), stun_request("alice")))
        await route.wait_for(1)
        assert [kind for kind, _ in route.got] == ["stun"]
        assert here.mux.counters["unbound_tuple"] == 2
        assert here.mux.counters["unknown_ufrag"] == 1


async def test_a_connection_has_one_route_for_life() -> None:
    async with world() as here:
        alice, bob = RecordingRoute(), RecordingRoute()
        here.mux.register("alice", alice)
        here.mux.register("bob", bob)
        stream = await here.bound(alice, "alice")
        await stream.send_all(framed(stun_request("bob"), DTLS))
        await alice.wait_for(2)
        assert bob.got == []
        here.mux.bind_stream(stream.socket.getsockname(), here.server, bob)
        assert here.mux.counters["contested_stream"] == 2


async def test_it_goes_with_its_route_and_says_goodbye() -> None:
    async with world() as here:
        route = RecordingRoute()
        here.mux.register("alice", route)
        stream = await here.bound(route, "alice")
        here.mux.remove(route)
        here.write(stream, b"\x15goodbye")
        await stream.send_all(framed(DTLS))
        assert await stream.receive_some(100) == framed(b"\x15goodbye")
        assert await is_over(stream)
        assert len(route.got) == 1


async def test_a_route_has_so_many_of_them() -> None:
    async with world() as here:
        route = RecordingRoute()
        here.mux.register("alice", route)
        streams = [await here.bound(route, "alice") for _ in range(MAX_TUPLES + 1)]
        assert await is_over(streams[0])
        here.write(streams[1], b"\x16still here")
        assert await streams[1].receive_some(100)


@pytest.mark.parametrize("noise", [b"", b"GET / HTTP/1.1\r\n\r\n", framed(b"\xff" * 20), b"\0"])
async def test_a_stranger_has_ten_seconds(noise: bytes, mock_clock: MockClock) -> None:
    async with world() as here:
        stream = await here.connect()
        if noise:
            await stream.send_all(noise)
        mock_clock.jump(tcp.PATIENCE - 0.1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        destination = here.mux.egress.destination(stream.socket.getsockname(), here.server)
        here.mux.egress.send(b"\x16", destination)
        await stream.receive_some(3)
        mock_clock.jump(0.2)
        assert await is_over(stream)


async def test_a_stream_of_too_large_packets_is_over() -> None:
    async with world() as here:
        route = RecordingRoute()
        here.mux.register("alice", route)
        stream = await here.bound(route, "alice")
        await stream.send_all(framed(DTLS) + (LARGEST + 1).to_bytes(2, "big"))
        assert await is_over(stream)
        assert len(route.got) == 2, "what came before it counts"
        assert here.mux.counters["tcp_unframed"] == 1


async def test_strangers_are_few_and_peers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "MAX_STRANGERS", 3)
    async with world() as here:
        route = RecordingRoute()
        here.mux.register("alice", route)
        peer = await here.bound(route, "alice")
        strangers = [await here.connect() for _ in range(4)]
        assert await is_over(strangers[0])
        here.write(peer, b"\x16you stay")
        assert await peer.receive_some(100)


async def test_who_reads_nothing_holds_up_nobody() -> None:
    """What does not fit is dropped, media first; what was taken arrives whole when it reads again."""
    async with world() as here:
        route = RecordingRoute()
        here.mux.register("alice", route)
        slow, quick = await here.bound(route, "alice"), await here.bound(route, "alice")
        media = b"\x80" + bytes(1199)
        sent = 0
        while not here.mux.counters["tcp_backlog"]:
            here.write(slow, media)
            here.mux.egress.flush()
            sent += 1
            assert sent < 20_000
        here.write(slow, b"\x16 matters")
        here.write(quick, b"\x16 at once")
        assert await quick.receive_some(100) == framed(b"\x16 at once")
        got = bytearray()
        with trio.fail_after(LIMIT):
            while not got.endswith(framed(b"\x16 matters")):
                got += await slow.receive_some(65536)
        assert got == framed(media) * (sent - 1) + framed(b"\x16 matters")


async def test_leaving_the_block_closes_all_of_them() -> None:
    async with world() as here:
        route = RecordingRoute()
        here.mux.register("alice", route)
        streams = [await here.bound(route, "alice"), await here.connect()]
        others = [trio.SocketStream(stream.socket.dup()) for stream in streams]
    for stream in others:
        assert await is_over(stream)
        await stream.aclose()


async def test_whenever_it_is_stopped_every_connection_is_closed() -> None:
    """A stranger, a peer that is written to, and one that does not read, so that its writer waits."""

    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    async def busy(here: World, route: RecordingRoute) -> None:
        await here.connect()
        peer, slow = await here.bound(route, "alice"), await here.bound(route, "alice")
        here.write(peer, b"\x16hello")
        await peer.receive_some(100)
        while not here.mux.counters["tcp_backlog"]:
            here.write(slow, b"\x80" + bytes(1199))
            here.mux.egress.flush()
        await slow.receive_some(1 << 20)
        await slow.receive_some(1 << 20)
        here.mux.remove(route)

    async with world():
        pass  # whatever is opened once
    before = descriptors()
    for steps in count(1):
        with trio.CancelScope() as scope:
            stop = CancelAtStep(scope, steps)
            trio.lowlevel.add_instrument(stop)
            async with world() as here:
                route = RecordingRoute()
                here.mux.register("alice", route)
                await busy(here, route)
        trio.lowlevel.remove_instrument(stop)
        assert descriptors() == before
        if not scope.cancelled_caught:
            assert steps > 30
            return


async def test_a_client_that_goes_is_forgotten() -> None:
    async with world() as here:
        route = RecordingRoute()
        here.mux.register("alice", route)
        stream = await here.bound(route, "alice")
        address = stream.socket.getsockname()
        await stream.aclose()
        destination = here.mux.egress.destination(address, here.server)
        while not here.mux.counters["send_no_stream"]:
            here.mux.egress.send(b"\x16", destination)
            await trio.lowlevel.checkpoint()
        here.mux.bind_stream(address, here.server, route)
        assert here.mux.counters["contested_stream"] == 1
        here.mux.remove(route)


async def test_who_takes_nothing_for_ten_seconds_is_let_go_of(mock_clock: MockClock) -> None:
    with watching() as watch:
        async with world() as here:
            route = RecordingRoute()
            here.mux.register("alice", route)
            stalled = await here.bound(route, "alice")
            while not here.mux.counters["tcp_backlog"]:
                here.write(stalled, b"\x80" + bytes(1199))
                here.mux.egress.flush()
            await trio.testing.wait_all_tasks_blocked(0.01)
            bounds = {task.name.partition(" 127")[0]: task.bound for task in look(watch).walk()}
            assert bounds["tcp writer"] is Bound.DEADLINE
            assert Bound.NONE not in bounds.values()
            mock_clock.jump(tcp.STALLED + 1)
            await until(lambda: here.mux.counters["tcp_stalled"] == 1)
            with trio.fail_after(LIMIT), suppress(trio.BrokenResourceError):
                while await stalled.receive_some(1 << 20):
                    pass  # what it was sent before
