"""Where outgoing media goes."""

from __future__ import annotations

from typing import Protocol


class MediaSink(Protocol):
    """Where outgoing packets are written, protected and queued; the peer connection gives it."""

    arena: memoryview  # the writable egress arena; a slot in it has 2048 bytes

    def reserve(self) -> int:
        """The offset of a free slot."""

    def commit_rtp(self, offset: int, length: int, vital: bool = False) -> None:  # noqa: FBT001, FBT002  of the hot path
        """Protect the packet at `offset` in place and queue it; dropped and counted while not connected."""
