from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio_websocket
from wsproto.frame_protocol import Opcode

from fuzz.checks.http import UPGRADE
from tests.net.connection import echo
from tests.net.test_websocket import masked
from triosfu.errors import ConfigError
from triosfu.net.http import TCP_USER_TIMEOUT_MS, Limits, Request, Response, Upgrade, serve_http
from triosfu.net.listeners import REST, open_listeners, serve_listener
from triosfu.net.websocket import QUIET, WebSocketLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from triosfu.net.websocket import WebSocket, WebSocketHandler


async def test_plain_requests_and_websockets_share_a_port() -> None:
    async def session(peer: WebSocket) -> None:
        while True:
            peer.send_nowait(await peer.receive())

    async def handler(request: Request) -> Response | Upgrade:
        assert request.peer[0] == "127.0.0.1"
        return Upgrade(session) if request.wants_websocket else await echo(request)

    async with trio.open_nursery() as nursery:
        listeners = await open_listeners(["127.0.0.1"], 0)
        await nursery.start(serve_http, listeners, handler)
        port = listeners[0].socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET /plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join([chunk async for chunk in stream])
            assert answer.endswith(b"GET /plain 0")
        target = "/rtc?join_request=" + "A" * 1_100_000
        async with trio_websocket.open_websocket("127.0.0.1", port, target, use_ssl=False) as client:
            await client.send_message("hello")
            assert await client.get_message() == "hello"
        nursery.cancel_scope.cancel()
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


async def test_a_refused_client_gets_to_read_why() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await open_listeners(["127.0.0.1"], 0)
        await nursery.start(serve_http, listeners, echo)
        stream = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
        async with stream:
            # More than the server reads before it refuses: a reset would overtake its answer.
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(
                    b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 50_000_000
                )
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 413 ")
        nursery.cancel_scope.cancel()


async def test_a_client_that_resets_its_connection_is_its_own_affair() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await open_listeners(["127.0.0.1"], 0)
        await nursery.start(serve_http, listeners, echo)
        address = listeners[0].socket.getsockname()
        for sent in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            rude = socket.create_connection(address)
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            rude.sendall(sent)
            rude.close()
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
            assert b"".join([chunk async for chunk in stream]).endswith(b"GET / 0")
        nursery.cancel_scope.cancel()


async def test_all_addresses_get_the_same_port() -> None:
    listeners = await open_listeners(["127.0.0.1", "127.0.0.2"], 0)
    try:
        assert len({listener.socket.getsockname()[1] for listener in listeners}) == 1
    finally:
        for listener in listeners:
            await listener.aclose()


async def test_a_taken_port_is_the_operator_s_mistake() -> None:
    [taken] = await open_listeners(["127.0.0.1"], 0)
    async with taken:
        port = taken.socket.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^port: cannot listen on 127\.0\.0\.1 port {port}: "):
            await open_listeners(["127.0.0.2", "127.0.0.1"], port)
    with pytest.raises(ConfigError, match=r"^bind_addresses: cannot listen on 192\.0\.2\.1 port 0: "):
        await open_listeners(["192.0.2.1"], 0)
    with pytest.raises(ConfigError, match=r"^bind_addresses: "):
        await open_listeners([], 0)


async def test_an_absent_ipv6_is_passed_over_unless_it_is_all_there_is() -> None:
    listeners = await open_listeners(["127.0.0.1", "2001:db8::1"], 0)
    assert len(listeners) == 1
    await listeners[0].aclose()
    with pytest.raises(ConfigError, match=r"^bind_addresses: "):
        await open_listeners(["2001:db8::1"], 0)


def test_a_client_that_vanishes_is_found_out_within_twenty_seconds() -> None:
    # What tests/clients/test_black_hole.py measures, on any machine: a ping, and the kernel's patience with it.
    limits = WebSocketLimits()
    assert QUIET * limits.ping_interval + TCP_USER_TIMEOUT_MS / 1000 + limits.flush < 20
    assert Limits().idle < 20


@asynccontextmanager
async def conversing(session: WebSocketHandler) -> AsyncIterator[socket.socket]:
    """A client's socket, its upgrade done, whose server calls `session`."""

    async def handler(request: Request) -> Response | Upgrade:
        return Upgrade(session)

    async with trio.open_nursery() as nursery:
        listeners = await open_listeners(["127.0.0.1"], 0)
        await nursery.start(serve_http, listeners, handler)
        async with await trio.open_tcp_stream(*listeners[0].socket.getsockname()) as stream:
            await stream.send_all(UPGRADE)
            assert (await stream.receive_some()).endswith(b"\r\n\r\n")
            with socket.socket(fileno=os.dup(stream.socket.fileno())) as client:
                yield client
        nursery.cancel_scope.cancel()


async def test_what_a_socket_takes_is_written_before_who_says_it_goes_on() -> None:
    """No other task has had a turn when the client has it."""
    said, found = trio.Event(), list[bool]()

    async def session(peer: WebSocket) -> None:
        await peer.receive()
        peer.send_nowait("now")
        found.append(bool(select.select([client], [], [], 10)[0]))
        said.set()

    async with conversing(session) as client:
        client.sendall(masked(Opcode.TEXT, b"go"))
        await said.wait()
        assert found == [True]
        assert client.recv(100).startswith(b"\x81\x03now")


