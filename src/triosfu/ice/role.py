"""Who chooses the pair: the roles of both sides, and how a conflict is settled (RFC 8445, section 7.3.1.1)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from triosfu.stun.wire import U64, Attribute

if TYPE_CHECKING:
    from random import Random

    from triosfu.stun.wire import Message

MAX_SWITCHES: Final = 8  # per generation; honest peers need one

Verdict = Enum("Verdict", "AGREED THEY_CHANGE WE_CHANGE")


class Role:
    """Our role, and the number that decides when both sides claim the same one."""

    def __init__(self, *, controlling: bool, rng: Random) -> None:
        self.controlling = controlling
        self.tie_breaker = rng.getrandbits(64)
        self._rng = rng
        self._conflicts = 0

    def judge(self, request: Message) -> Verdict:
        """Compare the role that a request tells with ours; MalformedPacket if its attribute is nonsense."""
        claim = Attribute.ICE_CONTROLLING if self.controlling else Attribute.ICE_CONTROLLED
        theirs = request.number(claim, U64)
        if theirs is None:
            return Verdict.AGREED
        # The larger number is to control, and a draw goes to the side that was asked.
        return Verdict.THEY_CHANGE if (self.tie_breaker >= theirs) is self.controlling else Verdict.WE_CHANGE

    def switch(self) -> None:
        """Take the other role."""
        self.controlling = not self.controlling

    def gives_way(self) -> bool:
        """Whether to switch because the peer insists: not for ever, with a peer that never agrees."""
        self._conflicts += 1
        return self._conflicts <= MAX_SWITCHES

    def renumber(self) -> None:
        """Draw another tie-breaker, as a 487 demands (RFC 8445, section 16.1)."""
        self.tie_breaker = self._rng.getrandbits(64)

    def restart(self) -> None:
        """Forget earlier conflicts."""
        self._conflicts = 0
