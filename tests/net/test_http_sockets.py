from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio_websocket

from tests.net.connection import echo
from triosfu.errors import ConfigError
from triosfu.net.http import TCP_USER_TIMEOUT_MS, Limits, Request, Response, Upgrade, open_listeners, serve_http
from triosfu.net.websocket import QUIET, WebSocketLimits

if TYPE_CHECKING:
    from triosfu.net.websocket import WebSocket


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


async def test_what_a_socket_does_not_take_at_once_follows_in_order() -> None:
    """The first message is larger than its buffers, so the write goes on in the middle of a frame."""
    sizes = [3_000_000, *range(1, 2000, 97)]
    sent = trio.Event()

    async def session(peer: WebSocket) -> None:
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
            await sent.wait()
            for size in sizes:
                assert await client.get_message() == size.to_bytes(4, "big") * size
            await client.send_message("done")
        nursery.cancel_scope.cancel()
