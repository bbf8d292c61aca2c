"""A server in a process of its own, started as its user starts it, and clients of `tests.support.client` for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from triosfu import tokens

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from triosfu.server import Server

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("LIVEKIT_")}
COMMAND = [sys.executable, "-m", "triosfu"]


@dataclass(frozen=True)
class Outside:
    """What clients need of a server that is in another process."""

    port: int
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def create_token(self, *, identity: str, room: str) -> str:
        return tokens.create_token("devkey", "secret", now=time.time(), identity=identity, room=room)

    @property
    def server(self) -> Server:
        """For `join`, which asks for no more than this."""
        return cast("Server", self)


@contextmanager
def started(*arguments: str, runtime: Path) -> Iterator[Outside]:
    """`triosfu run --dev` on free ports, with `runtime` as $XDG_RUNTIME_DIR."""
    command = [*COMMAND, "run", "--dev", "--port", "0", "--udp-port", "0", *arguments]
    environment = ENVIRONMENT | {"PYTHONUNBUFFERED": "1", "XDG_RUNTIME_DIR": str(runtime)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            told = next(line for line in process.stdout if "LiveKit URL" in line)
            next(line for line in process.stdout if "Ctrl-C" in line)
            yield Outside(int(told.rpartition(":")[2]), process)
        finally:
            process.kill()
