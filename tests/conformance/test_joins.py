"""Many who join and leave, one after the other and at once: `make joins` has a thousand and two hundred of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from bench.joins import run

if TYPE_CHECKING:
    from tests.clients.server import RunningServer


def test_nothing_is_left_of_those_who_came_and_went(server: RunningServer) -> None:
    assert trio.run(lambda: run(server, joins=20, together=10, warm=4))
