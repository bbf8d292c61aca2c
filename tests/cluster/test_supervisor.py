"""Worker processes that die, hang, refuse and do not end, on virtual time; the control sockets are real."""

from __future__ import annotations

import os
import socket
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.net.connection import CancelAtStep
from triosfu.cluster.control import Control, ControlClosed, Letter
from triosfu.cluster.supervisor import LONGEST_PAUSE, MARGIN, MISSED, PING, START, Elsewhere, Supervisor
from triosfu.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock


@dataclass(eq=False)
class Imagined:
    """A process that is none: it says what a test has it say."""

    index: int
    control: Control
    born: float
    ready: bool = True
    answers: bool = True
    stops: bool = True  # when it is told to
    refuses: str = ""
    killed: bool = False
    pid: int = 1
    told: list[Letter] = field(default_factory=list)
    over: trio.Event = field(default_factory=trio.Event)

    def kill(self) -> None:
        self.killed = True
        self.die()

    def die(self) -> None:
        self.control.close()
        self.over.set()

    async def wait(self) -> int:
        await self.over.wait()
        return -9 if self.killed else 0

    async def run(self) -> None:
        try:
            begun = await self.control.receive()
            assert begun.said == {"kind": "begin"}
            assert begun.data == b"config"
            if self.refuses:
                self.control.tell({"kind": "refused", "reason": self.refuses})
                self.die()
            if self.ready:
                self.control.tell({"kind": "ready", "ports": [7882 + self.index]})
            while True:
                letter = await self.control.receive()
                self.told.append(letter)
                if letter.said["kind"] == "ping" and self.answers:
                    self.control.tell({"kind": "beat", "load": 0.25})
                if letter.said["kind"] == "stop" and self.stops:
                    self.die()
        except ControlClosed:
            pass

    def kinds(self) -> Counter[str]:
        return Counter(letter.said["kind"] for letter in self.told)


class Stage:
    """A supervisor and its processes."""

    def __init__(self, nursery: trio.Nursery, *, count: int = 2) -> None:
        self.nursery = nursery
        self.processes: list[Imagined] = []
        self.make: Callable[..., Imagined] = Imagined
        self.supervisor = Supervisor(count, self._spawn, lambda _: ({"kind": "begin"}, b"config"))

    async def _spawn(self, index: int, sock: socket.socket) -> Imagined:
        process = self.make(index, Control(sock.dup()), trio.current_time())
        self.processes.append(process)
        self.nursery.start_soon(process.run)
        return process

    def of(self, index: int) -> list[Imagined]:
        return [process for process in self.processes if process.index == index]


@asynccontextmanager
async def stage(*, count: int = 2) -> AsyncIterator[Stage]:
    async with trio.open_nursery() as nursery:
        made = Stage(nursery, count=count)
        await nursery.start(made.supervisor.run)
        yield made
        nursery.cancel_scope.cancel()
    assert all(process.over.is_set() for process in made.processes)


async def test_all_are_ready_when_it_has_started(autojump_clock: MockClock) -> None:
    async with stage() as made:
        assert [worker.index for worker in made.supervisor.alive()] == [0, 1]
        assert [worker.ports for worker in made.supervisor.alive()] == [(7882,), (7883,)]
        await trio.sleep(60)
        assert [worker.load for worker in made.supervisor.alive()] == [0.25, 0.25]
        assert len(made.processes) == 2
        assert made.processes[0].kinds()["ping"] == pytest.approx(60, abs=1)


async def test_one_that_dies_is_begun_again_with_longer_and_longer_pauses(autojump_clock: MockClock) -> None:
    async with stage() as made:
        pauses = []
        for _ in range(9):
            died = trio.current_time()
            made.of(0)[-1].die()
            await trio.sleep(LONGEST_PAUSE + 1)  # less than it takes to count as healthy
            pauses.append(made.of(0)[-1].born - died)
            await wait_all_tasks_blocked()
        assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE])
        assert len(made.of(1)) == 1
        assert made.supervisor.counters["restarts"] == 9
        await trio.sleep(61)  # it has lived
        died = trio.current_time()
        made.of(0)[-1].die()
        await trio.sleep(1)
        assert made.of(0)[-1].born == pytest.approx(died + 0.5)


