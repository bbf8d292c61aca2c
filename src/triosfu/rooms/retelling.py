"""What a client may have missed while its signalling was down, kept until it resumes and told again then.

Most of what clients are told is a description of how things are: participants, the room, speakers. A resumed session is
told these anew (`resume.py`). The rest is here: news that nobody could look up later. What was said shortly before a
connection was lost may not have arrived, so it is kept as well. Protocol reference, section 3.7.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from livekit.protocol import rtc

MAX_KEPT = 1000  # messages for one client
MAX_BYTES = 1 << 20
Field: TypeAlias = Any  # the part of a message that its kind names

# To hear these twice changes nothing, and the newest of a key stands for the older ones.
STATES: Final[dict[str, Callable[[Field], Hashable]]] = {
    "mute": lambda mute: mute.sid,
    "track_published": lambda published: published.cid,
    "track_unpublished": lambda unpublished: unpublished.track_sid,
    "subscription_permission_update": lambda update: update.track_sid,
    "subscribed_quality_update": lambda update: update.track_sid,
    "stream_state_update": lambda update: tuple(one.track_sid for one in update.stream_states),
    "data_track_subscriber_handles": lambda _: None,
}
# These are told again only when they were never told: an application would see them twice.
EVENTS: Final = frozenset(
    {
        "request_response",
        "subscription_response",
        "track_subscribed",
        "publish_data_track_response",
        "unpublish_data_track_response",
    }
)
TOLD_AGAIN: Final = STATES.keys() | EVENTS
"""The kinds of messages that may be told again."""


class Retelling:
    """The messages that one client may have missed. Sans-IO: the time is passed in."""

    def __init__(self, doubtful: float) -> None:
        """Take it that what was sent up to `doubtful` seconds before a loss may be lost with the connection."""
        self._doubtful = doubtful
        self._kept: dict[Hashable, tuple[float, rtc.SignalResponse, int]] = {}  # in the order of time
        self._bytes = 0
        self._events = 0
        self.since = math.inf  # from when on it may have missed things; infinite while it is heard
        self.overflowed = False  # more was missed than is kept: the session cannot be brought up to date

    def __len__(self) -> int:
        return len(self._kept)

    def lost(self, now: float) -> None:
        """The connection is lost; the doubt lasts until the client is heard, however often it resumes before."""
        if not self.in_doubt:
            self.since = now - self._doubtful

    def heard(self) -> None:
        """The client has spoken on its connection, which it does when it has been told what it missed."""
        self.since = math.inf

    @property
    def in_doubt(self) -> bool:
        """Whether the client has not been heard since a loss."""
        return self.since != math.inf

    def note(self, kind: str, message: rtc.SignalResponse, now: float, *, sent: bool) -> None:
        """Keep `message`, whose `kind` is one of those that are told again; `sent` unless there was no connection."""
        key: Hashable
        if by := STATES.get(kind):
            key = kind, by(getattr(message, kind))
        elif self.in_doubt and not sent:
            self._events += 1
            key = kind, self._events
        else:
            return
        self._keep(key, message, now)

    def note_departure(self, message: rtc.SignalResponse, now: float) -> None:
        """Keep the news that somebody left; what comes while there is no doubt, the room remembers for all."""
        if self.in_doubt:
            self._keep(("update", message.update.participants[0].sid), message, now)

    def _keep(self, key: Hashable, message: rtc.SignalResponse, now: float) -> None:
        self._forget(key)
        size = message.ByteSize()
        self._kept[key] = now, message, size
        self._bytes += size
        self.prune(now)

    def missed(self) -> list[rtc.SignalResponse]:
        """Return, in order, what the client may have missed."""
        return [message for at, message, _ in self._kept.values() if at >= self.since]

    def clear(self) -> None:
        """Keep nothing any more."""
        self._kept.clear()
        self._bytes = 0

    def prune(self, now: float) -> None:
        """Forget what is too old to have been missed, and the oldest of what is too much."""
        since = min(self.since, now - self._doubtful)
        while self._kept:
            key, (at, _, _) = next(iter(self._kept.items()))
            full = len(self._kept) > MAX_KEPT or self._bytes > MAX_BYTES
            if at >= since and not full:
                return
            self.overflowed |= at >= since and self.in_doubt
            self._forget(key)

    def _forget(self, key: Hashable) -> None:
        if kept := self._kept.pop(key, None):
            self._bytes -= kept[2]