async def test_a_ping_is_answered_while_the_handler_is_at_work_on_the_message_behind_it() -> None:
    async def session(peer: WebSocket) -> None:
        assert await peer.receive() == "work"
        await trio.sleep_forever()

    async with conversing(session) as client:
        client.sendall(masked(Opcode.PING, b"?") + masked(Opcode.TEXT, b"work"))
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(client)
        assert client.recv(100) == b"\x8a\x01?"


async def test_answers_to_what_comes_together_go_out_together() -> None:
    def take(message: str | bytes) -> float:
        assert peers[0].send_nowait(message)
        assert not select.select([client], [], [], 0)[0]
        return 0.0

    async def session(peer: WebSocket) -> None:
        peers.append(peer)
        await peer.listen(take)

    peers: list[WebSocket] = []
    async with conversing(session) as client:
        client.sendall(masked(Opcode.TEXT, b"one") + masked(Opcode.PING, b"?") + masked(Opcode.TEXT, b"two"))
        await trio.lowlevel.wait_readable(client)
        assert client.recv(100) == b"\x8a\x01?\x81\x03one\x81\x03two"


async def test_what_one_message_has_others_told_goes_out_together() -> None:
    """Also what was said before a bug in its handler; who is told has no part in that."""
    peers: list[WebSocket] = []

    def take(message: str | bytes) -> float:
        for word in ("one", "two"):
            assert peers[1].send_nowait(word)
            assert not select.select([listens], [], [], 0)[0]
        if message == "bug":
            raise KeyError(message)
        return 0.0

    async def session(peer: WebSocket) -> None:
        peers.append(peer)
        await peer.listen(take)

    async def handler(request: Request) -> Response | Upgrade:
        return Upgrade(session)

    async with trio.open_nursery() as nursery:
        listeners = await open_listeners(["127.0.0.1"], 0)
        await nursery.start(serve_http, listeners, handler)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.socket()) for _ in range(2)]
            for client in clients:
                client.connect(listeners[0].socket.getsockname())
                client.sendall(UPGRADE)
                await trio.lowlevel.wait_readable(client)
                assert client.recv(1000).endswith(b"\r\n\r\n")
            says, listens = clients
            for word in (b"fine", b"bug"):
                says.sendall(masked(Opcode.TEXT, word))
                await trio.lowlevel.wait_readable(listens)
                assert listens.recv(100) == b"\x81\x03one\x81\x03two"
            await trio.lowlevel.wait_readable(says)
            assert says.recv(4)[2:] == (1011).to_bytes(2, "big")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("asked", [False, True])
async def test_what_a_socket_does_not_take_at_once_follows_in_order(asked: bool) -> None:
    """The first message is larger than its buffers, so the write goes on in the middle of a frame.

    It begins with the handshake, or once nothing else is to be written.
    """
    sizes = [3_000_000, *range(1, 2000, 97)]
    sent = trio.Event()

    async def session(peer: WebSocket) -> None:
        if asked:
            assert await peer.receive() == "go"
        for size in sizes:
            assert peer.send_nowait(size.to_bytes(4, "big") * size)
        sent.set()
        assert await peer.receive() == "done"

    async def handler(request: Request) -> Response | Upgrade:
        return Upgrade(session, WebSocketLimits(queue_bytes=64 << 20))

    async with trio.open_nursery() as nursery:
        listeners = await open_listeners(["127.0.0.1"], 0)
        await nursery.start(serve_http, listeners, handler)
        port = listeners[0].socket.getsockname()[1]
        async with trio_websocket.open_websocket(
            "127.0.0.1", port, "/", use_ssl=False, max_message_size=64 << 20
        ) as client:
            if asked:
                await client.send_message("go")
            await sent.wait()
            nursery.start_soon(client.ping)  # whose answer comes between
            for size in sizes:
                assert await client.get_message() == size.to_bytes(4, "big") * size
            await client.send_message("done")
        nursery.cancel_scope.cancel()


class Scarce(trio.abc.Listener[trio.SocketStream]):
    """Has no descriptor for its first connection."""

    def __init__(self, connection: trio.SocketStream) -> None:
        self.connections: list[trio.SocketStream] = [connection]
        self.failures = 1
        self.closed = False

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "too many open files")
        if not self.connections:
            await trio.sleep_forever()
        return self.connections.pop()

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


async def test_who_has_no_descriptor_left_accepts_a_little_later(autojump_clock: MockClock) -> None:
    near, far = (trio.SocketStream(one) for one in trio.socket.socketpair())
    listener, served = Scarce(near), trio.Event()

    async def handler(stream: trio.SocketStream) -> None:
        await stream.aclose()
        served.set()

    async with far, trio.open_nursery() as nursery:
        nursery.start_soon(serve_listener, listener, handler, nursery)
        began = trio.current_time()
        await served.wait()
        assert trio.current_time() - began == REST
        nursery.cancel_scope.cancel()
    assert listener.closed
    with pytest.raises(OSError, match="no file"):
        await serve_listener(Broken(), handler, nursery)


class Broken(Scarce):
    """Cannot ever accept."""

    def __init__(self) -> None:
        self.closed = False

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EBADF, "no file")
