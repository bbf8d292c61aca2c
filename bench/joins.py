"""What a join costs the server, and whether anything is left of it: `python -m bench.joins`; `--help` has the options.

Real peers join (`tests/support/client.py`: ICE, DTLS, SRTP and SCTP over sockets), publish a track, hear the one that
is there, and leave: one after the other with two peer connections, then with one, where they are heard instead, then
many at once, in rooms of ten. `--storm N` has N begin within one second, in rooms of ten where all publish and hear the
others: the figure is when the last of them is connected, open for data and has its first media. The server runs by the
command line in a process of its own, whose CPU time is counted, less what it spends on who stays. At the end its tasks,
descriptors and memory must be where they were; if they are not, the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import trio

from tests.clients.crowd_child import Elsewhere
from tests.clients.network import enter_own_network
from tests.clients.server import Counts, RunningServer, running_server
from tests.support.client import join

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.client import Client

ROOM, STAYS, SOUND = "joins", "stays", b"sound"
EVERY = 0.02  # seconds between two packets of who stays
WARM = 60  # joins before anything is counted: caches and allocators fill
PATIENCE = 60.0  # seconds for one join; many at once share two cores
GONE = 15.0  # seconds until nothing may be left: the departure of a room and what a table keeps
GROWTH = 24 << 20  # bytes of memory that allocators may keep
TICK = os.sysconf("SC_CLK_TCK")


def counts(server: RunningServer) -> Counts:
    """Ask the server."""
    command = [sys.executable, "-m", "triosfu", "tasks", "--port", str(server.port), "--json"]
    tree = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout)
    return Counts(count_tasks(tree), server.descriptors(), server.resident())


def count_tasks(task: dict[str, Any]) -> int:
    """Of this task and all below it."""
    return 1 + sum(count_tasks(child) for nursery in task["nurseries"] for child in nursery)


def cpu(server: RunningServer) -> float:
    """Seconds of processor time that the server has used, its kernel work included."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


@dataclass(frozen=True, slots=True)
class Meeting:
    """A room with somebody who stays and plays."""

    server: RunningServer
    stays: Client

    async def guest(self, identity: str, *, single: bool) -> None:
        """Join, wait until everything works and the first sound has come over, leave."""
        async with self.joined(identity, ROOM, single=single) as client:
            if single:  # our own client has no sections to receive in then: it is heard
                await client.play(identity.encode(), to=self.stays, within=PATIENCE)
            else:
                await client.until(lambda: bool(client.sounds), within=PATIENCE)
            await client.leave()

    @asynccontextmanager
    async def joined(self, identity: str, room: str, *, single: bool) -> AsyncIterator[Client]:
        """Somebody for whom everything works."""
        async with join(Elsewhere(self.server.url).server, identity, room=room, single=single) as client:
            await client.until(lambda: client.is_ready, within=PATIENCE)
            yield client

    async def one_of_many(self, number: int) -> None:
        """Join a room of ten together with all others, wait until everything works, leave."""
        async with self.joined(f"one{number}", f"{ROOM}{number // 10}", single=bool(number % 2)) as client:
            await client.leave()

    async def storm(self, number: int) -> tuple[float, list[float]]:
        """Processor seconds for clients that begin within one second and stay, and when each had everything."""
        before, began = cpu(self.server), trio.current_time()
        times: list[float] = []
        async with trio.open_nursery() as nursery:
            for each in range(number):
                nursery.start_soon(self._one_of_storm, each, began, number, times)
        return cpu(self.server) - before, sorted(times)

    async def _one_of_storm(self, each: int, began: float, number: int, times: list[float]) -> None:
        """Join a room of ten, have everything, play until all others have it, too, and leave."""
        await trio.sleep_until(began + each / number)
        async with self.joined(f"storm{each}", f"{ROOM} storm {each // 10}", single=False) as client:
            for sequence in range(round(PATIENCE / EVERY)):
                client.publisher.send_rtp(client.track, sequence & 0xFFFF, SOUND)
                heard = bool(client.sounds)
                client.forget()
                if heard:
                    break
                with trio.move_on_after(EVERY):
                    await client.until(lambda: bool(client.sounds))
            times.append(trio.current_time() - began)
            while len(times) < number:
                sequence += 1
                client.publisher.send_rtp(client.track, sequence & 0xFFFF, SOUND)
                client.forget()
                await trio.sleep(EVERY)
            await client.leave()

    async def play(self) -> None:
        """Send sound for ever, and keep little of what comes."""
        for sequence in range(1 << 30):
            self.stays.publisher.send_rtp(self.stays.track, sequence & 0xFFFF, SOUND)
            if sequence % 50 == 0:
                self.stays.forget()
            await trio.sleep(EVERY)

    async def in_a_row(self, number: int, *, single: bool) -> tuple[float, float]:
        """Processor and wall-clock seconds of guests that come and go."""
        before, began = cpu(self.server), time.monotonic()
        for each in range(number):
            await self.guest(f"guest{each}", single=single)
        return cpu(self.server) - before, time.monotonic() - began

    async def at_once(self, number: int) -> tuple[float, float]:
        """The same of guests that come all at the same time."""
        before, began = cpu(self.server), time.monotonic()
        async with trio.open_nursery() as nursery:
            for each in range(number):
                nursery.start_soon(self.one_of_many, each)
        return cpu(self.server) - before, time.monotonic() - began


