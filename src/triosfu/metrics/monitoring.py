"""All that is there only because metrics are wanted: their port, and what watches the loop and the rooms for them.

async with open_monitoring(config) as monitoring:
    ...  # `monitoring.history` listens to the rooms
    await nursery.start(monitoring.run, sources)
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog
import trio

from triosfu.metrics.collector import Collector
from triosfu.metrics.history import History
from triosfu.metrics.loop import LoopDelay
from triosfu.metrics.page import LIMITS, MetricsPage
from triosfu.net.http import HttpServer
from triosfu.net.listeners import open_listeners
from triosfu.server.task_tree import watching

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from triosfu.config import Config, PrometheusConfig
    from triosfu.metrics.sources import Sources
    from triosfu.server.task_tree import Watch


log = structlog.get_logger(__name__)


class Monitoring:
    """Metrics of one server; made by `open_monitoring`."""

    def __init__(
        self, config: PrometheusConfig, listeners: Sequence[trio.SocketListener], watch: Watch, delay: LoopDelay
    ) -> None:
        self.history = History()
        self.delay = delay
        self.page: MetricsPage | None = None  # once it is served
        self._config = config
        self._listeners = listeners
        self._watch = watch

    async def run(self, sources: Sources, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the page, until cancelled; its connections are closed then."""
        page = self.page = MetricsPage(
            Collector(sources),
            self._watch,
            webhooks=sources.webhooks,
            username=self._config.username,
            password=self._config.password,
        )
        async with trio.open_nursery() as nursery:
            if self._listeners:
                await nursery.start(
                    HttpServer(page.respond, limits=LIMITS, cross_origin=False).serve, self._listeners, name="metrics"
                )
            nursery.start_soon(self.history.run, sources.rooms, name="metrics history")
            task_status.started()


@asynccontextmanager
async def open_monitoring(config: Config, *, port: bool = True) -> AsyncIterator[Monitoring]:
    """Listen on the port for metrics, and watch the event loop, within the block; cancelled, it has closed all.

    Without a `port` of its own somebody else serves the page.

    Raises:
        ConfigError: The port cannot be had.
    """
    listeners = await open_metrics_port(config) if port else []
    try:
        with watching() as watch, LoopDelay().watching() as delay:
            yield Monitoring(config.prometheus, listeners, watch, delay)
    finally:
        for listener in listeners:
            listener.socket.close()


async def open_metrics_port(config: Config) -> list[trio.SocketListener]:
    """Listen on the port for metrics; ConfigError if it cannot be had. Cancelled, it has closed it."""
    if not config.prometheus.username and not all(ip_address(one).is_loopback for one in config.bind_addresses):
        log.warning(
            "metrics.open", advice="everybody who reaches the port may read: set prometheus.username and password"
        )
    return await open_listeners(config.bind_addresses, config.prometheus.port, key="prometheus.port")
