"""Asks a worker process something by HTTP, over a socket that it is given for it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import h11
import trio

from triosfu.cluster.post import PUBLIC
from triosfu.errors import TriosfuError
from triosfu.net.http import OF_ONE_CONNECTION, Response

if TYPE_CHECKING:
    from triosfu.cluster.supervisor import Worker
    from triosfu.net.http import Request

READ_SIZE: Final = 65536
MOST: Final = 64 << 20  # bytes of an answer


class NoAnswer(TriosfuError):
    """A worker process did not answer, or not in time, or with too much."""


def request_bytes(method: str, target: str, fields: list[tuple[str, str]], body: bytes = b"") -> bytes:
    """A request as bytes, the only one of its connection."""
    writer = h11.Connection(h11.CLIENT)
    headers = [("host", "worker"), ("connection", "close"), ("content-length", str(len(body))), *fields]
    head = writer.send(h11.Request(method=method, target=target, headers=headers)) or b""
    return head + (writer.send(h11.Data(data=body)) or b"")


def repeated(request: Request) -> bytes:
    """The request of a client, for somebody else to answer."""
    left_out = OF_ONE_CONNECTION | {"host"}
    fields = [(name, value) for name, value in request.headers.items() if name not in left_out]
    return request_bytes(request.method, request.target, fields, request.body)


async def ask(worker: Worker, data: bytes, *, patience: float, door: str = PUBLIC) -> Response:
    """Return the answer to the request `data`, within `patience` seconds. Cancelled, it may have been answered.

    Raises:
        NoAnswer: There is none.
    """
    ours, theirs = socket.socketpair()
    async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
        with trio.move_on_after(patience):
            with theirs:
                while worker.alive and not worker.hand_over(theirs.fileno(), data, peer=("", 0), door=door):
                    await worker.room()
            try:
                return await _answer(stream)
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                raise NoAnswer(f"worker process {worker.index} has ended") from None
    raise NoAnswer(f"worker process {worker.index} does not answer")


async def _answer(stream: trio.SocketStream) -> Response:
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=READ_SIZE)
    reader.send(h11.Request(method="GET", target="/", headers=[("host", "worker")]))
    reader.send(h11.EndOfMessage())
    head: h11.Response | None = None
    body = bytearray()
    while True:
        event = reader.next_event()
        if event is h11.NEED_DATA:
            reader.receive_data(await stream.receive_some(READ_SIZE))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MOST:
                raise NoAnswer("a worker process answers with too much")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]
            return Response(head.status_code, bytes(body), [one for one in fields if one[0] == "content-type"])
        else:
            raise NoAnswer("a worker process has ended")
