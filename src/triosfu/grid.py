"""Times that need not be exact, rounded so that many fall together: one wake-up then serves many connections.

To wake up, and to fetch the code and the tables that a timer needs, costs more than what the timer does. Those who can
wait for a sixteenth of a second do it together.
"""

from __future__ import annotations

import math
from typing import Final

SPACING: Final = 0.0625  # seconds; a power of two, so that sums are exact


def on_grid(at: float) -> float:
    """The first time from `at` on that is on the grid; infinity stays what it is."""
    return at if at == math.inf else math.ceil(at / SPACING) * SPACING
