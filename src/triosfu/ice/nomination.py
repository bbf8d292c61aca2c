"""Which pair to use: what the controlling side nominates, what the controlled one follows (RFC 8445, section 8)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from triosfu.ice.checklist import Checklist, Pair

NOMINATION_WAIT: Final = 0.3  # how long a valid pair waits for a better one,
RELAYED_NOMINATION_WAIT: Final = 1.0  # and how long if it costs somebody a relay


def to_nominate(
    checklist: Checklist, *, current: Pair | None, stale: bool, heard_since: float, now: float
) -> tuple[Pair | None, float]:
    """What a controlling agent nominates now, and if nothing, when it is to look again.

    The best valid pair, once nothing better is to be expected soon. There is one nomination, unless the pair in use
    is stale: then the peer has moved, and is followed to the path it uses now, though RFC 8445 would have it restart.
    """
    if current is not None and not stale:
        return None, math.inf
    best = checklist.best_valid(now, heard_since=-math.inf if current is None else heard_since)
    if best is None or best is current:
        return None, math.inf
    wait_until = best.valid_since + (RELAYED_NOMINATION_WAIT if best.remote.type == "relay" else NOMINATION_WAIT)
    if now < wait_until and checklist.may_beat(best):
        return None, wait_until
    return best, math.inf


def follows(pair: Pair, *, wanted: bool, current: Pair | None, stale: bool, heard_since: float) -> bool:
    """Whether a controlled agent changes to this pair, which works both ways; `wanted` if the peer nominated it.

    An aggressive peer nominates in every check, and means the best of its pairs. A peer that probed this one first has
    thought about it, and means it. And when the pair in use has fallen silent while the peer speaks on this one, then
    its network has changed, and not every peer says so by a nomination.
    """
    if current is None:
        return wanted
    if stale:
        return wanted or pair.heard_at >= heard_since
    return wanted and (pair.probed or pair.priority > current.priority)
