"""Each scenario is stopped at every step: what is stopped ends within a second, leaves nothing, and disturbs nobody.

What clients do is in `tests/cancel/scenarios.py`, what is stopped and how in `tests/cancel/stops.py`: a function there
is all that a further one needs. A step is one turn of one of the server's tasks, whosever it is, from the moment on
at which the scenario begins. After each stop (`tests/cancel/harness.py`):

- a stopped peer connection has left the mux within D_FLUSH, its task is over within a second, and its session ends
  by the deadline that it has for such a case (which every fourth time is waited for); a participant, room or server
  is gone within a second;
- the server's tasks, its rooms and participants, tracks and who listens to them, every entry of the mux, and every
  armed deadline of rooms and participants are as before, while the client is still there and does nothing to help;
  the cores of the connections that are over have no deadline left;
- then the client goes, and all tasks, timers (cancel scopes with a deadline, which is what sleeps and what has a
  limit) and descriptors of the process are as before, too;
- whoever waited to send has been told;
- two others in the same room hear each other, data and sound, within a second of the stop; when it is a room that is
  stopped, they are in another one;
- nothing was logged as an error, and no bug was counted.

All seconds are virtual, so that a slow machine makes no difference.

For the stops of `EVERY`, one that cancels for each kind of thing, each scenario in one room is stopped at n = 1, 2, 3
... to its end. For the others it is every STRIDE-th n; each begins at another one, so that together they come to every
n, too.
`EVERY_STEP=1 pytest tests/cancel` takes each n for each pair of scenario and stop, in several times as long.
"""

from __future__ import annotations

import os
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.cancel.harness import check_server, check_within_a_server
from tests.cancel.scenarios import LEVELS, SCENARIOS, Scenario
from tests.cancel.stops import STOPS, Stop
from tests.support.steps import virtual_clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

EVERY = {"publisher cancelled", "connection cancelled", "participant cancelled", "room cancelled", "server cancelled"}
STRIDE = 1 if os.environ.get("EVERY_STEP") else 6
assert {stop.name for stop in STOPS} > EVERY
PAIRS = [
    (scenario, stop)
    for scenario in SCENARIOS
    for stop in STOPS
    if stop.level in scenario.levels
    and (stop.level != "connection" or (scenario.single if stop.single else not scenario.http))
]


pytestmark = pytest.mark.timeout(300)  # some have hundreds of steps


def cases(*, server: bool) -> list[object]:
    """The pairs whose stop is the server's, or is not."""
    return [
        pytest.param(scenario, stop, id=f"{scenario.name}, {stop.name}")
        for scenario, stop in PAIRS
        if (stop.level == "server") is server
    ]


def steps_of(scenario: Scenario, stop: Stop) -> Iterator[int]:
    """At which steps to stop, in turn."""
    # Who signals by HTTP shares all but its connection's life with the others; who is moved, all but the move; and a
    # scenario that is not about all levels, the life of the server.
    every = stop.name in EVERY and scenario.every and (not scenario.http or stop.level == "connection")
    every = every and (scenario.levels == LEVELS or stop.level != "server")
    stride = 1 if every else STRIDE
    return count(1 + (STOPS.index(stop) + SCENARIOS.index(scenario)) % stride, stride)


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


@pytest.mark.parametrize(("scenario", "stop"), cases(server=False))
async def test_what_is_stopped_at_any_step_is_gone_and_nobody_else_notices(
    scenario: Scenario, stop: Stop, clock: MockClock
) -> None:
    assert await check_within_a_server(scenario, stop, steps_of(scenario, stop)) >= 10


@pytest.mark.parametrize(("scenario", "stop"), cases(server=True))
async def test_a_server_stopped_at_any_step_is_gone_and_its_clients_know(
    scenario: Scenario, stop: Stop, clock: MockClock
) -> None:
    assert await check_server(scenario, stop, steps_of(scenario, stop)) >= 10
