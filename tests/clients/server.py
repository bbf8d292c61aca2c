"""A triosfu server for the client tests, started as a user would: by the command line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from triosfu.tokens import VideoGrant, create_token

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY, SECRET = "devkey", "secret"


@dataclass(frozen=True, slots=True)
class Counts:
    """What a server holds of the things that leak."""

    tasks: int
    descriptors: int
    resident: int  # bytes of memory

    def __str__(self) -> str:
        return f"{self.tasks} tasks, {self.descriptors} descriptors, {self.resident / (1 << 20):.1f} MiB"


@dataclass(frozen=True, slots=True)
class RunningServer:
    """The server process and where it listens."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """For the SDKs."""
        return f"ws://{self.host}:{self.port}"

    @property
    def http(self) -> str:
        """For browsers."""
        return f"http://localhost:{self.port}"

    def token(self, identity: str, room: str, grant: VideoGrant | None = None) -> str:
        """A token that lets `identity` join `room`, with other grants than the usual if `grant` is given."""
        video = grant or VideoGrant(room_join=True, room=room)
        return create_token(KEY, SECRET, now=time.time(), identity=identity, video=video)

    def descriptors(self) -> int:
        """Open file descriptors of the server process."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def resident(self) -> int:
        """Resident memory of the server process, in bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def running_server(log: Path, *options: str, port: int = 7880, host: str = "127.0.0.1") -> Iterator[RunningServer]:
    """`triosfu run --dev`, ready to be joined; it must end with exit code 0 when it is interrupted."""
    command = [sys.executable, "-m", "triosfu", "run", "--dev", "--port", str(port), "--bind", host, *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            running = RunningServer(process, port, log, host)
            wait_until_ready(running)
            yield running
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def wait_until_ready(server: RunningServer) -> None:
    """Poll the health page until it answers."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        page = f"http://{server.host}:{server.port}/"
        with contextlib.suppress(OSError), urllib.request.urlopen(page, timeout=1) as reply:
            if reply.status == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"the server did not come up:\n{server.log.read_text()}")
