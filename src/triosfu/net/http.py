"""HTTP/1.1 and WebSockets on one port: h11 reads and writes, trio carries, one handler answers.

    async def handler(request: Request) -> Response | Upgrade: ...
    await nursery.start(serve_http, await open_listeners(["127.0.0.1"], 7880), handler)

One task per connection, which ends with it: keep-alive and pipelined requests are answered one after the other. What a
client does wrong, or too slowly, ends its own connection. Cross-origin requests are allowed unless a server says
otherwise, because pages of any origin use LiveKit's API; preflight requests are answered here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote

import h11
import structlog
import trio

from triosfu.errors import TriosfuError, UsageError
from triosfu.net.clock import Clock
from triosfu.net.listeners import serve_listener
from triosfu.net.shares import Shares, holder
from triosfu.net.websocket import Together, WebSocket, WebSocketHandler, WebSocketLimits

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger(__name__)

READ_SIZE: Final = 16384  # below what the C library maps anew for each read (`cli.allocator`)
INCOMPLETE: Final = 65536  # bytes that h11 keeps of a chunk's header or trailers
LITTLE: Final = 64  # of all connections, one in so many is little for one address
# The kernel gives up a connection whose data is not acknowledged for so long. With a WebSocket's ping interval before
# it, that is how a client is noticed that vanishes before it has a transport: in the 20 s promised for every client.
TCP_USER_TIMEOUT_MS: Final = 10_000
CORS: Final = (("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", "*"))
OF_ONE_CONNECTION: Final = (  # header fields
    frozenset({"connection", "content-length", "expect", "keep-alive", "proxy-connection"})
    | {"te", "trailer", "transfer-encoding", "upgrade"}
)
CROWDED: Final = "too many requests at once"
CORS_METHODS: Final = "OPTIONS, HEAD, GET, POST, PATCH, DELETE"

_PHRASES: Final[Mapping[int, str]] = {status.value: status.phrase for status in HTTPStatus}

Address = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much clients may ask for, and how long they may take.

    One address cannot have all of `connections` and `buffered`: see `net.shares`.
    """

    head: int = 3 << 19  # bytes of request line and header fields; a join_request travels in the URL
    header_lines: int = 256
    escapes: int = 1 << 14  # %xx in a target: each costs more to decode than to send
    body: int = 10 << 20
    header_deadline: float = 10.0  # from a request's first byte to the end of its head
    body_deadline: float = 30.0
    write_deadline: float = 30.0
    idle: float = 15.0  # between two requests on one connection; a vanished browser holds some, and sends no more
    linger: float = 0.25  # for a refused client to read why
    connections: int = 4096
    buffered: int = 256 << 20  # bytes of unanswered requests, all connections together


