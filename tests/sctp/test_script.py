from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.checks.pairs import check_sctp_pair

# Small numbers choose operations; random bytes alone would seldom do anything twice.
SCRIPTS = st.binary(max_size=120) | st.lists(st.integers(0, 15) | st.integers(0, 255), max_size=120).map(bytes)


@settings(deadline=None)
@given(SCRIPTS)
@example(bytes.fromhex("04020401003204020401138804020201047d00000404000000"))
def test_two_associations_live_through_any_script(data: bytes) -> None:
    check_sctp_pair(data)