async def idle_share(server: RunningServer) -> float:
    """The share of a core that who stays costs."""
    before = cpu(server)
    await trio.sleep(2)
    return (cpu(server) - before) / 2


async def run(server: RunningServer, joins: int, together: int, storm: int = 0, *, warm: int = WARM) -> bool:
    """All of it, with a line for each figure; whether nothing is left."""
    async with join(Elsewhere(server.url).server, STAYS, room=ROOM) as stays, trio.open_nursery() as nursery:
        await stays.ready()
        meeting = Meeting(server, stays)
        nursery.start_soon(meeting.play)
        for single in (False, True):
            await meeting.in_a_row(warm // 2, single=single)
        if together:
            await meeting.at_once(together)
        if storm:
            await meeting.storm(storm)
        share = await idle_share(server)
        before = counts(server)
        print(f"before: {before}; who stays costs {1000 * share:.1f} ms of each second", flush=True)
        for single in (False, True):
            spent, took = await meeting.in_a_row(joins // 2, single=single)
            each = 1000 * (spent - share * took) / (joins // 2)
            kind = "one peer connection" if single else "two peer connections"
            print(f"{joins // 2} joins in a row, {kind}: {each:.1f} ms of CPU each, in {took:.0f} s", flush=True)
        if together:
            spent, took = await meeting.at_once(together)
            each = 1000 * (spent - share * took) / together
            print(f"{together} joins at once: {each:.1f} ms of CPU each, in {took:.0f} s", flush=True)
        if storm:
            spent, times = await meeting.storm(storm)
            half, last = times[len(times) // 2], times[-1]
            each = 1000 * spent / storm
            print(f"{storm} joins within a second: half have everything after {half:.2f} s, all after {last:.2f} s")
            print(f"  {each:.1f} ms of CPU each, until all have left", flush=True)
        with trio.move_on_after(GONE):
            while not clean(counts(server), before):  # noqa: ASYNC110  it is another process
                await trio.sleep(0.5)
        after = counts(server)
        print(f"after: {after}", flush=True)
        nursery.cancel_scope.cancel()
    return clean(after, before)


def clean(after: Counts, before: Counts) -> bool:
    """Whether nothing is left."""
    fewer = after.tasks <= before.tasks and after.descriptors <= before.descriptors
    return fewer and after.resident - before.resident < GROWTH


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a join, and what is left of it.")
    parser.add_argument("--joins", type=int, default=300, help="one after the other")
    parser.add_argument("--at-once", type=int, default=0, help="that come and go together (default: none)")
    parser.add_argument("--storm", type=int, default=0, help="that begin within one second (default: none)")
    options = parser.parse_args()
    enter_own_network()
    os.environ["LIVEKIT_CONFIG"] = "room: {departure_timeout: 1}"
    with TemporaryDirectory() as folder, running_server(Path(folder) / "server.log") as server:
        fine = trio.run(run, server, options.joins, options.at_once, options.storm)
    sys.exit(not fine)


if __name__ == "__main__":
    main()
