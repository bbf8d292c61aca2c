from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.checks.session import check_signal_session

# Small numbers choose operations; random bytes alone would seldom do anything twice.
SCRIPTS = st.binary(max_size=120) | st.lists(st.integers(0, 15) | st.integers(0, 255), max_size=120).map(bytes)


@settings(deadline=None, max_examples=60)
@given(SCRIPTS)
@example(
    bytes.fromhex("00010a02000000000a00000100000a0a000500010b040000010b0500000b0300000100018004000000a0000a08010040")
)
def test_a_participant_lives_through_any_script(data: bytes) -> None:
    check_signal_session(data)
