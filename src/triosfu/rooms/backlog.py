"""A sender of reliable data waits for readers that are slow, but not too slow (`rtc.datachannel_slow_threshold`).

Without a threshold nobody ever waits: what a reader does not take is lost to it above the hard bound of its channel.
With one, a reader for whom much waits and who takes at least so many bits a second holds up who sends to the room: the
sender's messages stay here, and its SCTP window gets smaller by them. A reader below the threshold is found out after
`MEASURED` seconds; it holds up nobody then, and loses what does not fit. Protocol reference, section 6.7.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from triosfu.peer import DataChannel
    from triosfu.rooms.participant import Participant

CROWDED = 1 << 20  # bytes that wait for one reader, above which it holds up who sends
MEASURED = 2.0  # seconds over which a reader's speed is taken, and the longest that one below the threshold holds up
LOOK = 0.02  # seconds between two looks whether it may go on
MOST = 4 << 20  # bytes kept of one sender; one that heeds its window of 1 MiB never gets there
HELD_UP = "data held up"


class Drain:
    """How fast one reader takes reliable messages, as long as many wait for it."""

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold  # bits a second
        self._since, self._taken = math.inf, 0  # when this measurement began, and what was taken by then
        self._slow = False

    def holds_up(self, *, sent: int, buffered: int, now: float) -> bool:
        """Tell whether who sends is to wait, given the bytes ever sent to this reader and those that wait for it."""
        if buffered <= CROWDED:
            self._since, self._slow = math.inf, False
            return False
        taken = sent - buffered
        if self._since == math.inf:
            self._since, self._taken = now, taken
        elif now >= self._since + MEASURED:
            self._slow = 8 * (taken - self._taken) < self._threshold * (now - self._since)
            self._since, self._taken = now, taken
        return not self._slow


class Backlog:
    """Messages of one sender that have come and were not passed on yet, in their order."""

    def __init__(self, owner: Participant) -> None:
        self._owner = owner
        self._on = owner.settings.data_slow_threshold > 0
        self._waiting: deque[tuple[DataChannel, bytes]] = deque()
        self._bytes = 0

    def keep(self, channel: DataChannel, data: bytes) -> bool:
        """Keep a message if its sender is held up; False if it is to be passed on now."""
        if not self._on or (not self._waiting and not self._is_held_up()):
            return False
        if self._bytes + len(data) > MOST:
            self._owner.data.counters["backlog_dropped"] += 1  # its sender ignores the window
            return True
        self._waiting.append((channel, data))
        self._bytes += len(data)
        self._owner.shape.publisher.withhold(self._bytes)
        self._owner.deadlines.arm(HELD_UP, trio.current_time() + LOOK, self._look)
        return True

    def _look(self) -> None:
        """Pass on what may go."""
        while self._waiting and not self._is_held_up():
            self._pass_on()
        self._owner.shape.publisher.withhold(self._bytes)
        if self._waiting and not self._owner.closed:
            self._owner.deadlines.arm(HELD_UP, trio.current_time() + LOOK, self._look)

    def _pass_on(self) -> None:
        channel, data = self._waiting.popleft()
        self._bytes -= len(data)
        self._owner.data.take(channel, data)

    def leave_room(self) -> None:
        """Pass everything on, whoever is held up by it: it was said in the room that the sender leaves."""
        while self._waiting:
            self._pass_on()
        self._owner.shape.publisher.withhold(0)

    def _is_held_up(self) -> bool:
        return any(one.data.holds_up() for one in self._owner.room.others(self._owner))

    def close(self) -> None:
        """Forget everything: the sender is gone."""
        self._waiting.clear()
        self._bytes = 0
