"""Who is in the room and what they send; what is measured."""

from __future__ import annotations

import gc
import resource
import time
from array import array
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from bench.sfu.counting import CountingSocket, Watchman
from bench.sfu.figures import Figures
from bench.sfu.peer import Ended, first_of
from bench.sfu.playing import LAYERS, PICTURE, SILENCE_EVERY, Punctuality, play

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from bench.sfu.attendee import Somebody
    from bench.sfu.playing import Data, Picture, Sound
    from bench.sfu.process import Use
    from bench.sfu.servers import Measured

    T = TypeVar("T")

AT_ONCE = 8  # joins, and subscriptions: the clients have one core for all of it
SETTLE = 2.0  # seconds between the last change and the first count


@dataclass(frozen=True, slots=True)
class Scenario:
    """A room."""

    title: str
    sizes: tuple[int, ...]  # how many are in it
    everybody: bool = False  # publishes
    publishers: int = 1  # if not everybody
    sound: bool = False
    silent: bool = False  # whoever would speak says nothing
    picture: bool = False
    simulcast: bool = False
    data: bool = False


SCENARIOS: Mapping[str, Scenario] = {
    "audio": Scenario("one who speaks", (10, 50, 100, 200, 500), sound=True),
    "stage": Scenario("ten who speak", (20, 60, 110, 210), publishers=10, sound=True),
    "quiet": Scenario("one who says nothing", (10, 100, 300), sound=True, silent=True),
    "video": Scenario("one picture of 2 Mbit/s", (10, 30, 100, 200, 300), picture=True),
    "meeting": Scenario(
        "all speak and are seen", (5, 10, 20), everybody=True, sound=True, picture=True, simulcast=True
    ),
    "data": Scenario("one who sends 50 packets of 1 kB a second", (2, 10, 50, 100, 200), data=True),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Habits:
    """How a run is made."""

    seconds: float = 5.0
    settle: float = SETTLE
    rooms: int = 1  # of the size, each
    feedback: bool = True
    drop_every: int = 0  # packets, of which a subscriber drops one and asks for it again; 0 drops none
    both: bool = False  # everybody has a peer connection to publish with
    profile: str = ""  # where py-spy writes what the server was doing


class Meeting:
    """One room, with those who are in it."""

    def __init__(self, server: Measured, scenario: Scenario, room: str, size: int, habits: Habits) -> None:
        self.scenario = scenario
        self.attendees: list[Somebody] = []
        self.sockets: list[CountingSocket] = []
        self._server, self._room, self._size, self._habits = server, room, size, habits

    def publishes(self, number: int) -> bool:
        """Whether this one sends anything."""
        return self.scenario.everybody or number < self.scenario.publishers

    async def gather(self, nursery: trio.Nursery, sockets: set[CountingSocket]) -> None:
        """Have all join."""
        await each(range(self._size), lambda number: nursery.start(self._attend, number, sockets))
        self.attendees.sort(key=lambda somebody: somebody.identity)

    async def _attend(
        self,
        number: int,
        sockets: set[CountingSocket],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        sock = CountingSocket(self._server.host, drop_every=self._habits.drop_every)
        sockets.add(sock)
        self.sockets.append(sock)
        try:
            async with self._server.attend(
                f"one{number:04}",
                self._room,
                sock=sock,
                publishes=self._habits.both or self.publishes(number),
                feedback=self._habits.feedback,
            ) as somebody:
                self.attendees.append(somebody)
                task_status.started()
                await somebody.watch_over()
        finally:
            sockets.discard(sock)
            sock.close()

    async def publish(self, nursery: trio.Nursery, punctuality: Punctuality) -> None:
        """Have those who send begin."""
        publishing = [number for number in range(self._size) if self.publishes(number)]
        await each(publishing, partial(self._begin, nursery, punctuality))

    async def _begin(self, nursery: trio.Nursery, punctuality: Punctuality, number: int) -> None:
        somebody = self.attendees[number]
        tracks: list[Sound | Picture | Data] = []
        if self.scenario.sound:
            sound = await somebody.publish_sound()
            tracks.append(sound)
            if self.scenario.silent:
                sound.every = SILENCE_EVERY
        if self.scenario.picture:
            tracks.append(await somebody.publish_picture(LAYERS if self.scenario.simulcast else (PICTURE,)))
        if self.scenario.data:
            tracks.append(await somebody.publish_data())
        for track in tracks:
            after = track.every * (number * 0.61 % 1)
            nursery.start_soon(partial(play, track, after=after, punctuality=punctuality))

    async def watch(self) -> None:
        """Have everybody subscribe to all others; in a meeting everybody looks at one of them."""
        await each(range(self._size), self._watch)

    async def _watch(self, number: int) -> None:
        others = [one for other, one in enumerate(self.attendees) if other != number and self.publishes(other)]
        if others:
            best = self.attendees[(number + 1) % self._size] if self.scenario.simulcast else None
            await self.attendees[number].watch(others, best)


async def measure(server: Measured, name: str, size: int, habits: Habits) -> Figures:
    """Fill the rooms, let it run, count.

    All join first, then some publish, then all subscribe: the memory that the server has more after the second step is
    for the participants, what it has more after the third (and the count) is for the subscriptions.

    Raises:
        Ended: In a group: a server, or the signalling or a peer connection of somebody, has ended. The text says how
            late the clients were: who waits too long for their process has no quarrel with the server.
    """
    watchman = Watchman()
    try:
        return await _measure(server, name, size, habits, watchman)
    except* Ended as group:
        raise Ended(f"{first_of(group)}; the clients were up to {watchman.late:.1f} s late") from group


async def _measure(server: Measured, name: str, size: int, habits: Habits, watchman: Watchman) -> Figures:
    _allow_descriptors()
    scenario = SCENARIOS[name]
    sockets: set[CountingSocket] = set()
    punctuality = Punctuality()
    empty = server.use()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watchman.watch, sockets)
        name_of_run = f"bench-{time.time_ns()}"  # who was there before may not have left yet
        rooms = [f"{name_of_run}-{number}" for number in range(habits.rooms)]
        meetings = [Meeting(server, scenario, room, size, habits) for room in rooms]
        for meeting in meetings:
            await meeting.gather(nursery, sockets)
        for meeting in meetings:
            await meeting.publish(nursery, punctuality)
        await trio.sleep(habits.settle)
        present = server.use()
        for meeting in meetings:
            await meeting.watch()
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # to look through all these clients takes 0.1 s, by which publishers would be late, and then hurry
        await trio.sleep(habits.settle)
        for one in sockets:
            one.begin()
        punctuality.begin()
        if habits.profile:
            command = f"py-spy record -p {server.pid} -d {habits.seconds:.0f} -r 250 -f raw -o {habits.profile}"
            nursery.start_soon(partial(trio.run_process, command.split(), capture_stdout=True, capture_stderr=True))
        before, own, began = server.use(), time.process_time(), trio.current_time()
        await trio.sleep(habits.seconds)
        after, took = server.use(), trio.current_time() - began
        own = time.process_time() - own
        figures = _figures(
            (server.name, name, size), took, sockets, clients=own, late=punctuality.worst,
            cpu=None if server.pid is None else after.cpu - before.cpu,
            memory=(empty, present, after), participants=size * habits.rooms,
        )  # fmt: skip
        nursery.cancel_scope.cancel()
    return figures


async def each(items: Iterable[T], action: Callable[[T], Awaitable[object]]) -> None:
    """Do it for all, some at once."""
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(item: T) -> None:
        async with limiter:
            await action(item)

    async with trio.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(one, item)


def _allow_descriptors() -> None:
    """Have as many sockets as the system allows; servers that are started from here inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _figures(
    what: tuple[str, str, int], seconds: float, sockets: set[CountingSocket], *, cpu: float | None, clients: float,
    late: float, memory: tuple[Use, Use, Use], participants: int,
) -> Figures:  # fmt: skip
    streams = [stream for one in sockets for stream in one.streams.values()]
    delays = sorted(array("d", [delay for one in sockets for delay in one.delays]))

    def quantile(share: float) -> float:
        return delays[min(len(delays) - 1, int(len(delays) * share))] if delays else float("nan")

    subscriptions = sum(1 for stream in streams if stream.packets and not stream.repairs)
    empty, present, full = (use.resident for use in memory)
    return Figures(
        *what, seconds,
        packets=sum(one.packets for one in sockets),
        octets=sum(one.octets for one in sockets),
        lost=sum(stream.lost for stream in streams),
        asked=sum(one.asked for one in sockets),
        repaired=sum(one.repaired for one in sockets),
        cpu=cpu,
        clients=clients,
        late=late,
        delays=(quantile(0.5), quantile(0.99), quantile(0.999)),
        participants=participants,
        subscriptions=subscriptions,
        per_participant=(present - empty) / participants,
        per_subscription=(full - present) / max(1, subscriptions),
    )  # fmt: skip
