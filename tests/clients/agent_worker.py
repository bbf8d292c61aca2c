"""LiveKit's own agent worker, in the environment that `make` builds for it, as tests start and watch it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.clients.server import KEY, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.server import RunningServer

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".make" / "agents" / "bin" / "python"
PROGRAM = Path(__file__).parent / "agents" / "echo.py"
REGISTERED = "registered worker"


class AgentWorker:
    """The process and its output."""

    def __init__(self, server: RunningServer, log: Path, **environment: str) -> None:
        assert PYTHON.exists(), "make .make/clients builds the worker's environment"
        names = {"LIVEKIT_URL": server.url, "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET}
        self._log = log
        with log.open("wb") as output:
            # A session of its own: its agents may be processes of their own, and all of them die together.
            self.process = subprocess.Popen(
                [PYTHON, PROGRAM, "start"], env={**os.environ, **names, **environment}, start_new_session=True,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the program told of one kind."""
        lines = self.output.split("\n")[:-1]  # what is being written is not whole
        told = [json.loads(line) for line in lines if line.startswith('{"event"')]
        return [event for event in told if event["event"] == name]

    def wait_registered(self) -> None:
        """Wait until the server has answered."""
        deadline = time.monotonic() + 40
        while REGISTERED not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def kill(self) -> None:
        """End it, and every agent, at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def agent_worker(server: RunningServer, log: Path, **environment: str) -> Iterator[AgentWorker]:
    """A worker that is starting; it is killed at the end of the block."""
    worker = AgentWorker(server, log, **environment)
    try:
        yield worker
    finally:
        if worker.process.poll() is None:
            worker.kill()
