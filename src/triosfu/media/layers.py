"""Which layers one subscriber gets: simulcast streams, temporal layers of VP8, layers of a scalable stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triosfu.media.codecs.layered import LayeredFrame
    from triosfu.media.codecs.vp8 import Vp8Descriptor

NO_LAYER = -1
TOP = 7  # more spatial or temporal layers than any codec has


@dataclass(slots=True)
class SimulcastSelector:
    """Which of a track's simulcast streams is forwarded. It changes at keyframes only."""

    maximum: int = TOP
    target: int = 0
    current: int = NO_LAYER

    def retarget(self, available: Sequence[int]) -> None:
        """Aim for the best available layer that is wanted; where all are better than wanted, for the lowest."""
        wanted = [layer for layer in available if layer <= self.maximum]
        if wanted:
            self.target = max(wanted)
        elif available:
            self.target = min(available)
        if available and self.current not in available:
            # It has dried up: whatever keyframe comes first is better than a frozen picture. If all have, the publisher
            # has nothing to send (a still screen), and may carry on without one.
            self.current = NO_LAYER

    def turns_to(self, layer: int) -> bool:
        """Whether a keyframe of `layer` is a reason to forward that layer from now on."""
        if self.current == NO_LAYER:
            return layer <= self.maximum or layer == self.target
        return self.current < layer <= self.target or self.target <= layer < self.current

    @property
    def locked(self) -> bool:
        """Whether the wanted layer is the one that flows."""
        return self.current == self.target


@dataclass(slots=True)
class TemporalFilter:
    """Which temporal layers of a VP8 stream pass. It changes between frames only."""

    target: int = TOP
    current: int = TOP
    _picture: int = -1  # the frame that the last decision was for
    _passes: bool = True

    def restart(self) -> None:
        """A keyframe of a source begins: any layer may follow it."""
        self.current = self.target
        self._picture = -1

    def passes(self, descriptor: Vp8Descriptor, timestamp: int) -> tuple[bool, bool]:
        """Whether the packet passes, and whether it is the first seen of its frame."""
        if timestamp == self._picture:
            return self._passes, False
        self._picture = timestamp
        temporal = descriptor.temporal
        if self.target < self.current:
            self.current = self.target
        elif self.current < temporal <= self.target and descriptor.layer_sync:
            self.current = temporal
        self._passes = temporal <= self.current
        return self._passes, True


@dataclass(slots=True)
class ScalableFilter:
    """Which layers of a scalable stream (VP9, AV1) pass: spatial ones come at keyframes and go between pictures."""

    spatial_target: int = TOP
    temporal_target: int = TOP
    spatial: int = TOP
    temporal: int = TOP
    _picture: int = -1
    _top_spatial: int = 0  # seen in the stream

    def restart(self, timestamp: int) -> None:
        """A keyframe begins a picture: every layer may be entered."""
        self.spatial, self.temporal = self.spatial_target, self.temporal_target
        self._picture = timestamp

    def passes(self, frame: LayeredFrame, timestamp: int) -> bool:
        """Whether the packet passes."""
        if timestamp != self._picture:
            self._picture = timestamp
            self.spatial = min(self.spatial, self.spatial_target)
            self.temporal = min(self.temporal, self.temporal_target)
        self._top_spatial = max(self._top_spatial, frame.spatial)
        if (
            self.temporal < frame.temporal <= self.temporal_target
            and frame.starts_frame
            and frame.spatial == 0
            and frame.temporal_switch
        ):
            self.temporal = frame.temporal
        return frame.spatial <= self.spatial and frame.temporal <= self.temporal

    def ends_picture(self, frame: LayeredFrame) -> bool:
        """Whether the marker belongs on this packet, because what would follow in its picture is held back."""
        return frame.ends_frame and frame.spatial == self.spatial

    @property
    def locked(self) -> bool:
        """Whether no keyframe is needed to reach the wanted layer."""
        return self.spatial >= min(self.spatial_target, self._top_spatial)
