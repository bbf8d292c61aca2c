from __future__ import annotations

import trio
from trio.testing import MockClock, lockstep_stream_pair

from tests.net.connection import PEER, connected, echo
from triosfu.net.http import Headers, Limits, Request, Response

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_handler_gets_the_whole_request() -> None:
    requests: list[Request] = []

    async def keep(request: Request) -> Response:
        requests.append(request)
        return Response(201, b"made", [("Content-Type", "x/y"), ("Location", "/there")])

    async with connected(keep) as client:
        answer = await client.ask(
            b"POST /a%20b/c?x=1&y=%C3%A9&x=2&empty= HTTP/1.1\r\nHost: h\r\nX-One: a\r\nx-one: b\r\n"
            b"Content-Length: 4\r\n\r\nbody"
        )
    assert (answer.status, answer.body) == (201, b"made")
    assert (answer.headers["content-type"], answer.headers["location"]) == ("x/y", "/there")
    [request] = requests
    assert (request.method, request.path, request.body, request.peer) == ("POST", "/a b/c", b"body", PEER)
    assert request.target == "/a%20b/c?x=1&y=%C3%A9&x=2&empty="
    assert request.query == {"x": ["1", "2"], "y": ["é"], "empty": [""]}
    assert (request.get("x"), request.get("empty"), request.get("absent")) == ("1", "", None)
    assert request.headers.get("X-ONE") == "a, b"
    assert not request.wants_websocket


async def test_a_connection_serves_one_request_after_another() -> None:
    async with connected(echo) as client:
        for number in range(3):
            assert (await client.ask(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)).body == b"GET /%d 0" % number


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with connected(echo) as client:
        await client.send(
            b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab\r\n"
            b"POST /2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            b"HEAD /3 HTTP/1.1\r\nHost: x\r\n\r\n"
            b"GET /4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            b"GET /5 HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert (await client.answer()).body == b"POST /1 2"
        assert (await client.answer()).body == b"POST /2 3"
        head = await client.answer(head_only=True)
        assert (head.status, head.headers["content-length"]) == (200, "9")
        last = await client.answer()
        assert (last.body, last.headers["connection"]) == (b"GET /4 0", "close")
        assert await client.ended()


async def test_http_1_0_gets_one_answer() -> None:
    async with connected(echo) as client:
        assert (await client.ask(b"GET /old HTTP/1.0\r\n\r\n")).body == b"GET /old 0"
        assert await client.ended()


async def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    async with connected(echo) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.answer()).status == 100
        assert (await client.ask(b"abc")).body == b"POST / 3"


async def test_a_join_request_of_a_megabyte_travels_in_the_url() -> None:
    async with connected(echo) as client:
        request = b"GET /rtc/v1?join_request=" + b"A" * 1_100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        for start in range(0, len(request), 10_007):
            await client.send(request[start : start + 10_007])
        assert (await client.answer()).body == b"GET /rtc/v1 0"


async def test_bytes_may_come_one_by_one() -> None:
    async with connected(echo) as client:
        for byte in b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab" + GET:
            await client.send(bytes([byte]))
        assert (await client.answer()).body == b"POST /x 2"
        assert (await client.answer()).body == b"GET / 0"


async def test_slashes_at_the_front_count_once() -> None:
    async with connected(echo) as client:
        for target in (b"//rtc", b"///rtc?x=//", b"http://host:7880/rtc", b"http://host//rtc", b"/rtc#part"):
            assert (await client.ask(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)).body == b"GET /rtc 0"
        for target in (b"http://host", b"https://host?x=1"):
            assert (await client.ask(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)).body == b"GET / 0"


async def test_every_origin_may_read_every_answer() -> None:
    async def refuse(request: Request) -> Response:
        return Response.text(401, "no permissions to access the room")

    async with connected(refuse) as client:
        answer = await client.ask(b"GET /rtc/validate HTTP/1.1\r\nHost: x\r\nOrigin: http://page\r\n\r\n")
    assert (answer.status, answer.body) == (401, b"no permissions to access the room")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-expose-headers"] == "*"


async def test_a_preflight_is_answered_without_the_handler() -> None:
    async with connected(echo) as client:
        answer = await client.ask(
            b"OPTIONS /twirp/livekit.RoomService/ListRooms HTTP/1.1\r\nHost: x\r\nOrigin: http://page\r\n"
            b"Access-Control-Request-Method: POST\r\n"
            b"Access-Control-Request-Headers: authorization,content-type\r\n\r\n"
        )
        assert answer.status == 204
        assert "content-length" not in answer.headers
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "OPTIONS, HEAD, GET, POST, PATCH, DELETE"
        assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
        assert answer.headers["access-control-max-age"] == "86400"
        # WHIP has an OPTIONS of its own.
        assert (await client.ask(b"OPTIONS /whip/v1 HTTP/1.1\r\nHost: x\r\n\r\n")).body == b"OPTIONS /whip/v1 0"


async def test_a_failing_handler_fails_one_request_only() -> None:
    async def fragile(request: Request) -> Response:
        if request.path == "/bug":
            raise RuntimeError("a bug")
        if request.path == "/header":
            return Response(200, headers=[("X", "a\r\nb")])
        return await echo(request)

    async with connected(fragile) as client:
        for path in (b"/bug", b"/", b"/header"):
            answer = await client.ask(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            assert answer.status == (200 if path == b"/" else 500)
        assert answer.body == b"internal error"
        assert client.server.counters["handler_errors"] == 2


async def test_a_client_that_does_not_read_its_answer_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with connected(echo, limits=Limits(write_deadline=30), streams=lockstep_stream_pair()) as client:
        started = trio.current_time()
        await client.send(GET)
        await client.served.wait()
        assert trio.current_time() - started == 30
        assert client.server.counters["connections_lost"] == 1


async def test_a_client_that_leaves_is_forgotten() -> None:
    async with connected(echo) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nab")
        await client.stream.aclose()
        await client.served.wait()
        assert (client.server.connections, client.server.buffered) == (0, 0)


def test_header_names_have_no_case() -> None:
    headers = Headers([(b"Upgrade", b"WebSocket"), (b"connection", b"keep-alive, Upgrade")])
    assert headers["UPGRADE"] == "WebSocket"
    assert headers.tokens("Connection") == ["keep-alive", "upgrade"]
    assert headers.get("absent") is None
    assert list(headers) == ["upgrade", "connection"]
