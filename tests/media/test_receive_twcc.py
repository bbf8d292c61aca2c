from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triosfu.grid import SPACING
from triosfu.media.twcc import EMIT_WITHIN, TwccRecorder
from triosfu.rtp.rtcp import TransportFeedback, parse_compound


def decoded(feedbacks: list[TransportFeedback]) -> tuple[dict[int, float], set[int]]:
    """What the publisher learns: arrival by number, and the numbers it is told are missing."""
    arrivals: dict[int, float] = {}
    covered: set[int] = set()
    for feedback in feedbacks:
        assert parse_compound(feedback.serialize()) == [feedback]
        assert len(feedback.serialize()) <= 1200
        assert 0 <= feedback.received[0][1] < 256  # the reference time is the last one before the first packet
        arrivals.update(feedback.arrivals())
        covered |= {(feedback.base_sequence + step) & 0xFFFF for step in range(feedback.status_count)}
    return arrivals, covered - arrivals.keys()


@given(
    base=st.integers(0, 0xFFFF),
    steps=st.lists(
        st.tuples(st.integers(0, 3) | st.integers(0, 300), st.floats(0.0, 0.05) | st.floats(0.0, 10.0)),
        min_size=1,
        max_size=400,
    ),
    start=st.floats(0.0, 1e6),
)
def test_the_publisher_learns_every_arrival_to_the_tick_and_every_loss(
    base: int, steps: list[tuple[int, float]], start: float
) -> None:
    recorder, feedbacks = TwccRecorder(), []
    now, number = start, base - 1
    came: dict[int, float] = {}
    for skipped, seconds in steps:
        number, now = number + 1 + skipped, now + seconds
        if number - base > 0x7000:
            break
        if recorder.record(number & 0xFFFF, now, marker=False):
            feedbacks += recorder.build(1, 2, now)
        came[number] = now
    feedbacks += recorder.build(1, 2, now)
    arrivals, missing = decoded(feedbacks)
    assert arrivals.keys() == {number & 0xFFFF for number in came}
    first = next(iter(came.values()))
    for number, arrival in came.items():
        assert arrivals[number & 0xFFFF] - arrivals[base + steps[0][0] & 0xFFFF] == pytest.approx(
            arrival - first, abs=0.00026
        )
    expected = {number & 0xFFFF for number in range(min(came), max(came))} - arrivals.keys()
    # Between two feedbacks that stand seconds apart nothing is said about losses; within them all are named.
    assert missing <= expected
    if all(seconds < 5 for _, seconds in steps) and len(steps) <= 100:
        assert missing == expected


@given(st.integers(0, 2**32), st.integers(1, 300))
def test_reordered_packets_are_reported_too(seed: int, count: int) -> None:
    rng, recorder, feedbacks = Random(seed), TwccRecorder(), []
    order = sorted(range(count), key=lambda number: number + rng.uniform(0, 30))
    for step, number in enumerate(order):
        if recorder.record(number, step / 100, marker=False):
            feedbacks += recorder.build(1, 2, step / 100)
    feedbacks += recorder.build(1, 2, count / 100)
    arrivals, _ = decoded(feedbacks)
    assert arrivals.keys() == set(range(count))


def feed(recorder: TwccRecorder, numbers: range, start: float, spacing: float, *, marker: bool = False) -> float:
    """When the first feedback is due."""
    for step, number in enumerate(numbers):
        if recorder.record(number, start + step * spacing, marker=marker):
            return start + step * spacing
    return math.inf


@pytest.mark.parametrize(
    ("spacing", "marker", "due"),
    [
        (0.004, False, 0.1),  # more than 20 packets, and 100 ms have passed
        (0.002, True, 0.05),  # a frame ends after 50 ms
        (0.0001, False, 0.01),  # more than 100 packets
        (0.02, False, 0.4),  # the 21st packet
    ],
)
def test_feedback_is_due_by_count_and_time(spacing: float, marker: bool, due: float) -> None:
    assert feed(TwccRecorder(), range(200), 0.0, spacing, marker=marker) == pytest.approx(due)


def test_a_few_packets_wait_a_quarter_of_a_second_at_most() -> None:
    recorder = TwccRecorder()
    assert recorder.deadline == math.inf
    assert feed(recorder, range(5), 10.0, 0.01) == math.inf
    assert 10.0 + EMIT_WITHIN - SPACING <= recorder.deadline <= 10.0 + EMIT_WITHIN
    assert len(recorder.build(1, 2, 10.25)) == 1
    assert recorder.deadline == math.inf


def test_feedback_packets_are_counted_round_a_byte() -> None:
    recorder = TwccRecorder()
    counts = []
    for number in range(258):
        recorder.record(number, number, marker=False)
        counts += [feedback.feedback_count for feedback in recorder.build(1, 2, number)]
    assert counts == [*range(256), 0, 1]


@given(st.lists(st.integers(0, 0xFFFF), max_size=300))
def test_wild_numbers_neither_fail_nor_pile_up(numbers: list[int]) -> None:
    recorder = TwccRecorder()
    for step, number in enumerate(numbers):
        if recorder.record(number, step / 100, marker=False):
            feedbacks = recorder.build(1, 2, step / 100)
            decoded(feedbacks)
            assert len(feedbacks) <= 110
    assert len(recorder._fresh) <= 4000
    assert len(recorder._told) == len(recorder._told_arrivals) <= 4000
    assert list(recorder._told) == sorted(set(recorder._told))


def test_what_does_not_fit_a_datagram_is_split() -> None:
    recorder = TwccRecorder()
    for number in range(0, 30_000, 20):
        recorder.record(number, number / 100, marker=False)
    feedbacks = recorder.build(1, 2, 300.0)
    arrivals, _ = decoded(feedbacks)  # checks each one's size
    assert len(arrivals) == 1500
    assert len(feedbacks) == 10


def test_a_duplicate_is_not_reported_twice() -> None:
    recorder = TwccRecorder()
    recorder.record(1, 0.0, marker=False)
    recorder.record(2, 0.1, marker=False)
    recorder.record(1, 0.2, marker=False)
    (feedback,) = recorder.build(1, 2, 0.3)
    assert [number for number, _ in feedback.arrivals()] == [1, 2]
    assert feedback.arrivals()[0][1] < 0.1


def test_a_late_packet_is_told_with_what_came_behind_it_and_once() -> None:
    recorder = TwccRecorder()
    for number in (0, 1, 3, 4):
        recorder.record(number, number / 100, marker=False)
    recorder.build(1, 2, 0.05)
    for _ in range(2):
        recorder.record(2, 0.06, marker=False)
    (feedback,) = recorder.build(1, 2, 0.07)
    assert [number for number, _ in feedback.arrivals()] == [2, 3, 4]
    recorder.record(2, 0.08, marker=False)
    recorder.record(5, 0.09, marker=False)
    (feedback,) = recorder.build(1, 2, 0.1)
    assert [number for number, _ in feedback.arrivals()] == [5]


def test_what_was_told_long_ago_is_forgotten_and_what_nobody_asks_for_too() -> None:
    recorder = TwccRecorder()
    for number in range(1000):
        if recorder.record(number, number / 200, marker=False):
            recorder.build(1, 2, number / 200)
    assert 100 <= len(recorder._told) <= 122
    for number in range(1000, 6000):
        recorder.record(number, 5.0, marker=False)
    assert len(recorder._fresh) == 4000
    recorder.build(1, 2, 5.0)
    assert len(recorder._told) == 4000
