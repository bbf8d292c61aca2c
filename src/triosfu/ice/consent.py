"""Whether the peer is still there, and whether we may still send to it (RFC 7675, with faster eyes)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from triosfu.grid import on_grid

if TYPE_CHECKING:
    from random import Random

    from triosfu.ice.checklist import Pair
    from triosfu.ice.generation import Generation

CONSENT_LIFETIME: Final = 30.0  # seconds since the last answer; RFC 7675, section 5.1
CONSENT_EVERY: Final = 4.0  # seconds between questions to a peer that speaks by itself; with chance added, below five


class Consent:
    """Watches the selected pair: when to ask the peer, when it has fallen silent, when it is lost.

    RFC 7675 asks every five seconds or so and gives up after thirty. A vanished client must be gone sooner than that,
    so one that is quiet for `interval` is asked, and again each third of that until it answers; most clients ask us
    more often than that, and are asked every four seconds. Two clocks run: one for anything authenticated that arrives
    on the pair (silence), one for answers to our own questions (consent). A lite agent asks nothing, so only the first
    one can judge.
    """

    def __init__(
        self,
        *,
        now: float,
        valid_until: float,
        rng: Random,
        interval: float,
        disconnected_after: float,
        failed_after: float,
    ) -> None:
        self.heard_at = now
        self.silent = False
        self._valid_until = valid_until
        self._rng = rng
        self._interval = interval  # math.inf: never ask
        self._disconnected_after = disconnected_after
        self._failed_after = failed_after
        self._draw(now)
        self._ask_at = on_grid(now + self._patience)

    def _about(self, seconds: float) -> float:
        # Random, so that the checks of many peers do not fall into step (RFC 7675, section 5.1).
        return seconds * self._rng.uniform(0.8, 1.2)

    def _draw(self, asked_at: float) -> None:
        """Leave to chance when, after what is asked at `asked_at`, to ask again."""
        self._patience = self._about(self._interval)  # with a peer that says nothing
        self._ask_by = asked_at + self._about(CONSENT_EVERY)  # whatever it says

    def heard(self, now: float) -> bool:
        """Note something authenticated on the pair. Returns whether it ended a silence."""
        ended, self.silent = self.silent, False
        self.heard_at = now
        if self._interval < math.inf:
            self._ask_at = on_grid(min(now + self._patience, self._ask_by))
        return ended

    def answered(self, now: float) -> bool:
        """Note an answer to a check on the pair: consent starts anew. Returns whether it ended a silence."""
        if self._interval < math.inf:
            self._valid_until = now + CONSENT_LIFETIME
        return self.heard(now)

    def lost(self, now: float) -> bool:
        """Whether the peer is to be given up."""
        return now >= min(self.heard_at + self._failed_after, self._valid_until)

    def falls_silent(self, now: float) -> bool:
        """Whether the peer has just become silent: True once per silence."""
        if self.silent or now < self.heard_at + self._disconnected_after:
            return False
        self.silent = True
        return True

    def ask_due(self, now: float) -> bool:
        """Whether a check is to be sent now; if so, the next one is scheduled, for when there is no answer."""
        if now < self._ask_at:
            return False
        self._draw(now)
        self._ask_at = on_grid(now + self._about(self._interval / 3))
        return True

    def next_timeout(self) -> float:
        """When to look again."""
        silent_at = math.inf if self.silent else self.heard_at + self._disconnected_after
        return min(self._ask_at, silent_at, self.heard_at + self._failed_after, self._valid_until)


@dataclass(frozen=True, slots=True)
class Path:
    """The selected pair, whose generation's credentials its checks carry, and whether the peer still consents."""

    pair: Pair
    generation: Generation
    consent: Consent