async def test_its_rooms_are_nowhere_then_and_others_stay(autojump_clock: MockClock) -> None:
    async with stage() as made:
        supervisor = made.supervisor
        for process, name in ((made.of(0)[0], "mine"), (made.of(1)[0], "yours")):
            process.control.tell({"kind": "held", "room": name})
        await wait_all_tasks_blocked()
        assert [supervisor.placement.find(name) for name in ("mine", "yours")] == [0, 1]
        made.of(0)[0].die()
        await wait_all_tasks_blocked()
        assert [supervisor.placement.find(name) for name in ("mine", "yours")] == [None, 1]
        chosen = supervisor.choose(["mine"])
        assert chosen is not None
        assert chosen.index == 1
        await trio.sleep(1)
        assert {worker.index for worker in supervisor.alive()} == {0, 1}


async def test_one_that_does_not_answer_is_killed(autojump_clock: MockClock) -> None:
    async with stage() as made:
        await trio.sleep(10)
        hangs = made.of(0)[0]
        hangs.answers = False
        await trio.sleep((MISSED - 1) * PING)
        assert not hangs.killed
        await trio.sleep(2 * PING)
        assert hangs.killed
        await trio.sleep(1)
        assert len(made.of(0)) == 2
        assert (made.supervisor.counters["killed"], len(made.of(1))) == (1, 1)


async def test_a_request_is_handed_over_with_its_names_until_it_is_done(autojump_clock: MockClock) -> None:
    async with stage() as made:
        supervisor = made.supervisor
        worker = supervisor.choose(["room"])
        assert worker is not None
        mine, its = socket.socketpair()
        with mine:
            assert worker.hand_over(its.fileno(), b"GET", peer=("1.2.3.4", 5), names=["room"])
            its.close()
            assert supervisor.placement.find("room") == worker.index
            await wait_all_tasks_blocked()
            process = made.of(worker.index)[0]
            letter = process.told[-1]
            assert (letter.said["peer"], letter.said["door"], letter.data) == (["1.2.3.4", 5], "public", b"GET")
            process.control.tell({"kind": "done", "lease": letter.said["lease"]})
            process.control.tell({"kind": "done", "lease": letter.said["lease"]})  # once more is nothing
            await wait_all_tasks_blocked()
            assert supervisor.placement.find("room") is None
            letter.close()


async def test_what_a_worker_cannot_take_leaves_nothing(autojump_clock: MockClock) -> None:
    async with stage() as made:
        worker = made.supervisor.choose(["room"])
        assert worker is not None
        mine, its = socket.socketpair()
        with mine, its:
            taken = 0
            while worker.hand_over(its.fileno(), b"GET", peer=("1.2.3.4", 5), names=[f"room {taken}"]):
                taken += 1
            assert len(made.supervisor.placement) == taken
            assert made.supervisor.counters["not_handed_over"] == 1


async def test_rooms_with_different_workers_are_told_apart(autojump_clock: MockClock) -> None:
    async with stage() as made:
        supervisor = made.supervisor
        supervisor.placement.lease("here", 0)
        supervisor.placement.lease("there", 1)
        with pytest.raises(Elsewhere):
            supervisor.choose(["here", "there"])
        for names in (["here", "new"], ["new", "here"], ["here"]):
            chosen = supervisor.choose(names)
            assert chosen is not None
            assert chosen.index == 0


async def test_what_one_has_revoked_all_know_and_those_to_come(autojump_clock: MockClock) -> None:
    async with stage() as made:
        made.of(0)[0].control.tell({"kind": "revoked", "room": "r", "identity": "alice", "before": 7})
        await wait_all_tasks_blocked()
        said = {"kind": "revoked", "room": "r", "identity": "alice", "before": 7}
        assert [letter.said for letter in made.of(1)[0].told if letter.said["kind"] == "revoked"] == [said]
        assert made.of(0)[0].kinds()["revoked"] == 0
        made.of(0)[0].die()
        await trio.sleep(1)
        assert made.of(0)[1].told[0].said == said


