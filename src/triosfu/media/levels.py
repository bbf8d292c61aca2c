"""How loud a microphone is: the level that a publisher writes into its packets, over windows of media time.

Windows are counted in RTP time, so that a burst after a stall counts as the sound it carries, and not as the moment in
which it came.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SSRC_AUDIO_LEVEL = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"  # RFC 6464
SILENCE = 127  # -dBov
LONGEST_FRAME = 0.12  # seconds; a longer step between packets is discontinuous transmission, silent but for its frame


@dataclass(frozen=True, slots=True)
class LevelSettings:
    """The `audio` section of the configuration."""

    active_level: int = 35  # -dBov: lower is louder
    min_percentile: int = 40  # percent of a window that must be that loud
    interval: float = 0.4  # seconds: one window
    smooth_intervals: int = 2


class AudioLevel:
    """The smoothed level of one audio stream."""

    __slots__ = (
        "_active",
        "_clock_rate",
        "_heard_at",
        "_level",
        "_loudest",
        "_observed",
        "_settings",
        "_smoothing",
        "_timestamp",
    )

    def __init__(self, clock_rate: int, settings: LevelSettings | None = None) -> None:
        self._clock_rate = clock_rate
        self._settings = settings or LevelSettings()
        self._smoothing = 2 / (self._settings.smooth_intervals + 1)
        self._timestamp = -1
        self._heard_at = -math.inf
        self._level = 0.0
        self._loudest = SILENCE
        self._observed = self._active = 0.0  # seconds of this window, and those at active level

    def observe(self, level: int, timestamp: int, now: float) -> None:
        """Take the level (0 loudest to 127) of the frame that begins at `timestamp`; late frames are left out."""
        if self._timestamp < 0:
            self._timestamp = timestamp
            self._heard_at = now
            return
        step = (timestamp - self._timestamp) & 0xFFFFFFFF
        if not 0 < step < 0x80000000:
            return
        self._timestamp = timestamp
        self._heard_at = now
        # The step before a packet stands for its own duration: all packets of a stream are equally long.
        duration = step / self._clock_rate
        self._observed += duration
        if level <= self._settings.active_level:
            self._active += min(duration, LONGEST_FRAME)
            self._loudest = min(self._loudest, level)
        if self._observed >= self._settings.interval - 1e-6:
            self._close_window()

    def _close_window(self) -> None:
        settings = self._settings
        if self._active >= settings.interval * settings.min_percentile / 100 - 1e-6:
            adjusted = self._loudest - 20 * math.log10(self._active / settings.interval)
            self._level += (linear(adjusted) - self._level) * self._smoothing
        else:
            self._level = 0.0
        self._loudest = SILENCE
        self._observed = self._active = 0.0

    def level(self, now: float) -> float:
        """The level, linear from 0 to 1; 0 when silent, or when no packet came for two windows."""
        if now - self._heard_at > 2 * self._settings.interval:
            self._level = 0.0
        return min(1.0, self._level)

    def active(self, now: float) -> bool:
        """Whether the level is that of somebody who speaks."""
        return self.level(now) >= linear(self._settings.active_level)


def linear(level: float) -> float:
    """Amplitude from 0 to 1 of a level in -dBov."""
    return float(10 ** (-level / 20))
