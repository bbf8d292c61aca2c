"""Agent workers' sockets where rooms are in several worker processes, each of which gives jobs to all agent workers.

    agent worker ══ WebSocket ══ front ══ one WebSocket for each worker process

To a worker process, the front's socket is an agent worker like any other; to the agent worker there is one server. It
registers with all of them, and the first answer counts. What it says of a job goes to the worker process that has the
job; what it says of itself goes to all, and to those that are begun anew.
"""

from __future__ import annotations

import socket as sockets
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import structlog
import trio
from google.protobuf.message import DecodeError
from livekit.protocol import agent

from triosfu.agents.core import FINAL
from triosfu.agents.workers import MALFORMED, PONG, UNSUPPORTED, YIELD_EVERY, admitted, decode
from triosfu.cluster.supervisor import Elsewhere
from triosfu.errors import MalformedPacket
from triosfu.net.clock import Clock
from triosfu.net.http import Headers, Request, Response, Upgrade
from triosfu.net.websocket import WebSocket, WebSocketClosed, WebSocketLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from triosfu.cluster.supervisor import Supervisor, Worker

log = structlog.get_logger(__name__)

MOST: Final = 1000  # agent workers, as many as one worker process takes
MOST_JOBS: Final = 20_000  # of one agent worker, whose worker process is remembered
OPEN: Final = 5.0  # seconds for a worker process to answer
LOOK: Final = 1.0  # seconds before a lost link is opened again, if its worker process is still there
HEAD: Final = 16384  # bytes of an answer's head
EXTENSIONS: Final = "sec-websocket-extensions"
GONE: Final = frozenset({1000, 1001, 1006})  # close codes that are about the worker process, not about the agent worker


