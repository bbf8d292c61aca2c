from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from fuzz.checks.http import UPGRADE, check_http, check_websocket
from tests.net.connection import CancelAtStep, connected, echo
from triosfu.net.http import HttpServer, Limits, Request, Response, Upgrade

if TYPE_CHECKING:
    from triosfu.net.websocket import WebSocket

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400, b"not an HTTP request"),  # TLS
        (b"hello\r\n\r\n", 400, b"malformed request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, b"malformed request"),  # no Host
        (b"PRI * HTTP/2.0\r\nHost: x\r\n\r\n", 505, b"HTTP version not supported"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n", 400, b"malformed request"),
        (b"GET rtc HTTP/1.1\r\nHost: x\r\n\r\n", 400, b"malformed request target"),
        (b"GET /" + b"%41" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400, b"too many escapes in the request target"),
        (b"GET /?" + b"a=1&" * 300 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400, b"too many query parameters"),
        (b"GET /" + b"a" * 1_600_000, 431, b"request head too large"),
        (b"GET /" + b"a" * 1_600_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, b"request head too large"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 300, 431, b"too many header fields"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 300 + b"\r\n", 431, b"too many header fields"),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10485761\r\n\r\n", 413, b"request body too large"),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 19 + b"\r\n\r\n", 413, b"request body too large"),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, b"malformed request"),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, b"malformed request"),
        (UPGRADE.replace(b"Version: 13", b"Version: 8"), 426, b"unsupported WebSocket version"),
        (UPGRADE.replace(b"Sec-WebSocket-Key", b"Some-Other-Key"), 400, b"missing Sec-WebSocket-Key"),
    ],
)
async def test_what_cannot_be_served_is_refused_and_the_connection_closed(
    sent: bytes, status: int, text: bytes
) -> None:
    async with connected(echo) as client:
        answer = await client.ask(sent)
        assert (answer.status, answer.body) == (status, text)
        assert answer.headers["connection"] == "close"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert await client.ended()
        assert client.server.counters["requests_refused"] == 1


async def test_an_endless_chunked_body_is_cut_off() -> None:
    async with connected(echo, limits=Limits(body=1000)) as client:
        await client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = await client.ask(b"100\r\n" + b"a" * 256 + b"\r\n" + (b"300\r\n" + b"a" * 768 + b"\r\n"))
        assert answer.status == 413


async def test_a_slow_head_ends_after_its_deadline(autojump_clock: MockClock) -> None:
    async with connected(echo) as client:

        async def drip() -> None:
            for byte in GET:
                await client.send(bytes([byte]))
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            answer = await client.answer()
            assert answer.status == 408
            assert trio.current_time() == pytest.approx(10)
            nursery.cancel_scope.cancel()


async def test_the_deadline_of_a_later_head_starts_with_its_first_byte(autojump_clock: MockClock) -> None:
    async with connected(echo) as client:
        await client.ask(GET)
        started = trio.current_time()
        await trio.sleep(12)
        answer = await client.ask(b"G")
        assert answer.status == 408
        assert trio.current_time() - started == pytest.approx(22)


async def test_a_slow_body_ends_after_its_deadline(autojump_clock: MockClock) -> None:
    async with connected(echo) as client:
        answer = await client.ask(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        assert answer.status == 408
        assert trio.current_time() == pytest.approx(30)


@pytest.mark.parametrize(("before", "seconds"), [(b"", 10), (b"\r\n\r\n", 10), (GET, 15)])
async def test_a_silent_connection_is_closed(before: bytes, seconds: float, autojump_clock: MockClock) -> None:
    async with connected(echo) as client:
        await client.send(before)
        if before == GET:
            await client.answer()
        assert await client.ended()
        assert trio.current_time() == pytest.approx(seconds, abs=0.3)


async def test_too_many_connections_are_closed_at_once() -> None:
    server = HttpServer(echo, limits=Limits(connections=1))
    async with connected(echo, server=server) as first:
        await wait_all_tasks_blocked()
        async with connected(echo, server=server) as second:
            assert await second.ended()
        assert (await first.ask(GET)).status == 200
        assert server.counters["connections_refused"] == 1
    async with connected(echo, server=server) as third:
        assert (await third.ask(GET)).status == 200


async def test_all_connections_together_hold_a_bounded_number_of_bytes() -> None:
    server = HttpServer(echo, limits=Limits(buffered=100))
    async with connected(echo, server=server) as first, connected(echo, server=server) as second:
        await first.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n12345678")
        await wait_all_tasks_blocked()
        assert (await second.ask(GET + b" " * 30)).status == 503
        assert (await first.ask(b"9")).status == 200
        assert server.buffered == 0
        assert (await first.ask(GET)).status == 200


async def test_an_upgrade_that_nobody_asked_for_is_our_own_mistake() -> None:
    async def handler(request: Request) -> Upgrade:
        async def never(socket: WebSocket) -> None:
            raise AssertionError

        return Upgrade(never)

    async with connected(handler) as client:
        assert (await client.ask(GET)).status == 500
        assert client.server.counters["handler_errors"] == 1


def test_a_server_cancelled_at_any_step_leaves_nothing_behind() -> None:
    async def session(socket: WebSocket) -> None:
        socket.send_nowait(await socket.receive())

    async def handler(request: Request) -> Response | Upgrade:
        await trio.lowlevel.checkpoint()
        return Upgrade(session) if request.wants_websocket else Response.text(200)

    async def cancelled_at(step: int) -> bool:
        server = HttpServer(handler)
        with trio.CancelScope() as scope:
            instrument = CancelAtStep(scope, step)
            trio.lowlevel.add_instrument(instrument)
            async with connected(handler, server=server) as client:
                await client.ask(GET)
                await client.send(UPGRADE + bytes.fromhex("8182000000006869"))
                while await client.stream.receive_some():
                    pass
        trio.lowlevel.remove_instrument(instrument)
        assert (server.connections, server.buffered) == (0, 0)
        assert trio.current_time() < 1
        return instrument.left <= 0

    step = 1
    while trio.run(cancelled_at, step, clock=MockClock(autojump_threshold=0)):
        step += 1
    assert step > 20


LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1", b"POST /x HTTP/1.1", b"Host: x", b"Content-Length: 3", b"Content-Length: 9999",
        b"Transfer-Encoding: chunked", b"Connection: close", b"Connection: upgrade", b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAA", b"Expect: 100-continue", b"", b"3", b"abc", b"0",
    ]
)  # fmt: skip


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_answered_or_dropped(data: bytes, piece: int) -> None:
    check_http(data, piece)


@given(st.lists(LINES | st.binary(max_size=12), max_size=20), st.sampled_from([b"\r\n", b"\n"]), st.integers(1, 50))
def test_any_lines_are_answered_or_dropped(lines: list[bytes], end: bytes, piece: int) -> None:
    check_http(end.join(lines), piece)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_after_an_upgrade_end_one_websocket_at_worst(data: bytes, piece: int) -> None:
    check_websocket(data, piece)


FRAME_STARTS = st.sampled_from(
    [
        bytes([first, second])
        for first in (0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A, 0xC1)
        for second in (0x80, 0x81, 0xFD, 0xFE, 0xFF, 0x02)
    ]
)


@given(st.lists(FRAME_STARTS | st.binary(max_size=12), max_size=20))
def test_any_frames_end_one_websocket_at_worst(parts: list[bytes]) -> None:
    check_websocket(b"".join(parts))
