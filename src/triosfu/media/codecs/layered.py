"""What the layer filter asks of a frame of a scalable stream, whichever codec describes it."""

from __future__ import annotations

from typing import Protocol


class LayeredFrame(Protocol):
    """One packet's place in a scalable stream; VP9's descriptor and AV1's dependency descriptor both answer."""

    @property
    def spatial(self) -> int:
        """The spatial layer, 0 is the lowest."""

    @property
    def temporal(self) -> int:
        """The temporal layer, 0 is the lowest."""

    @property
    def starts_frame(self) -> bool:
        """Whether this is the first packet of a layer frame."""

    @property
    def ends_frame(self) -> bool:
        """Whether this is the last packet of a layer frame."""

    @property
    def temporal_switch(self) -> bool:
        """Whether a receiver of lower temporal layers may go up to this frame's layer here."""