class Headers(Mapping[str, str]):
    """Header fields by name, in whatever case; of repeated ones the values are joined with commas (RFC 9110, 5.3)."""

    def __init__(self, fields: Sequence[tuple[bytes, bytes]] = ()) -> None:
        values: dict[str, list[str]] = {}
        for name, value in fields:
            values.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        self._fields = {name: ", ".join(several) for name, several in values.items()}

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def tokens(self, name: str) -> list[str]:
        """A comma-separated field's members, in lower case."""
        return [token.strip().lower() for token in self.get(name, "").split(",")]


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read to its end."""

    method: str
    target: str  # as sent
    path: str  # decoded; leading slashes collapsed into one
    query: Mapping[str, list[str]]
    headers: Headers
    body: bytes
    peer: Address

    def get(self, name: str) -> str | None:
        """The first value of a query parameter."""
        values = self.query.get(name)
        return values[0] if values else None

    def serialize(self) -> bytes:
        """The request as bytes that say the same, for another server: the last one of its connection, or a WebSocket's.

        What repeated header fields had to say is in one (RFC 9110, section 5.3).
        """
        kept = [(name, value.strip(" \t")) for name, value in self.headers.items() if name not in OF_ONE_CONNECTION]
        upgrade = [("connection", "Upgrade"), ("upgrade", "websocket")]
        kept += upgrade if self.wants_websocket else [("connection", "close")]
        kept.append(("content-length", str(len(self.body))))
        version = "1.1" if "host" in self.headers else "1.0"
        lines = [f"{self.method} {self.target} HTTP/{version}", *(f"{name}: {value}" for name, value in kept), "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body

    @property
    def wants_websocket(self) -> bool:
        """Whether this asks to become a WebSocket; a handler may answer it with `Upgrade`."""
        return (
            self.method == "GET"
            and "websocket" in self.headers.tokens("upgrade")
            and "upgrade" in self.headers.tokens("connection")
        )


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; text in UTF-8 unless `headers` say otherwise."""

    status: int
    body: bytes = b""
    headers: Sequence[tuple[str, str]] = ()

    @classmethod
    def text(cls, status: int, text: str = "", headers: Sequence[tuple[str, str]] = ()) -> Response:
        """A plain-text answer."""
        return cls(status, text.encode(), headers)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The answer that turns the connection into a WebSocket.

    `handler` is called exactly once, even if the client has meanwhile gone: then its first `receive` says so.
    """

    handler: WebSocketHandler
    limits: WebSocketLimits = field(default_factory=WebSocketLimits)


@dataclass(frozen=True, slots=True)
class HandOver:
    """The answer that gives the connection away, before anything has been said on it.

    `take` gets the socket's descriptor, the bytes that say what the client has said, and the client's address. It must
    have made a copy of the descriptor when it returns, and returns None then, or else what the client is to be told.
    If it waits, it has to have a deadline.
    """

    take: Callable[[int, bytes, Address], Awaitable[Response | None]]


Handler = Callable[[Request], Awaitable[Response | Upgrade | HandOver]]


async def serve_http(
    listeners: Sequence[trio.SocketListener],
    handler: Handler,
    *,
    limits: Limits | None = None,
    counters: Counter[str] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer every request on `listeners` by `handler`, until cancelled; then listeners and connections are closed.

    A WebSocket's client is told so first, within 250 ms.
    """
    await HttpServer(handler, limits=limits, counters=counters).serve(listeners, task_status=task_status)


