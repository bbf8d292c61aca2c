"""A worker on a real socket, such as livekit-agents' own, that a test moves by hand."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio
from livekit.protocol import agent
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from tests.support.client import join
from tests.support.side import LIMIT
from triosfu import tokens
from triosfu.config import load_config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from tests.support.client import Client
    from triosfu.config import Config
    from triosfu.server import Server

KEY, SECRET = "devkey", "secret-of-thirty-two-characters-"


def config(**sections: Any) -> Config:  # noqa: ANN401  whatever YAML holds
    overrides = {"port": 0, "rtc": {"udp_port": 0}, "keys": {KEY: SECRET, "other": SECRET}, **sections}
    return load_config(development=True, overrides=overrides)


def worker_token(key: str = KEY, secret: str = SECRET, **grants: Any) -> str:  # noqa: ANN401  grants
    return tokens.create_token(key, secret, now=time.time(), video=tokens.VideoGrant(**(grants or {"agent": True})))


def at(server: Server) -> tuple[str, int]:
    host, port = server.url.removeprefix("ws://").rsplit(":", 1)
    return host.strip("[]"), int(port)


class Worker:
    """One worker: what it was told waits until it is expected."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket
        self.id = ""
        self.heard: list[agent.ServerMessage] = []
        self._unread: list[agent.ServerMessage] = []

    async def say(self, **message: Any) -> None:  # noqa: ANN401  protobuf fields
        await self.socket.send_message(agent.WorkerMessage(**message).SerializeToString())

    async def expect(self, kind: str) -> Any:  # noqa: ANN401  a message of this kind
        """The next message of this kind; what comes before it is kept."""
        for number, message in enumerate(self._unread):
            if message.WhichOneof("message") == kind:
                return getattr(self._unread.pop(number), kind)
        with trio.fail_after(LIMIT):
            while True:
                frame = await self.socket.get_message()
                assert isinstance(frame, bytes)  # the Python worker takes no text
                message = agent.ServerMessage.FromString(frame)
                self.heard.append(message)
                if message.WhichOneof("message") == kind:
                    return getattr(message, kind)
                self._unread.append(message)

    async def register(self, **fields: Any) -> None:  # noqa: ANN401  protobuf fields
        await self.say(register=agent.RegisterWorkerRequest(**fields))
        self.id = (await self.expect("register")).worker_id

    async def take(self, **answer: Any) -> agent.JobAssignment:  # noqa: ANN401  protobuf fields
        """Accept the next job."""
        job = (await self.expect("availability")).job
        await self.say(availability=agent.AvailabilityResponse(job_id=job.id, available=True, **answer))
        assignment: agent.JobAssignment = await self.expect("assignment")
        assert assignment.job.id == job.id
        return assignment

    async def nothing_of(self, kind: str) -> None:
        """Show that no message of this kind is on its way: a ping's answer comes first."""
        await self.say(ping=agent.WorkerPing(timestamp=1))
        await self.expect("pong")
        assert all(message.WhichOneof("message") != kind for message in self._unread)

    async def vanish(self) -> None:
        """End the connection as the death of a process does."""
        await vanish(self.socket)

    async def closed(self) -> tuple[int, str]:
        """Wait for the server to end this."""
        with trio.fail_after(2 * LIMIT), suppress(ConnectionClosed):
            while True:
                await self.socket.get_message()
        reason = self.socket.closed
        assert reason is not None
        return reason.code, reason.reason or ""


async def vanish(socket: WebSocketConnection | None) -> None:
    """Close what is below a WebSocket, without a word."""
    assert socket is not None
    await trio.aclose_forcefully(socket._stream)


@asynccontextmanager
async def connected(server: Server, *, key: str = KEY) -> AsyncIterator[Worker]:
    """A worker that has not registered; it vanishes without a word at the end of the block."""
    host, port = at(server)
    async with await trio.open_tcp_stream(host, port) as stream, trio.open_nursery() as nursery:
        socket = await wrap_client_stream(
            nursery,
            stream,
            host,
            "/agent?protocol=1",
            extra_headers=[(b"Authorization", f"Bearer {worker_token(key, server._keys[key])}".encode())],
            message_queue_size=100,
        )
        yield Worker(socket)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def worker(server: Server, **fields: Any) -> AsyncIterator[Worker]:  # noqa: ANN401  protobuf fields
    """One that has registered."""
    async with connected(server) as one:
        await one.register(**fields)
        yield one


class _ByToken:
    """What `join` asks of a server, with one token for everybody."""

    def __init__(self, server: Server, token: str) -> None:
        self.url = server.url
        self._token = token

    def create_token(self, **_: object) -> str:
        return self._token


def join_as_agent(server: Server, assignment: agent.JobAssignment) -> AbstractAsyncContextManager[Client]:
    """The agent of a job, which joins with the token that came with it."""
    shim: Any = _ByToken(server, assignment.token)
    return join(shim, assignment.job.state.participant_identity, room=assignment.job.room.name)
