"""How much of a video track a subscriber wants (protocol reference, section 5.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from livekit.protocol import models

from triosfu.rooms import track_info

if TYPE_CHECKING:
    from livekit.protocol import rtc

SLOW_FPS, MEDIUM_FPS = 10, 20  # frames per second up to which one, or two, temporal layers are enough


@dataclass(slots=True)
class TrackSettings:
    """A subscriber's latest wish for one track."""

    enabled: bool = True
    quality: models.VideoQuality = models.VideoQuality.HIGH
    width: int = 0
    height: int = 0
    fps: int = 0

    @classmethod
    def parse(cls, request: rtc.UpdateTrackSettings) -> TrackSettings:
        """Take over a client's request."""
        return cls(not request.disabled, request.quality, request.width, request.height, request.fps)

    def wanted_quality(self, layers: list[models.VideoLayer]) -> models.VideoQuality:
        """Return the highest of the layers' qualities that is of use; dimensions say more than a quality does."""
        if self.width > 0 and self.height > 0:
            return track_info.quality_for_size(layers, self.width, self.height, self.quality)
        return self.quality if self.quality != models.VideoQuality.OFF else models.VideoQuality.HIGH

    def max_temporal(self) -> int:
        """Return the highest temporal layer that is of use."""
        if self.fps <= 0 or self.fps > MEDIUM_FPS:
            return 3
        return 0 if self.fps <= SLOW_FPS else 1
