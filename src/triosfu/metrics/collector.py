"""Reads what the server counts anyway, when Prometheus asks.

Nothing here is called by the code that counts, so a packet pays nothing for it. Labels have values of ours only: what a
client can choose (names, sources, protocol numbers) is left out or folded into a few known values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.metrics import agents, livekit, own
from triosfu.metrics.families import Families
from triosfu.metrics.loop import Tasks
from triosfu.metrics.sources import Reading, Sources

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

LIVEKIT = (
    livekit.rooms,
    livekit.media,
    livekit.forwarding,
    livekit.data_streams,
    livekit.signals,
    livekit.webhooks,
)
OWN = (own.drops, own.bugs, own.data, own.http, own.webhook_queues, agents.workers, agents.jobs, own.loop)


class Collector:
    """What prometheus-client collects."""

    def __init__(self, sources: Sources) -> None:
        self.tasks = Tasks()  # the last survey, made just before
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Every metric, as it is now."""
        rooms = self._sources.rooms
        reading = Reading(self._sources, rooms.services.tally.totals(rooms), self.tasks)
        families = Families({"node_id": rooms.settings.node_id, "node_type": "SERVER"})
        for group in LIVEKIT:
            yield from group(families, reading)
        ours = Families({})
        for group in OWN:
            yield from group(ours, reading)
