"""The servers that are measured."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bench.sfu.attendee import attend
from bench.sfu.peer import Ended
from bench.sfu.process import Use, running
from tests.clients.server import KEY, SECRET, RunningServer, wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Protocol

    from bench.sfu.attendee import Somebody
    from bench.sfu.counting import CountingSocket

    class Attend(Protocol):
        """How somebody joins."""

        def __call__(
            self, identity: str, room: str, *, sock: CountingSocket, publishes: bool, feedback: bool
        ) -> AbstractAsyncContextManager[Somebody]:
            """Somebody in a room until the end of the block; what comes to them comes to `sock`."""


HOST, PORT = "127.0.0.1", 7880


@dataclass(frozen=True, slots=True)
class Measured:
    """A server."""

    name: str
    host: str  # where its clients have their sockets
    attend: Attend
    pid: int | None  # None: it runs elsewhere, and nobody can say what it uses

    def use(self) -> Use:
        """What it has used."""
        return Use(0.0, 0) if self.pid is None else Use.of(self.pid)


@contextlib.contextmanager
def triosfu(options: Sequence[str] = (), *, config: str = "") -> Iterator[Measured]:
    """This one, by its command line, with further `options` and a configuration in YAML."""
    command = [sys.executable, "-m", "triosfu", "run", "--dev", "--port", str(PORT), "--bind", HOST, *options]
    environment = {"LIVEKIT_CONFIG": config} if config else {}
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with running(command, log, environment=environment) as process:
            server = RunningServer(process, PORT, log, HOST)
            wait_until_ready(server)
            yield Measured("triosfu", HOST, partial(attend, server.url, (KEY, SECRET)), process.pid)


@contextlib.contextmanager
def elsewhere(url: str, key: str, secret: str) -> Iterator[Measured]:
    """Whatever serves `url`; its process is found by its port if it runs on this machine, in this network."""
    parts = urlsplit(url)
    if parts.scheme != "ws" or not parts.hostname:
        raise Ended(f"{url}: only ws://HOST:PORT can be measured")
    host, port = parts.hostname, parts.port or 80
    told = subprocess.run(["ss", "-Hltnp", f"sport = :{port}"], capture_output=True, text=True, check=False).stdout
    found = told.partition("pid=")[2].partition(",")[0]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))  # sends nothing, and tells from which address we would
            ours = probe.getsockname()[0]
    except OSError as error:
        raise Ended(f"{url}: {error.strerror}") from None
    here = ours == socket.gethostbyname(host) or ours.startswith("127.")
    yield Measured(parts.netloc, ours, partial(attend, url, (key, secret)), int(found) if found and here else None)
