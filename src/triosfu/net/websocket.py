"""One WebSocket on a connection whose upgrade request is already read (RFC 6455), by wsproto.

    handler                     WebSocket               wsproto                       stream
    send_nowait(message) ──▶ queue (count, bytes) ──▶ frames ──▶ outbox ──▶ socket, if it takes all of it at once
                                                                    └─────▶ writer, else ──▶ socket
    listen(), receive()  ◀── one message ◀─────────── frames ◀───────────────────────────── socket

Several tasks have something to write, and a write that is cancelled in the middle of a frame corrupts the stream
without a word. So all of them append whole frames to an outbox, and then write what the socket takes without a wait,
which nothing can cut short. If anything is left, it is the writer's turn: until that task has written all there is, the
socket is its own; if its write is cut short, the connection ends. Who waits for a message reads it: there is no
task for that. Messages are compressed for clients that offer it: see `net.deflate`.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import structlog
import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.utilities import generate_accept_token

from triosfu.errors import TriosfuError
from triosfu.grid import on_grid
from triosfu.net.clock import Alarm
from triosfu.net.deflate import Deflate

if TYPE_CHECKING:
    from collections import Counter

    from triosfu.net.clock import Clock

log = structlog.get_logger(__name__)

GOING_AWAY: Final = 1001
ABNORMAL: Final = 1006  # RFC 6455, section 7.4.1: never on the wire, "gone without a close frame"
MESSAGE_TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011
TRY_AGAIN_LATER: Final = 1013
READ_SIZE: Final = 16384  # below what the C library maps anew for each read (`cli.allocator`)
WRITE_SIZE: Final = 65536  # frames are gathered up to this size before they are written
YIELD_EVERY: Final = 16  # messages; one client that sends without pause must not keep the loop from the others

QUIET: Final = 1.5  # ping intervals without a word of ours, after which there is a ping

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


class Together:
    """While one client's messages are handled: what they have others told waits, and goes out together at the end.

    All WebSockets of a server share one. A room tells its members several things on one message of one of them, and
    each write costs as much as all else that there is to be done for a frame.
    """

    def __init__(self) -> None:
        self.holding = False
        self._sockets: dict[WebSocket, None] = {}  # that have been told something, in that order

    def __enter__(self) -> None:
        """Hold what is said from now on."""
        self.holding = True

    def __exit__(self, *_: object) -> None:
        """Write what was said."""
        self.holding = False
        sockets, self._sockets = self._sockets, {}
        for websocket in sockets:
            websocket.push()

    def add(self, websocket: WebSocket) -> None:
        """Have this one write at the end."""
        self._sockets[websocket] = None


class WebSocket:
    """A conversation of whole messages, text or binary."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        key: str | None,
        extensions: str = "",
        leading: bytes = b"",
        limits: WebSocketLimits | None = None,
        counters: Counter[str],
        clock: Clock,
        together: Together | None = None,
    ) -> None:
        """Accept the request of `stream`, which had these Sec-WebSocket fields; the bytes `leading` came after it.

        Without a `key` it was this side that asked, and it has had its answer. Pings are sent while `clock` runs.
        WebSockets with the same `together` hold what is said while one of them hands on what it has read.
        """
        self._limits = limits or WebSocketLimits()
        self._counters = counters
        deflate = Deflate.accept_one_of(extensions, most=self._limits.message)
        if deflate is not None:
            counters["websockets_deflated"] += 1
        side = ConnectionType.CLIENT if key is None else ConnectionType.SERVER
        self._protocol = Connection(side, [] if deflate is None else [deflate])
        self._leading = leading
        self._wire = _Wire(stream, self._limits)
        if key is not None:
            self._wire.append(_accepted(key, deflate))
        self._queue: deque[str | bytes] = deque()
        self._queued_bytes = 0
        self._closing: tuple[int, str] | None = None
        self._ended = (ABNORMAL, "")  # what the client has closed with, or we, for its fault
        self._together = together or Together()
        self._events: Iterator[Event] = iter(())  # in what was read
        self._parts: list[str | bytes | bytearray] = []  # of the message that is arriving
        self._size = 0  # of these, in bytes
        self._pings = 0
        self._unanswered_since: float | None = None  # the last one
        self._alarm = Alarm(clock, self._keep_alive)
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
        if self._together.holding:
            self._together.add(self)
        else:
            self._push()
        return True

    def push(self) -> None:
        """Write what is queued, if it can be done at once. Never raises: whoever calls it may have no part in this."""
        try:
            self._push()
        except Exception as error:  # noqa: BLE001  as in `_next`
            self._failed(error)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End the conversation now: `receive` raises, `send_nowait` refuses; what is queued has 250 ms to get out."""
        if self._closing is not None:
            return
        self._closing = (code, reason)
        self._scope.deadline = trio.current_time() + self._limits.flush
        if self._reading is not None:
            self._reading.cancel()
        self._wire.wake()

    async def receive(self) -> str | bytes:
        """Wait for the next message. Cancelled, it has taken none.

        Raises:
            WebSocketClosed: One side has ended the conversation. What the client sent before its end comes first.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope() as self._reading:
            while self._closing is None:
                message = self._next()
                if message is not None:
                    self._push()  # pongs, which a handler that is at work should not hold up
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return message
                await self._read()
        raise WebSocketClosed(*self._closing or self._ended)

    async def listen(self, take: Callable[[str | bytes], float]) -> NoReturn:
        """Give each message to `take`, and then wait for the seconds that it says, until the conversation is over.

        Whatever it sends on messages that come together goes out together. Cancelled, it has taken no message that it
        has not given.

        Raises:
            WebSocketClosed: As `receive` does.
        """
        with trio.CancelScope() as self._reading:
            while self._closing is None:
                rest = self._hand_on(take)
                if self._closing is not None:
                    break
                if rest is None:
                    await self._read()
                else:
                    await trio.sleep(rest)
        raise WebSocketClosed(*self._closing or self._ended)

    def _hand_on(self, take: Callable[[str | bytes], float]) -> float | None:
        """Give `take` what was read; return the seconds to wait before more of it, None if there is no more."""
        with self._together:
            self._together.add(self)  # pongs
            for _ in range(YIELD_EVERY):
                message = self._next()
                if message is None:
                    return None
                if (rest := take(message)) or self._closing is not None:
                    return rest
            return 0.0

    async def serve(self, handler: WebSocketHandler) -> None:
        """Call `handler` with this WebSocket, once and in any case, and close after it.

        The answer to the client's request goes out meanwhile: if the client is gone, the handler finds out when it
        receives. Returns when nothing is left of the connection, at most 250 ms after the handler is done. Cancelled,
        it has done the same: the handler is cancelled, and what is queued, and a close frame, have 250 ms to get out.
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
        """Write what others could not, and ping, until the conversation is over; then close the connection."""
        try:
            with self._scope:
                self._alarm.deadline = self._ping_at()
                try:
                    await self._write()
                except Exception as error:  # noqa: BLE001  as in `_next`
                    self._failed(error)
                self.close(*self._ended)  # whoever waits for a message has to know
                await self._wire.finish()
        finally:
            self._wire.over = True
            self._alarm.cancel()
            stream = self._wire.stream
            if isinstance(stream, trio.SocketStream):
                stream.socket.close()
            else:
                await trio.aclose_forcefully(stream)

    def _failed(self, error: Exception) -> None:
        log.info("websocket.failed", error=repr(error))
        self._counters["websocket_failed"] += 1
        self._wire.end()

    def _ping_at(self) -> float:
        """When to send the next ping: data must move for a vanished client's connection to break.

        Where nobody waits for the answers, none is needed while something else is written: most clients ask for an
        answer of ours as often.
        """
        limits = self._limits
        if limits.pong_deadline < math.inf:
            return on_grid(trio.current_time() + limits.ping_interval)
        return on_grid(self._wire.written_at + QUIET * limits.ping_interval)

    def _keep_alive(self) -> None:
        """Send a ping if it is time for one.

        Unless there is a deadline, one that is not answered is neither repeated nor held against the client: the
        kernel gives such a connection up.
        """
        now = trio.current_time()
        if self.closed:
            return
        if self._unanswered_since is not None:
            self._counters["pings_unanswered"] += 1
            self.close(GOING_AWAY, "ping not answered")
        elif self._limits.pong_deadline == math.inf and now < (at := self._ping_at()):
            self._alarm.deadline = at
        else:
            self._pings += 1
            self._unanswered_since = now
            self._say(Ping(payload=self._pings.to_bytes(4, "big")))
            self._push()
            self._alarm.deadline = now + self._limits.pong_deadline

    def _ponged(self, payload: bytes) -> None:
        if self._unanswered_since is not None and payload == self._pings.to_bytes(4, "big"):
            self._unanswered_since = None
            self._alarm.deadline = self._ping_at()

    async def _read(self) -> None:
        """Wait for more of what the client says. What comes after a message waits until that one is taken."""
        self._push()
        data, self._leading = self._leading, b""
        data = data or await self._wire.read()
        if data:
            self._protocol.receive_data(data)
            self._events = self._protocol.events()
        else:
            self.close(*self._ended)

    def _next(self) -> str | bytes | None:
        """Return the next message of what was read, None if there is no whole one; answer pings that come before it."""
        try:
            for event in self._events:
                if isinstance(event, (TextMessage, BytesMessage)):
                    message = self._take(event)
                    if message is not None:
                        self._wire.unanswered = 0
                        return message
                elif isinstance(event, Ping):
                    self._say(event.response())
                elif isinstance(event, Pong):
                    self._ponged(event.payload)
                elif isinstance(event, CloseConnection):
                    self._end(event.code, event.reason or "")
                if self._wire.over:
                    break
        except Exception as error:  # noqa: BLE001  wsproto has several of its own for hostile frames
            self._failed(error)
        return None

    def _take(self, event: TextMessage | BytesMessage) -> str | bytes | None:
        part = event.data
        self._size += len(part.encode()) if isinstance(part, str) and not part.isascii() else len(part)
        if self._size > self._limits.message:
            self._end(MESSAGE_TOO_BIG, "message too big")
            return None
        if part:
            self._parts.append(part)
        if not event.message_finished:
            return None
        parts, self._parts, self._size = self._parts, [], 0
        empty: str | bytes = "" if isinstance(event, TextMessage) else b""
        return empty.join(parts)  # type: ignore[arg-type]  # all are of one kind

    def _end(self, code: int, reason: str) -> None:
        """The client has closed, or has made a mistake that ends this: answer with the same code, and read no more."""
        self._ended = (code, reason)
        self._say(CloseConnection(code=code, reason=reason))
        self._wire.end()

    def _say(self, event: Event) -> None:
        """Put a frame into the outbox, unless nothing may follow what is there."""
        state = self._protocol.state
        if not self._wire.over and (state is ConnectionState.OPEN or state is ConnectionState.REMOTE_CLOSING):
            self._wire.append(self._protocol.send(event))

    def _push(self) -> None:
        """Write what is queued if it can be done at once; else the writer does it."""
        wire = self._wire
        if wire.left_to_writer or not (self._queue or wire.size):
            return
        self._frame()
        wire.push()
        if self._queue:
            wire.wake()

    async def _write(self) -> None:
        while not self._wire.over:
            self._frame()
            self._wire.calm()  # whatever has stirred it until now is looked at here
            if self._closing is not None and not self._queue:
                code, reason = self._closing
                self._say(CloseConnection(code=code, reason=reason))
                break
            await self._wire.flush()
            if self._queue or self._wire.size:
                await trio.lowlevel.checkpoint()  # to flush what a socket takes at once is none
            else:
                await self._wire.wait()

    def _frame(self) -> None:
        """Move queued messages to the outbox, about one write's worth."""
        while self._queue and self._wire.size < WRITE_SIZE:
            message = self._queue.popleft()
            self._queued_bytes -= len(message)
            self._say(TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message))


