"""Clients that do not read never delay those who do: delays with and without them, in one run.

Both times are cut into windows of a second, and the median of the windows' p99 is compared: what else a machine does
for a second or two spoils some windows, whereas a server that waits for who does not read spoils all that have them.

Three are slow at once: a process that is stopped, which reads neither its media nor its signals; a peer whose SCTP
window is closed while everything else about it lives; and one that joins and never reads its WebSocket. Bursts of 60 kB
messages are sent to the first two until more waits for each than may wait, and metadata changes ten times a second.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.child import Child
from tests.clients.server import running_server
from tests.clients.wheel_child import STAYS

if TYPE_CHECKING:
    import subprocess

ROOM = "slow"
WITHOUT, FILLING, FULL = (
    "without",
    "filling",
    "full",
)  # with the slow ones, while their channels fill up, and afterwards
WINDOWS = {WITHOUT: 5, FILLING: 8, FULL: 5}  # at least
WINDOW = 1.0  # seconds
KINDS = ("reliable", "lossy", "media")
SAMPLES = 50  # of one kind in one window, of two hundred; with fewer it says nothing
ENOUGH = 300  # messages of 60 kB, of which 279 may wait for one receiver
MIB = 1 << 20
# What may wait: 16 MiB on a data channel of each of the two, which share the bytes of what was sent to both, and 8 MiB
# of signals and one write of them; and what a server takes when it has sent so much for the first time.
HELD = (2 * 16 + 8 + 24) * MIB


@pytest.mark.timeout(120)
def test_slow_readers_delay_nobody(network: None, artifacts: Path) -> None:
    log = artifacts / "test_slow_reader_clients.log"
    log.unlink(missing_ok=True)
    with (
        running_server(artifacts / "test_slow_reader.log", "--udp-port", "7895", port=7894) as server,
        contextlib.ExitStack() as stack,
    ):

        def child(module: str, *arguments: str) -> Child:
            started = Child(f"tests.clients.{module}", *arguments, log=log)
            stack.callback(started.end)
            return started

        def wheel(role: str, identity: str) -> Child:
            return child("wheel_child", role, server.url, server.token(identity, ROOM), identity, "single")

        crowd, loader = child("crowd_child", server.url, ROOM), wheel(STAYS, STAYS)
        crowd.wait_for("ready")
        loader.wait_for("ready")
        for process in (server.process, crowd.process, loader.process):
            first(process)
        loader.tell("burst nobody")  # the same load comes in, and goes nowhere
        measure(crowd, WITHOUT)
        stopped = wheel("idle", "stopped")
        closed = child("slow_child", "window", server.url, ROOM, "closed")
        unread = child("slow_child", "signals", server.url, ROOM, "unread")
        stopped.wait_for("ready")
        closed.wait_for("slow")
        unread.wait_for("slow")
        stopped.process.send_signal(signal.SIGSTOP)
        loader.tell("burst stopped,closed")
        memory, sent, began = server.resident(), bursts(loader), time.monotonic()
        measure(crowd, FILLING)
        while bursts(loader) < sent + ENOUGH:
            assert time.monotonic() < began + 30, "the loader gets nothing sent"
            measure(crowd, FILLING, 1)
        measure(crowd, FULL)
        held = server.resident() - memory
        assert not closed.events("over"), "it answers, so it stays"

        crowd.tell("report")
        crowd.wait_for("reported")
        late: dict[tuple[str, str], float] = {}
        figures = [f"held for the slow: {held / MIB:.1f} MiB"]
        for kind in KINDS:
            for phase, count in WINDOWS.items():
                windows = [
                    event["milliseconds"]
                    for event in crowd.events("delays")
                    if event["kind"] == kind and event["phase"].startswith(f"{phase} ")
                ]
                counted = [p99(sample) for sample in windows if len(sample) >= SAMPLES]
                assert len(counted) > count // 2, f"{kind}, {phase}: hardly anything came"
                late[kind, phase] = statistics.median(counted)
                everything = list(itertools.chain.from_iterable(windows))
                figures.append(
                    f"{kind:8} {phase:7} {len(everything)} samples, p50 {statistics.median(everything):.1f} ms, p99"
                    f" {p99(everything):.1f} ms; of each second's p99 the median is {late[kind, phase]:.1f} ms"
                )
        print(*figures, sep="\n")  # noqa: T201  for who asks with -s
        for kind in KINDS:
            for phase in (FILLING, FULL):
                assert late[kind, phase] <= 4 * late[kind, WITHOUT] + 50, (kind, phase, figures)
        assert held < HELD


def measure(crowd: Child, phase: str, windows: int = 0) -> None:
    """Let the time of a phase pass, window by window."""
    for _ in range(windows or WINDOWS[phase]):
        crowd.tell(f"phase {phase} {time.monotonic()}")
        time.sleep(WINDOW)
    crowd.tell("phase ")


def bursts(loader: Child) -> int:
    """How many messages of 60 kB it has sent."""
    return max((event["messages"] for event in loader.events("sent")), default=0)


def first(process: subprocess.Popen[Any]) -> None:
    """Let a process go before all others, if that is allowed: what else the machine does is not to be measured."""
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(1))


def p99(sample: list[float]) -> float:
    """What 99 of 100 do not exceed."""
    return statistics.quantiles(sample, n=100)[98]
