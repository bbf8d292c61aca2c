"""One WebSocket on a connection whose upgrade request is already read (RFC 6455), by trio-websocket.

    handler                     WebSocket                               trio-websocket          stream
    send_nowait(message) ──▶ queue (count, bytes) ──▶ writer ──▶ frames ──▶ outbox ──▶ writer ──▶ socket
    receive()            ◀─────────────────────────── reader ◀── frames ◀───────────────────── socket

trio-websocket writes from several tasks, and a write that is cancelled in the middle of a frame corrupts the stream
without a word. So it is given a stream whose `send_all` only appends to an outbox: whatever is cancelled, frames stay
whole. One task, the writer, owns the socket; if its own write is cut short, the connection ends.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
import trio
import trio_websocket
from wsproto.frame_protocol import FrameProtocol

from triosfu.errors import TriosfuError

if TYPE_CHECKING:
    from collections import Counter

log = structlog.get_logger(__name__)

GOING_AWAY: Final = 1001
ABNORMAL: Final = 1006  # RFC 6455, section 7.4.1: never on the wire, "gone without a close frame"
MESSAGE_TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011
TRY_AGAIN_LATER: Final = 1013
READ_SIZE: Final = 65536
WRITE_SIZE: Final = 65536  # frames are gathered up to this size before they are written

WebSocketHandler = Callable[["WebSocket"], Awaitable[None]]


class WebSocketClosed(TriosfuError):
    """The conversation is over; `code` and `reason` as in RFC 6455, section 7.1.5."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"websocket closed with code {code}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketLimits:
    """How much one WebSocket may hold, and how long it may take."""

    message: int = 2 << 20  # bytes of one received message
    queue_count: int = 1024  # messages waiting to be sent
    queue_bytes: int = 8 << 20
    ping_interval: float = 5.0
    pong_deadline: float = math.inf  # for the answer to a ping; without one, the next ping waits for it
    write_deadline: float = 10.0  # for one write of at most WRITE_SIZE or one message
    flush: float = 0.25  # for all that close() still has to say


class WebSocket:
    """A conversation of whole messages, text or binary."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        key: str,
        leading: bytes = b"",
        limits: WebSocketLimits | None = None,
        counters: Counter[str],
    ) -> None:
        """Wrap `stream`, whose client sent Sec-WebSocket-Key `key` and, after its request, the bytes `leading`."""
        self._limits = limits or WebSocketLimits()
        self._counters = counters
        self._wire = _Wire(stream, _request(key), leading, self._limits)
        self._queue: deque[str | bytes] = deque()
        self._queued_bytes = 0
        self._closing: tuple[int, str] | None = None
        self._connection: trio_websocket.WebSocketConnection | None = None
        self._opened = trio.Event()
        self._reading: trio.CancelScope | None = None
        # Shielded, so that a cancelled handler still gets its goodbye out; `close`, which `serve` always calls,
        # gives it its deadline.
        self._scope = trio.CancelScope(shield=True)

    @property
    def closed(self) -> bool:
        """Whether either side has ended the conversation."""
        return self._closing is not None or self._wire.over

    def send_nowait(self, message: str | bytes) -> bool:
        """Queue `message`; False if the conversation is over.

        A client that reads too slowly for the queue's bounds is closed: none of its messages are left out in silence.
        """
        if self.closed:
            return False
        if len(self._queue) >= self._limits.queue_count or self._queued_bytes >= self._limits.queue_bytes:
            self._counters["websocket_too_slow"] += 1
            self.close(TRY_AGAIN_LATER, "too slow")
            return False
        self._queue.append(message)
        self._queued_bytes += len(message)
        self._wire.wake()
        return True

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End the conversation now: `receive` raises, `send_nowait` refuses; what is queued has 250 ms to get out."""
        if self._closing is None:
            self._closing = (code, reason)
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + self._limits.flush)
        if self._reading is not None:
            self._reading.cancel()
        self._wire.wake()

    async def receive(self) -> str | bytes:
        """Wait for the next message. Cancelled, it has taken none.

        Raises:
            WebSocketClosed: One side has ended the conversation. What the client sent before its end comes first.
        """
        while self._closing is None:
            with trio.CancelScope() as self._reading:
                await self._opened.wait()
                if self._connection is None:  # the client did not even wait for the handshake
                    self.close(ABNORMAL)
                    break
                try:
                    message: str | bytes = await self._connection.get_message()
                except trio_websocket.ConnectionClosed as error:
                    said = error.reason
                    self.close(said.code if said else ABNORMAL, (said and said.reason) or "")
                else:
                    self._wire.unanswered = 0
                    return message
        code, reason = self._closing or (ABNORMAL, "")
        raise WebSocketClosed(code, reason)

    async def serve(self, handler: WebSocketHandler) -> None:
        """Call `handler` with this WebSocket, once and in any case, and close after it.

        The handshake goes on meanwhile: if the client is gone, the handler finds out when it receives. Returns when
        nothing is left of the connection, at most 250 ms after the handler is done. Cancelled, it has done the same:
        the handler is cancelled, and what is queued, and a close frame, have 250 ms to get out.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run)
            try:
                await handler(self)
            except WebSocketClosed:
                pass
            except Exception:  # a bug in one session ends that session only
                log.exception("websocket.handler_failed")
                self._counters["handler_errors"] += 1
                self.close(INTERNAL_ERROR, "internal error")
            else:
                self.close()
            finally:
                self.close(GOING_AWAY)  # the first close counts: this one is for a cancelled handler's client

    async def _run(self) -> None:
        try:
            with self._scope:
                try:
                    await self._converse()
                except Exception as error:  # noqa: BLE001  wsproto has several of its own for hostile frames
                    log.info("websocket.failed", error=repr(error))
                    self._counters["websocket_failed"] += 1
                await self._wire.finish(self._limits.flush)
        finally:
            self._wire.over = True
            self._opened.set()
            await trio.aclose_forcefully(self._wire.stream)

    async def _converse(self) -> None:
        """Shake hands, then write until the conversation is over and all of it is in the outbox."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, nursery.cancel_scope)
            request = await trio_websocket.wrap_server_stream(
                nursery, self._wire, max_message_size=self._limits.message, receive_buffer_size=READ_SIZE
            )
            self._connection = connection = await request.accept()
            self._opened.set()
            self._wire.wake()
            # Data must move for a vanished client's connection to break. Unless there is a deadline, a ping that is not
            # answered is neither repeated nor held against the client: the kernel gives such a connection up.
            with contextlib.suppress(trio_websocket.ConnectionClosed):
                while True:
                    await trio.sleep(self._limits.ping_interval)
                    with trio.move_on_after(self._limits.pong_deadline) as patience:
                        await connection.ping()
                    if patience.cancelled_caught:
                        self._counters["pings_unanswered"] += 1
                        self.close(GOING_AWAY, "ping not answered")
                        await trio.sleep_forever()  # `close` has set the deadline

    async def _write(self, conversation: trio.CancelScope) -> None:
        while not self._wire.over:
            connection = self._connection
            if connection is not None:
                await self._frame(connection)
                if self._closing is not None and not self._queue:
                    if connection.closed is None:  # else trio-websocket has answered or sent a close frame already
                        code, reason = self._closing
                        self._wire.append(bytes(FrameProtocol(client=False, extensions=[]).close(code, reason)))
                    break
            await self._wire.flush()
            if connection is None or not self._queue:
                await self._wire.wait()
        conversation.cancel()

    async def _frame(self, connection: trio_websocket.WebSocketConnection) -> None:
        """Move queued messages to the outbox, about one write's worth."""
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            while self._queue and self._wire.size < WRITE_SIZE:
                message = self._queue.popleft()
                self._queued_bytes -= len(message)
                await connection.send_message(message)


