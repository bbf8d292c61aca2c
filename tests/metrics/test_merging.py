"""The metrics of several processes as one page: totals never go back, whoever dies or does not answer."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.metrics.scrape import Page, read
from triosfu.histogram import Histogram
from triosfu.metrics.families import Families
from triosfu.metrics.front import merged_queues
from triosfu.metrics.merging import Merging


class Told:
    """What a process says."""

    def __init__(
        self, *, packets: float = 0, rooms: float = 0, oldest: float = 0, turns: tuple[float, ...] = ()
    ) -> None:
        self.packets, self.rooms, self.oldest = packets, rooms, oldest
        self.histogram = Histogram((1, 2))
        for turn in turns:
            self.histogram.observe(turn)

    def collect(self) -> list[object]:
        families = Families({"node_id": "ND_x"})
        return [
            families.counter("livekit_packet_total", "p", [({"direction": "incoming"}, self.packets)]),
            families.counter("livekit_packet_bytes", "without _total", [({}, 10 * self.packets)]),
            families.gauge("livekit_room_total", "r", [({}, self.rooms)]),
            families.gauge("triosfu_oldest_wait_seconds", "o", [({"bound": "none"}, self.oldest)]),
            families.histogram("triosfu_loop_turn_seconds", "t", [({}, self.histogram)]),
        ]

    def __str__(self) -> str:
        return page_of(self)


def page_of(collector: object) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)  # type: ignore[arg-type]
    return generate_latest(registry).decode()


def now(merging: Merging) -> Page:
    return read(page_of(merging))


def test_counters_and_histograms_are_added_up_and_gauges_as_it_makes_sense() -> None:
    merging = Merging()
    merging.told("a", str(Told(packets=5, rooms=1, oldest=7, turns=(0.5, 5))))
    merging.told("b", str(Told(packets=3, rooms=2, oldest=4, turns=(1.5,))))
    page = now(merging)
    assert page.value("livekit_packet_total", direction="incoming", node_id="ND_x") == 8
    assert page.value("livekit_packet_bytes") == 80
    assert page.value("livekit_room_total") == 3
    assert page.value("triosfu_oldest_wait_seconds") == 7
    rows = {bound: page.value("triosfu_loop_turn_seconds_bucket", le=bound) for bound in ("1", "2", "+Inf")}
    assert rows == {"1": 1, "2": 2, "+Inf": 3}
    assert page.value("triosfu_loop_turn_seconds_sum") == 7
    kinds = {"livekit_packet": "counter", "livekit_packet_bytes": "unknown", "livekit_room_total": "gauge"}
    assert kinds.items() <= page.kinds.items()


def test_totals_stay_when_a_process_dies_and_gauges_go() -> None:
    merging = Merging()
    merging.told("a", str(Told(packets=5, rooms=1, turns=(1,))))
    merging.told("b", str(Told(packets=3, rooms=2)))
    merging.ended("a")
    page = now(merging)
    assert (page.value("livekit_packet_total"), page.value("livekit_room_total")) == (8, 2)
    merging.told("a's successor", str(Told(packets=1, rooms=1)))
    merging.ended("b")
    merging.ended("somebody unknown")
    page = now(merging)
    assert (page.value("livekit_packet_total"), page.value("livekit_room_total")) == (9, 1)
    assert page.value("triosfu_loop_turn_seconds_count") == 1


def test_who_does_not_answer_is_as_it_was_told_last() -> None:
    merging = Merging()
    merging.told("a", str(Told(packets=5, rooms=1)))
    with pytest.raises(ValueError):  # noqa: PT011  the parser's
        merging.told("a", "not a page {")
    assert now(merging).value("livekit_packet_total") == 5
    merging.told("a", str(Told(packets=6, rooms=1)))  # instead of what it said before
    assert now(merging).value("livekit_packet_total") == 6


def test_queues_of_all_processes_are_one_list_the_deepest_first() -> None:
    first = [{"host": "x", "rooms": [{"room": "a", "events": 5}], "rooms_not_shown": 1}]
    second = [{"host": "x", "rooms": [{"room": f"b{n}", "events": 9 - n} for n in range(2)], "rooms_not_shown": 0}]
    assert merged_queues([first, second]) == {
        "receivers": [
            {
                "host": "x",
                "rooms": [{"room": "b0", "events": 9}, {"room": "b1", "events": 8}, {"room": "a", "events": 5}],
                "rooms_not_shown": 1,
            }
        ]
    }
    assert merged_queues([]) == {"receivers": []}
