from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.checks.negotiation import check_negotiation

# Small numbers choose operations; random bytes alone would seldom do anything twice.
SCRIPTS = st.binary(max_size=120) | st.lists(st.integers(0, 15) | st.integers(0, 255), max_size=120).map(bytes)


@settings(deadline=None)
@given(SCRIPTS)
@example(bytes.fromhex("0204000106040002060000060006"))
def test_a_negotiation_lives_through_any_script(data: bytes) -> None:
    check_negotiation(data)
