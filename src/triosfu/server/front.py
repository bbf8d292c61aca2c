"""The front of a server with several worker processes: it listens, and gives connections to those that have the rooms.

    async with serve_front(config, command) as front:
        print(front.url)

What it answers itself is what concerns no room: the health page, the demo page, calls that list all rooms, agent
workers, metrics. Everything else is handed over, socket and all, when it is known which rooms it is about; nothing is
relayed. docs/workers.md has the picture.
"""

from __future__ import annotations

import json
import pickle
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final

import trio
from livekit.protocol import room

from triosfu import logs
from triosfu.agents.relay import AgentRelay
from triosfu.agents.workers import PATH as AGENT
from triosfu.api.errors import JSON, TwirpError
from triosfu.api.messages import content_type
from triosfu.api.twirp import PREFIX
from triosfu.cluster.asking import NoAnswer, ask, repeated, request_bytes
from triosfu.cluster.control import available
from triosfu.cluster.post import OWN
from triosfu.cluster.supervisor import MARGIN, MISSED, PING, Elsewhere, Supervisor
from triosfu.config.workers import of_worker
from triosfu.errors import ConfigError
from triosfu.net.http import HandOver, HttpServer, Limits, Request, Response, Upgrade
from triosfu.net.listeners import open_listeners
from triosfu.rooms.sids import NODE, new_sid
from triosfu.server.app import GRACE, health
from triosfu.server.demo import Demo
from triosfu.server.destinations import LIST_ROOMS, rooms_of
from triosfu.server.inside import TASKS
from triosfu.server.reachable import Reachable, nothing
from triosfu.server.task_tree import Bound

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from triosfu.cluster.supervisor import Worker
    from triosfu.config import Config

ANSWER: Final = 2.0  # seconds for a worker process to answer what it is asked
TAKEN: Final = (MISSED + 3) * PING  # for a connection to be taken: by then one that does not read has been replaced
OK: Final = 200
BUSY: Final = "no worker process can take this now"
ELSEWHERE: Final = "the destination room is with another worker process than the participant's (docs/workers.md)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Front(Reachable):
    """A running server of several processes."""

    supervisor: Supervisor

    @property
    def media_ports(self) -> list[int]:
        """The UDP ports that media comes to."""
        return sorted({port for worker in self.supervisor.alive() for port in worker.ports})

    async def trees(self) -> list[dict[str, Any]]:
        """The tasks of all worker processes, as JSON; of one that does not answer, that it does not.

        Cancelled, it has changed nothing.
        """
        trees: dict[int, dict[str, Any]] = {}

        async def look(worker: Worker) -> None:
            name = f"worker process {worker.index}, pid {worker.process.pid}"
            try:
                answer = await ask(worker, request_bytes("GET", TASKS, []), patience=ANSWER, door=OWN)
                trees[worker.index] = {**json.loads(answer.body), "name": name}
            except NoAnswer:
                trees[worker.index] = _silent(f"{name}: does not answer", worker)

        async with trio.open_nursery() as nursery:
            for worker in self.supervisor.alive():
                nursery.start_soon(look, worker, name="asking")
        return [trees[index] for index in sorted(trees)]


def _silent(name: str, worker: Worker) -> dict[str, Any]:
    """A process of which nothing is known but when it is killed, in the form of a task."""
    left = max(0.0, (MISSED - worker.missed) * PING)
    return {
        "name": name, "room": "", "participant": "", "bound": Bound.DEADLINE.value, "waits_on": "nobody knows",
        "where": "", "line": 0, "since": worker.missed * PING, "deadline_in": left, "reason": "", "nurseries": [],
    }  # fmt: skip