class AgentRelay:
    """Answers agent workers in the front."""

    def __init__(
        self,
        keys: Mapping[str, str],
        supervisor: Supervisor,
        *,
        message_size: int = 2 << 20,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.connected = 0
        self.clock = Clock()
        """Keeps the time of the links; its `run` is the server's to start."""
        self._keys = keys
        self._supervisor = supervisor
        self._limits = WebSocketLimits(message=message_size, pong_deadline=PONG)
        self._wall_clock = wall_clock

    async def respond(self, request: Request) -> Response | Upgrade:
        """Let an agent worker's socket open, or say why not. Cancelled, it has changed nothing."""
        await trio.lowlevel.checkpoint()
        claims = admitted(request, self._keys, now=self._wall_clock())
        if isinstance(claims, Response):
            return claims
        if self.connected >= MOST:
            return Response.text(503, "too many agent workers")

        async def conversation(socket: WebSocket) -> None:
            self.connected += 1
            trio.lowlevel.current_task().name = "worker relayed"
            try:
                await _Relayed(request, socket, self._supervisor, self._limits, self).run()
            finally:
                self.connected -= 1

        return Upgrade(conversation, self._limits)

    def pong(self, ping: agent.WorkerPing) -> agent.ServerMessage:
        """The answer to a ping, which does not have to wait for a worker process."""
        told = agent.WorkerPong(last_timestamp=ping.timestamp, timestamp=int(self._wall_clock() * 1000))
        return agent.ServerMessage(pong=told)


@dataclass(eq=False)
class _Relayed:
    """One agent worker."""

    request: Request
    socket: WebSocket
    supervisor: Supervisor
    limits: WebSocketLimits
    relay: AgentRelay
    register: bytes = b""  # what it said of itself when it registered,
    status: bytes = b""  # and last
    registered: bool = False  # it has had its answer
    links: dict[Worker, WebSocket | None] = field(default_factory=dict)
    jobs: dict[str, Worker] = field(default_factory=dict)

    async def run(self) -> None:
        """Pass on what both sides say, until the agent worker's socket ends. Cancelled, all links are closed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, nursery, name="worker links")
            try:
                await self._listen()
            except WebSocketClosed:
                pass
            finally:
                nursery.cancel_scope.cancel()

    async def _follow(self, nursery: trio.Nursery) -> None:
        """Have a link to each worker process."""
        while True:
            for worker in self.supervisor.alive():
                if worker not in self.links:
                    self.links[worker] = None
                    nursery.start_soon(self._link, worker, name=f"worker link {worker.index}")
            with trio.move_on_after(LOOK):
                await self.supervisor.changed()

    async def _listen(self) -> None:
        received = 0
        while True:
            frame = await self.socket.receive()
            received += 1
            try:
                message = decode(frame)
            except MalformedPacket:
                self.relay.counters["malformed_messages"] += 1
                self.socket.close(UNSUPPORTED if isinstance(frame, str) else MALFORMED)
                return
            assert isinstance(frame, bytes)  # noqa: S101  `decode` refuses text
            self._pass_on(message, frame)
            if received % YIELD_EVERY == 0:
                await trio.lowlevel.checkpoint()

    def _pass_on(self, message: agent.WorkerMessage, frame: bytes) -> None:
        """Give what the agent worker says to whom it concerns."""
        match message.WhichOneof("message"):
            case "ping":
                self.socket.send_nowait(self.relay.pong(message.ping).SerializeToString())
                return
            case "register" if not self.register:
                self.register = frame
            case "update_worker":
                self.status = frame
            case "availability":
                self._send(frame, self.jobs.get(message.availability.job_id))
                return
            case "update_job":
                update = message.update_job
                self._send(frame, self.jobs.get(update.job_id))
                if update.status in FINAL:
                    self.jobs.pop(update.job_id, None)
                return
            case "simulate_job":
                self._send(frame, self._place(message.simulate_job.room.name))
                return
        self._send(frame, None)

    def _place(self, room: str) -> Worker | None:
        """The worker process that is to imagine a job in a room."""
        try:
            chosen = self.supervisor.choose((room,))
        except Elsewhere:
            return None
        return chosen if chosen in self.links else next(iter(self.links), None)

    def _send(self, frame: bytes, worker: Worker | None) -> None:
        """Tell one worker process, or all where it is not known which; those that know nothing of it only count it."""
        for link in self.links.values() if worker is None else [self.links.get(worker)]:
            if link is not None:
                link.send_nowait(frame)  # one that does not read is closed for it

    async def _link(self, worker: Worker) -> None:
        """One link, to its end."""
        try:
            opened = await self._open(worker)
            if opened is not None:
                stream, leading = opened
                counters = self.relay.counters
                link = WebSocket(
                    stream, key=None, leading=leading, limits=self.limits, counters=counters, clock=self.relay.clock
                )
                await link.serve(lambda link: self._talk(worker, link))
        finally:
            del self.links[worker]
            for job in [job for job, with_whom in self.jobs.items() if with_whom is worker]:
                del self.jobs[job]

    async def _open(self, worker: Worker) -> tuple[trio.SocketStream, bytes] | None:
        """A socket of which the worker process has the other end, as from the agent worker; None if that fails."""
        ours, theirs = sockets.socketpair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        opened = False
        try:
            with theirs:
                given = worker.hand_over(theirs.fileno(), _asking(self.request), peer=self.request.peer)
            head = b""
            with trio.move_on_after(OPEN if given else 0):
                while b"\r\n\r\n" not in head and len(head) < HEAD:
                    more = await stream.receive_some(HEAD)
                    if not more:
                        break
                    head += more
            status, _, leading = head.partition(b"\r\n\r\n")
            opened = status.startswith(b"HTTP/1.1 101 ")
        except trio.BrokenResourceError:
            return None
        else:
            return (stream, leading) if opened else None
        finally:
            if not opened:
                await trio.aclose_forcefully(stream)

    async def _talk(self, worker: Worker, link: WebSocket) -> None:
        """Introduce the agent worker, and pass on what the worker process says."""
        self.links[worker] = link
        for said in (self.register, self.status):
            if said:
                link.send_nowait(said)
        try:
            while True:
                frame = await link.receive()
                if isinstance(frame, bytes):
                    self._answer(worker, frame)
        except WebSocketClosed as closed:
            if closed.code not in GONE:  # it refuses the agent worker: so would the others
                self.socket.close(closed.code, closed.reason)

    def _answer(self, worker: Worker, frame: bytes) -> None:
        message = agent.ServerMessage()
        try:
            message.ParseFromString(frame)
        except DecodeError:
            return
        match message.WhichOneof("message"):
            case "register":
                if self.registered:
                    return
                self.registered = True
            case "availability":
                while len(self.jobs) >= MOST_JOBS:
                    del self.jobs[next(iter(self.jobs))]
                self.jobs[message.availability.job.id] = worker
        self.socket.send_nowait(frame)


def _asking(request: Request) -> bytes:
    """The agent worker's request, without what only its own connection can do."""
    fields = [(name.encode(), value.encode("latin-1")) for name, value in request.headers.items() if name != EXTENSIONS]
    return replace(request, headers=Headers(fields)).serialize()
