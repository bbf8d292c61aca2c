from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio_websocket
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked
from wsproto.frame_protocol import FrameProtocol, Opcode

from fuzz.checks.http import UPGRADE
from tests.net.connection import PEER, CancelAtStep
from triosfu.net.http import HttpServer, Request, Response, Upgrade
from triosfu.net.websocket import WebSocket, WebSocketClosed, WebSocketHandler, WebSocketLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def echo(socket: WebSocket) -> None:
    while True:
        socket.send_nowait(await socket.receive())


def server_of(session: WebSocketHandler, limits: WebSocketLimits | None = None) -> HttpServer:
    async def handler(request: Request) -> Response | Upgrade:
        if not request.wants_websocket:
            return Response(404)
        return Upgrade(session, limits or WebSocketLimits())

    return HttpServer(handler, counters=Counter())


@asynccontextmanager
async def upgraded(
    session: WebSocketHandler, limits: WebSocketLimits | None = None
) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    """A client of another make, its handshake done, whose server calls `session`."""
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server_of(session, limits).serve_stream, far, PEER)
        yield await trio_websocket.wrap_client_stream(nursery, near, "host", "/rtc", max_message_size=4 << 20)  # type: ignore[arg-type]
        nursery.cancel_scope.cancel()


async def closing_code(client: trio_websocket.WebSocketConnection) -> int | None:
    """The code that `client`, with no message left to read, was closed with."""
    with pytest.raises(trio_websocket.ConnectionClosed) as caught:
        await client.get_message()
    return caught.value.reason.code if caught.value.reason else None


class Raw:
    """A client that has sent its upgrade request and whatever else the test wants."""

    def __init__(
        self,
        nursery: trio.Nursery,
        session: WebSocketHandler,
        limits: WebSocketLimits | None = None,
        *,
        extensions: bytes = b"",
        more: bytes = b"",
        lockstep: bool = False,
    ) -> None:
        near, far = lockstep_stream_pair() if lockstep else memory_stream_pair()
        self.stream: trio.abc.HalfCloseableStream = near
        self.server = server_of(session, limits)
        self.received = b""
        self.served = trio.Event()
        self._request = (UPGRADE.removesuffix(b"\r\n") + extensions if extensions else UPGRADE) + more
        nursery.start_soon(self._serve, far)

    async def _serve(self, far: trio.abc.HalfCloseableStream) -> None:
        await self.server.serve_stream(far, PEER)
        self.served.set()

    async def upgrade(self) -> None:
        await self.stream.send_all(self._request)
        while b"\r\n\r\n" not in self.received:
            self.received += await self.stream.receive_some()
        assert self.received.startswith(b"HTTP/1.1 101 ")

    async def read_to_end(self) -> list[tuple[int, bytes]]:
        """All frames up to the connection's end, as (opcode, payload); the last may be cut short."""
        while data := await self.stream.receive_some():
            self.received += data
        return frames(self.received.partition(b"\r\n\r\n")[2])


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Unmasked frames, read without our code or wsproto's (RFC 6455, section 5.2)."""
    found = []
    while len(data) >= 2:
        assert data[0] & 0x70 == 0
        assert data[0] & 0x0F in {1, 2, 8, 9, 10}
        length, start = data[1], 2
        if length >= 126:
            start += 2 if length == 126 else 8
            length = int.from_bytes(data[2:start], "big")
        found.append((data[0] & 0x0F, data[start : start + length]))
        data = data[start + length :]
    return found