@pytest.mark.parametrize(
    "message",
    [{"kind": "sings"}, {"kind": "held", "room": 7}, {"kind": "beat"}, {"kind": "done", "lease": float("nan")}],
)
async def test_one_that_says_what_nobody_understands_is_replaced(
    message: dict[str, object], autojump_clock: MockClock
) -> None:
    async with stage() as made:
        made.of(0)[0].control.tell(message)
        await trio.sleep(1)
        assert made.of(0)[0].killed
        assert len(made.of(0)) == 2


async def failing(make: Callable[..., Imagined]) -> set[str]:
    """What is said where processes cannot start; all of them are gone."""
    said: set[str] = set()
    async with trio.open_nursery() as nursery:
        made = Stage(nursery)
        made.make = make
        try:
            await nursery.start(made.supervisor.run)
        except* ConfigError as wrong:
            said = {str(error) for error in leaves(wrong)}
        assert all(process.over.is_set() for process in made.processes)
    return said


def leaves(group: BaseExceptionGroup[ConfigError]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


async def test_one_that_refuses_to_start_ends_the_start(autojump_clock: MockClock) -> None:
    said = await failing(partial(Imagined, refuses="rtc.udp_port: cannot open 7882 to 7882: in use"))
    assert said == {"rtc.udp_port: cannot open 7882 to 7882: in use"}


async def test_one_that_is_never_ready_ends_the_start_in_time(autojump_clock: MockClock) -> None:
    said = await failing(partial(Imagined, ready=False))
    assert said == {f"workers: a process did not start: not ready within {START:g} s"}
    assert trio.current_time() < START + 10


async def test_one_that_refuses_later_is_tried_again(autojump_clock: MockClock) -> None:
    async with stage() as made:
        made.make = partial(Imagined, refuses="rtc.udp_port: in use")
        made.of(0)[0].die()
        await trio.sleep(10)
        assert len(made.of(0)) == 5
        made.make = Imagined
        await trio.sleep(20)
        assert len(made.supervisor.alive()) == 2


async def test_all_are_told_to_stop_and_one_that_does_not_is_killed(autojump_clock: MockClock) -> None:
    async with stage(count=3) as made:
        made.of(1)[0].stops = False
        began = trio.current_time()
        await made.supervisor.end()
        assert trio.current_time() - began == pytest.approx(made.supervisor.grace + MARGIN)
        assert [made.of(index)[0].over.is_set() for index in range(3)] == [True, False, True]
        assert [made.of(index)[0].killed for index in (0, 2)] == [False, False]
    assert made.of(1)[0].killed
    assert len(made.processes) == 3  # none was begun again


async def test_all_end_at_once_where_all_do_as_they_are_told(autojump_clock: MockClock) -> None:
    async with stage(count=3) as made:
        began = trio.current_time()
        await made.supervisor.end()
        assert trio.current_time() == began


async def test_a_start_that_is_cancelled_at_any_step_leaves_no_process_and_no_descriptor() -> None:
    before, step, cancelled = descriptors(), 0, True
    while cancelled:
        step += 1
        async with trio.open_nursery() as nursery:
            made = Stage(nursery)
            with trio.CancelScope() as scope:
                at = CancelAtStep(scope, step)
                trio.lowlevel.add_instrument(at)
                try:
                    await nursery.start(made.supervisor.run)
                finally:
                    trio.lowlevel.remove_instrument(at)
            cancelled = scope.cancelled_caught
            nursery.cancel_scope.cancel()
        assert all(process.over.is_set() for process in made.processes)
        assert made.supervisor.workers == {}
        assert len(made.supervisor.placement) == 0
        for process in made.processes:
            process.control.close()
        assert descriptors() == before
    assert step > 10


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  counted, not looked at
