"""The black hole: clients whose link goes down at chosen moments, and what the server still has of them afterwards.

    python -m tests.clients.black_hole --clients 200      # make black-hole CLIENTS=200

docs/black-hole.md says what is done and what came out.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.clients.agent_worker import AgentWorker
from tests.clients.cable import JOINING, SERVER, Cable, Moment, Tripwire, switch
from tests.clients.child import Child
from tests.clients.network import enter_own_network
from tests.clients.server import Counts, RunningServer, running_server
from tests.clients.wheel_child import STAYS
from triosfu.cli.tasks import fetch
from triosfu.errors import ConfigError
from triosfu.tokens import VideoGrant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WITHIN: Final = 20.0  # seconds from the pulled cable to a participant that is gone
SETTLED: Final = 20.0  # seconds more until nothing is left of it; an idle HTTP connection has fifteen
ROOM: Final = "hole"
PORT: Final = 7893
ROLES: Final = ("idle", "sends", "receives", "resumes")
WORKS: Final = "works"  # an agent, and its worker with it
PATIENCE: Final = 60.0  # seconds for all clients of a batch to be at their moments, on a machine that others use
POLL: Final = 0.2  # seconds
MIB: Final = 1 << 20
# What may stay after 200 clients: one client's full channel, or 85 kB of each, is more than this.
ALLOWANCE: Final = 16 * MIB


@dataclass(slots=True)
class Victim:
    """One client, and what became of it."""

    identity: str
    moment: Moment | str  # while it joins, or what it does when its cable is pulled
    browser: bool = False
    single: bool = True
    pulled: float = 0.0
    absent: float = 0.0  # when it was first seen to be gone

    @property
    def kind(self) -> str:
        """A heading for it in a table."""
        name = self.moment if isinstance(self.moment, str) else f"joining: {self.moment.name}"
        return f"{name} (Chromium)" if self.browser else name

    @property
    def seconds(self) -> float:
        """From the pulled cable to the removal."""
        return self.absent - self.pulled


@dataclass(slots=True)
class Batch:
    """Victims that vanish together."""

    victims: list[Victim]
    late: list[Victim] = field(default_factory=list)  # who never got to their moment, on a machine without time for it
    peak: int = 0  # bytes of resident memory
    after: Counts = field(default_factory=lambda: Counts(0, 0, 0))


class Hole:
    """A server, somebody who stays in its room, and batches of others who vanish."""

    def __init__(self, server: RunningServer, admin: Path, logs: Path) -> None:
        self._server, self._admin, self._log = server, admin, logs / "black_hole_clients.log"
        self._log.unlink(missing_ok=True)
        self._cables = itertools.count()
        arguments = (STAYS, server.url, server.token(STAYS, ROOM), STAYS, "single")
        self.stays = Child("tests.clients.wheel_child", *arguments, log=self._log)
        self.stays.wait_for("ready")
        time.sleep(1)  # what a join leaves behind it, such as the connection of a request, is gone
        self.before = self.counts()

    def counts(self) -> Counts:
        """Ask `triosfu tasks`, and the kernel."""
        command = [sys.executable, "-m", "triosfu", "tasks", "--socket", str(self._admin), "--json"]
        tree = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
        return Counts(sum(1 for _ in names(tree)), self._server.descriptors(), self._server.resident())

    def members(self) -> set[str]:
        """Who is in the room, by the server's own tasks."""
        return {
            name.removeprefix("participant ") for name in names(fetch(self._admin)) if name.startswith("participant ")
        }

    def vanish(self, victims: Sequence[Victim]) -> Batch:
        """Have all of them join, pull their cables at their moments, and see what is left; then they are killed."""
        batch = Batch(list(victims))
        with contextlib.ExitStack() as stack:
            seen: set[str] = set()
            self._start(batch, stack, seen)
            deadline = max(victim.pulled for victim in batch.victims) + WITHIN + 5
            while not all(victim.absent for victim in batch.victims) and time.monotonic() < deadline:
                self._look(batch, seen)
                time.sleep(POLL)
            missed = [victim.identity for victim in batch.victims if victim.identity not in seen]
            assert not missed, f"the server never had {missed}"
            self.stays.tell("burst")
            batch.after = self._settle(victims)
        return batch

    def _start(self, batch: Batch, stack: contextlib.ExitStack, seen: set[str]) -> None:
        """Start the clients and pull each one's cable at its moment."""
        joining: dict[str, Cable] = {}
        others: list[Cable] = []
        children: list[Child] = []
        in_browser = [victim for victim in batch.victims if victim.browser]
        for victim in batch.victims:
            if victim.browser:
                continue
            cable = self._cable(stack)
            if victim.moment == WORKS:
                others.append(cable)
                children.append(self._agent(victim.identity, cable, stack))
                continue
            role = "idle"
            if isinstance(victim.moment, Moment):
                stack.callback(Tripwire(cable, victim.moment).remove)
                joining[victim.identity] = cable
            else:
                role = victim.moment
                others.append(cable)
            arguments = [role, self._server.url, self._server.token(victim.identity, ROOM), victim.identity]
            arguments.append("single" if victim.single else "dual")
            child = Child("tests.clients.wheel_child", *arguments, log=self._log, cable=cable)
            stack.callback(child.end)
            children.append(child)
        if in_browser:
            others.append(self._cable(stack))
            pairs = [(str(victim.moment), self._server.token(victim.identity, ROOM)) for victim in in_browser]
            arguments = [self._server.url, *itertools.chain.from_iterable(pairs)]
            child = Child("tests.clients.chromium_child", *arguments, log=self._log, cable=others[-1])
            stack.callback(child.end, patience=10)
            children.append(child)
        self._await(batch, seen, children, joining)
        for cable in (*others, *joining.values()):
            cable.pull()
        now = time.monotonic()
        for victim in batch.victims:
            pulled = joining[victim.identity].pulled if victim.identity in joining else now
            assert pulled is not None
            victim.pulled = pulled

    def _agent(self, identity: str, cable: Cable, stack: contextlib.ExitStack) -> Child:
        """A worker behind `cable`, with an agent in the room, both of whom vanish."""
        names = {"AGENT_NAME": identity, "IDENTITY": identity}
        worker = AgentWorker(self._server.url, self._log.with_name("black_hole_agent.log"), names, cable=cable)
        stack.callback(worker.end)
        worker.wait_for("registered", seconds=PATIENCE)
        token = self._server.token("", ROOM, VideoGrant(room_admin=True, room=ROOM))
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        url = f"http://{SERVER}:{PORT}/twirp/livekit.AgentDispatchService/CreateDispatch"
        body = json.dumps({"room": ROOM, "agent_name": identity}).encode()
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as reply:
            assert reply.status == 200
        return worker

    def _await(self, batch: Batch, seen: set[str], children: Sequence[Child], joining: dict[str, Cable]) -> None:
        """Wait until everyone is at its moment, and have bursts sent to those who listen for them."""
        deadline = time.monotonic() + PATIENCE
        awaited = {victim.identity for victim in batch.victims if victim.identity not in joining}
        receivers = {victim.identity for victim in batch.victims if victim.moment == "receives"}
        served: set[str] = set()
        while True:
            self._look(batch, seen)
            told = [event for child in children for event in child.told]
            listening = receivers & {event["identity"] for event in told if event["event"] == "listening"}
            if listening != served:
                served = listening
                self.stays.tell(f"burst {','.join(sorted(served))}")
            missing = awaited - {event["identity"] for event in told if event["event"] == "ready"}
            missing |= {identity for identity, cable in joining.items() if cable.pulled is None}
            if not missing:
                return
            if time.monotonic() > deadline:
                batch.late = [victim for victim in batch.victims if victim.identity in missing]
                batch.victims = [victim for victim in batch.victims if victim.identity not in missing]
                return
            time.sleep(POLL)

    def _look(self, batch: Batch, seen: set[str]) -> None:
        try:
            members = self.members()
        except ConfigError:  # a machine that others use did not let the server answer within five seconds
            return
        now = time.monotonic()
        batch.peak = max(batch.peak, self._server.resident())
        for victim in batch.victims:
            if victim.identity in members:
                seen.add(victim.identity)
                victim.absent = 0.0
            elif victim.identity in seen and not victim.absent:
                victim.absent = now

    def _settle(self, victims: Sequence[Victim]) -> Counts:
        """Wait until the server is as before, and those who stay know as much; returns what it has then, or at last."""
        ours = {victim.identity for victim in victims}
        deadline = time.monotonic() + SETTLED
        while True:
            counts = self.counts()
            as_before = (counts.tasks, counts.descriptors) == (self.before.tasks, self.before.descriptors)
            if (as_before and not self.untold(ours)) or time.monotonic() > deadline:
                return counts
            time.sleep(POLL)

    def untold(self, identities: set[str]) -> set[str]:
        """Of whom it was said that they came, but not that they went."""
        comings = Counter(event["identity"] for event in self.stays.events("connected"))
        goings = Counter(event["identity"] for event in self.stays.events("disconnected"))
        return set(comings - goings) & identities

    def _cable(self, stack: contextlib.ExitStack) -> Cable:
        cable = Cable(next(self._cables))
        stack.callback(cable.remove)
        return cable

    def verdict(self, batch: Batch) -> list[str]:
        """What is wrong with the outcome of a batch: nothing, it is hoped."""
        wrong = [
            f"{victim.identity} ({victim.kind}) was removed after {victim.seconds:.1f} s"
            for victim in batch.victims
            if not 0 < victim.seconds < WITHIN
        ]
        if untold := self.untold({victim.identity for victim in batch.victims}):
            wrong.append(f"nobody was told that {sorted(untold)} went")
        if batch.after.tasks != self.before.tasks or batch.after.descriptors != self.before.descriptors:
            wrong.append(f"before {self.before}, after {batch.after}")
        return wrong


