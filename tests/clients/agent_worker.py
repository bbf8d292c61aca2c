"""LiveKit's own agent worker, in the environment that `make` builds for it, as a child of tests."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.clients.child import Child
from tests.clients.server import KEY, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.clients.cable import Cable

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".make" / "agents" / "bin" / "python"
PROGRAM = Path(__file__).parent / "agents" / "echo.py"


class AgentWorker(Child):
    """The process, with its agents if they have processes of their own."""

    def __init__(self, url: str, log: Path, environment: Mapping[str, str], *, cable: Cable | None = None) -> None:
        assert PYTHON.exists(), "make .make/clients builds the worker's environment"
        names = {"LIVEKIT_URL": url, "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET}
        log.unlink(missing_ok=True)
        super().__init__(
            str(PROGRAM), "start", log=log, cable=cable, program=[str(PYTHON)],
            environment={**os.environ, **names, **environment},
        )  # fmt: skip

    def registrations(self) -> list[dict[str, Any]]:
        """Each time that the server has taken it in."""
        return self.events("registered")

    def end(self, *, patience: float = 0) -> None:
        """Kill it, and every agent, at once."""
        del patience
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        super().end()


@contextmanager
def agent_worker(url: str, log: Path, **environment: str) -> Iterator[AgentWorker]:
    """A worker that is starting; it is killed at the end of the block."""
    worker = AgentWorker(url, log, environment)
    try:
        yield worker
    finally:
        worker.end()
