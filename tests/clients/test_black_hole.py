"""Real clients whose link goes down, at many moments: gone within 20 s, the others told, and nothing left of them.

`make black-hole` does the same with two hundred, one batch after the other (docs/black-hole.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.black_hole import MIB, WORKS, Victim, hole
from tests.clients.cable import JOINING

if TYPE_CHECKING:
    from pathlib import Path

GROWTH = 24 * MIB  # of a first batch, which fills caches, and 16 MiB of messages that wait for those who receive


@pytest.mark.timeout(180)
def test_clients_that_vanish_at_any_moment_leave_nothing(network: None, artifacts: Path) -> None:
    joining = [Victim(f"joining-{place}", JOINING[place], single=bool(place % 2)) for place in (0, 3, 5)]
    busy = [Victim(f"wheel-{role}", role, single=role != "resumes") for role in ("resumes", "plays", "receives")]
    busy.append(Victim("chromium-sends", "sends", browser=True))
    busy.append(Victim("agent", WORKS))
    with hole(artifacts) as opened:
        batch = opened.vanish([*joining, *busy])
        assert not batch.late, "all got to their moments"
        assert opened.verdict(batch) == []
        assert batch.after.resident - opened.before.resident < GROWTH
        known = {event["identity"] for event in opened.stays.events("connected")}
        assert {victim.identity for victim in busy} <= known, "they were there before they vanished"