class _Wire:
    """The connection's stream: frames are appended whole, and one task writes them."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, limits: WebSocketLimits) -> None:
        self.stream = stream
        # None for other streams, and where sockets are no files.
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) and sys.platform != "win32" else None
        self.over = False  # nothing more is read or accepted for writing
        self.size = 0  # bytes in the outbox
        self.unanswered = 0  # bytes read since the handler last took a message
        self.written_at = trio.current_time()  # or tried to
        self._limits = limits
        self._outbox: list[bytes] = []
        self._stirred = trio.Event()
        self._stirred.set()  # the writer begins
        self._broken = False

    async def read(self) -> bytes:
        """Wait for bytes; b"" when there will be none."""
        if self.over:
            return b""
        try:
            data = await self._read_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            self._break()
            return b""
        self.unanswered += len(data)
        # Empty fragments and pings carry no message, so the message limit does not see them.
        if not data or self.unanswered > 4 * self._limits.message:
            self.end()
            return b""
        return data

    async def _read_some(self) -> bytes:
        if self._socket is None:
            return bytes(await self.stream.receive_some(READ_SIZE))
        while True:  # trio's own way has steps for those who do not know that they have to wait
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return os.read(self._socket.fileno(), READ_SIZE)
            except BlockingIOError:
                pass

    def append(self, data: bytes) -> None:
        """Add a whole frame to what is to be written."""
        self._outbox.append(data)
        self.size += len(data)
        if self.size > self._limits.queue_bytes + self._limits.message:  # pongs, to a client that reads none
            self._break()

    @property
    def left_to_writer(self) -> bool:
        """Whether the writer is writing, or is about to."""
        return self._broken or self._stirred.is_set()

    def push(self) -> None:
        """Write the outbox as far as the socket takes it at once; the writer does the rest."""
        self.written_at = trio.current_time()
        data = b"".join(self._outbox)
        try:
            taken = self._write_at_once(data)
        except OSError:
            self._break()
            return
        self._outbox.clear()
        self.size = len(data) - taken
        if self.size:
            self._outbox.append(data[taken:])
            self.wake()

    def end(self) -> None:
        """Read nothing more; what is in the outbox is still written."""
        self.over = True
        self.wake()

    def wake(self) -> None:
        """Let the writer look again."""
        self._stirred.set()

    async def wait(self) -> None:
        """Wait until somebody called `wake` since the last `calm`."""
        await self._stirred.wait()

    def calm(self) -> None:
        """Forget who called `wake` before."""
        if self._stirred.is_set():
            self._stirred = trio.Event()

    async def flush(self) -> None:
        """Write the outbox. If that fails, takes too long or is cancelled, nothing is ever written again.

        No checkpoint if the socket takes all of it at once, as it does with nearly everything that is said.
        """
        if self._broken or not self._outbox:
            return
        self.written_at = trio.current_time()
        data = b"".join(self._outbox)
        self._outbox.clear()
        self.size = 0
        self._broken = True
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            taken = self._write_at_once(data)
            if taken == len(data):
                self._broken = False
                return
            with trio.move_on_after(self._limits.write_deadline) as scope:
                await self.stream.send_all(data[taken:])
            self._broken = scope.cancelled_caught
        if self._broken:
            self.end()

    async def finish(self) -> None:
        """Write what is left, then let the client read it: closing with unread data would reset the connection."""
        self.over = True
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            await self.flush()
            if not self._broken:
                if self._socket is None:
                    await self.stream.send_eof()
                else:
                    self._socket.shutdown(socket.SHUT_WR)  # trio's own way is a turn of the event loop
                while await self._read_some():
                    pass

    def _write_at_once(self, data: bytes) -> int:
        """How many bytes of `data` the socket has taken without waiting: trio's own way costs a turn of the event loop.

        Raises:
            OSError: The connection is broken.
        """
        if self._socket is None:
            return 0
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0

    def _break(self) -> None:
        self._broken = True
        self.end()


def _accepted(key: str, deflate: Deflate | None) -> bytes:
    """The answer to an upgrade request (RFC 6455, section 4.2.2)."""
    token = generate_accept_token(key.encode("latin-1")).decode()
    head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    extensions = "" if deflate is None else f"Sec-WebSocket-Extensions: {deflate.answer}\r\n"
    return f"{head}Sec-WebSocket-Accept: {token}\r\n{extensions}\r\n".encode()
