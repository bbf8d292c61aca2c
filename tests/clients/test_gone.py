"""A client that vanishes without a word is removed within 20 s, and the others are told."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.clients.python_client import Participant, leaving, until
from tests.clients.server import running_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.clients.server import RunningServer

SERVER, CLIENT = "10.78.0.1", "10.78.0.2"  # the two ends of a cable that the test can pull
WITHIN = 20.0  # seconds


@contextlib.contextmanager
def victim(server: RunningServer, room: str, *, elsewhere: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A participant in a process of its own; with `elsewhere` in a network of its own, behind a veth pair."""
    command = [sys.executable, "-m", "tests.clients.one", server.url, server.token("victim", room)]
    if elsewhere:
        command = ["unshare", "--net", "sh", "-c", 'read go; exec "$@"', "sh", *command]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if elsewhere:
                plug_in(process.pid)
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            assert process.stdout is not None
            assert process.stdout.readline() == "joined\n"
            yield process
        finally:
            process.kill()


def plug_in(pid: int) -> None:
    """Give the process at the other end its end of the cable."""
    ip("link set home netns", pid)
    inside(pid, "link set lo up")
    inside(pid, f"address add {CLIENT}/24 dev home")
    inside(pid, "link set home up")


def ip(command: str, *more: object) -> None:
    subprocess.run(["ip", *command.split(), *map(str, more)], check=True)


def inside(pid: int, command: str) -> None:
    subprocess.run(["nsenter", "--net", "--target", str(pid), "ip", *command.split()], check=True)


def vanish(server: RunningServer, room: str, process: subprocess.Popen[str], strike: Callable[[], None]) -> float:
    """Bob watches the victim being struck; returns after how many seconds he was told that it is gone."""

    async def watch() -> float:
        bob = Participant("bob")
        async with leaving((bob,)):
            await bob.join(server.url, server.token("bob", room), single=True)
            await until(lambda: bob.video_frames["victim"] > 5, seconds=15, what="the victim's camera")
            struck = time.monotonic()
            strike()
            gone = "participant_disconnected"
            await until(lambda: bob.when(gone, "victim") is not None, seconds=WITHIN + 5, what="bob is told")
            return time.monotonic() - struck

    return asyncio.run(asyncio.wait_for(watch(), 60))


def test_a_killed_process_is_gone(server: RunningServer) -> None:
    with victim(server, "killed") as process:
        assert vanish(server, "killed", process, process.kill) < WITHIN


def test_a_pulled_cable_is_noticed(network: None, artifacts: Path) -> None:
    ip("link add away type veth peer name home")
    try:
        ip(f"address add {SERVER}/24 dev away")
        ip("link set away up")
        with (
            running_server(artifacts / "test_gone_cable.log", port=7890, host=SERVER) as server,
            victim(server, "cable", elsewhere=True) as process,
        ):
            descriptors = server.descriptors()
            assert vanish(server, "cable", process, lambda: inside(process.pid, "link set home down")) < WITHIN
            assert server.descriptors() <= descriptors
    finally:
        subprocess.run(["ip", "link", "delete", "away"], check=False)
