"""One client on a memory stream, and the HTTP server at its other end."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from trio.testing import memory_stream_pair

from triosfu.net.http import Handler, HttpServer, Limits, Request, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PEER = ("192.0.2.7", 40000)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """Writes raw bytes and reads whole answers."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, server: HttpServer) -> None:
        self.stream = stream
        self.server = server
        self.served = trio.Event()
        self._buffer = bytearray()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self, *, head_only: bool = False) -> Answer:
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = 0 if head_only else int(headers.get("content-length", "0"))
        while len(rest) < length:
            await self._more()
            rest = bytes(self._buffer).partition(b"\r\n\r\n")[2]
        self._buffer[:] = rest[length:]
        return Answer(int(first.split()[1]), headers, rest[:length])

    async def ask(self, data: bytes) -> Answer:
        await self.send(data)
        return await self.answer()

    async def following(self) -> bytes:
        """What comes next, which may have come already."""
        if not self._buffer:
            await self._more()
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    async def ended(self) -> bool:
        """Whether nothing follows what was read: waits for the server to close."""
        return not self._buffer and not await self.stream.receive_some()

    async def _more(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError(bytes(self._buffer))
        self._buffer += data


@asynccontextmanager
async def connected(
    handler: Handler,
    *,
    limits: Limits | None = None,
    server: HttpServer | None = None,
    streams: tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream] | None = None,
) -> AsyncIterator[Client]:
    """A client of a server with this handler, or of a given server."""
    near, far = streams or memory_stream_pair()
    server = server or HttpServer(handler, limits=limits, counters=Counter())
    client = Client(near, server)

    async def serve() -> None:
        await server.serve_stream(far, PEER)
        client.served.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield client
        nursery.cancel_scope.cancel()


async def echo(request: Request) -> Response:
    """Says what it was asked."""
    return Response.text(200, f"{request.method} {request.path} {len(request.body)}")


class CancelAtStep(trio.abc.Instrument):
    """Cancels `scope` just before the nth step that any task takes."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope, self.left = scope, step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self._scope.cancel()
