"""One page of metrics from those of several processes.

    merging = Merging()
    merging.told(worker, page)        # what it says of itself now
    merging.ended(worker)             # it is gone: what it has counted stays
    metrics = merging.collect()

Counters, histograms and what has no type are added up, so totals never go back: of a process that is gone, or does not
answer, they stay as they were told last. Of gauges, most are added up over the processes that there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

# What says the same of each process, or how it is with the worst of them.
LARGEST: Final = frozenset(
    {
        "livekit_forward_latency",
        "livekit_forward_jitter",
        "process_max_fds",
        "python_info",
        "triosfu_agent_workers",  # each of them is known to all processes
        "triosfu_agent_workers_load",
        "triosfu_http_connections_of_one_address",
        "triosfu_oldest_wait_seconds",
        "triosfu_webhook_deepest_queue",
    }
)
SMALLEST: Final = frozenset({"process_start_time_seconds"})

Key = tuple[str, tuple[tuple[str, str], ...]]  # a sample's name and labels


class Merging:
    """The pages of all processes, as they were told last."""

    def __init__(self) -> None:
        self._pages: dict[Hashable, list[Metric]] = {}
        self._ended: list[Metric] = []

    def told(self, process: Hashable, page: str) -> None:
        """A process says this.

        Raises:
            ValueError: It is no page.
        """
        self._pages[process] = list(text_string_to_metric_families(page))

    def ended(self, process: Hashable) -> None:
        """A process is gone."""
        page = self._pages.pop(process, [])
        self._ended = merged([self._ended, [metric for metric in page if metric.type != "gauge"]])

    def collect(self) -> Iterator[Metric]:
        """All of it, as prometheus-client collects it."""
        yield from merged([*self._pages.values(), self._ended])


def merged(pages: Sequence[Sequence[Metric]]) -> list[Metric]:
    """The metrics of all pages, each once."""
    kinds: dict[str, Metric] = {}
    values: dict[str, dict[Key, float]] = {}
    for page in pages:
        for metric in page:
            kinds.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            into = values.setdefault(metric.name, {})
            for sample in metric.samples:
                key = (sample.name, tuple(sample.labels.items()))
                into[key] = _together(metric.name, into[key], sample.value) if key in into else sample.value
    for name, metric in kinds.items():
        for (sample_name, labels), value in values[name].items():
            metric.add_sample(sample_name, dict(labels), value)
    return list(kinds.values())


def _together(name: str, one: float, other: float) -> float:
    if name in LARGEST:
        return max(one, other)
    return min(one, other) if name in SMALLEST else one + other
