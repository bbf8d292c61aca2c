from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.media.receive_publisher import media, receive, rtx, with_video
from tests.media.send_path import SSRC, Path, vp8
from triosfu.media.quality import BEST, DRY, LOST, WINDOW, Observation, TrackQuality, received, sent, worst
from triosfu.rtp.reports import ReportBlock


def windows(quality: TrackQuality, *seen: Observation) -> list[float]:
    """One observation at the start, then one at the end of each window; the score after each."""
    scores = []
    for at, one in enumerate(seen):
        quality.observe(one)
        if at:
            now = quality.next_timeout()
            quality.handle_timeout(now)
            assert quality.next_timeout() > now
            scores.append(quality.score)
    return scores


def video(*, needs_reports: bool = False) -> TrackQuality:
    return TrackQuality(mime="video/VP8", now=0.0, needs_reports=needs_reports)


def steady(count: int, *, lost: int = 0, **rest: float) -> list[Observation]:
    return [Observation(1000 * n, lost * n, **rest) for n in range(count)]  # type: ignore[arg-type]


def test_a_track_without_loss_is_excellent() -> None:
    assert windows(video(), *steady(4)) == [BEST] * 3


@pytest.mark.parametrize(
    ("mime", "good_percent", "poor_percent"),
    [("video/VP8", 2.0, 6.0), ("audio/opus", 2.5, 7.5), ("audio/red", 5.0, 15.0)],
)
def test_loss_crosses_the_documented_thresholds(mime: str, good_percent: float, poor_percent: float) -> None:
    def settled(percent: float) -> float:
        quality = TrackQuality(mime=mime, now=0.0, needs_reports=False)
        return windows(quality, *steady(30, lost=round(10 * percent)))[-1]

    assert settled(good_percent - 0.3) > 80 >= settled(good_percent + 0.2)
    assert settled(poor_percent - 0.3) > 40 >= settled(poor_percent + 0.2)


def test_bad_news_counts_more_than_good_news() -> None:
    quality = video()
    windows(quality, Observation(0, 0), Observation(1000, 40))  # a window worth 60
    assert quality.score == pytest.approx(68.0)
    windows(quality, Observation(1000, 40), Observation(2000, 40))  # one worth 100
    assert quality.score == pytest.approx(80.8)


def test_delay_takes_points_and_more_so_when_long() -> None:
    near = windows(video(), *steady(20, rtt=0.08, jitter=0.02))[-1]  # 80 ms
    far = windows(video(), *steady(20, rtt=0.8, jitter=0.0))[-1]  # 400 ms
    assert near == pytest.approx(98.0, abs=0.1)
    assert far == pytest.approx(72.0, abs=0.1)


def test_missing_layers_take_points() -> None:
    assert windows(video(), *steady(30, layers_missing=1))[-1] == pytest.approx(65.0)


def test_nothing_sent_is_dry_but_not_while_muted() -> None:
    quality = video()
    assert windows(quality, *[Observation(1, 0)] * 20)[-1] == pytest.approx(DRY)
    quality.set_muted(muted=True, now=quality.next_timeout() - WINDOW)
    assert windows(quality, *[Observation(1, 0)] * 40)[-1] == pytest.approx(BEST)


def test_a_subscriber_that_never_reports_is_lost_after_thirty_seconds() -> None:
    scores = windows(video(needs_reports=True), *steady(9))
    assert scores[:6] == [BEST] * 6
    assert scores[6] == LOST


def test_a_paused_track_is_poor() -> None:
    quality = video()
    quality.set_paused(paused=True)
    assert windows(quality, *steady(30))[-1] == pytest.approx(30.0)


def test_loss_on_a_sparse_stretch_counts_less() -> None:
    def after(packets: int) -> float:
        quality = TrackQuality(mime="audio/opus", now=0.0, needs_reports=False)
        counts = [250 * n for n in range(10)]
        windows(quality, *[Observation(n, 0) for n in counts], Observation(counts[-1] + packets, packets // 10))
        return quality.score

    assert after(10) > after(250)


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(-5, 10**6), st.floats(0, 10), st.integers(0, 3)), max_size=9)
)
def test_scores_stay_in_range_whatever_is_observed(seen: list[tuple[int, int, float, int]]) -> None:
    quality = video(needs_reports=True)
    observations = [
        Observation(packets, lost, rtt=delay, jitter=delay, reported_at=0.0, layers_missing=layers)
        for packets, lost, delay, layers in seen
    ]
    assert all(LOST <= score <= BEST for score in windows(quality, *observations))


def test_a_participant_is_as_good_as_its_worst_track() -> None:
    assert worst([]) == BEST
    assert worst([90.0, 50.0]) == 50.0


def report(path: Path, *, lost: int) -> None:
    """The subscriber reports; it counts numbers that it never got, whoever lost them."""
    highest = path.media[-1].sequence
    path.track.receive_report(ReportBlock(SSRC, 0, lost, highest, 900, 0, 0), path.now)


def test_a_subscriber_is_not_blamed_for_what_never_came_from_the_publisher() -> None:
    path = Path()
    path.publish(1, vp8(1, key=True))
    for sequence in (2, 5, 6):
        path.publish(sequence, vp8(sequence))
    report(path, lost=3)
    assert sent(path.track) == Observation(4, 1, rtt=0.07, jitter=0.01, reported_at=0.0)
    path.publish(4, vp8(4))  # late, and passed on: from now on its loss is the subscriber's
    assert sent(path.track).lost == 2


def test_layers_below_the_wanted_one_are_missing_once_there_is_a_picture() -> None:
    path = Path(layers=3)
    assert sent(path.track).layers_missing == 0
    for layer in range(3):
        path.publish(1, vp8(1), layer=layer)
    path.publish(2, vp8(2, key=True), layer=0)
    assert (path.track.current_layer, path.track.target_layer) == (0, 2)
    assert sent(path.track).layers_missing == 2


def test_a_publisher_is_judged_by_what_is_lost_and_not_mended() -> None:
    ingress, receiver, _ = with_video()
    for sequence in (1, 2, 5, 6):
        receive(ingress, media(sequence), 0.0)
    assert (received(receiver, 0).packets, received(receiver, 0).lost) == (4, 2)
    receive(ingress, rtx(3), 0.1)
    receive(ingress, rtx(3, sequence=2), 0.1)
    assert received(receiver, 0).lost == 1
    receive(ingress, media(4), 0.2)
    assert received(receiver, 0).lost == 0


def test_a_publisher_misses_only_layers_that_it_has_had() -> None:
    path = Path(layers=3)
    path.publish(1, vp8(1, key=True), layer=0)
    assert received(path.receiver, 2).layers_missing == 0
    path.publish(1, vp8(1, key=True), layer=1)
    path.wait(0.5)
    for sequence in range(2, 4):
        path.publish(sequence, vp8(sequence), layer=0)
    path.wait(0.5)
    assert path.receiver.available == (0,)
    assert received(path.receiver, 2).layers_missing == 1
    assert received(path.receiver, 0).layers_missing == 0
