"""LiveKit's own agent workers, in the environments that `make` builds for them, as children of tests."""

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
HERE = Path(__file__).parent / "agents"
# What runs each worker's program, and the program.
PYTHON = ROOT / ".make" / "agents" / "bin" / "python", HERE / "echo.py"
NODE = Path("node"), HERE / "echo.mjs"


class AgentWorker(Child):
    """The process, with its agents if they have processes of their own."""

    def __init__(
        self,
        url: str,
        log: Path,
        environment: Mapping[str, str],
        *,
        cable: Cable | None = None,
        kind: tuple[Path, Path] = PYTHON,
    ) -> None:
        runs, program = kind
        assert PYTHON[0].exists(), "make .make/clients builds the workers' environments"
        names = {"LIVEKIT_URL": url, "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET}
        log.unlink(missing_ok=True)
        super().__init__(
            str(program), "start", log=log, cable=cable, program=[str(runs)],
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
    """A worker that is starting, livekit-agents' for Python; it is killed at the end of the block."""
    with _ended(AgentWorker(url, log, environment)) as worker:
        yield worker


@contextmanager
def node_worker(url: str, log: Path, **environment: str) -> Iterator[AgentWorker]:
    """The same of @livekit/agents, for Node."""
    with _ended(AgentWorker(url, log, environment, kind=NODE)) as worker:
        yield worker


@contextmanager
def _ended(worker: AgentWorker) -> Iterator[AgentWorker]:
    try:
        yield worker
    finally:
        worker.end()
