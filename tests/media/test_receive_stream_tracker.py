from __future__ import annotations

import math

import pytest

from triosfu.media.stream_tracker import BASE_LAYER, SCREENSHARE, UPPER_LAYER, StreamTracker, TrackerSettings


class Layer:
    """A tracker, with the totals that a stream would keep."""

    def __init__(self, settings: TrackerSettings) -> None:
        self.tracker = StreamTracker(settings)
        self.packets = self.bytes = 0
        self.now = 100.0

    def run(self, seconds: float, *, every: float = math.inf, size: int = 1000) -> None:
        end, packet_at = self.now + seconds, self.now + every
        while True:
            self.now = min(packet_at, self.tracker.next_timeout(), end)
            if self.now == self.tracker.next_timeout():
                self.tracker.handle_timeout(self.packets, self.bytes, self.now)
                assert self.tracker.next_timeout() > self.now
            elif self.now == packet_at:
                if self.tracker.waiting:
                    self.tracker.started(self.packets, self.bytes, self.now)
                self.packets += 1
                self.bytes += size
                packet_at += every
            if self.now == end:
                return


@pytest.mark.parametrize("settings", [BASE_LAYER, UPPER_LAYER, SCREENSHARE])
def test_the_first_packet_makes_a_layer_active(settings: TrackerSettings) -> None:
    layer = Layer(settings)
    assert not layer.tracker.active
    layer.run(0.02, every=0.01)
    assert layer.tracker.active


@pytest.mark.parametrize(("settings", "cycle"), [(BASE_LAYER, 0.5), (UPPER_LAYER, 0.5), (SCREENSHARE, 2.0)])
def test_one_quiet_cycle_stops_it_and_then_no_timer_runs(settings: TrackerSettings, cycle: float) -> None:
    layer = Layer(settings)
    layer.run(4.1, every=0.02)
    layer.run(cycle * 0.8)
    assert layer.tracker.active
    layer.run(cycle * 1.3)
    assert not layer.tracker.active
    assert (layer.tracker.bitrate, layer.tracker.next_timeout()) == (0, math.inf)


@pytest.mark.parametrize(("settings", "proof"), [(BASE_LAYER, 2.0), (UPPER_LAYER, 10.0)])
def test_a_layer_that_falters_must_prove_itself(settings: TrackerSettings, proof: float) -> None:
    layer = Layer(settings)
    layer.run(3.0, every=0.02)
    layer.run(1.2)
    layer.run(proof - 0.1, every=0.02)
    assert not layer.tracker.active
    layer.run(0.3, every=0.02)
    assert layer.tracker.active


def test_a_layer_that_was_off_on_purpose_is_back_at_once() -> None:
    layer = Layer(UPPER_LAYER)
    layer.run(3.0, every=0.02)
    layer.run(5.0)
    layer.run(0.03, every=0.02)
    assert layer.tracker.active


def test_a_layer_that_was_asked_for_is_back_at_once() -> None:
    layer = Layer(UPPER_LAYER)
    layer.run(3.0, every=0.02)
    layer.run(1.0)
    layer.tracker.reset()
    layer.run(0.03, every=0.02)
    assert layer.tracker.active


def test_an_upper_layer_that_trickles_is_not_alive() -> None:
    layer = Layer(UPPER_LAYER)
    layer.run(2.0, every=0.02)
    layer.run(2.0, every=0.4)
    assert not layer.tracker.active


def test_good_cycles_count_only_in_a_row() -> None:
    layer = Layer(UPPER_LAYER)
    layer.run(2.0, every=0.02)
    layer.run(2.0, every=0.4)
    for _ in range(10):
        layer.run(5.0, every=0.02)
        assert not layer.tracker.active
        layer.run(1.0, every=0.4)


def test_the_bitrate_is_that_of_the_last_second() -> None:
    layer = Layer(BASE_LAYER)
    layer.run(3.05, every=0.01, size=500)
    assert layer.tracker.bitrate == pytest.approx(400_000, rel=0.03)
    layer.run(2.0, every=0.01, size=1000)
    assert layer.tracker.bitrate == pytest.approx(800_000, rel=0.03)


def test_small_pictures_at_five_a_second_keep_an_upper_layer_alive() -> None:
    layer = Layer(UPPER_LAYER)
    layer.run(5.0, every=0.2)
    assert layer.tracker.active
