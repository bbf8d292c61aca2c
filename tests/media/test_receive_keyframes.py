from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from triosfu.media.keyframes import KeyframeRequests


def sent_at(requests: KeyframeRequests, until: float) -> list[float]:
    times = []
    while (at := requests.next_timeout()) <= until:
        assert requests.due(at)
        times.append(at)
    return times


def test_a_new_layer_is_asked_every_second_for_half_a_minute() -> None:
    requests = KeyframeRequests(0.5)
    requests.seed(10.0)
    assert sent_at(requests, 1000.0) == [10.0 + second for second in range(31)]
    assert requests.next_timeout() == math.inf


def test_a_keyframe_ends_the_asking() -> None:
    requests = KeyframeRequests(0.5)
    requests.seed(10.0)
    assert sent_at(requests, 12.5) == [10.0, 11.0, 12.0]
    requests.came()
    assert requests.next_timeout() == math.inf


def test_a_wish_that_comes_too_early_is_remembered() -> None:
    requests = KeyframeRequests(0.5)
    requests.want(1.0)
    assert requests.due(1.0)
    requests.want(1.1)
    requests.want(1.2)
    assert sent_at(requests, 10.0) == [1.5]


def test_a_keyframe_that_comes_by_itself_grants_the_wish() -> None:
    requests = KeyframeRequests(0.5)
    requests.want(1.0)
    assert requests.due(1.0)
    requests.want(1.1)
    requests.came()
    assert sent_at(requests, 10.0) == []


@given(
    st.sampled_from([0.5, 1.0]),
    st.lists(st.tuples(st.sampled_from(["want", "seed", "came", "wait"]), st.floats(0.0, 2.0)), max_size=60),
)
def test_requests_keep_their_distance_whatever_is_wished(distance: float, steps: list[tuple[str, float]]) -> None:
    requests = KeyframeRequests(distance)
    now, times = 0.0, []
    for action, seconds in steps:
        now += seconds
        if action == "want":
            requests.want(now)
        elif action == "seed":
            requests.seed(now)
        elif action == "came":
            requests.came()
        if requests.due(now):
            times.append(now)
        assert requests.next_timeout() > now
    assert all(later - earlier >= distance - 1e-9 for earlier, later in pairwise(times))