@asynccontextmanager
async def serve_front(
    config: Config, command: Sequence[str], *, grace: float = GRACE, before: Callable[[Front], None] = nothing
) -> AsyncIterator[Front]:
    """Serve with `config.workers` processes until the block is left; then everybody is told, and all processes end.

    `before` is called with the server when all processes are there, and it has answered nobody yet.

    `command` starts one, with the number of the descriptor that is its end of the control socket as its last argument.
    Leaving takes at most `grace` seconds, and a moment. Cancelled, within the block or while it is entered, it has
    killed all processes.

    Raises:
        ConfigError: A port or an address cannot be had, by any of them; or this system lacks what is needed.
    """
    if not available():
        raise ConfigError("workers: more than one needs Linux: sockets are handed from process to process")
    logs.configure_by_default(level=config.logging.level, json=config.logging.json)
    keys = dict(config.keys)
    node_id = new_sid(NODE, SystemRandom())

    async def spawn(index: int, sock: socket.socket) -> trio.Process:
        del index
        return await trio.lowlevel.open_process(
            [*command, str(sock.fileno())],
            pass_fds=[sock.fileno()],
            stdin=subprocess.DEVNULL,
            process_group=0,  # a terminal's Ctrl-C is for the front, which tells the others
        )

    def begin(index: int) -> tuple[dict[str, Any], bytes]:
        return {"kind": "begin", "index": index, "node_id": node_id}, pickle.dumps(of_worker(config, index))

    supervisor = Supervisor(config.workers, spawn, begin, grace=grace)
    relay = AgentRelay(keys, supervisor, message_size=config.limit.agent_signal_message_size_limit)
    desk = Desk(supervisor, relay, keys, Demo(keys) if config.development else None)
    async with AsyncExitStack() as stack:
        listeners = await open_listeners(config.bind_addresses, config.port)
        for listener in listeners:
            stack.callback(listener.socket.close)
        metrics = []
        if config.prometheus.port:
            from triosfu.metrics.front import serve_front_page  # noqa: PLC0415  it takes its time, and few need it
            from triosfu.metrics.monitoring import open_metrics_port  # noqa: PLC0415

            metrics = await open_metrics_port(config)
            for listener in metrics:
                stack.callback(listener.socket.close)
        http = HttpServer(desk.respond, limits=Limits(body=config.limit.max_api_request_body_size))
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run, name="worker processes")
            async with trio.open_nursery() as serving:
                serving.start_soon(relay.clock.run, name="clock of worker links")
                if metrics:
                    page = partial(serve_front_page, metrics, supervisor, http, config.prometheus)
                    await serving.start(page, name="metrics")
                port = listeners[0].socket.getsockname()[1]
                front = Front(config=config, port=port, _keys=keys, supervisor=supervisor)
                before(front)
                await serving.start(http.serve, listeners, name="http")  # last, as in `serve`
                try:
                    yield front
                finally:
                    with trio.move_on_after(grace + 2 * MARGIN, shield=True):
                        await supervisor.end()
                    serving.cancel_scope.cancel()
            nursery.cancel_scope.cancel()


class Desk:
    """Answers the requests of clients."""

    def __init__(self, supervisor: Supervisor, relay: AgentRelay, keys: Mapping[str, str], demo: Demo | None) -> None:
        self._supervisor = supervisor
        self._relay = relay
        self._keys = keys
        self._demo = demo

    async def respond(self, request: Request) -> Response | Upgrade | HandOver:
        """Answer, or say who is to answer. Cancelled, it has changed nothing."""
        if request.path == "/":
            return health(request)
        if request.path == AGENT:
            return await self._relay.respond(request)
        if self._demo is not None and (page := self._demo.respond(request)) is not None:
            return page
        if request.path == LIST_ROOMS:
            return await self._list_rooms(request)
        names = await rooms_of(request, self._keys)
        return HandOver(partial(self._hand_over, request.path, names))

    async def _hand_over(
        self, path: str, names: Sequence[str], sock: int, data: bytes, peer: tuple[str, int]
    ) -> Response | None:
        """Give a connection to the worker process that has its rooms, or is to have them from now on.

        If that has no room for it, the connection waits, and nobody else does: the process reads on, or is killed, and
        then another one has the rooms.
        """
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(TAKEN):
            while True:
                try:
                    worker = self._supervisor.choose(names)
                except Elsewhere:
                    return TwirpError("failed_precondition", ELSEWHERE).response()
                if worker is None:
                    await self._supervisor.changed()
                elif worker.hand_over(sock, data, peer=peer, names=names):
                    return None
                else:
                    await worker.room()
        return _busy(path)

    async def _list_rooms(self, request: Request) -> Response:
        """Have every worker process answer, and answer with all of it; or with what one of them has against it."""
        answers: list[Response] = []

        async def listed(worker: Worker) -> None:
            try:
                answers.append(await ask(worker, repeated(request), patience=ANSWER))
            except NoAnswer as silent:
                answers.append(TwirpError("unavailable", str(silent)).response())

        async with trio.open_nursery() as nursery:
            for worker in self._supervisor.alive():
                nursery.start_soon(listed, worker, name="asking")
        if not answers:
            return _busy(request.path)
        if refused := [answer for answer in answers if answer.status != OK]:
            return refused[0]
        content = content_type(request.headers.get("content-type", ""))
        body = _listed_json(answers) if content == JSON else _listed(answers)
        return Response(OK, body, [("Content-Type", content)])


def _listed(answers: Sequence[Response]) -> bytes:
    together = room.ListRoomsResponse()
    for answer in answers:
        together.MergeFromString(answer.body)
    return together.SerializeToString()


def _listed_json(answers: Sequence[Response]) -> bytes:
    rooms = [one for answer in answers for one in json.loads(answer.body)["rooms"]]
    return json.dumps({"rooms": rooms}, ensure_ascii=False, separators=(",", ":")).encode()


def _busy(path: str) -> Response:
    if path.startswith(PREFIX):
        return TwirpError("unavailable", BUSY).response()
    return Response.text(503, BUSY, [("Retry-After", "1")])