def names(task: dict[str, Any]) -> Iterator[str]:
    """Every task's name."""
    yield task["name"]
    for nursery in task["nurseries"]:
        for child in nursery:
            yield from names(child)


@contextlib.contextmanager
def hole(logs: Path) -> Iterator[Hole]:
    """A switch, a server at it, and somebody in its room. For a process that is in a network of its own.

    The backend that the server tells of all this is a black hole itself: it takes connections, and never says anything.
    """
    with tempfile.TemporaryDirectory() as directory, switch(), socket.create_server(("127.0.0.1", 0)) as backend:
        admin = Path(directory) / "admin.sock"
        url = f"http://127.0.0.1:{backend.getsockname()[1]}/"
        config = f"webhook: {{api_key: devkey, urls: ['{url}']}}"
        options = ("--admin-socket", str(admin), "--config-body", config)
        with running_server(logs / "black_hole_server.log", *options, port=PORT, host=SERVER) as server:
            opened = Hole(server, admin, logs)
            try:
                yield opened
            finally:
                opened.stays.end()
                backend.close()  # or the server would spend its whole grace on it


def batches(clients: int, size: int = 10) -> Iterator[list[Victim]]:
    """Batches that mix the moments; four of ten are joining, and every fourth batch has three in Chromium."""
    moments = itertools.cycle(JOINING)
    roles = itertools.cycle(ROLES)
    for number in range(-(-clients // size)):
        victims: list[Victim] = []
        for place in range(min(size, clients - number * size)):
            browser = number % 4 == 1 and place >= size - 3
            moment = next(moments) if place < 4 else next(roles)
            if browser and moment == "resumes":  # the wheel does that
                moment = "idle"
            identity = f"b{number}-{place}"
            victims.append(Victim(identity, moment, browser=browser, single=bool((number + place) % 2)))
        yield victims


def main() -> int:
    """Run all of it and print what came out; 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description="Clients whose link goes down, until nothing may be left of them.")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no batch after so many")
    options = parser.parse_args()
    logs = Path(__file__).parent.parent / "artifacts"
    logs.mkdir(exist_ok=True)
    enter_own_network()
    wrong: list[str] = []
    done: list[Victim] = []
    with hole(logs) as opened:
        say(f"before: {opened.before}")
        (warm_up,) = batches(10)
        for victim in warm_up:
            victim.identity = f"warm-up-{victim.identity}"
        warm = opened.vanish(warm_up)
        say(f"after a warm-up of {len(warm_up)}: {warm.after}; at most {warm.peak / MIB:.0f} MiB")
        last = warm
        end = time.monotonic() + 60 * options.minutes
        late = 0
        for number, victims in enumerate(batches(options.clients), start=1):
            if time.monotonic() > end:
                say("out of time")
                break
            last = opened.vanish(victims)
            done += last.victims
            late += len(last.late)
            slowest = max(victim.seconds for victim in last.victims)
            say(
                f"batch {number}: {len(last.victims)} clients, removed within {slowest:.1f} s; {last.after};"
                f" at most {last.peak / MIB:.0f} MiB"
            )
            wrong += opened.verdict(last)
        growth = last.after.resident - warm.after.resident
        if growth > ALLOWANCE:
            wrong.append(f"resident memory grew by {growth / MIB:.1f} MiB; {ALLOWANCE / MIB:.0f} MiB are allowed")
        report(done)
        if late:
            say(f"{late} more never got to their moment and are not counted")
        came = {event["identity"] for event in opened.stays.events("connected")}
        announced = sum(victim.identity in came for victim in done)
        untold = opened.untold({victim.identity for victim in done})
        say(f"told: {announced - len(untold)} of the {announced} that the others knew")
        say(f"before: {opened.before}; after: {last.after}; growth since the warm-up {growth / MIB:.1f} MiB")
    for problem in wrong:
        say(f"WRONG: {problem}")
    return 1 if wrong else 0


def report(victims: Sequence[Victim]) -> None:
    """Print how long removals took, by moment."""
    kinds = list(dict.fromkeys(victim.kind for victim in sorted(victims, key=lambda victim: victim.kind)))
    rows = [("all", victims), *((kind, [one for one in victims if one.kind == kind]) for kind in kinds)]
    say(f"{'moment':40} {'clients':>7} {'median s':>9} {'max s':>6}")
    for kind, those in rows:
        seconds = [victim.seconds for victim in those]
        say(f"{kind:40} {len(those):7} {statistics.median(seconds):9.1f} {max(seconds):6.1f}")


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201  this is a command


if __name__ == "__main__":
    sys.exit(main())
