"""Who is in the room and what they send; what is measured."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from bench.sfu.attendee import attend
from bench.sfu.counting import look_at_all
from bench.sfu.playing import LAYERS, PICTURE, SOUND_EVERY, play
from bench.sfu.servers import Use

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.sfu.attendee import Attendee
    from bench.sfu.counting import CountingSocket
    from bench.sfu.servers import Measured

AT_ONCE = 8  # joins
SETTLE = 2.0  # seconds between the last join and the first count


@dataclass(frozen=True, slots=True)
class Scenario:
    """A room."""

    title: str
    sizes: tuple[int, ...]  # how many are in it
    publishers: int = 1  # of them; 0 is everybody
    sound: bool = False
    picture: bool = False
    simulcast: bool = False


SCENARIOS: Mapping[str, Scenario] = {
    "audio": Scenario("one who speaks", (10, 50, 100, 200, 500), sound=True),
    "video": Scenario("one picture of 2 Mbit/s", (10, 30, 100, 200, 300), picture=True),
    "meeting": Scenario("all speak and are seen", (5, 10, 20), publishers=0, sound=True, picture=True, simulcast=True),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run has shown."""

    server: str
    scenario: str
    size: int
    seconds: float
    packets: int
    octets: int
    lost: int
    cpu: float  # seconds
    delays: tuple[float, float, float]  # seconds: p50, p99, p99.9
    memory: int  # bytes more than before anybody came
    subscriptions: int

    @property
    def cost(self) -> float:
        """Microseconds of the server's CPU for each packet that came to a subscriber."""
        return self.cpu * 1e6 / max(1, self.packets)

    @property
    def rate(self) -> float:
        """Packets per second."""
        return self.packets / self.seconds

    def __str__(self) -> str:
        p50, p99, p999 = (1000 * delay for delay in self.delays)
        per_core = 1e6 / self.cost if self.cpu else 0.0
        return (
            f"{self.server:<10}{self.scenario:<9}{self.size:>5}{self.rate:>10,.0f}{per_core:>12,.0f}{self.cost:>8.2f}"
            f"{100 * self.cpu / self.seconds:>6.0f} %{p50:>8.2f}{p99:>8.2f}{p999:>8.2f}"
            f"{self.memory / 1024 / max(1, self.subscriptions):>8.0f}{self.lost:>7}"
        )


HEADING = (
    f"{'server':<10}{'scenario':<9}{'size':>5}{'packets/s':>10}{'per core':>12}{'µs':>8}{'cpu':>8}"
    f"{'p50 ms':>8}{'p99':>8}{'p99.9':>8}{'kB/sub':>8}{'lost':>7}"
)


async def measure(server: Measured, name: str, size: int, seconds: float, profile: str = "") -> Figures:
    """Fill a room, let it run, count; py-spy writes a `profile` of the server meanwhile, if one is wanted."""
    scenario = SCENARIOS[name]
    sockets: set[CountingSocket] = set()
    empty = server.use()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_at_all, sockets)
        attendees: list[Attendee] = []
        speaking = scenario.publishers or size
        ahead = trio.CapacityLimiter(AT_ONCE)

        async def come(number: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            publishes = number < speaking
            joining = attend(server.url, server.key, f"one{number}", "bench", sockets=sockets, publishes=publishes)
            async with joining as attendee:
                async with ahead:
                    await attendee.until_watching()
                    if publishes:
                        await start(attendee, scenario, number, nursery)
                attendees.append(attendee)
                task_status.started()
                await trio.sleep_forever()

        if speaking == 1:
            await nursery.start(come, 0)
        async with trio.open_nursery() as joins:
            for number in range(1 if speaking == 1 else 0, size):
                await ahead.acquire_on_behalf_of(number)
                ahead.release_on_behalf_of(number)
                joins.start_soon(partial(nursery.start, come, number))
        await trio.sleep(SETTLE)
        for one in sockets:
            one.begin()
        if profile:
            command = f"py-spy record -p {server.pid} -d {seconds:.0f} -r 250 -f raw -o {profile}"
            nursery.start_soon(partial(trio.run_process, command.split(), capture_stdout=True, capture_stderr=True))
        before, began = server.use(), trio.current_time()
        await trio.sleep(seconds)
        after, took = server.use(), trio.current_time() - began
        spent = Use(after.cpu - before.cpu, after.resident - empty.resident)
        figures = _figures((server.name, name, size), took, spent, sockets)
        nursery.cancel_scope.cancel()
    return figures


async def start(attendee: Attendee, scenario: Scenario, number: int, nursery: trio.Nursery) -> None:
    """Publish, and send from then on."""
    if scenario.sound:
        sound = await attendee.publish_sound()
        nursery.start_soon(partial(play, sound, after=SOUND_EVERY * (number * 0.37 % 1)))
    if scenario.picture:
        picture = await attendee.publish_picture(LAYERS if scenario.simulcast else (PICTURE,))
        nursery.start_soon(partial(play, picture, after=picture.every * (number * 0.61 % 1)))


def _figures(what: tuple[str, str, int], seconds: float, spent: Use, sockets: set[CountingSocket]) -> Figures:
    streams = [stream for one in sockets for stream in one.streams.values()]
    delays = sorted(array("d", [delay for one in sockets for delay in one.delays]))

    def quantile(share: float) -> float:
        return delays[min(len(delays) - 1, int(len(delays) * share))] if delays else 0.0

    return Figures(
        *what, seconds,
        packets=sum(one.packets for one in sockets),
        octets=sum(one.octets for one in sockets),
        lost=sum(stream.lost for stream in streams),
        cpu=spent.cpu,
        delays=(quantile(0.5), quantile(0.99), quantile(0.999)),
        memory=spent.resident,
        subscriptions=len(streams),
    )  # fmt: skip