def masked(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    return bytes(FrameProtocol(client=True, extensions=[])._serialize_frame(opcode, payload, fin))


async def test_messages_come_and_go_whole_and_in_order() -> None:
    async with upgraded(echo) as client:
        for message in ("text", b"binary", "é" * 40_000, b"x" * 500_000, "", b""):
            await client.send_message(message)
            assert await client.get_message() == message
        await client.ping()


async def test_a_frame_right_behind_the_request_is_not_lost() -> None:
    async with trio.open_nursery() as nursery:
        client = Raw(nursery, echo, more=masked(Opcode.TEXT, b"early"))
        await client.upgrade()
        await client.stream.send_all(masked(Opcode.CLOSE, b"\x03\xe8"))
        assert await client.read_to_end() == [(1, b"early"), (8, b"\x03\xe8")]


async def test_messages_queued_before_the_handshake_are_sent_after_it() -> None:
    async def greet(socket: WebSocket) -> None:
        assert socket.send_nowait("hello")
        socket.close(4001, "and goodbye")

    async with trio.open_nursery() as nursery:
        client = Raw(nursery, greet)
        await client.upgrade()
        assert await client.read_to_end() == [(1, b"hello"), (8, (4001).to_bytes(2, "big") + b"and goodbye")]


async def test_close_sends_what_is_queued_and_refuses_what_comes_later() -> None:
    async def session(socket: WebSocket) -> None:
        for number in range(100):
            assert socket.send_nowait(str(number))
        socket.close(1000)
        assert socket.closed
        assert not socket.send_nowait("late")
        with pytest.raises(WebSocketClosed):
            await socket.receive()

    async with upgraded(session) as client:
        assert [await client.get_message() for _ in range(100)] == [str(number) for number in range(100)]
        assert await closing_code(client) == 1000


async def test_close_wakes_a_waiting_receive() -> None:
    async def session(socket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _close() -> None:
                await wait_all_tasks_blocked()
                socket.close(4000)

            with pytest.raises(WebSocketClosed) as caught:
                await socket.receive()
            assert caught.value.code == 4000

    async with upgraded(session) as client:
        assert await closing_code(client) == 4000


async def test_a_client_s_close_comes_after_its_messages() -> None:
    said: list[object] = []

    async def session(socket: WebSocket) -> None:
        await wait_all_tasks_blocked()  # everything has arrived before the first look
        try:
            while True:
                said.append(await socket.receive())
        except WebSocketClosed as closed:
            said.append((closed.code, closed.reason))

    async with trio.open_nursery() as nursery:
        last = masked(Opcode.TEXT, b"last") + masked(Opcode.CLOSE, (4321).to_bytes(2, "big") + b"bye")
        client = Raw(nursery, session, more=masked(Opcode.TEXT, b"first") + last)
        await client.upgrade()
        assert await client.read_to_end() == [(8, (4321).to_bytes(2, "big") + b"bye")]
        await client.served.wait()
    assert said == ["first", "last", (4321, "bye")]


@pytest.mark.parametrize("upgraded_first", [True, False])
async def test_a_client_that_vanishes_has_said_1006(upgraded_first: bool) -> None:
    codes: list[int] = []

    async def session(socket: WebSocket) -> None:
        with pytest.raises(WebSocketClosed) as caught:
            await socket.receive()
        codes.append(caught.value.code)

    async with trio.open_nursery() as nursery:
        client = Raw(nursery, session)
        if upgraded_first:
            await client.upgrade()
        else:
            await client.stream.send_all(UPGRADE)
        await client.stream.aclose()
        await client.served.wait()
    assert codes == [1006]


@pytest.mark.parametrize("fragments", [1, 3])
async def test_an_oversize_message_is_answered_with_1009(fragments: int) -> None:
    codes: list[int] = []

    async def session(socket: WebSocket) -> None:
        try:
            await socket.receive()
        except WebSocketClosed as closed:
            codes.append(closed.code)

    async with trio.open_nursery() as nursery:
        client = Raw(nursery, session, WebSocketLimits(message=1000))
        await client.upgrade()
        part = b"x" * (1002 // fragments)
        for number in range(fragments):
            opcode = Opcode.CONTINUATION if number else Opcode.BINARY
            await client.stream.send_all(masked(opcode, part, fin=number == fragments - 1))
        [(opcode_seen, payload)] = await client.read_to_end()
        assert (opcode_seen, payload[:2]) == (8, (1009).to_bytes(2, "big"))
    assert codes == [1009]


async def test_a_message_of_the_limit_is_let_through() -> None:
    async with upgraded(echo) as client:
        await client.send_message(b"x" * (2 << 20))
        assert len(await client.get_message()) == 2 << 20


async def test_a_message_without_an_end_is_cut_off() -> None:
    async with trio.open_nursery() as nursery:
        client = Raw(nursery, echo, WebSocketLimits(message=1000))
        await client.upgrade()
        await client.stream.send_all(masked(Opcode.BINARY, b"", fin=False))
        for _ in range(1000):  # empty, so no message limit counts them
            await client.stream.send_all(masked(Opcode.CONTINUATION, b"", fin=False))
        assert await client.read_to_end() == []
        await client.served.wait()


@pytest.mark.parametrize("limits", [WebSocketLimits(queue_count=10), WebSocketLimits(queue_bytes=5000)])
async def test_a_client_that_does_not_read_is_dropped(limits: WebSocketLimits, autojump_clock: MockClock) -> None:
    async def session(socket: WebSocket) -> None:
        sent = 0
        while socket.send_nowait(b"x" * 1000):
            sent += 1
            await wait_all_tasks_blocked()
        assert 5 <= sent <= 13  # a few of them are on their way already
        assert socket.closed

    async with trio.open_nursery() as nursery:
        client = Raw(nursery, session, limits, lockstep=True)
        await client.upgrade()
        await client.served.wait()
        assert trio.current_time() == pytest.approx(0.25)
        assert client.server.counters["websocket_too_slow"] == 1
        assert client.server.counters["handler_errors"] == 0


async def test_a_write_that_takes_too_long_ends_the_connection(autojump_clock: MockClock) -> None:
    async def session(socket: WebSocket) -> None:
        await wait_all_tasks_blocked()  # the handshake is over
        socket.send_nowait("unread")
        with pytest.raises(WebSocketClosed):
            await socket.receive()

    async with trio.open_nursery() as nursery:
        client = Raw(nursery, session, lockstep=True)
        await client.upgrade()
        await client.served.wait()
        assert trio.current_time() == pytest.approx(10)
        assert client.server.counters["handler_errors"] == 0


async def test_nothing_follows_a_frame_that_was_cut_short(autojump_clock: MockClock) -> None:
    async def session(socket: WebSocket) -> None:
        await wait_all_tasks_blocked()
        socket.send_nowait("a" * 100_000)
        with pytest.raises(WebSocketClosed):
            await socket.receive()

    async with trio.open_nursery() as nursery:
        client = Raw(nursery, session, lockstep=True)
        await client.upgrade()
        cut = await client.stream.receive_some(1000)
        await client.stream.send_all(masked(Opcode.PING, b"b"))
        await trio.sleep(10.1)  # longer than a write may take, and not as long as the goodbye after it
        while data := await client.stream.receive_some():
            cut += data
        assert set(cut[10:]) == set(b"a")
        assert client.server.counters["connection_failed"] == 0  # as such a stream calls a second write
        await client.served.wait()


async def test_a_flood_of_pings_from_one_who_reads_no_pongs_is_bounded(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = Raw(nursery, echo, WebSocketLimits(message=1000, queue_bytes=1000), lockstep=True)
        await client.upgrade()
        await client.stream.send_all(b"".join(masked(Opcode.PING, b"p" * 100) for _ in range(30)))
        await client.served.wait()
        assert trio.current_time() < 1


async def test_a_ping_goes_out_when_nothing_else_has_for_seven_seconds_and_a_half(autojump_clock: MockClock) -> None:
    async def session(socket: WebSocket) -> None:
        with pytest.raises(WebSocketClosed):
            await socket.receive()

    async with trio.open_nursery() as nursery:
        client = Raw(nursery, session)
        nursery.start_soon(client.server.clock.run)
        await client.upgrade()
        for number in range(1, 4):
            ping = await client.stream.receive_some()
            assert ping[0] == 0x89
            assert trio.current_time() == pytest.approx(7.5 * number)
            await client.stream.send_all(masked(Opcode.PONG, bytes(ping[2:])))
        nursery.cancel_scope.cancel()


async def test_no_ping_goes_out_while_something_else_does(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        client = Raw(nursery, echo)
        nursery.start_soon(client.server.clock.run)
        await client.upgrade()
        for _ in range(20):
            await trio.sleep(5.3)
            await client.stream.send_all(masked(Opcode.TEXT, b"still there?"))
            assert (await client.stream.receive_some())[0] == 0x81
        spoke_at = trio.current_time()
        assert (await client.stream.receive_some())[0] == 0x89
        assert trio.current_time() == pytest.approx(spoke_at + 7.5, abs=0.1)
        nursery.cancel_scope.cancel()


async def test_a_client_that_never_answers_pings_stays(autojump_clock: MockClock) -> None:
    async def session(socket: WebSocket) -> None:
        await trio.sleep(3600)
        assert socket.send_nowait("still here")

    async with trio.open_nursery() as nursery:
        client = Raw(nursery, session)
        nursery.start_soon(client.server.clock.run)
        await client.upgrade()
        assert [opcode for opcode, _ in await client.read_to_end()] == [9, 1, 8]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answers", [False, True])
async def test_with_a_deadline_for_pongs_a_client_that_sends_none_is_cut_off(
    answers: bool, autojump_clock: MockClock
) -> None:
    limits, over = WebSocketLimits(ping_interval=5, pong_deadline=15), trio.Event()

    async def session(socket: WebSocket) -> None:
        with pytest.raises(WebSocketClosed) as closed:
            await socket.receive()
        assert closed.value.code == (1006 if answers else 1001)
        over.set()

    async with trio.open_nursery() as nursery:
        client = Raw(nursery, session, limits)
        nursery.start_soon(client.server.clock.run)
        await client.upgrade()
        for _ in range(10 if answers else 1):
            ping = await client.stream.receive_some()
            assert ping[0] == 0x89
            if answers:
                await client.stream.send_all(masked(Opcode.PONG, bytes(ping[2:])))
        if answers:
            assert trio.current_time() == 50
            await client.stream.aclose()
        await over.wait()
        assert trio.current_time() == (50 if answers else 20)
        nursery.cancel_scope.cancel()


async def test_a_failing_session_closes_with_1011_and_fails_alone() -> None:
    async def session(socket: WebSocket) -> None:
        await socket.receive()
        raise RuntimeError("a bug")

    async with upgraded(session) as client, upgraded(echo) as other:
        await client.send_message("go")
        assert await closing_code(client) == 1011
        await other.send_message("fine")
        assert await other.get_message() == "fine"


async def test_a_cancelled_session_still_says_goodbye(autojump_clock: MockClock) -> None:
    async def session(socket: WebSocket) -> None:
        try:
            await trio.sleep_forever()
        finally:
            socket.send_nowait("leave")

    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        @nursery.start_soon
        async def _serve() -> None:
            with scope:
                await server_of(session).serve_stream(far, PEER)

        client = await trio_websocket.wrap_client_stream(nursery, near, "host", "/rtc")  # type: ignore[arg-type]
        scope.cancel()
        assert await client.get_message() == "leave"
        assert await closing_code(client) == 1001
    assert trio.current_time() < 1


async def test_a_goodbye_that_nobody_reads_takes_a_quarter_of_a_second(autojump_clock: MockClock) -> None:
    async def session(socket: WebSocket) -> None:
        socket.send_nowait("unread")
        socket.close(4000)

    async with trio.open_nursery() as nursery:
        client = Raw(nursery, session, lockstep=True)
        await client.upgrade()
        await client.served.wait()
        assert trio.current_time() == pytest.approx(0.25)


def test_a_session_cancelled_at_any_step_leaves_whole_frames_or_nothing() -> None:
    messages = [f"message {number} {'x' * number * 40}" for number in range(5)]

    async def session(socket: WebSocket) -> None:
        for message in messages:
            socket.send_nowait(message)
        while True:
            socket.send_nowait(await socket.receive())

    async def cancelled_at(step: int) -> bool:
        near, far = lockstep_stream_pair()
        server = server_of(session)
        scope = trio.CancelScope()
        received = b""

        async def serve() -> None:
            with scope:
                await server.serve_stream(far, PEER)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            instrument = CancelAtStep(scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await near.send_all(UPGRADE)
                # In small pieces, so that a write is often half done when the cancellation comes.
                while data := await near.receive_some(7):
                    received += data
                    if received.endswith(b"x" * 160):
                        await near.send_all(masked(Opcode.TEXT, b"ping") + masked(Opcode.CLOSE, b"\x03\xe8"))
            except trio.BrokenResourceError:
                pass
            finally:
                trio.lowlevel.remove_instrument(instrument)
        seen = frames(received.partition(b"\r\n\r\n")[2])
        texts = [payload.decode() for opcode, payload in seen if opcode == 1]
        expected = [*messages, "ping"]
        assert all(text == whole for text, whole in zip(texts[:-1], expected, strict=False))
        if texts:
            assert expected[len(texts) - 1].startswith(texts[-1])
        assert 8 not in [opcode for opcode, _ in seen[:-1]]
        assert server.connections == 0
        assert trio.current_time() < 1
        return instrument.left <= 0

    step = 1
    while trio.run(cancelled_at, step, clock=MockClock(autojump_threshold=0)):
        step += 1
    assert step > 100


async def test_one_who_sends_without_pause_leaves_the_loop_to_others_after_sixteen_messages() -> None:
    taken: Counter[int] = Counter()  # by turn of the loop
    turn = 0

    def take(message: str | bytes) -> float:
        taken[turn] += 1
        return 0.0

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _others() -> None:
            nonlocal turn
            while taken.total() < 100:
                turn += 1
                await trio.lowlevel.checkpoint()

        client = Raw(nursery, lambda socket: socket.listen(take), more=masked(Opcode.TEXT, b"again") * 100)
        await client.upgrade()
        await client.stream.aclose()
    assert max(taken.values()) <= 32  # of two turns of its own, if the other task was first in one and last in the next


async def test_who_is_told_to_wait_takes_no_more_until_then(autojump_clock: MockClock) -> None:
    taken: list[tuple[str | bytes, float]] = []

    def take(message: str | bytes) -> float:
        taken.append((message, trio.current_time()))
        return 30.0 if message == "dear" else 0.0

    async with trio.open_nursery() as nursery:
        said = b"".join(masked(Opcode.TEXT, text) for text in (b"cheap", b"dear", b"later"))
        client = Raw(nursery, lambda socket: socket.listen(take), more=said)
        await client.upgrade()
        await client.stream.send_all(masked(Opcode.CLOSE, b"\x03\xe8"))
        assert await client.read_to_end() == [(8, b"\x03\xe8")]
    assert taken == [("cheap", 0), ("dear", 0), ("later", 30)]
