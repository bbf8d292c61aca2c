from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triosfu.media.codecs.vp8 import Vp8Descriptor
from triosfu.media.codecs.vp9 import Vp9Descriptor
from triosfu.media.layers import ScalableFilter, SimulcastSelector, TemporalFilter
from triosfu.media.receiver import SenderReportInfo
from triosfu.media.timeline import WRAP, Change, ahead, carried_over, continued

CLOCK = 90000
LAST = WRAP - 1000  # so that sums wrap


def after(change: Change, *, reference: float | None, expected: float) -> float | None:
    """Seconds behind the last timestamp at which the next source continues; both inputs likewise."""
    found = continued(
        change,
        last=LAST,
        expected=(LAST + round(expected * CLOCK)) % WRAP,
        reference=None if reference is None else (LAST + round(reference * CLOCK)) % WRAP,
        clock_rate=CLOCK,
    )
    return None if found is None else ahead(found, LAST) / CLOCK


TICK = 1 / CLOCK


@pytest.mark.parametrize(
    ("change", "reference", "expected", "result"),
    [
        (Change.LAYER, 0.033, 0.040, 0.033),
        (Change.LAYER, -0.04, 0.03, TICK),  # slightly behind: just after the last
        (Change.LAYER, -0.06, 0.03, None),  # the pacer still trickles
        (Change.LAYER, None, 0.03, None),  # no sender report yet
        (Change.LAYER, 5.0, 0.03, 0.03),  # ahead of time: a wrong report
        (Change.UNMUTED, 1.0, 1.1, 1.0),
        (Change.UNMUTED, 1.0, 1.3, 1.3),  # the publisher's media clock stood still meanwhile
        (Change.RESUMED, 1.0, 2.9, 1.0),
        (Change.RESUMED, 1.0, 3.1, 3.1),
        (Change.RESUMED, 1.4, 1.0, 1.4),  # ahead is fine
        (Change.RESUMED, -0.5, 1.0, TICK),
        (Change.RESUMED, None, 1.0, 1.0),
        (Change.UNMUTED, None, 0.0, TICK),
    ],
)
def test_where_the_next_source_continues(
    change: Change, reference: float | None, expected: float, result: float | None
) -> None:
    found = after(change, reference=reference, expected=expected)
    assert found == (None if result is None else pytest.approx(result, abs=TICK / 2))


@given(
    st.sampled_from(Change),
    st.integers(0, WRAP - 1),
    st.integers(0, 2**30),
    st.none() | st.integers(0, WRAP - 1),
)
def test_time_never_stands_still_or_goes_back(change: Change, last: int, passed: int, reference: int | None) -> None:
    found = continued(change, last=last, expected=(last + passed) % WRAP, reference=reference, clock_rate=CLOCK)
    assert found is None or ahead(found, last) > 0


@given(
    st.integers(0, WRAP - 1),
    st.integers(0, WRAP - 1),
    st.integers(0, WRAP - 1),
    st.floats(-2, 2),
    st.floats(-5, 5),
)
def test_two_layers_of_one_clock_meet(old_start: int, new_start: int, shift: int, between: float, age: float) -> None:
    """Layers whose timestamps differ by a constant: the same moment lands on the same outgoing timestamp."""

    def at(start: int, seconds: float) -> int:
        return (start + round(seconds * CLOCK)) % WRAP

    old = SenderReportInfo(1000.0, at(old_start, 10.0), 0.0)
    new = SenderReportInfo(1000.0 + between, at(new_start, 10.0 + between), 0.0)
    found = carried_over(at(new_start, 10.0 + age), new, old, shift, CLOCK)
    assert abs(ahead(found, (at(old_start, 10.0 + age) + shift) % WRAP)) <= 2


# --- layers ----------------------------------------------------------------------------------------------------------


def test_the_first_keyframe_at_or_below_the_wish_starts() -> None:
    selector = SimulcastSelector(maximum=1)
    selector.retarget((0, 1, 2))
    assert (selector.target, selector.locked) == (1, False)
    assert [selector.turns_to(layer) for layer in (0, 1, 2)] == [True, True, False]


def test_a_switch_goes_towards_the_target_only() -> None:
    selector = SimulcastSelector(maximum=2, current=1)
    selector.retarget((0, 1, 2))
    assert [selector.turns_to(layer) for layer in (0, 1, 2)] == [False, False, True]
    selector.maximum = 0
    selector.retarget((0, 1, 2))
    assert [selector.turns_to(layer) for layer in (0, 1, 2)] == [True, False, False]


def test_better_than_wanted_is_better_than_nothing() -> None:
    selector = SimulcastSelector(maximum=0)
    selector.retarget((1, 2))
    assert selector.target == 1
    assert selector.turns_to(1)
    assert not selector.turns_to(2)


def test_a_layer_that_dried_up_gives_way_to_any_other() -> None:
    selector = SimulcastSelector(maximum=2, current=2)
    selector.retarget((0, 1))
    assert selector.target == 1
    assert selector.turns_to(0)


def frame(temporal: int, *, sync: bool = False) -> Vp8Descriptor:
    return Vp8Descriptor(starts_frame=True, keyframe=False, temporal=temporal, layer_sync=sync)


def test_temporal_layers_go_at_once_and_come_back_at_a_sync_frame() -> None:
    layers = TemporalFilter(target=0, current=3)
    assert layers.passes(frame(1), 1) == (False, True)
    assert layers.passes(frame(1), 1) == (False, False)  # the same frame's next packet
    layers.target = 2
    assert layers.passes(frame(1), 2) == (False, True)
    assert layers.passes(frame(2, sync=True), 3) == (True, True)
    assert layers.passes(frame(1), 4) == (True, True)
    assert layers.passes(frame(3, sync=True), 5) == (False, True)


def picture(spatial: int, *, temporal: int = 0, switch: bool = False, ends: bool = True) -> Vp9Descriptor:
    return Vp9Descriptor(
        starts_frame=True,
        ends_frame=ends,
        inter_predicted=True,
        spatial=spatial,
        temporal=temporal,
        temporal_switch=switch,
    )


def test_spatial_layers_go_between_pictures_and_come_back_at_a_keyframe() -> None:
    layers = ScalableFilter()
    assert [layers.passes(picture(spatial), 1) for spatial in (0, 1, 2)] == [True] * 3
    assert layers.locked
    layers.spatial_target = 1
    assert layers.passes(picture(2), 1)  # the picture that has begun is finished
    assert [layers.passes(picture(spatial), 2) for spatial in (0, 1, 2)] == [True, True, False]
    assert layers.ends_picture(picture(1))
    assert not layers.ends_picture(picture(1, ends=False))
    layers.spatial_target = 2
    assert not layers.locked
    assert not layers.passes(picture(2), 3)
    layers.restart(4)
    assert layers.passes(picture(2), 4)
    assert layers.locked


def test_temporal_layers_of_a_scalable_stream_come_back_at_a_switching_point() -> None:
    layers = ScalableFilter(temporal_target=0)
    assert not layers.passes(picture(0, temporal=1), 1)
    layers.temporal_target = 7
    assert not layers.passes(picture(0, temporal=1), 2)
    assert layers.passes(picture(0, temporal=1, switch=True), 3)
    assert layers.passes(picture(0, temporal=1), 4)
