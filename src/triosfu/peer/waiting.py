"""The one place of a peer connection where a writer may wait.

A writer that waits needs two wake-ups: progress, and the end. LiveKit's wedge (docs/architecture.md) was a gate that
gave the first only on one edge and the second never. So this gate is a level: `notify` is called after *every* change
of the cores, whoever made it, and each writer looks again at its own condition. `end` is the last word: it is
synchronous, wakes everybody, and makes every later wait fail at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from triosfu.errors import PeerGone

if TYPE_CHECKING:
    from collections.abc import Callable


class WaitingPlace:
    """Where writers of one peer connection park until their own condition holds, or everything is over."""

    def __init__(self) -> None:
        self._parked = trio.lowlevel.ParkingLot()
        self._ended: str | None = None

    def __len__(self) -> int:
        return len(self._parked)

    @property
    def ended(self) -> str | None:
        """The reason of the end, or None while waiting still makes sense."""
        return self._ended

    async def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready()` holds; it is asked now and again after each change of the cores.

        Always a checkpoint. Cancelled, it has changed nothing. The wait ends at the latest when the peer connection
        does, which its own deadlines bound.

        Raises:
            PeerGone: The peer connection ended, before or during the wait.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            if self._ended is not None:
                raise PeerGone(self._ended)
            if ready():
                break
            await self._parked.park()
            waited = True
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()

    def notify(self) -> None:
        """Let every parked writer look again at its condition."""
        if self._parked:
            self._parked.unpark_all()

    def end(self, reason: str) -> None:
        """End every present and future wait with PeerGone; the first reason stays."""
        if self._ended is None:
            self._ended = reason
        self._parked.unpark_all()
