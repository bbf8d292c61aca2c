"""Tasks that send on data channels and park there, and the passes of the scheduler that it takes them to go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from triosfu.errors import PeerGone

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.peer import DataChannel

PASSES = 50  # of the scheduler, in which every parked writer has to be gone (transport reference, 4.4)


class Writers:
    """Tasks that send without end; each one's last word is written down."""

    def __init__(self, nursery: trio.Nursery, *, size: int = 2_000) -> None:
        self._nursery = nursery
        self._size = size
        self.reasons: list[str] = []  # of those that are gone
        self.started = 0
        self.sent = 0

    def start(self, channel: DataChannel, *, count: int = 1) -> None:
        """Start `count` writers on one channel."""
        for _ in range(count):
            self.started += 1
            self._nursery.start_soon(self._write, channel)

    @property
    def left(self) -> int:
        """How many are still there."""
        return self.started - len(self.reasons)

    async def over_within(self, passes: int = PASSES) -> None:
        """Let the scheduler make so many passes, in which no time goes by; then all are gone."""
        await settled_within(lambda: not self.left, passes)

    async def _write(self, channel: DataChannel) -> None:
        try:
            while True:
                await channel.send(bytes(self._size))
                self.sent += 1
        except PeerGone as gone:
            self.reasons.append(str(gone))


async def settled_within(condition: Callable[[], bool], passes: int = PASSES) -> int:
    """Show that `condition` comes to hold within so many passes of the scheduler; how many it took.

    While somebody makes passes the clock of a virtual network stands still.
    """
    for count in range(passes + 1):
        if condition():
            return count
        await trio.lowlevel.checkpoint()
    raise AssertionError(f"not within {passes} passes")
