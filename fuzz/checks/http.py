"""Checks of what strangers send to the HTTP port, before and after an upgrade."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import h11
import trio
from trio.testing import MockClock, memory_stream_pair

from triosfu.net.http import OF_ONE_CONNECTION, HttpServer, Limits, Request, Response, Upgrade

if TYPE_CHECKING:
    from triosfu.net.websocket import WebSocket

LIMITS = Limits(head=4096, body=4096, header_lines=16)
ROOMY = Limits()
UPGRADE = (
    b"GET /rtc HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def check_http(data: bytes, piece: int = 1 << 20) -> None:
    """Any bytes, in pieces of any size, are answered with well-formed answers, and the connection ends in time."""
    counters: Counter[str] = Counter()
    received = trio.run(_converse, data, piece, counters, clock=MockClock(autojump_threshold=0))
    assert counters["handler_errors"] == counters["connection_failed"] == 0
    client = h11.Connection(h11.CLIENT)
    client.send(
        h11.Request(method="GET", target="/", headers=[("Host", "x"), ("Connection", "upgrade"), ("Upgrade", "x")])
    )
    client.receive_data(received)
    while received:
        event = client.next_event()
        if isinstance(event, h11.InformationalResponse | h11.NEED_DATA | h11.PAUSED | h11.EndOfMessage):
            break  # an interim answer or an upgrade, or one whole answer; pipelined ones follow


def check_websocket(data: bytes, piece: int = 1 << 20) -> None:
    """Any bytes after an upgrade end that WebSocket at worst; its handler is told, and nothing else fails."""
    counters: Counter[str] = Counter()
    received = trio.run(_converse, UPGRADE + data, piece, counters, clock=MockClock(autojump_threshold=0))
    assert received.startswith(b"HTTP/1.1 101 ")
    assert counters["handler_errors"] == counters["connection_failed"] == 0
    assert counters["told"] == 1


def check_handed_over(data: bytes) -> None:
    """Whatever request one server reads, another one reads the same that it is handed over to."""
    for request in trio.run(_requests, data, LIMITS, clock=MockClock(autojump_threshold=0))[:1]:
        written = request.serialize()
        (again,) = trio.run(_requests, written, ROOMY, clock=MockClock(autojump_threshold=0))
        assert (again.method, again.target, again.path, again.query, again.body, again.wants_websocket) == (
            request.method, request.target, request.path, request.query, request.body, request.wants_websocket,
        )  # fmt: skip
        assert _fields(again) == _fields(request)
        assert again.serialize() == written


def _fields(request: Request) -> dict[str, str]:
    """What the header says, but for what is one connection's; white space around a value does not count."""
    return {name: value.strip(" \t") for name, value in request.headers.items() if name not in OF_ONE_CONNECTION}


async def _requests(data: bytes, limits: Limits) -> list[Request]:
    """What a server reads in `data`."""
    found: list[Request] = []

    async def handler(request: Request) -> Response:
        found.append(request)
        return Response(204)

    client, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(HttpServer(handler, limits=limits).serve_stream, far, ("192.0.2.1", 1))
        try:
            await client.send_all(data)
            await client.send_eof()
        except trio.BrokenResourceError:
            pass  # it has seen enough
        with trio.fail_after(200):
            while await client.receive_some():
                pass
    return found


async def _converse(data: bytes, piece: int, counters: Counter[str]) -> bytes:
    async def converse(socket: WebSocket) -> None:
        try:
            while True:
                socket.send_nowait(await socket.receive())
        finally:
            counters["told"] += 1

    async def handler(request: Request) -> Response | Upgrade:
        return Upgrade(converse) if request.wants_websocket else Response.text(200, request.path)

    client, far = memory_stream_pair()
    server = HttpServer(handler, limits=LIMITS, counters=counters)
    received = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far, ("192.0.2.1", 1))
        try:
            for start in range(0, len(data), piece):
                await client.send_all(data[start : start + piece])
            await client.send_eof()
        except trio.BrokenResourceError:
            pass  # it has seen enough
        with trio.fail_after(200):
            while more := await client.receive_some():
                received += more
    assert (server.connections, server.buffered) == (0, 0)
    return received
