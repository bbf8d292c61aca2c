"""Stops something at the nth step that the server takes, for each n, and shows that nothing is left of it.

SQLite fails the nth allocation for every n and checks the same promises each time; here it is the nth step of the
server's own tasks, and what fails is whatever `Stop` says.
"""

from __future__ import annotations

import gc
import os
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

import triosfu
from tests.support.side import tables
from triosfu.config import load_config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from triosfu.config import Config
    from triosfu.server import Server

SECOND = 1.0  # in which nothing may be left
CONFIG: Config = load_config(development=True, overrides={"port": 0, "rtc": {"udp_port": 0}})


@dataclass
class Running:
    """A server in a task of its own, so that its tasks can be told from the test's."""

    scope: trio.CancelScope
    leave: trio.Event  # leaves the block of `serve`, which lets the server say its goodbyes
    task: trio.lowlevel.Task
    ended: trio.Event
    started: trio.Event
    server: Server | None = None

    async def up(self) -> Server:
        """Wait for the server to have started."""
        await self.started.wait()
        assert self.server is not None
        return self.server

    def owns(self, task: trio.lowlevel.Task) -> bool:
        """Whether `task` is one of the server's."""
        above: trio.lowlevel.Task | None = task
        while above is not None and above is not self.task:
            above = above.parent_nursery.parent_task if above.parent_nursery is not None else None
        return above is not None


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    """A server that is starting; at the end of the block it is cancelled, if it is still there."""
    found: list[Running] = []

    async def serve() -> None:
        one = Running(trio.CancelScope(), trio.Event(), trio.lowlevel.current_task(), trio.Event(), trio.Event())
        found.append(one)
        try:
            with one.scope:
                async with triosfu.serve(CONFIG) as one.server:
                    one.started.set()
                    await one.leave.wait()
        finally:
            one.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, name="server")
        while not found:
            await trio.lowlevel.checkpoint()
        yield found[0]
        found[0].scope.cancel()


class AtStep(trio.abc.Instrument):
    """Calls `stop` just before the nth step that the server's tasks take while there is something to stop."""

    def __init__(self, running: Running, number: int, target: Callable[[], Callable[[], object] | None]) -> None:
        self._running = running
        self._target = target
        self._known: dict[trio.lowlevel.Task, bool] = {}
        self.left = number
        self.fired = trio.Event()

    @property
    def done(self) -> bool:
        return self.left <= 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.done:
            return
        ours = self._known.get(task)
        if ours is None:
            ours = self._known[task] = self._running.owns(task)
        if ours and (stop := self._target()) is not None:
            self.left -= 1
            if self.done:
                stop()
                self.fired.set()


def inventory(server: Server | None) -> dict[str, int]:
    """All that a session may leave behind."""
    left = {
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  counted, not looked at
    }
    if server is not None:
        left |= tables(server.mux)
        left["rooms"] = len(server.rooms)
        left["participants"] = sum(len(room.participants) for room in server.rooms)
        left["listeners of tracks"] = sum(
            len(receiver.subscribers)
            for room in server.rooms
            for publication in room.publications()
            for receiver in publication.receivers.values()
        )
    return left


async def back_to(before: dict[str, int], server: Server | None) -> None:
    """Wait until everything is as it was; it has a second."""
    with trio.move_on_after(SECOND):
        while inventory(server) != before:
            await trio.lowlevel.checkpoint()
    now = inventory(server)
    if now != before:
        gc.collect()
    assert now == before, {name: (before[name], now[name]) for name in now if now[name] != before[name]}


@contextmanager
def stopping(running: Running, number: int, target: Callable[[], Callable[[], object] | None]) -> Iterator[AtStep]:
    """Have something stopped at the nth step within the block."""
    at = AtStep(running, number, target)
    trio.lowlevel.add_instrument(at)
    try:
        yield at
    finally:
        trio.lowlevel.remove_instrument(at)


async def race(*contestants: Callable[[], Awaitable[object]]) -> None:
    """Run all of them until the first is done."""
    async with trio.open_nursery() as nursery:

        async def run(contestant: Callable[[], Awaitable[object]]) -> None:
            await contestant()
            nursery.cancel_scope.cancel()

        for contestant in contestants:
            nursery.start_soon(run, contestant)
