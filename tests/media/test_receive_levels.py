from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triosfu.media.levels import AudioLevel, LevelSettings, linear

FRAME = 960  # 20 ms at 48 kHz


def talk(level: AudioLevel, values: list[int], *, start: int = 0, now: float = 0.0) -> float:
    for step, value in enumerate(values):
        level.observe(value, (start + step * FRAME) & 0xFFFFFFFF, now + step * 0.02)
    return now + (len(values) - 1) * 0.02


def reference(values: list[int]) -> float:
    """Section 12 of the behaviours, window by window, for frames of 20 ms; the first one only starts the clock."""
    smoothed = 0.0
    for first in range(1, len(values) - 19, 20):
        window = values[first : first + 20]
        loud = [value for value in window if value <= 35]
        if len(loud) * 20 >= 160:
            adjusted = min(loud) - 20 * math.log10(len(loud) * 20 / 400)
            smoothed += (10 ** (-adjusted / 20) - smoothed) * 2 / 3
        else:
            smoothed = 0.0
    return min(1.0, smoothed)


@given(st.lists(st.integers(0, 127) | st.integers(20, 40), min_size=1, max_size=150), st.integers(0, 2**32 - 1))
def test_the_level_is_that_of_the_reference_model(values: list[int], start: int) -> None:
    level = AudioLevel(48000)
    now = talk(level, values, start=start)
    assert level.level(now) == pytest.approx(reference(values))


def test_steady_speech_approaches_its_own_level() -> None:
    level = AudioLevel(48000)
    now = talk(level, [20] * 201)
    assert level.level(now) == pytest.approx(linear(20), rel=0.01)
    assert level.active(now)


def test_seven_loud_frames_of_twenty_are_no_speech_eight_are() -> None:
    quiet, heard = AudioLevel(48000), AudioLevel(48000)
    now = talk(quiet, [127] + [20] * 7 + [127] * 13)
    talk(heard, [127] + [20] * 8 + [127] * 12)
    assert quiet.level(now) == 0
    assert heard.level(now) == pytest.approx(linear(20 - 20 * math.log10(0.4)) * 2 / 3)


def test_a_quiet_window_ends_the_speech() -> None:
    level = AudioLevel(48000)
    now = talk(level, [20] * 41 + [90] * 20)
    assert level.level(now) == 0


def test_two_windows_without_a_packet_are_silence() -> None:
    level = AudioLevel(48000)
    now = talk(level, [10] * 101)
    assert level.level(now + 0.79) > 0
    assert level.level(now + 0.81) == 0


def test_late_and_repeated_frames_count_once() -> None:
    level, same = AudioLevel(48000), AudioLevel(48000)
    now = talk(level, [30] * 41)
    talk(same, [30] * 41)
    level.observe(0, 40 * FRAME, now)
    level.observe(0, 3 * FRAME, now)
    assert level.level(now) == same.level(now)


def test_a_pause_in_transmission_counts_as_silence_but_for_one_frame() -> None:
    level = AudioLevel(48000)
    level.observe(10, 0, 0.0)
    level.observe(10, 48000 * 4 // 10, 0.4)  # 400 ms after: of these at most 120 ms were sound
    assert level.level(0.4) == 0


def test_settings_change_what_is_loud_and_how_long() -> None:
    level = AudioLevel(48000, LevelSettings(active_level=50, min_percentile=100, interval=0.1, smooth_intervals=1))
    now = talk(level, [127] + [45] * 5)
    assert level.level(now) == pytest.approx(linear(45))
    assert level.active(now)
