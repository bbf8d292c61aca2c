from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.checks.ice import check_ice_agent

# Small numbers choose operations; random bytes alone would seldom do anything twice.
SCRIPTS = st.binary(max_size=120) | st.lists(st.integers(0, 15) | st.integers(0, 255), max_size=120).map(bytes)


@settings(deadline=None)
@given(SCRIPTS)
@example(bytes.fromhex("0a0800000104000000010400000014040000001404000000"))
def test_an_agent_lives_through_any_script(data: bytes) -> None:
    check_ice_agent(data)
