"""The page of a server with several worker processes: what all of them say, and the front itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
from prometheus_client import CollectorRegistry, generate_latest

from triosfu.cluster.asking import NoAnswer, ask, request_bytes
from triosfu.cluster.post import OWN
from triosfu.metrics.families import Families
from triosfu.metrics.loop import LoopDelay, Tasks, survey
from triosfu.metrics.merging import Merging
from triosfu.metrics.own import HTTP_BUGS, connections, keeping_up
from triosfu.metrics.page import LIMITS, MOST, Page, registry_of
from triosfu.net.http import HttpServer
from triosfu.server.inside import METRICS, QUEUES
from triosfu.server.task_tree import watching

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from triosfu.cluster.supervisor import Supervisor, Worker
    from triosfu.config import PrometheusConfig
    from triosfu.server.task_tree import Watch

log = structlog.get_logger(__name__)

ANSWER: Final = 2.0  # seconds for a worker process; then it is as it was told last
EVENTS: Final = ("restarts", "killed", "handed_over", "not_handed_over")


class FrontCollector:
    """What the front counts itself."""

    def __init__(self, supervisor: Supervisor, http: HttpServer, delay: LoopDelay) -> None:
        self.tasks = Tasks()  # the last survey, made just before
        self._supervisor = supervisor
        self._http = http
        self._delay = delay

    def collect(self) -> Iterator[Metric]:
        """Every metric, as it is now."""
        families, supervisor = Families({}), self._supervisor
        alive = supervisor.alive()
        yield families.gauge(
            "triosfu_workers",
            "Worker processes that take connections, and those that are being started.",
            [({"state": "up"}, len(alive)), ({"state": "down"}, supervisor.count - len(alive))],
        )
        yield families.gauge(
            "triosfu_worker_load",
            "How much of a core each worker process takes, as it told last.",
            [({"worker": str(one.index)}, one.load) for one in alive],
        )
        yield families.gauge(
            "triosfu_worker_rooms",
            "Names of rooms that each worker process has, and those that are on their way to it.",
            [({"worker": str(one.index)}, supervisor.placement.rooms(one.index)) for one in alive],
        )
        yield families.counter(
            "triosfu_worker_events_total",
            "Worker processes begun again, and killed for not answering; connections that were handed over or not.",
            [({"event": event}, supervisor.counters[event]) for event in EVENTS],
        )
        yield families.counter(
            "triosfu_bugs_total",
            "Exceptions caught.",
            [
                ({"where": "http"}, sum(self._http.counters[name] for name in HTTP_BUGS)),
                ({"where": "placement"}, supervisor.counters["bugs"]),
            ],
        )
        yield from connections(families, self._http)
        yield from keeping_up(families, self._delay, self.tasks)


class FrontPage(Page):
    """One page for all processes. It waits for no worker process longer than two seconds."""

    def __init__(
        self, supervisor: Supervisor, http: HttpServer, watch: Watch, delay: LoopDelay, config: PrometheusConfig
    ) -> None:
        super().__init__(username=config.username, password=config.password)
        self._supervisor = supervisor
        self._watch = watch
        self._collector = FrontCollector(supervisor, http, delay)
        self._own = registry_of(self._collector)
        self._merging = Merging()
        self._all = CollectorRegistry(auto_describe=False)
        self._all.register(self._merging)
        self._known: set[Worker] = set()

    async def _make(self) -> bytes:
        self._collector.tasks = await survey(self._watch)
        self._merging.told(self, generate_latest(self._own).decode())
        for worker, body in await asked(self._supervisor.alive(), METRICS):
            try:
                self._merging.told(worker, body.decode())
            except ValueError:
                log.exception("bug", doing="metrics", worker=worker.index)
                continue
            self._known.add(worker)
        for gone in self._known - set(self._supervisor.alive()):
            self._known.discard(gone)
            self._merging.ended(gone)
        return generate_latest(self._all)

    async def _queues(self) -> dict[str, Any]:
        pages = [json.loads(body) for _, body in await asked(self._supervisor.alive(), QUEUES)]
        return merged_queues([page["receivers"] for page in pages])


async def asked(workers: Sequence[Worker], target: str) -> list[tuple[Worker, bytes]]:
    """What worker processes answer about themselves, without those that do not. Cancelled, it has changed nothing."""
    found: dict[Worker, bytes] = {}

    async def one(worker: Worker) -> None:
        try:
            answer = await ask(worker, request_bytes("GET", target, []), patience=ANSWER, door=OWN)
        except NoAnswer:
            return
        if answer.status == 200:
            found[worker] = answer.body

    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(one, worker, name="asking")
    return [(worker, found[worker]) for worker in workers if worker in found]


def merged_queues(pages: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """The queues of all processes, which have the same receivers in the same order."""
    receivers = []
    for same in zip(*pages, strict=True):
        rooms = sorted((room for one in same for room in one["rooms"]), key=lambda room: -room["events"])
        hidden = sum(one["rooms_not_shown"] for one in same) + max(0, len(rooms) - MOST)
        receivers.append({"host": same[0]["host"], "rooms": rooms[:MOST], "rooms_not_shown": hidden})
    return {"receivers": receivers}


async def serve_front_page(
    listeners: Sequence[trio.SocketListener],
    supervisor: Supervisor,
    http: HttpServer,
    config: PrometheusConfig,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the page on `listeners`, until cancelled; its connections are closed then."""
    with watching() as watch, LoopDelay().watching() as delay:
        page = FrontPage(supervisor, http, watch, delay, config)
        await HttpServer(page.respond, limits=LIMITS, cross_origin=False).serve(listeners, task_status=task_status)
