"""Work on everybody in a room, a little at a time, so that media and signalling have their turn in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from triosfu.rooms.deadlines import Deadlines

SLICE: Final = 20  # things done in a row: at most about a millisecond's worth
PAUSE: Final = 0.01  # seconds to the next ones


class Slices:
    """One piece of work at a time: an iterator that yields after each thing it has done.

    A room of some hundred has some thousand tracks; to do something for all of them in a row holds up every packet.
    """

    def __init__(self, deadlines: Deadlines, name: Hashable) -> None:
        """Keep time in `deadlines`, under `name`."""
        self._deadlines = deadlines
        self._name = name
        self._work: Iterator[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether there is something left to do."""
        return self._work is not None

    def start(self, work: Iterator[None]) -> None:
        """Begin `work` now, and go on with it until it is done; nothing happens while other work is under way."""
        if self._work is None:
            self._work = work
            self._go_on()

    def _go_on(self) -> None:
        work, self._work = self._work, None  # what raises is over
        if work is None:
            return
        for done, _ in enumerate(work, 1):
            if done == SLICE:
                self._work = work
                self._deadlines.arm(self._name, trio.current_time() + PAUSE, self._go_on)
                return
