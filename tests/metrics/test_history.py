"""Histograms, windows of tracks, and what becomes a label."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import models
from prometheus_client import CollectorRegistry, generate_latest

from tests.metrics.scrape import read
from tests.rooms.test_lifetimes import join, running
from triosfu.histogram import Histogram, exponential
from triosfu.metrics.families import Families
from triosfu.metrics.forwarding import ForwardDelay
from triosfu.metrics.history import History
from triosfu.rooms.joining import JoinOptions
from triosfu.rooms.publication import Publication
from triosfu.rooms.tally import Flow, incoming

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric
    from trio.testing import MockClock

FLOW = Flow("incoming", "CAMERA", "video")


@given(st.lists(st.floats(-1e9, 1e9)))
def test_a_histogram_counts_what_its_bounds_bound(values: list[float]) -> None:
    bounds = (0.0, 0.5, 1.0, 1e6)
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    assert histogram.cumulative() == [(bound, sum(value <= bound for value in values)) for bound in (*bounds, math.inf)]
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values), abs=1e-3)


def test_exponential_bounds_grow_by_one_factor() -> None:
    bounds = exponential(100, 10_000, 15)
    assert (len(bounds), bounds[0]) == (15, 100)
    assert bounds[-1] == pytest.approx(10_000)
    assert bounds[8] / bounds[7] == pytest.approx(bounds[1] / bounds[0])


def test_names_are_written_as_they_are_given() -> None:
    class Some:
        def collect(self) -> Iterator[Metric]:
            families = Families({"node_id": "ND_1"})
            histogram = Histogram((0.1, 100, 2_097_152))
            histogram.observe(3)
            yield families.gauge("livekit_room_total", "Rooms.", [({}, 3)])
            yield families.counter("livekit_packet_total", "Packets.", [({"direction": "incoming"}, 7)])
            yield families.counter("livekit_packet_bytes", "Bytes.", [({"direction": 'a"\n\\'}, 8)])
            yield families.histogram("livekit_rtt_ms", "Time.", [({}, histogram)])

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Some())
    text = generate_latest(registry).decode()
    for line in (
        "# TYPE livekit_room_total gauge",
        'livekit_room_total{node_id="ND_1"} 3.0',
        "# TYPE livekit_packet_total counter",
        'livekit_packet_total{direction="incoming",node_id="ND_1"} 7.0',
        "# TYPE livekit_packet_bytes untyped",
        'livekit_packet_bytes{direction="a\\"\\n\\\\",node_id="ND_1"} 8.0',
        "# TYPE livekit_rtt_ms histogram",
        'livekit_rtt_ms_bucket{le="0.1",node_id="ND_1"} 0.0',
        'livekit_rtt_ms_bucket{le="2.097152e+06",node_id="ND_1"} 1.0',
        'livekit_rtt_ms_bucket{le="100",node_id="ND_1"} 1.0',
        'livekit_rtt_ms_bucket{le="+Inf",node_id="ND_1"} 1.0',
        'livekit_rtt_ms_sum{node_id="ND_1"} 3.0',
    ):
        assert line in text.splitlines()
    assert read(text).value("livekit_packet_bytes") == 8


def test_losses_are_counted_once_and_never_taken_back() -> None:
    history, stream, other = History(), object(), object()

    def window(received: int, lost: int, of: object = stream) -> bool:
        seen, history._seen = history._seen, {}
        return history._window(of, FLOW, received, lost, seen)

    assert not window(100, 10)  # nothing is known of before
    assert history.lost[FLOW] == 0
    assert window(190, 20)
    assert (history.lost[FLOW], history.loss_percent[FLOW].sum) == (10, 10.0)
    assert not window(190, 20)  # nothing flowed
    assert window(195, 15)  # five came late
    assert not window(3, 0)  # the stream began anew
    assert history.lost[FLOW] == 10
    assert not window(5, 5, other)
    assert list(history._seen) == [other]  # those that are gone are forgotten
    assert not window(6, 6)


def test_packets_behind_newer_ones_are_counted_where_it_is_known() -> None:
    history, stream = History(), object()

    def window(received: int, reordered: int | None) -> None:
        seen, history._seen = history._seen, {}
        history._window(stream, FLOW, received, 0, seen, reordered=reordered)

    window(100, 50)
    assert history.out_of_order[FLOW] == 0
    window(150, 55)
    assert (history.out_of_order[FLOW], history.out_of_order_percent[FLOW].sum) == (5, 10.0)
    window(10, 0)  # it began anew
    window(20, 1)
    assert (history.out_of_order[FLOW], history.out_of_order_percent[FLOW].count) == (6, 2)
    window(30, None)
    assert history.out_of_order_percent[FLOW].count == 2


def test_the_figures_of_forwarding_are_those_of_one_window_and_the_histogram_is_of_all() -> None:
    delay = ForwardDelay()
    for microseconds in (100, 200, 300, 400):
        delay.observe(1e-6 * microseconds)
    assert (delay.latency, delay.jitter) == (0, 0)
    delay.end_window()
    assert [delay.latency, delay.jitter] == pytest.approx([250_000, 111_803], rel=1e-4)
    delay.observe(0.001)
    delay.end_window()
    assert [delay.latency, delay.jitter] == pytest.approx([1e6, 0], abs=1)
    delay.end_window()
    assert (delay.latency, delay.jitter, delay.all.count) == (0, 0, 5)
    assert delay.all.sum == pytest.approx(2e6)


def test_histograms_of_the_same_bounds_add_up() -> None:
    one, other = Histogram((1, 2)), Histogram((1, 2))
    for value in (1, 2):
        one.observe(value)
    other.observe(9)
    one.add(other)
    assert (one.cumulative(), one.sum, other.count) == ([(1, 1), (2, 2), (math.inf, 3)], 12, 1)


async def test_no_client_makes_labels(autojump_clock: MockClock) -> None:
    history = History()
    async with running() as rooms:
        alice, _ = await join(rooms, "alice")
        for protocol in (17, 16, -1, *range(1000, 1100)):
            alice.options = replace(JoinOptions(), client=models.ClientInfo(protocol=protocol))
            history.participant_active(alice)
            history.participant_left(alice)
        assert set(history.start_ms) == set(history.session_ms) == {"17", "16", "other"}
        flows = set()
        for source in (*models.TrackSource.values(), *range(100, 200)):
            publication = Publication(alice, "cid", models.TrackInfo(source=source))
            flows.add(incoming(publication))
        assert {flow.source for flow in flows} == set(models.TrackSource.keys())
