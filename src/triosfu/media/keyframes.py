"""When to ask one layer of a publisher for a keyframe: often enough to start, and never faster than it can bear."""

from __future__ import annotations

import math

SEED_EVERY = 1.0  # seconds between requests until the first keyframe
SEED_FOR = 30.0


class KeyframeRequests:
    """The requests of one layer, at least `distance` seconds apart.

    A wish that comes too early is remembered until its time, or until a keyframe comes by itself.
    """

    __slots__ = ("_distance", "_due", "_last", "_seed_until", "sent")

    def __init__(self, distance: float) -> None:
        self.sent = 0
        self._distance = distance
        self._last = -math.inf
        self._due = math.inf
        self._seed_until = -math.inf

    def seed(self, now: float) -> None:
        """Ask until the first keyframe, every second and for half a minute at most: a layer begins."""
        self._seed_until = now + SEED_FOR
        self.want(now)

    def want(self, now: float) -> None:
        """Somebody needs a keyframe."""
        self._due = min(self._due, max(now, self._last + self._distance))

    def came(self) -> None:
        """A keyframe is here: all wishes are granted."""
        self._due = math.inf
        self._seed_until = -math.inf

    def next_timeout(self) -> float:
        """When `due` says yes."""
        return self._due

    def due(self, now: float) -> bool:
        """Whether to ask now; asking is then taken for done."""
        if now < self._due:
            return False
        self._last = now
        again = now + max(SEED_EVERY, self._distance)
        self._due = again if again <= self._seed_until else math.inf
        self.sent += 1
        return True
