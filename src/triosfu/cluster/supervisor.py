"""The worker processes of one server: begun, watched, ended, and begun again when they die.

    supervisor = Supervisor(count, spawn=spawn, letter=letter)
    await nursery.start(supervisor.run)            # every worker is there, or ConfigError says why one cannot be
    if (worker := supervisor.choose(names)) is not None:
        worker.hand_over(sock.fileno(), data, peer=peer, names=names)

    front                                          worker process
    begin ───────────────────────────────────────▶
                                                ◀─ ready, or refused
    take, a socket, the bytes it began with ─────▶
                                                ◀─ held, free: rooms by name; done: a lease is given back
    ping, each second ───────────────────────────▶
                                                ◀─ beat: its load
    stop ────────────────────────────────────────▶ goodbyes, and its end

A worker that leaves five pings unanswered is killed: one that is stopped, or whose loop hangs. Nothing here waits for a
worker without a deadline, and a worker that has lost the front ends by itself.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
import trio

from triosfu.cluster.control import Control, ControlClosed, pair
from triosfu.cluster.placement import Lease, Placement
from triosfu.errors import ConfigError, TriosfuError
from triosfu.rooms.revocations import Revocations

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from triosfu.cluster.control import Letter

log = structlog.get_logger(__name__)

PING: Final = 1.0  # seconds
MISSED: Final = 5  # pings without an answer, after which a worker is killed
PROMPT: Final = 1  # so many may be on their way: whoever has left more gets no new room
AGAIN: Final = 0.01  # seconds before a connection that was not taken is offered once more
START: Final = 30.0  # seconds for a worker to be ready; it imports everything
FIRST_PAUSE: Final = 0.5  # seconds before a worker is begun again; doubled each time,
LONGEST_PAUSE: Final = 30.0  # up to these
HEALTHY: Final = 60.0  # seconds of life after which a worker's death is its first
MARGIN: Final = 1.0  # seconds beyond the grace for a worker to end
REAP: Final = 5.0  # seconds for the kernel to end a process that is killed


class Elsewhere(TriosfuError):
    """What a request concerns is with more than one worker process."""


class Process(Protocol):
    """A process, as trio has it."""

    @property
    def pid(self) -> int:
        """Its number."""

    def kill(self) -> None:
        """Send SIGKILL."""

    async def wait(self) -> int:
        """Wait for its end. Cancelled, it has done nothing."""


class Worker:
    """One worker process, from its start to its end."""

    def __init__(self, index: int, process: Process, control: Control, supervisor: Supervisor) -> None:
        self.index = index
        self.process = process
        self.control = control
        self.load = 0.0
        self.ready = False
        self.ports: tuple[int, ...] = ()
        self.missed = 0  # pings
        self._supervisor = supervisor
        self._leases: dict[int, Lease] = {}
        self._turn = trio.Lock()
        self._numbers = count(1)

    def __repr__(self) -> str:
        return f"<Worker {self.index} pid {self.process.pid}>"

    @property
    def alive(self) -> bool:
        """Whether it takes connections."""
        return self.ready and not self.control.closed

    def hand_over(
        self, sock: int, data: bytes, *, peer: tuple[str, int], names: Sequence[str] = (), door: str = "public"
    ) -> bool:
        """Give it a connection that begins with `data`, from `peer`, about the rooms `names`; False if it cannot.

        The caller closes its descriptor `sock` then: the worker has a copy. The names are with the worker until it has
        dealt with the request.
        """
        if not self.alive:
            return False
        placement, number = self._supervisor.placement, next(self._numbers)
        lease = Lease(self.index, [placement.lease(name, self.index) for name in names])
        self._leases[number] = lease
        if self.control.hand_over({"kind": "take", "lease": number, "peer": list(peer), "door": door}, sock, data):
            self._supervisor.counters["handed_over"] += 1
            return True
        self._give_back(number)
        self._supervisor.counters["not_handed_over"] += 1
        return False

    async def room(self) -> None:
        """Wait, one after the other, until it may have room for a connection, or is gone.

        Cancelled, it has changed nothing.
        """
        async with self._turn:
            await self.control.room()
        await trio.sleep(AGAIN)  # what is in the way may be something else, such as a want of descriptors

    def _give_back(self, number: int) -> None:
        lease = self._leases.pop(number, None)
        for place in () if lease is None else lease.places:
            self._supervisor.placement.give_back(place)

    def receive(self, letter: Letter) -> None:
        """Do what a message of the worker says. ControlClosed if nobody can."""
        self.missed = 0
        placement = self._supervisor.placement
        match letter.said.get("kind"):
            case "beat":
                self.load = letter.number("load")
                placement.loaded(self.index, self.load)
            case "held":
                if not placement.held(letter.text("room"), self.index):
                    log.error("bug", doing="placement", room=letter.text("room"), worker=self.index)
                    self._supervisor.counters["bugs"] += 1
            case "free":
                placement.free(letter.text("room"), self.index)
            case "done":
                self._give_back(int(letter.number("lease")))
            case "revoked":
                self._supervisor.revoke(letter.text("room"), letter.text("identity"), letter.number("before"), by=self)
            case kind:
                raise ControlClosed(f"an unknown message: {str(kind)[:32]}")


@dataclass(eq=False)
class Supervisor:
    """All of them, with the table of who has which room.

    `spawn(index, socket)` starts a process whose end of the control socket that is; `begin(index)` is the first message
    to it and what it carries.
    """

    count: int
    spawn: Callable[[int, socket.socket], Awaitable[Process]]
    begin: Callable[[int], tuple[dict[str, Any], bytes]]
    grace: float = 5.0
    placement: Placement = field(default_factory=Placement)
    counters: Counter[str] = field(default_factory=Counter)
    revocations: Revocations = field(default_factory=Revocations)

    def __post_init__(self) -> None:
        """Nobody is there yet."""
        self.workers: dict[int, Worker] = {}  # those that are there or are starting
        self._ending = False
        self._changed = trio.Event()

    def alive(self) -> list[Worker]:
        """Those that take connections, by their numbers."""
        return [worker for _, worker in sorted(self.workers.items()) if worker.alive]

    async def changed(self) -> None:
        """Wait until a worker has come or gone. Cancelled, it has done nothing."""
        await self._changed.wait()

    def choose(self, names: Sequence[str]) -> Worker | None:
        """The worker for a request about the rooms `names`: the one that has any of them; None if nobody can have it.

        Raises:
            Elsewhere: The rooms are with different workers.
        """
        having = {index for name in names if (index := self.placement.find(name)) is not None}
        if len(having) > 1:
            raise Elsewhere("the rooms are served by different worker processes")
        alive = {worker.index: worker for worker in self.alive()}
        if having:
            return alive.get(having.pop())
        prompt = [index for index, worker in alive.items() if worker.missed <= PROMPT]
        chosen = self.placement.choose(names[0] if names else "", prompt or list(alive))
        return None if chosen is None else alive[chosen]

    def revoke(self, room: str, identity: str, before: float, *, by: Worker) -> None:
        """Tokens are not good any more: all workers know it from now on, those of the future too."""
        self.revocations.revoke(room, identity, before)
        for worker in self.alive():
            if worker is not by:
                worker.control.tell(_revoked(room, identity, before))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep all workers; started when every one has been ready. Cancelled, it has killed them, and they are gone.

        Raises:
            ConfigError: One of them could not start, before all had.
        """
        try:
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as starting:
                    for index in range(self.count):
                        starting.start_soon(nursery.start, self._keep, index)
                task_status.started()
        finally:
            self._ending = True

    async def end(self) -> None:
        """Have all workers say goodbye and end, within the grace; whoever does not is killed when `run` is cancelled.

        Cancelled, it has told them.
        """
        self._ending = True
        for worker in self.workers.values():
            worker.control.tell({"kind": "stop"})
        with trio.move_on_after(self.grace + MARGIN):
            while self.workers:
                await self._changed.wait()

    async def _keep(self, index: int, *, task_status: trio.TaskStatus[None]) -> None:
        """One worker after the other, with a pause after each death."""
        trio.lowlevel.current_task().name = f"worker process {index}"
        pause, first = FIRST_PAUSE, True
        while not self._ending:
            began = trio.current_time()
            try:
                await self._live(index, task_status if first else trio.TASK_STATUS_IGNORED)
            except ConfigError as error:
                if first:
                    raise
                log.warning("worker process refused to start", worker=index, reason=str(error))
            except OSError as error:
                if first:
                    raise ConfigError(f"workers: a process cannot be started: {error.strerror}") from None
                log.warning("worker process cannot be started", worker=index, error=error.strerror)
            if self._ending:
                break
            first = False
            self.counters["restarts"] += 1
            pause = FIRST_PAUSE if trio.current_time() - began >= HEALTHY else pause
            await trio.sleep(pause)
            log.info("worker process is begun again", worker=index)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _live(self, index: int, task_status: trio.TaskStatus[None]) -> None:
        """One process, from its start to its end; ConfigError if it has never been ready."""
        ours, theirs = pair()
        control = Control(ours)
        try:
            process = await self.spawn(index, theirs)
        except BaseException:
            control.close()
            raise
        finally:
            theirs.close()
        worker = self.workers[index] = Worker(index, process, control, self)
        end: ConfigError | ControlClosed | None = None
        status: int | None = None
        try:
            said, data = self.begin(index)
            control.hand_over(said, None, data)
            end = await self._converse(worker, task_status)
        finally:
            was_ready, worker.ready = worker.ready, False
            if end is None or not self._ending:
                process.kill()  # first: it has nothing to say about the end of its socket
            control.close()
            lost = self.placement.gone(index)
            with trio.move_on_after(REAP, shield=True):
                status = await self._reap(process)
            del self.workers[index]
            self._stir()
        if self._ending:
            return
        if not was_ready:
            raise end if isinstance(end, ConfigError) else ConfigError(f"workers: a process did not start: {end}")
        log.error("worker process died", worker=index, status=status, rooms=lost, reason=str(end))

    async def _reap(self, process: Process) -> int:
        """Wait for the end of a process, and see to it if it does not come soon."""
        with trio.move_on_after(MARGIN):
            return await process.wait()
        process.kill()
        return await process.wait()

    async def _converse(self, worker: Worker, task_status: trio.TaskStatus[None]) -> ConfigError | ControlClosed:
        """Talk with a worker to its end, and return why that came."""
        end: ConfigError | ControlClosed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.control.run, name="worker process control")
            try:
                with trio.move_on_after(START):
                    await self._until_ready(worker)
                if worker.ready:
                    task_status.started()
                    nursery.start_soon(self._watch, worker, name="worker process heartbeat")
                else:
                    worker.control.close(f"not ready within {START:g} s")  # `receive` says so
                while True:
                    letter = await worker.control.receive()
                    letter.close()
                    worker.receive(letter)
            except (ConfigError, ControlClosed) as error:
                end = error
            except Exception:  # a bug in what one of them says is nothing to the others
                log.exception("bug", doing="control", worker=worker.index)
                self.counters["bugs"] += 1
                end = ControlClosed("a bug")
            nursery.cancel_scope.cancel()
        return end

    async def _until_ready(self, worker: Worker) -> None:
        letter = await worker.control.receive()
        letter.close()
        if letter.said.get("kind") == "refused":
            raise ConfigError(letter.text("reason"))
        ports = letter.said.get("ports")
        if letter.said.get("kind") != "ready" or not isinstance(ports, list):
            raise ControlClosed("it did not say that it is ready")
        worker.ports = tuple(int(port) for port in ports)
        for (room, identity), before in self.revocations:
            worker.control.tell(_revoked(room, identity, before))
        worker.ready = True
        self.placement.joined(worker.index)
        self._stir()
        log.debug("worker process ready", worker=worker.index, pid=worker.process.pid)

    async def _watch(self, worker: Worker) -> None:
        """Ask each second whether it is there. To a front that was itself stopped, that was one second."""
        while worker.missed < MISSED:
            worker.control.tell({"kind": "ping"})
            worker.missed += 1
            await trio.sleep(PING)
        self.counters["killed"] += 1
        worker.control.close("it does not answer")

    def _stir(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _revoked(room: str, identity: str, before: float) -> dict[str, Any]:
    return {"kind": "revoked", "room": room, "identity": identity, "before": before}