class _Wire(trio.abc.Stream):
    """What trio-websocket takes for the connection: it replays the request, and keeps what is written whole."""

    def __init__(
        self, stream: trio.abc.HalfCloseableStream, request: bytes, leading: bytes, limits: WebSocketLimits
    ) -> None:
        self.stream = stream
        self.over = False  # nothing more is read or accepted for writing
        self.size = 0  # bytes in the outbox
        self.unanswered = 0  # bytes read since the handler last took a message
        self._request = request
        self._leading = leading
        self._limits = limits
        self._accepted = trio.Event()
        self._outbox: list[bytes] = []
        self._stirred = trio.Event()
        self._broken = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._request:
            await trio.lowlevel.checkpoint()
            data, self._request = self._request, b""
            return data
        # wsproto drops what arrives between the request and its acceptance.
        await self._accepted.wait()
        if self._leading:
            data, self._leading = self._leading, b""
            return data
        if self.over:
            raise trio.ClosedResourceError
        try:
            data = bytes(await self.stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._break()
            raise
        self.unanswered += len(data)
        # Empty fragments and pings carry no message, so the message limit does not see them.
        if not data or self.unanswered > 4 * self._limits.message:
            self._end()
            return b""
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.over:
            raise trio.BrokenResourceError
        self._accepted.set()
        self.append(bytes(data))
        if self.size > self._limits.queue_bytes + self._limits.message:  # pongs, to a client that reads none
            self._break()
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._end()
        await trio.lowlevel.checkpoint()

    def append(self, data: bytes) -> None:
        self._outbox.append(data)
        self.size += len(data)
        self.wake()

    def wake(self) -> None:
        """Let the writer look again."""
        self._stirred.set()

    async def wait(self) -> None:
        """Wait until somebody called `wake` since the last wait."""
        await self._stirred.wait()
        self._stirred = trio.Event()

    async def flush(self) -> None:
        """Write the outbox. If that fails, takes too long or is cancelled, nothing is ever written again."""
        if self._broken or not self._outbox:
            return
        data = b"".join(self._outbox)
        self._outbox.clear()
        self.size = 0
        self._broken = True
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(self._limits.write_deadline) as scope:
                await self.stream.send_all(data)
            self._broken = scope.cancelled_caught
        if self._broken:
            self._end()

    async def finish(self, seconds: float) -> None:
        """Write what is left, then let the client read it: closing with unread data would reset the connection."""
        self.over = True
        with trio.move_on_after(seconds), contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.flush()
            if not self._broken:
                await self.stream.send_eof()
                while await self.stream.receive_some(READ_SIZE):
                    pass

    def _break(self) -> None:
        self._broken = True
        self._end()

    def _end(self) -> None:
        self.over = True
        self.wake()


def _request(key: str) -> bytes:
    """An upgrade request that trio-websocket accepts, in place of the real one, whose target may be a megabyte long."""
    head = "GET / HTTP/1.1\r\nHost: triosfu\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode("latin-1")
