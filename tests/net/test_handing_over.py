"""A connection that one server gives away is served by another as if that had accepted it."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.checks.http import check_handed_over
from tests.net.connection import PEER, Client, connected
from triosfu.net.http import HandOver, HttpServer, Limits, Request, Response, Upgrade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from triosfu.net.http import Address, Handler
    from triosfu.net.websocket import WebSocket

UPGRADE = (
    b"GET /rtc HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
TEXT = bytes([0x81, 0x85, 0, 0, 0, 0]) + b"hello"  # masked with nothing


@asynccontextmanager
async def socket_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair())
    async with near, far:
        yield near, far


@asynccontextmanager
async def two_servers(handler: Handler, *, limits: Limits | None = None) -> AsyncIterator[tuple[Client, HttpServer]]:
    """A client of a server that gives its connection away, to one with this handler."""
    second = HttpServer(handler, limits=limits or Limits(linger=0.01))
    async with trio.open_nursery() as nursery:

        async def respond(request: Request) -> HandOver:
            del request
            return HandOver(take)

        async def take(sock: int, data: bytes, peer: Address) -> None:
            await trio.lowlevel.checkpoint()
            copy = socket.socket(fileno=socket.dup(sock))
            nursery.start_soon(second.serve_handed_over, copy, peer, data, handler)

        async with socket_pair() as streams, connected(respond, streams=streams) as client:
            yield client, second
        nursery.cancel_scope.cancel()


async def test_the_request_arrives_whole_and_is_the_connection_s_last() -> None:
    requests: list[Request] = []

    async def keep(request: Request) -> Response:
        requests.append(request)
        return Response.text(200, "there")

    async with two_servers(keep) as (client, second):
        answer = await client.ask(
            b"POST /a%20b?x=1 HTTP/1.1\r\nHost: h\r\nX-One: a\r\nX-One: b\r\nX-Latin: \xe9\r\nExpect: 100-continue\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1\r\ny\r\n0\r\n\r\n"
        )
        assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"there", "close")
        assert await client.ended()
        assert second.buffered == 0
    [request] = requests
    assert (request.method, request.target, request.body, request.peer) == ("POST", "/a%20b?x=1", b"body", PEER)
    assert dict(request.headers) == {
        "host": "h", "x-one": "a, b", "x-latin": "\xe9", "connection": "close", "content-length": "4",
    }  # fmt: skip
    assert client.server.counters["handed_over"] == 1
    assert client.server.connections == client.server.buffered == 0


async def test_http_1_0_needs_no_host() -> None:
    async def there(request: Request) -> Response:
        return Response.text(200, request.path)

    async with two_servers(there) as (client, _):
        assert (await client.ask(b"GET /old HTTP/1.0\r\n\r\n")).body == b"/old"


@pytest.mark.parametrize("body", [b"", b"a body that nobody asked for"])
async def test_a_websocket_goes_on_where_it_was(body: bytes) -> None:
    heard: list[str | bytes] = []

    async def session(socket: WebSocket) -> None:
        heard.append(await socket.receive())
        socket.send_nowait("and you")
        heard.append(await socket.receive())

    async def there(request: Request) -> Upgrade:
        del request
        return Upgrade(session)

    async with two_servers(there) as (client, _):
        head = UPGRADE + (b"Content-Length: %d\r\n" % len(body) if body else b"") + b"\r\n"
        answer = await client.ask(head + body + TEXT)  # it did not wait for the answer
        assert answer.status == 101
        assert await client.following() == b"\x81\x07and you"
        await client.send(TEXT)
        await client.stream.receive_some()
    assert heard == ["hello", "hello"]


async def test_who_does_not_take_it_says_what_the_client_is_told_and_it_goes_on() -> None:
    async def respond(request: Request) -> HandOver:
        async def take(*_: object) -> Response:
            await trio.lowlevel.checkpoint()
            return Response.text(503, request.path)

        return HandOver(take)

    async with socket_pair() as streams, connected(respond, streams=streams) as client:
        for path in (b"/one", b"/two"):
            answer = await client.ask(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            assert (answer.status, answer.body) == (503, path)
        assert client.server.counters["not_handed_over"] == 2


async def test_what_was_read_elsewhere_counts_here() -> None:
    async def there(request: Request) -> Response:
        raise AssertionError(request)

    async with two_servers(there, limits=Limits(buffered=100)) as (client, second):
        answer = await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n" + bytes(200))
        assert answer.status == 503
        assert second.counters["requests_refused"] == 1
        assert second.buffered == 0


TOKEN = st.text(st.sampled_from("abcXYZ09-_.!~"), min_size=1, max_size=8)
VALUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=12)


@settings(max_examples=60)
@given(
    method=st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT"]),
    path=st.text(st.sampled_from("ab/%2e?&=+;#"), max_size=12),
    fields=st.lists(st.tuples(TOKEN, VALUE), max_size=6),
    body=st.binary(max_size=40),
    chunked=st.booleans(),
)
def test_both_servers_understand_the_same(
    method: str, path: str, fields: list[tuple[str, str]], body: bytes, chunked: bool
) -> None:
    lines = [f"{method} /{path} HTTP/1.1", "Host: x", *(f"x-{name}: {value}" for name, value in fields)]
    lines.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    chunk = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    check_handed_over(head + (chunk if chunked else body))


@given(st.binary(max_size=200))
def test_any_bytes_are_understood_the_same(data: bytes) -> None:
    check_handed_over(data)
    check_handed_over(b"GET /" + data)
