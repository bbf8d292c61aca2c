"""What participants are told of their connection (protocol reference, section 7.5)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from livekit.protocol import models

from triosfu.media.quality import WINDOW, Observation
from triosfu.rooms.quality import Watch, label, mean_opinion

Quality = models.ConnectionQuality


def after(
    *seen: Observation, quiet: frozenset[int] = frozenset(), reports: bool = False
) -> list[models.ConnectionQuality]:
    """The labels after each window; `quiet` are the windows at whose end nothing is meant to flow."""
    watch = Watch(mime="video/VP8", needs_reports=reports, now=0.0)
    labels = []
    for number, one in enumerate(seen):
        score = watch.look(one, quiet=number in quiet, now=number * WINDOW)
        labels.append(label(score))
    return labels[1:]


def lossy(percent: int, windows: int = 6) -> list[Observation]:
    return [Observation(1000 * n, 10 * percent * n) for n in range(windows)]


@pytest.mark.parametrize(
    ("percent", "word"), [(0, Quality.EXCELLENT), (1, Quality.EXCELLENT), (4, Quality.GOOD), (7, Quality.POOR)]
)
def test_loss_decides_the_word(percent: int, word: models.ConnectionQuality) -> None:
    assert after(*lossy(percent))[-1] == word


def test_a_track_that_is_not_meant_to_flow_is_excellent_and_neither_end_of_the_pause_counts() -> None:
    packets = [0, 1000, 1001, 1001, 1001, 1001, 2900]
    seen = [Observation(count, 0) for count in packets]
    assert after(*seen, quiet=frozenset({2, 3, 4})) == [Quality.EXCELLENT] * 6
    assert Quality.GOOD in after(*seen)


def test_a_stream_that_begins_anew_is_not_judged_by_the_difference() -> None:
    assert after(Observation(0, 0), Observation(5000, 0), Observation(10, 0)) == [Quality.EXCELLENT] * 2


def test_a_layer_that_is_missing_for_a_moment_costs_nothing_and_for_long_a_label() -> None:
    layers = [0, 2, 0, 2, 2, 2, 2]
    seen = [Observation(1000 * n, 0, layers_missing=missing) for n, missing in enumerate(layers)]
    assert after(*seen) == [*[Quality.EXCELLENT] * 3, Quality.GOOD, Quality.POOR, Quality.POOR]


def test_a_subscriber_that_never_reports_is_lost() -> None:
    assert after(*lossy(0, 9), reports=True)[-1] == Quality.LOST


def test_a_track_drops_once_for_each_word_that_is_worse() -> None:
    watch = Watch(mime="video/VP8", needs_reports=False, now=0.0)
    lost = [0, 0, 0, 900, 900, 900, 900, 900, 900]
    labels, drops = [], []
    for number, count in enumerate(lost):
        seen = Observation(1000 * number, count)
        labels.append(label(watch.look(seen, quiet=False, now=number * WINDOW)))
        drops.append(watch.dropped)
    assert labels[2] == labels[-1] == Quality.EXCELLENT
    assert labels[3] != Quality.EXCELLENT
    opinions = [(Quality.LOST, Quality.POOR, Quality.GOOD, Quality.EXCELLENT).index(one) for one in labels]
    assert drops == [False, *(after < before for before, after in pairwise(opinions))]
    assert drops.count(True) == 1


@pytest.mark.parametrize(("score", "opinion"), [(0.0, 1.0), (100.0, 4.5), (60.0, 3.1)])
def test_mean_opinion(score: float, opinion: float) -> None:
    assert mean_opinion(score) == pytest.approx(opinion)
