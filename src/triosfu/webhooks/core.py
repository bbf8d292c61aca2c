"""What waits to be told to one receiver: in order per room, tried again after a pause, and bounded in every direction.

    outbox.push("demo", event, now)
    for delivery in outbox.start(now):  # at most one per room
        ...  # send it, and say how it went: succeeded, failed or refused
    ...  # and call `start` again at `next_timeout`, and after each of these calls

Every event that is pushed ends in one of three counters: delivered, refused or dropped.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from triosfu.errors import UsageError
from triosfu.histogram import Histogram

if TYPE_CHECKING:
    from random import Random

    from livekit.protocol.webhook import WebhookEvent

LENGTHS = (1, 2, 3, 4, 5, 10, 20, 40, 80)  # bounds, LiveKit's, of how many events of a room there are
JITTER = 0.2  # of a pause, either way: rooms do not all come back at once
OVERHEAD = 1024  # bytes that a waiting event takes besides its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How much may wait, how long, and when it is tried again; times in seconds."""

    depth: int = 200  # events of one room that have not been tried yet
    size: int = 64 << 20  # bytes of all events
    max_age: float = 30.0  # until an event is tried for the first time
    attempts: int = 5
    retry_min: float = 1.0  # the first pause; each is twice as long as the one before,
    retry_max: float = 30.0  # up to this
    total: float = 60.0  # from an event's first attempt to the beginning of its last
    concurrent: int = 32  # attempts at the same time


@dataclass(eq=False, slots=True)
class Delivery:
    """One event on its way to one receiver."""

    room: str
    event: WebhookEvent
    since: float
    size: int
    waiting: bool = True  # it has not been tried
    attempts: int = 0
    give_up_at: float = math.inf
    num_dropped: int = 0  # of the events before it
    body: bytes = b""  # the driver's: every attempt sends the same


@dataclass(eq=False, slots=True)
class _Room:
    name: str
    waiting: deque[Delivery] = field(default_factory=deque)
    current: Delivery | None = None  # from its first attempt until its end
    listed: bool = False  # among those that may go on