class HttpServer:
    """What the connections of one server share: the handler, the limits, and the count of what they hold."""

    def __init__(
        self,
        handler: Handler,
        *,
        limits: Limits | None = None,
        counters: Counter[str] | None = None,
        cross_origin: bool = True,
        clock: Clock | None = None,
    ) -> None:
        """Serve nothing yet. Without `cross_origin`, browsers let pages of other origins read nothing.

        WebSockets have their pings from `clock`, if one is given that runs; else from one of this server's own.
        """
        self.handler = handler
        self.cross_origin = cross_origin
        self.limits = limits or Limits()
        self.counters: Counter[str] = counters if counters is not None else Counter()
        self.clock = Clock() if clock is None else clock
        self.together = Together()
        self._keeps_time = clock is None
        asked = self.limits
        self.connection_shares = Shares(asked.connections, little=max(1, asked.connections // LITTLE))
        self.buffer_shares = Shares(asked.buffered, little=max(asked.head + asked.body, asked.buffered // LITTLE))

    @property
    def connections(self) -> int:
        """How many there are now."""
        return self.connection_shares.total

    @property
    def buffered(self) -> int:
        """How many bytes of unanswered requests are kept now."""
        return self.buffer_shares.total

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer every request on `listeners`, until cancelled; what is closed then, see `serve_http`."""
        async with trio.open_nursery() as nursery:
            if self._keeps_time:
                nursery.start_soon(self.clock.run, name="clock of websockets")
            for listener in listeners:
                nursery.start_soon(serve_listener, listener, self.serve_socket, nursery)
            task_status.started()

    async def serve_socket(self, stream: trio.SocketStream) -> None:
        """Serve one accepted connection to its end, and close it. Never raises for what its client does.

        Cancelled, it has closed the connection, whatever was on its way in it.
        """
        with contextlib.suppress(OSError):  # the client may be gone already
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
            host, port = stream.socket.getpeername()[:2]
            await self.serve_stream(stream, (host, port), leading=_sent_already(stream))
            return
        await trio.aclose_forcefully(stream)

    async def serve_handed_over(self, sock: socket.socket, peer: Address, data: bytes, handler: Handler) -> None:
        """Serve a connection that somebody else has accepted, and read `data` from, to its end; `handler` answers.

        Cancelled, it has closed the connection, as it has at its end.
        """
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        await self.serve_stream(stream, peer, leading=data, handler=handler)

    async def serve_stream(
        self,
        stream: trio.abc.HalfCloseableStream,
        peer: Address,
        *,
        leading: bytes = b"",
        handler: Handler | None = None,
    ) -> None:
        """Serve one connection over any stream to its end, and close it; cancelled, it has closed it as well."""
        who = holder(peer[0])
        if not self.connection_shares.take(who):
            self.counters["connections_refused"] += 1
            await trio.aclose_forcefully(stream)
            return
        connection = _Connection(self, stream, peer, who, handler or self.handler)
        try:
            await connection.serve(leading)
        except Exception:  # a bug here ends one connection, not the server
            log.exception("http.connection_failed")
            self.counters["connection_failed"] += 1
        finally:
            connection.release()
            self.connection_shares.give_back(who)
            if not connection.handed_over:
                await trio.aclose_forcefully(stream)


class _Refused(TriosfuError):
    """This request cannot be served: say so and close."""

    def __init__(self, status: int, text: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.response = Response.text(status, text, headers)


class _Gone(TriosfuError):
    """The client has left, or is too slow to be waited for."""


class _Connection:
    def __init__(
        self, server: HttpServer, stream: trio.abc.HalfCloseableStream, peer: Address, who: str, handler: Handler
    ) -> None:
        self._server = server
        self._handler = handler
        self._limits = server.limits
        self._stream = stream
        self._peer = peer
        self._who = who  # holds what this connection does
        self._buffer = bytearray()  # read and not yet given to h11
        self._held = 0  # our share of server.buffered
        self.handed_over = False  # to a WebSocket, which closes the stream

    async def serve(self, leading: bytes) -> None:
        patience = self._limits.header_deadline
        try:
            if leading and not await self._begin(leading):
                return
            while await self._exchange(patience):
                patience = self._limits.idle
        except _Gone:
            self._server.counters["connections_lost"] += 1

    async def _begin(self, leading: bytes) -> bool:
        """Take what was read elsewhere; false if there is no place for it."""
        if self._server.buffer_shares.take(self._who, len(leading)):
            self._held = len(leading)
            self._buffer += leading
            return True
        self._server.counters["requests_refused"] += 1
        await self._write(h11.Connection(h11.SERVER), Response.text(503, CROWDED), close=True)
        return False

    def release(self) -> None:
        self._server.buffer_shares.give_back(self._who, self._held)
        self._held = 0

    async def _exchange(self, patience: float) -> bool:
        """Read one request and answer it; false if it was the connection's last."""
        # h11's objects live for one exchange: what it has read too much comes back to the buffer.
        protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=INCOMPLETE)
        try:
            if not await self._read_head(patience):
                return False
            request = await self._read_request(protocol)
            self._server.counters["requests"] += 1
            answer = await self._answer(request)
        except _Refused as refusal:
            self._server.counters["requests_refused"] += 1
            await self._write(h11.Connection(h11.SERVER), refusal.response, close=True)
            await self._linger()
            return False
        self._buffer[:] = protocol.trailing_data[0]
        if isinstance(answer, HandOver):
            given = await self._give_away(answer, request)
            if given is None:
                return False
            answer = given
        self.release()
        if isinstance(answer, Upgrade):
            self._server.counters["websockets"] += 1
            websocket = WebSocket(
                self._stream,
                key=request.headers["sec-websocket-key"],
                extensions=request.headers.get("sec-websocket-extensions", ""),
                leading=bytes(self._buffer),
                limits=answer.limits,
                counters=self._server.counters,
                clock=self._server.clock,
                together=self._server.together,
            )
            self.handed_over = True
            await websocket.serve(answer.handler)
            return False
        await self._write(protocol, answer, head_only=request.method == "HEAD")
        if protocol.our_state is h11.DONE and protocol.their_state is h11.DONE:
            return True
        await self._linger()
        return False

    async def _give_away(self, answer: HandOver, request: Request) -> Response | None:
        """None if somebody else has the connection now; what is left for us is to close our end of it."""
        if not isinstance(self._stream, trio.SocketStream):
            raise UsageError("http: only a socket can be handed over")
        data = request.serialize() + bytes(self._buffer)
        refusal = await answer.take(self._stream.socket.fileno(), data, self._peer)
        self._server.counters["handed_over" if refusal is None else "not_handed_over"] += 1
        return refusal

    async def _read_head(self, patience: float) -> bool:
        """Fill the buffer up to the blank line that ends a head; false if the client ends instead.

        h11 would find that line too. But it looks at each header field in Python, so how many there are is checked
        before, and it then gets the head in one piece, whatever the size of the pieces it came in.
        """
        buffer, begun, looked, lines = self._buffer, False, 0, self._buffer.count(b"\n")
        with trio.move_on_after(patience) as scope:
            while True:
                if buffer[:1].isspace():  # RFC 9112, section 2.2: an empty line may follow a previous body
                    del buffer[: len(buffer) - len(buffer.lstrip(b"\r\n"))]
                if buffer:
                    if not begun:
                        begun = True
                        scope.deadline = trio.current_time() + self._limits.header_deadline
                    if not 0x20 < buffer[0] < 0x7F:
                        raise _Refused(400, "not an HTTP request")
                    end = _end_of_head(buffer, looked)
                    if (len(buffer) if end is None else end) > self._limits.head:
                        raise _Refused(431, "request head too large")
                    if (lines if end is None else buffer.count(b"\n", 0, end)) > self._limits.header_lines:
                        raise _Refused(431, "too many header fields")
                    if end is not None:
                        return True
                    looked = max(0, len(buffer) - 2)
                data = await self._receive()
                if not data:
                    return False
                buffer += data
                lines += data.count(b"\n")
        if self._buffer:
            raise _Refused(408, "request head took too long")
        return False

    async def _read_request(self, protocol: h11.Connection) -> Request:
        protocol.receive_data(bytes(self._buffer))
        self._buffer.clear()
        try:
            head = protocol.next_event()
            if not isinstance(head, h11.Request):
                raise _Refused(400, "not an HTTP request")
            request = self._parse(head)
            event = protocol.next_event()
            if isinstance(event, h11.EndOfMessage):  # as with most: there is nothing to wait for
                return request
            return replace(request, body=await self._read_body(protocol, event))
        except h11.RemoteProtocolError as error:
            raise _Refused(error.error_status_hint, "malformed request") from None

    async def _read_body(self, protocol: h11.Connection, event: type[h11.NEED_DATA | h11.PAUSED] | h11.Event) -> bytes:
        """Read the body, of which `event` is the first that was heard."""
        body = bytearray()
        with trio.move_on_after(self._limits.body_deadline):
            while True:
                if event is h11.NEED_DATA:
                    if protocol.they_are_waiting_for_100_continue:
                        proceed = h11.InformationalResponse(status_code=100, headers=[])
                        await self._send(protocol.send(proceed) or b"")
                    protocol.receive_data(await self._receive())
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > self._limits.body:
                        raise _Refused(413, "request body too large")
                elif isinstance(event, h11.EndOfMessage):
                    return bytes(body)
                else:
                    raise _Gone
                event = protocol.next_event()
        raise _Refused(408, "request body took too long")

    def _parse(self, head: h11.Request) -> Request:
        if head.http_version not in {b"1.0", b"1.1"}:
            raise _Refused(505, "HTTP version not supported")
        headers = Headers(list(head.headers))
        length = headers.get("content-length", "0")
        if len(length) > 15 or int(length) > self._limits.body:  # h11 has checked that these are digits
            raise _Refused(413, "request body too large")
        target = head.target.decode("ascii", "replace")
        path, query = self._parse_target(target)
        request = Request(head.method.decode("ascii"), target, path, query, headers, b"", self._peer)
        if request.wants_websocket:
            if headers.get("sec-websocket-version") != "13":  # RFC 6455, section 4.4
                raise _Refused(426, "unsupported WebSocket version", [("Sec-WebSocket-Version", "13")])
            if "sec-websocket-key" not in headers:
                raise _Refused(400, "missing Sec-WebSocket-Key")
        return request

    def _parse_target(self, target: str) -> tuple[str, dict[str, list[str]]]:
        """Path and query of a request target in origin, absolute or asterisk form (RFC 9112, section 3.2)."""
        if target.count("%") > self._limits.escapes:
            raise _Refused(400, "too many escapes in the request target")
        location, _, query = target.partition("#")[0].partition("?")
        if "://" in location[:8]:
            location = "/" + location.partition("://")[2].partition("/")[2]
        if location.startswith("/"):
            # Clients whose URL ends with a slash ask for //rtc.
            location = "/" + location.lstrip("/")
        elif location != "*":
            raise _Refused(400, "malformed request target")
        try:
            return unquote(location), parse_qs(query, keep_blank_values=True, max_num_fields=256)
        except ValueError:
            raise _Refused(400, "too many query parameters") from None

    async def _answer(self, request: Request) -> Response | Upgrade | HandOver:
        preflight = request.method == "OPTIONS" and "access-control-request-method" in request.headers
        if preflight and self._server.cross_origin:
            allowed = request.headers.get("access-control-request-headers", "*")
            return Response(
                204,
                headers=[
                    ("Access-Control-Allow-Methods", CORS_METHODS),
                    ("Access-Control-Allow-Headers", allowed),
                    ("Access-Control-Max-Age", "86400"),
                ],
            )
        try:
            return _checked(await self._handler(request), request)
        except Exception:  # a bug in one request ends that request only
            log.exception("http.handler_failed", path=request.path)
            self._server.counters["handler_errors"] += 1
            return Response.text(500, "internal error")

    async def _write(
        self, protocol: h11.Connection, response: Response, *, head_only: bool = False, close: bool = False
    ) -> None:
        try:
            data = self._serialize(protocol, response, head_only=head_only, close=close)
        except h11.LocalProtocolError:  # the handler's fault, such as a line break in a header field
            log.exception("http.bad_response")
            self._server.counters["handler_errors"] += 1
            data = self._serialize(h11.Connection(h11.SERVER), Response.text(500, "internal error"), close=True)
        await self._send(data)

    def _serialize(
        self, protocol: h11.Connection, response: Response, *, head_only: bool = False, close: bool = False
    ) -> bytes:
        common = CORS if self._server.cross_origin else ()
        return _serialize(protocol, response, common, head_only=head_only, close=close)

    async def _send(self, data: bytes) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(self._limits.write_deadline) as scope:
                await self._stream.send_all(data)
            if not scope.cancelled_caught:
                return
        raise _Gone

    async def _receive(self) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(READ_SIZE))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _Gone from None
        if not self._server.buffer_shares.take(self._who, len(data)):
            raise _Refused(503, CROWDED)
        self._held += len(data)
        return data

    async def _linger(self) -> None:
        """Let the client read the last answer: closing with unread data would reset the connection."""
        with (
            trio.move_on_after(self._limits.linger),
            contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            await self._stream.send_eof()
            while await self._stream.receive_some(READ_SIZE):
                pass


def _sent_already(stream: trio.SocketStream) -> bytes:
    """What has come on a new connection until now, mostly a request: to wait for it costs a turn of the event loop.

    Raises:
        OSError: The connection is broken.
    """
    if sys.platform == "win32":  # where sockets are no files
        return b""
    try:
        return os.read(stream.socket.fileno(), READ_SIZE)
    except BlockingIOError:
        return b""


def _serialize(
    protocol: h11.Connection, response: Response, common: Sequence[tuple[str, str]], *, head_only: bool, close: bool
) -> bytes:
    given = {name.lower() for name, _ in response.headers}
    headers = [(name, value) for name, value in common if name.lower() not in given]
    if response.status not in {204, 304} and "content-length" not in given:
        headers.append(("Content-Length", str(len(response.body))))
    if response.body and "content-type" not in given:
        headers.append(("Content-Type", "text/plain; charset=utf-8"))
    if close:
        headers.append(("Connection", "close"))
    reason = _PHRASES.get(response.status, "")
    head = h11.Response(status_code=response.status, reason=reason, headers=[*headers, *response.headers])
    data = protocol.send(head) or b""
    if response.body and not head_only:
        data += protocol.send(h11.Data(data=response.body)) or b""
    return data + (protocol.send(h11.EndOfMessage()) or b"")


def _end_of_head(buffer: bytearray, start: int) -> int | None:
    """Where the first blank line after `start` ends; a bare LF counts as a line's end, as it does for h11."""
    ends = [at + len(blank) for blank in (b"\n\r\n", b"\n\n") if (at := buffer.find(blank, start)) >= 0]
    return min(ends, default=None)


def _checked(answer: Response | Upgrade | HandOver, request: Request) -> Response | Upgrade | HandOver:
    if isinstance(answer, Upgrade) and not request.wants_websocket:
        raise UsageError("a request that is no WebSocket handshake was answered with an upgrade")
    return answer
