"""Asking the publisher for the keyframe that one subscriber needs, until it has come."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.media.layers import SimulcastSelector
    from triosfu.media.receiver import TrackReceiver
    from triosfu.media.send_reports import SendStats

SHORTEST, LONGEST = 0.2, 1.0  # seconds from one request to the next
IDLE = 3.0  # seconds likewise, to a publisher that sends nothing
OUTDATED = 2.0  # seconds for which a subscriber that lost the picture gets no resends of it, at most


class KeyframeHunt:
    """Repeats a request every two round trips; the receiver throttles what reaches the publisher."""

    __slots__ = ("_asked_at", "_receiver", "_selector", "_stats", "at", "outdated_until")

    def __init__(self, receiver: TrackReceiver, selector: SimulcastSelector, stats: SendStats) -> None:
        self._receiver = receiver
        self._selector = selector
        self._stats = stats
        self._asked_at = -math.inf
        self.at = math.inf  # when to ask again
        self.outdated_until = -math.inf  # infinitely long ago unless a lost picture waits for its keyframe

    @property
    def renewing(self) -> bool:
        """Whether the subscriber waits for a keyframe because it lost the picture."""
        return self.outdated_until > -math.inf

    def renew(self, now: float) -> None:
        """The subscriber lost the picture: what it asks for again is outdated until a keyframe comes."""
        self.outdated_until = now + OUTDATED

    def ask(self, now: float, flowing: int | None) -> None:
        """Ask for a keyframe of the layer to get to, and of the one that is `flowing` if its picture is lost."""
        target = self._selector.target
        if flowing is not None and flowing != target and self.renewing:
            self._receiver.request_keyframe(flowing, now)
        self._receiver.request_keyframe(target, now)
        self._asked_at = now
        self.at = now + (IDLE if flowing is None and not self._receiver.available else self._spacing)

    def nudge(self, layer: int, now: float) -> None:
        """Packets of `layer` come, and cannot be used without a keyframe: ask, unless just done."""
        if now - self._asked_at < SHORTEST:
            return
        self.ask(now, None)
        if layer not in self._receiver.available and layer <= self._selector.maximum:
            # It has only begun again: the receiver's statistics are slow to believe it.
            self._receiver.request_keyframe(layer, now)

    def keep(self, now: float) -> None:
        """See to it that somebody asks again."""
        if self.at == math.inf:
            self.at = now + self._spacing

    def end(self) -> None:
        """Nothing is missing any more."""
        self.at = math.inf

    @property
    def _spacing(self) -> float:
        return min(max(2 * self._stats.rtt, SHORTEST), LONGEST)