class Outbox:
    """The events for one receiver."""

    def __init__(self, schedule: Schedule, *, rng: Random) -> None:
        self.counters: Counter[str] = Counter()
        self.lengths = Histogram(LENGTHS)  # of rooms' queues, whenever an event came, with that one
        self.untold = 0  # dropped, and no event has said so yet
        self.schedule = schedule
        self._rng = rng
        self._rooms: dict[str, _Room] = {}
        self._ready: deque[_Room] = deque()  # may go on as soon as there is a place
        self._pauses: list[tuple[float, int, _Room]] = []  # a heap: until when, and who
        self._by_age: deque[Delivery] = deque()  # all that wait, the oldest first, and some that do not any more
        self._order = count()
        self._size = 0
        self._running = 0
        self._draining = False

    def __len__(self) -> int:
        """How many rooms have events here."""
        return len(self._rooms)

    def depths(self) -> dict[str, int]:
        """How many events there are of each room."""
        return {name: len(room.waiting) + (room.current is not None) for name, room in self._rooms.items()}

    # --- in --------------------------------------------------------------------------------------------------------

    def push(self, name: str, event: WebhookEvent, now: float) -> None:
        """Take an event of the room `name`. Where there is no place for it, the oldest that were not tried go."""
        self._forget_old(now)
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = _Room(name)
        delivery = Delivery(name, event, now, event.ByteSize() + OVERHEAD)
        room.waiting.append(delivery)
        self.lengths.observe(len(room.waiting) + (room.current is not None))
        self._by_age.append(delivery)
        self._size += delivery.size
        if len(room.waiting) > self.schedule.depth:
            self._drop_waiting(room.waiting[0], "full")
        while self._size > self.schedule.size and (oldest := self._oldest()) is not None:
            self._drop_waiting(oldest, "full")
        self._list(room)

    def drain(self) -> None:
        """Try everything once more, and from now on nothing twice."""
        self._draining = True
        for _, _, room in self._pauses:
            self._ready.append(room)
            room.listed = True
        self._pauses.clear()

    # --- out -------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Delivery]:
        """Return what is to be sent now. What has waited for too long is dropped first."""
        self._forget_old(now)
        while self._pauses and self._pauses[0][0] <= now:
            _, _, room = heapq.heappop(self._pauses)
            self._ready.append(room)
            room.listed = True
        started = []
        while self._ready and self._running < self.schedule.concurrent:
            room = self._ready.popleft()
            room.listed = False
            if room.current is not None and now > room.current.give_up_at:
                self._give_up(room, room.current)
            elif (delivery := room.current or self._next(room, now)) is not None:
                delivery.attempts += 1
                self._running += 1
                started.append(delivery)
        return started

    def next_timeout(self) -> float:
        """When `start` is to be called again, if nothing else happens before."""
        if self._ready and self._running < self.schedule.concurrent:
            return -math.inf
        oldest = self._oldest()
        return min(
            self._pauses[0][0] if self._pauses else math.inf,
            math.inf if oldest is None else oldest.since + self.schedule.max_age,
        )

    def succeeded(self, delivery: Delivery) -> None:
        """The receiver has it."""
        self._over(self._return(delivery), "delivered")

    def refused(self, delivery: Delivery) -> None:
        """The receiver has seen it and does not want it; another attempt would not help."""
        self._over(self._return(delivery), "refused")

    def failed(self, delivery: Delivery, now: float) -> bool:
        """The attempt came to nothing. Returns whether there will be another one."""
        room = self._return(delivery)
        pause = min(self.schedule.retry_max, self.schedule.retry_min * 2 ** (delivery.attempts - 1))
        pause *= self._rng.uniform(1 - JITTER, 1 + JITTER)
        if self._draining:
            for waiting in list(room.waiting):  # a receiver that failed would fail for each of them
                self._drop_waiting(waiting, "ended")
        if self._draining or delivery.attempts >= self.schedule.attempts or now + pause > delivery.give_up_at:
            self._give_up(room, delivery)
            return False
        self.counters["retried"] += 1
        heapq.heappush(self._pauses, (now + pause, next(self._order), room))
        return True

    def interrupted(self, delivery: Delivery) -> None:
        """The attempt was cancelled before it came to anything; it does not count."""
        room = self._return(delivery)
        delivery.attempts -= 1
        self._ready.appendleft(room)
        room.listed = True

    # --- inside ----------------------------------------------------------------------------------------------------

    def _next(self, room: _Room, now: float) -> Delivery | None:
        """Take the room's next event to be the current one; a room without any is forgotten."""
        if not room.waiting:
            del self._rooms[room.name]
            return None
        delivery = room.current = room.waiting.popleft()
        delivery.waiting = False
        delivery.give_up_at = now + self.schedule.total
        delivery.num_dropped, self.untold = self.untold, 0
        return delivery

    def _list(self, room: _Room) -> None:
        if room.current is None and not room.listed:
            self._ready.append(room)
            room.listed = True

    def _return(self, delivery: Delivery) -> _Room:
        """An attempt has ended."""
        room = self._rooms.get(delivery.room)
        if room is None or room.current is not delivery or room.listed:
            raise UsageError("webhooks: not being sent")
        self._running -= 1
        return room

    def _over(self, room: _Room, how: str) -> None:
        if room.current is not None:
            self.counters[how] += 1
            self._size -= room.current.size
            room.current = None
        if room.waiting:
            self._list(room)
        else:
            del self._rooms[room.name]

    def _give_up(self, room: _Room, delivery: Delivery) -> None:
        self.untold += delivery.num_dropped + 1  # nobody has seen the count that it carried
        self.counters["dropped: given up"] += 1
        self._over(room, "dropped")

    def _forget_old(self, now: float) -> None:
        while (oldest := self._oldest()) is not None and now >= oldest.since + self.schedule.max_age:
            self._drop_waiting(oldest, "too old")

    def _oldest(self) -> Delivery | None:
        """The event that has waited longest."""
        while self._by_age and not self._by_age[0].waiting:
            self._by_age.popleft()
        return self._by_age[0] if self._by_age else None

    def _drop_waiting(self, delivery: Delivery, why: str) -> None:
        delivery.waiting = False
        self._rooms[delivery.room].waiting.remove(delivery)
        self._size -= delivery.size
        self.untold += 1
        self.counters["dropped"] += 1
        self.counters[f"dropped: {why}"] += 1
