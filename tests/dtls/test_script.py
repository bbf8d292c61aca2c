from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.checks.dtls import check_dtls

# Small numbers choose operations; random bytes alone would seldom do anything twice.
SCRIPTS = st.binary(max_size=60) | st.lists(st.integers(0, 15) | st.integers(0, 255), max_size=60).map(bytes)


@settings(deadline=None)
@given(SCRIPTS)
@example(bytes.fromhex("0009010900080108000a010a00"))
def test_two_connections_live_through_any_script(data: bytes) -> None:
    check_dtls(data)
