"""Who is waited for in a measurement: that all leave at its end is no failure of one of them."""

from __future__ import annotations

import pytest
import trio

from bench.sfu.peer import Ended, Waiting


async def test_what_closes_because_the_run_is_over_does_not_end_it() -> None:
    somebody = Waiting("one")
    with trio.CancelScope() as scope:
        scope.cancel()
        somebody.over("the peer connection closed: cancelled")
        await somebody.watch_over()
    assert scope.cancelled_caught


async def test_what_ends_before_ends_the_run() -> None:
    somebody = Waiting("one")
    somebody.over("let go")
    with pytest.raises(Ended, match="one: let go"):
        await somebody.watch_over()
