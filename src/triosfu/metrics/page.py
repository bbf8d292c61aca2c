"""The page that Prometheus reads, and one for people: which rooms' webhooks wait.

    page = MetricsPage(collector, watch, username="", password="")
    response = await page.respond(request)

It is on a port of its own, whose connections nobody shares with clients: a crowded server can still be looked at.
"""

from __future__ import annotations

import base64
import hmac
import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

import trio
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from triosfu.metrics.loop import survey
from triosfu.net.http import Limits, Response
from triosfu.server.inside import QUEUES

if TYPE_CHECKING:
    from prometheus_client.registry import Collector as Collects

    from triosfu.metrics.collector import Collector
    from triosfu.net.http import Request
    from triosfu.server.task_tree import Watch
    from triosfu.webhooks.delivery import Webhooks

LIMITS: Final = Limits(head=1 << 16, body=1 << 10, connections=64, buffered=1 << 20)
PATIENCE: Final = 5.0  # seconds for one reading; it takes milliseconds
FRESH: Final = 1.0  # seconds for which a page is given to whoever asks: reading costs the same for many
MOST: Final = 100  # rooms on the page of queues


class Page(ABC):
    """Answers on the metrics port."""

    def __init__(self, *, username: str, password: str) -> None:
        self._expected = f"{username}:{password}".encode() if username or password else b""
        self._reading = trio.Lock()
        self._page = b""
        self._read_at = -FRESH

    async def respond(self, request: Request) -> Response:
        """Answer one request. Cancelled, it has changed nothing."""
        if request.path not in {"/", "/metrics", QUEUES}:
            return Response(404)
        if request.method not in {"GET", "HEAD"}:
            return Response.text(405, "method not allowed")
        if self._expected and not may_read(request.headers.get("authorization", ""), self._expected):
            return Response.text(401, "unauthorized", [("WWW-Authenticate", 'Basic realm="metrics"')])
        return await (self.queues() if request.path == QUEUES else self.read())

    async def read(self) -> Response:
        """The metrics, for whoever may have them. Cancelled, it has changed nothing."""
        with trio.move_on_after(PATIENCE):
            async with self._reading:
                if trio.current_time() - self._read_at >= FRESH:
                    self._page = await self._make()
                    self._read_at = trio.current_time()
                return Response(200, self._page, [("Content-Type", CONTENT_TYPE_LATEST)])
        return Response.text(503, "reading took too long")

    async def queues(self) -> Response:
        """What waits for webhooks' receivers, as JSON. Cancelled, it has changed nothing."""
        found = json.dumps(await self._queues()).encode()
        return Response(200, found, [("Content-Type", "application/json")])

    @abstractmethod
    async def _make(self) -> bytes:
        """The page as it is now."""

    @abstractmethod
    async def _queues(self) -> dict[str, Any]:
        """The queues as they are now."""


class MetricsPage(Page):
    """The page of one process."""

    def __init__(
        self, collector: Collector, watch: Watch, *, webhooks: Webhooks | None = None, username: str, password: str
    ) -> None:
        super().__init__(username=username, password=password)
        self._collector = collector
        self._watch = watch
        self._webhooks = webhooks
        self._registry = registry_of(collector)

    async def _make(self) -> bytes:
        self._collector.tasks = await survey(self._watch)
        return generate_latest(self._registry)

    async def _queues(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return queues(self._webhooks)


def registry_of(collector: Collects) -> CollectorRegistry:
    """What `collector` collects, and what is to be said of any process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def may_read(authorization: str, expected: bytes) -> bool:
    """Whether a header says `expected`, which is a name and a password (RFC 7617, section 2)."""
    scheme, _, given = authorization.partition(" ")
    try:
        said = base64.b64decode(given, validate=True)
    except ValueError:
        return False
    return scheme.lower() == "basic" and hmac.compare_digest(said, expected)


def queues(webhooks: Webhooks | None) -> dict[str, Any]:
    """How many events of each room wait for each receiver, the deepest queues first."""
    receivers = []
    for receiver in webhooks.receivers if webhooks is not None else ():
        depths = sorted(receiver.outbox.depths().items(), key=lambda one: -one[1])
        rooms = [{"room": room, "events": depth} for room, depth in depths[:MOST]]
        receivers.append({"host": receiver.host, "rooms": rooms, "rooms_not_shown": max(0, len(depths) - MOST)})
    return {"receivers": receivers}
