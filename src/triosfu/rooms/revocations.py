"""Which tokens are not good any more although their signature and their times are: those of who was put out.

Kept in memory, for the newest MAX_REVOKED people; a server that starts anew knows of none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_REVOKED: Final = 10_000  # people; for the oldest ones beyond that, their tokens' own end has to do


class Revocations:
    """Times before which a token that lets somebody into a room must have become valid to be refused."""

    def __init__(self) -> None:
        self.tell: Callable[[str, str, float], None] | None = None  # whoever else must know what is revoked here
        self._before: dict[tuple[str, str], float] = {}  # by room and identity, the newest last

    def __len__(self) -> int:
        return len(self._before)

    def __iter__(self) -> Iterator[tuple[tuple[str, str], float]]:
        return iter(list(self._before.items()))

    def revoke(self, room: str, identity: str, before: float) -> None:
        """Refuse this person's tokens for the room whose `nbf` lies before `before`, in seconds since the epoch."""
        self.learn(room, identity, before)
        if self.tell is not None:
            self.tell(room, identity, before)

    def learn(self, room: str, identity: str, before: float) -> None:
        """Do the same, as somebody else has been asked to and tells."""
        known = self._before.pop((room, identity), before)
        while len(self._before) >= MAX_REVOKED:
            del self._before[next(iter(self._before))]
        self._before[room, identity] = max(before, known)

    def refuses(self, room: str, identity: str, not_before: float) -> bool:
        """Tell whether a token with this `nbf` (0 if it has none) is refused."""
        return not_before < self._before.get((room, identity), not_before)
