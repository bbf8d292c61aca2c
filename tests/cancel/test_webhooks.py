"""A server whose backend is silent or gone, stopped at any step of a join: it ends within its grace, with its attempts.

That nothing else waits for such a backend is in `tests/webhooks/test_call.py`; that no attempt leaves anything, at any
step of its own, in `tests/webhooks/test_delivery.py`.
"""

from __future__ import annotations

import socket
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.cancel.harness import check_server
from tests.cancel.scenarios import SCENARIOS
from tests.cancel.stops import STOPS
from tests.support.steps import SECOND, virtual_clock
from triosfu.config import load_config
from triosfu.server import GRACE

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.cancel.stops import Stop

STRIDE = 13
JOIN = next(one for one in SCENARIOS if one.name == "join")
LEFT, CANCELLED = (next(one for one in STOPS if one.name == name) for name in ("server left", "server cancelled"))


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


@pytest.mark.parametrize(("stop", "listens"), [(LEFT, True), (CANCELLED, True), (LEFT, False)])
async def test_a_server_whose_backend_is_dead_ends_within_its_grace(
    stop: Stop, listens: bool, clock: MockClock
) -> None:
    with socket.socket() as backend:
        backend.bind(("127.0.0.1", 0))
        if listens:
            backend.listen(1)  # the first connections open, and nobody ever accepts one; later ones do not even open
        webhook = {"api_key": "devkey", "urls": [f"http://127.0.0.1:{backend.getsockname()[1]}/hooks"]}
        config = load_config(development=True, overrides={"port": 0, "rtc": {"udp_port": 0}, "webhook": webhook})
        steps = count(1 + 4 * STOPS.index(stop) % STRIDE, STRIDE)
        assert await check_server(JOIN, stop, steps, config=config, within=GRACE + SECOND) > 20
