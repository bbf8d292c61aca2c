"""Metrics as prometheus-client takes them, under names that are not ours to choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from triosfu.histogram import Histogram

TOTAL: Final = "_total"

Labels = Mapping[str, str]


class Families:
    """Makes metrics that all carry the same labels first."""

    def __init__(self, common: Labels) -> None:
        self._common = dict(common)

    def gauge(self, name: str, text: str, rows: Iterable[tuple[Labels, float]]) -> Metric:
        """What may rise and fall."""
        return self._simple(name, name, text, "gauge", rows)

    def counter(self, name: str, text: str, rows: Iterable[tuple[Labels, float]]) -> Metric:
        """What only rises.

        The library puts `_total` behind a counter's name. A name of LiveKit's without it stays as it is and is told
        without a type, for which Prometheus does not care.
        """
        if name.endswith(TOTAL):
            return self._simple(name.removesuffix(TOTAL), name, text, "counter", rows)
        return self._simple(name, name, text, "unknown", rows)

    def histogram(self, name: str, text: str, rows: Iterable[tuple[Labels, Histogram]]) -> Metric:
        """How observations are spread."""
        metric = Metric(name, text, "histogram")
        for labels, histogram in rows:
            own = {**self._common, **labels}
            for bound, count in histogram.cumulative():
                metric.add_sample(f"{name}_bucket", {**own, "le": _written(bound)}, count)
            metric.add_sample(f"{name}_count", own, histogram.count)
            metric.add_sample(f"{name}_sum", own, histogram.sum)
        return metric

    def _simple(self, family: str, name: str, text: str, kind: str, rows: Iterable[tuple[Labels, float]]) -> Metric:
        metric = Metric(family, text, kind)
        for labels, value in rows:
            metric.add_sample(name, {**self._common, **labels}, value)
        return metric


def _written(bound: float) -> str:
    """A bound as Go's client writes it: a series must not change its name with the server."""
    write: Callable[[float], str] = floatToGoString
    return write(bound).removesuffix(".0")
