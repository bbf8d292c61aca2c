"""Stops something at the nth step that the server takes, for each n, and shows that nothing is left of it.

SQLite fails the nth allocation for every n and checks the same promises each time; here it is the nth step of the
server's own tasks, and what fails is whatever a test says. Time is virtual (`virtual_clock`), the network is loopback:
what was sent is there at once, so the clock may jump when every task waits.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio
from trio.testing import MockClock

import triosfu
from tests.support.side import tables
from triosfu.config import load_config
from triosfu.peer import PeerSettings
from triosfu.rooms.room import UPDATE
from triosfu.server.app import PeerFactory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from triosfu.config import Config
    from triosfu.server import Server

D_FLUSH = 0.2  # in which a peer connection that ends has said goodbye and left the mux
SECOND = 1.0  # in which nothing may be left
QUICK = PeerSettings(high_water=50_000)  # bytes: the second of two large messages has to wait already
CONFIG: Config = load_config(development=True, overrides={"port": 0, "rtc": {"udp_port": 0}})
LOOK_EVERY = 0.05


def virtual_clock() -> MockClock:
    """A clock that jumps to the next deadline once there has been nothing to do, and nothing to read, for a moment."""
    return MockClock(autojump_threshold=0.001)  # a busy kernel may be late with what was sent over loopback


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

    def tasks(self) -> list[trio.lowlevel.Task]:
        """The server's tasks."""
        found = [self.task]
        for task in found:
            found += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        return found


@asynccontextmanager
async def running(config: Config = CONFIG) -> AsyncIterator[Running]:
    """A server that is starting; at the end of the block it is cancelled, if it is still there."""
    found: list[Running] = []

    async def serve() -> None:
        one = Running(trio.CancelScope(), trio.Event(), trio.lowlevel.current_task(), trio.Event(), trio.Event())
        found.append(one)
        try:
            with one.scope:
                async with triosfu.serve(config) as one.server:
                    peers = one.server.rooms.services.peers
                    assert isinstance(peers, PeerFactory)
                    peers.settings = replace(peers.settings, high_water=QUICK.high_water)
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
    """Calls what `target` returns just before the nth step of the server's tasks, counted while there is a target."""

    def __init__(self, running: Running, number: int, target: Callable[[], Callable[[], object] | None]) -> None:
        self._running = running
        self._number = number
        self._target = target
        self._known: dict[trio.lowlevel.Task, bool] = {}
        self.steps = 0
        self.fired = trio.Event()
        self.at = 0.0  # when it fired
        self.error: Exception | None = None  # of what was called: trio would only log it

    @property
    def done(self) -> bool:
        return self.steps >= self._number

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.done:
            return
        ours = self._known.get(task)
        if ours is None:
            ours = self._known[task] = self._running.owns(task)
        if ours and (stop := self._target()) is not None:
            self.steps += 1
            if self.done:
                self.at = trio.current_time()
                try:
                    stop()
                except Exception as error:  # noqa: BLE001  raised again where the test sees it
                    self.error = error
                self.fired.set()


@contextmanager
def stopping(running: Running, number: int, target: Callable[[], Callable[[], object] | None]) -> Iterator[AtStep]:
    """Have something stopped at the nth step within the block; what goes wrong in that is raised at its end."""
    at = AtStep(running, number, target)
    trio.lowlevel.add_instrument(at)
    try:
        yield at
    finally:
        trio.lowlevel.remove_instrument(at)
    if at.error is not None:
        raise at.error


# --- what is there ----------------------------------------------------------------------------------------------------


def held(running: Running) -> dict[str, int]:
    """All that the server holds for its clients: tasks, what the mux remembers, and what the rooms do."""
    server = running.server
    if server is None:
        return {}
    members = [one for room in server.rooms for one in room.participants.values()]
    receivers = [
        receiver for one in members for publication in one.publications for receiver in publication.receivers.values()
    ]
    return {
        "server's tasks": len(running.tasks()),
        **tables(server.mux),
        "rooms": len(server.rooms),
        "agent workers": len(server.agents.board.workers),
        "agent jobs": len(server.agents.board.jobs),
        "participants": len(members),
        "published tracks": sum(len(one.publications) for one in members),
        "listeners of tracks": sum(len(receiver.subscribers) for receiver in receivers),
        "down tracks": sum(subscription.down is not None for one in members for subscription in one.subscriptions),
        # How many there are in a room is told within five seconds, whoever came or went meanwhile.
        "deadlines": sum(len(room.deadlines) - (UPDATE in room.deadlines) for room in server.rooms)
        + sum(len(one.deadlines) for one in members),
    }


def process() -> dict[str, int]:
    """All tasks, timers (of cancel scopes: whatever sleeps or has a limit) and descriptors of this process."""
    return {
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "timers": trio._core._run.GLOBAL_RUN_CONTEXT.runner.deadlines._active,
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  counted, not looked at
    }


def inventory(running: Running) -> dict[str, int]:
    """Everything that a session may leave behind."""
    return held(running) | process()


async def eventually(condition: Callable[[], bool], *, within: float = SECOND) -> None:
    """Wait until `condition` holds, of which nobody tells."""
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110  that nothing is left, nobody tells
            await trio.sleep(LOOK_EVERY)


async def back_to(
    before: dict[str, int],
    look: Callable[[], dict[str, int]],
    *,
    within: float = SECOND,
    tasks: Callable[[], list[trio.lowlevel.Task]] = list,
) -> None:
    """Wait until `look` finds everything as it was: within the time given, and not more of anything than before."""
    now: dict[str, int] = {}

    def same() -> bool:
        nonlocal now
        now = look()
        return now == before

    with suppress(trio.TooSlowError):
        await eventually(same, within=within)
    changed = {name: (before[name], now[name]) for name in now if now[name] != before[name]}
    assert not changed, f"(before, now): {changed}; {[task.name for task in tasks()]}"


async def settled(look: Callable[[], dict[str, int]], *, calm: float = SECOND) -> dict[str, int]:
    """What `look` finds, once that has been the same for a while."""
    with trio.fail_after(60 * calm):  # one timer while it looks, as in `eventually`
        before, since = look(), trio.current_time()
        while trio.current_time() - since < calm:
            await trio.sleep(LOOK_EVERY)
            if (now := look()) != before:
                before, since = now, trio.current_time()
    return before


@contextmanager
def plainly(about: Callable[[], str]) -> Iterator[None]:
    """Raise what went wrong in the block as it is, with `about`, and not as the innermost of a dozen groups."""
    try:
        yield
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        first.add_note(about())
        raise first from None


async def race(*contestants: Callable[[], Awaitable[object]]) -> None:
    """Run all of them until the first is done."""
    async with trio.open_nursery() as nursery:

        async def run(contestant: Callable[[], Awaitable[object]]) -> None:
            await contestant()
            nursery.cancel_scope.cancel()

        for contestant in contestants:
            nursery.start_soon(run, contestant)
