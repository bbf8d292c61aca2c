"""How well the event loop keeps up, and what its tasks are.

with LoopDelay().watching() as delay:
    ...  # delay.turns has every turn since
tasks = await survey(watch)
"""

from __future__ import annotations

from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import CORO_CLOSED, getcoroutinestate
from typing import TYPE_CHECKING, Final

import trio

from triosfu.histogram import Histogram
from triosfu.server.task_tree import Bound, bound_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triosfu.server.task_tree import Watch

TURNS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds
SLICE: Final = 25  # tasks that are looked at before others have their turn; about a millisecond's worth
KINDS: Final = frozenset(
    {"room", "participant", "peer", "deadlines", "session", "udp", "http", "rooms", "webhooks", "webhook", "admin"}
    | {"metrics", "throughput"}
)
FUNCTIONS: Final = {  # of tasks without a name of their own
    "triosfu.net.http": "connection",
    "triosfu.net.listeners": "listener",
    "triosfu.net.udp": "udp",
    "triosfu.net.websocket": "websocket",
    "triosfu": "server",
    "trio": "trio",
    "<init>": "trio",
}


class LoopDelay(trio.abc.Instrument):
    """How long each turn of the event loop takes: whoever becomes ready meanwhile waits until it is over."""

    def __init__(self) -> None:
        self.turns = Histogram(TURNS)
        self._began = trio.current_time()

    @contextmanager
    def watching(self) -> Iterator[LoopDelay]:
        """Measure within the block."""
        trio.lowlevel.add_instrument(self)
        try:
            yield self
        finally:
            trio.lowlevel.remove_instrument(self)

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's signature
        """A turn begins."""
        self._began = trio.current_time()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's signature
        """A turn is over: nothing is ready."""
        self.turns.observe(trio.current_time() - self._began)


@dataclass(slots=True)
class Tasks:
    """All tasks of a `trio.run`, about the same moment."""

    kinds: Counter[str] = field(default_factory=Counter)
    bounds: Counter[Bound] = field(default_factory=Counter)
    oldest: dict[Bound, float] = field(default_factory=dict)  # seconds of the longest wait, by what bounds it


async def survey(watch: Watch) -> Tasks:
    """Look at every task, a few at a time. Cancelled, it has changed nothing."""
    found = Tasks()
    for number, task in enumerate(_all_tasks()):
        if number % SLICE == 0:
            await trio.lowlevel.checkpoint()
        if getcoroutinestate(task.coro) == CORO_CLOSED:
            continue  # it has ended since
        bound, last = bound_of(task), watch.last.get(task)
        found.kinds[kind_of(task.name)] += 1
        found.bounds[bound] += 1
        if last is not None:
            found.oldest[bound] = max(found.oldest.get(bound, 0.0), trio.current_time() - last)
    return found


def _all_tasks() -> list[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    found, waiting = [], deque([root] if root is not None else [])
    while waiting:
        task = waiting.popleft()
        found.append(task)
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)
    return found


def kind_of(name: str) -> str:
    """What a task is by its name, in one of a few words: the rest of a name may be anybody's."""
    first = name.partition(" ")[0]
    if first in KINDS:
        return first
    return next((kind for start, kind in FUNCTIONS.items() if f"{first}.".startswith(f"{start}.")), "other")
