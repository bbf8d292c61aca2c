"""The sockets of agent workers on `/agent`, and the time for all that they are waited for.

    agents = Agents(keys, rooms' settings, rng=rng)
    nursery.start_soon(agents.run)
    await agents.respond(request)              # an upgrade, or why not
    Services(listeners=(agents.dispatches,))   # rooms tell what happens

A worker has one task, which reads; what it is told is queued, and its socket's one writer sends it. Who does not read,
or does not answer a ping, is cut off, and its jobs go to others. Protocol reference, section 10.1.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog
import trio
from google.protobuf.message import DecodeError
from livekit.protocol import agent

from triosfu.agents.core import BoardSettings, JobBoard
from triosfu.agents.dispatches import Dispatches, errand
from triosfu.agents.jobs import Assigned, Close, Ended, Job, Ping, Send, Simulate, Worker
from triosfu.agents.registration import agent_token
from triosfu.errors import MalformedPacket
from triosfu.net.http import Request, Response, Upgrade
from triosfu.net.websocket import WebSocketLimits
from triosfu.rooms.joining import profile_problem
from triosfu.rooms.welcome import server_info
from triosfu.tokens import TokenError, token_of, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from triosfu.agents.dispatches import JobListener
    from triosfu.agents.jobs import Output
    from triosfu.net.websocket import WebSocket
    from triosfu.rooms.settings import RoomSettings
    from triosfu.tokens import Claims

log = structlog.get_logger(__name__)

PATH: Final = "/agent"
PONG: Final = 15.0  # seconds; a worker whose process hangs keeps its connection
UNSUPPORTED, MALFORMED, TRY_AGAIN_LATER = 1003, 1007, 1013  # WebSocket close codes
UNAUTHORIZED: Final = 401
YIELD_EVERY: Final = 16  # messages; one worker that sends without pause must not keep the loop from the others


def decode(frame: str | bytes) -> agent.WorkerMessage:
    """Return the message in a worker's frame.

    Raises:
        MalformedPacket: It is none.
    """
    if isinstance(frame, str):
        raise MalformedPacket("agent worker: a text frame")
    message = agent.WorkerMessage()
    try:
        message.ParseFromString(frame)
    except DecodeError:
        raise MalformedPacket("agent worker: not a message") from None
    return message


def admitted(request: Request, keys: Mapping[str, str], *, now: float) -> Claims | Response:
    """What the token of a worker says that may open its socket, or the answer to one that may not."""
    try:
        token = token_of(request.headers.get("authorization"), request.get("access_token"))
        claims = None if token is None else verify(token, keys, now=now)
    except TokenError as refusal:
        return Response.text(refusal.status, refusal.text)
    if not request.wants_websocket:
        return Response(404)
    if claims is None or claims.video is None or not claims.video.agent:
        return Response.text(UNAUTHORIZED, "permissions denied")
    return claims


class Agents:
    """The agent workers of one server. `run` keeps their time."""

    def __init__(
        self,
        keys: Mapping[str, str],
        settings: RoomSettings,
        *,
        rng: Random,
        board: BoardSettings | None = None,
        message_size: int = 2 << 20,
        listener: JobListener | None = None,
        enable_recording: bool = False,
        enable_redaction: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._limits = settings.limits
        self._wall_clock = wall_clock
        self._socket_limits = WebSocketLimits(message=message_size, pong_deadline=PONG)
        self._sockets: dict[Worker, WebSocket] = {}
        self._alarm = trio.CancelScope()
        self.board = JobBoard(
            rng=rng,
            token=self._token,
            server_info=server_info(settings),
            settings=board,
            epoch=wall_clock() - trio.current_time(),
        )
        self.counters = self.board.counters
        self.dispatches = Dispatches(
            self.board,
            rng=rng,
            changed=self._pump,
            listener=listener,
            enable_recording=enable_recording,
            enable_redaction=enable_redaction,
        )

    async def run(self) -> None:
        """Keep the time of workers and jobs, until cancelled. Cancelled, it has lost nothing: what is due stays due."""
        while True:
            with trio.CancelScope(deadline=self.board.next_timeout()) as self._alarm:
                await trio.sleep_forever()
            self._expire()

    async def respond(self, request: Request) -> Response | Upgrade:
        """Let a worker's socket open, or say why not. Cancelled, it has changed nothing."""
        await trio.lowlevel.checkpoint()
        claims = admitted(request, self._keys, now=self._wall_clock())
        if isinstance(claims, Response):
            self.counters["refused"] += claims.status == UNAUTHORIZED
            return claims
        if len(self.board.workers) >= self.board.settings.workers:
            self.counters["workers_refused"] += 1
            return Response.text(503, "too many agent workers")
        issuer = claims.issuer

        async def conversation(socket: WebSocket) -> None:
            await self._converse(socket, issuer)

        return Upgrade(conversation, self._socket_limits)

    async def _converse(self, socket: WebSocket, api_key: str) -> None:
        """Read what a worker says, to its end. Cancelled, the board knows that the worker is gone."""
        worker = self.board.connect(api_key, trio.current_time())
        if worker is None:
            socket.close(TRY_AGAIN_LATER, "too many agent workers")
            return
        trio.lowlevel.current_task().name = f"worker {worker.id}"
        self._sockets[worker] = socket
        received = 0
        try:
            self._pump()
            while True:
                frame = await socket.receive()
                received += 1
                try:
                    message = decode(frame)
                except MalformedPacket:
                    self.counters["malformed_messages"] += 1
                    socket.close(UNSUPPORTED if isinstance(frame, str) else MALFORMED)
                    break
                self.board.receive(worker, message, trio.current_time())
                self._pump()
                if received % YIELD_EVERY == 0:
                    await trio.lowlevel.checkpoint()
        finally:
            del self._sockets[worker]
            self.board.lost(worker, trio.current_time())
            self._pump()

    def _pump(self) -> None:
        """Do what the board says, and set the alarm for it."""
        while outputs := self.board.poll():
            for output in outputs:
                try:
                    self._do(output)
                except Exception:  # a bug in one of them is nothing to the others
                    log.exception("bug", doing="agents")
                    self.counters["bugs"] += 1
        at = self.board.next_timeout()
        if at != self._alarm.deadline:  # to set it is dear, even to what it was
            self._alarm.deadline = at

    def _do(self, output: Output) -> None:
        match output:
            case Send(worker, message):
                self._send(worker, message)
            case Ping(worker, timestamp):
                pong = agent.WorkerPong(last_timestamp=timestamp, timestamp=int(self._wall_clock() * 1000))
                self._send(worker, agent.ServerMessage(pong=pong))
            case Close(worker, code, reason):
                log.info("worker cut off", worker=worker.id, reason=reason)
                if (socket := self._sockets.get(worker)) is not None:
                    socket.close(code, reason)
            case Assigned():
                self.dispatches.assigned(output)
            case Ended():
                self.dispatches.ended(output)
            case Simulate():
                self.dispatches.simulate(output)

    def _send(self, worker: Worker, message: agent.ServerMessage) -> None:
        if (socket := self._sockets.get(worker)) is not None:
            # False: it is over, or its worker reads nothing and is cut off for it. Its reader finds out at once.
            socket.send_nowait(message.SerializeToString())

    def _expire(self) -> None:
        try:
            self.board.expire(trio.current_time())
            self._pump()
        except Exception:  # a bug in one job is nothing to the server
            log.exception("bug", doing="agents")
            self.counters["bugs"] += 1

    def _token(self, worker: Worker, job: Job, answer: agent.AvailabilityResponse, identity: str) -> str | None:
        """The token for the agent of a job; None if nobody may join as the worker wants it to."""
        limits, attributes = self._limits, dict(answer.participant_attributes)
        if worker.registration is None or len(identity) > limits.identity:
            return None
        if profile_problem(answer.participant_name, answer.participant_metadata, attributes, limits):
            return None
        return agent_token(
            worker.registration,
            answer,
            identity=identity,
            room=errand(job).room_name,
            key=worker.api_key,
            secret=self._keys[worker.api_key],
            now=self._wall_clock(),
        )
