"""The servers that are measured, each in processes of its own, and what they use."""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.clients.server import KEY, SECRET, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Use:
    """What a server has used until now."""

    cpu: float  # seconds, of all its threads and processes
    resident: int  # bytes

    @classmethod
    def of(cls, pid: int) -> Use:
        """Of the process `pid` and those it has started."""
        cpu = resident = 0
        for process in _family(pid):
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{process}/task").iterdir():
                    with contextlib.suppress(OSError):
                        cpu += int((task / "schedstat").read_text(encoding="ascii").split()[0])
                resident += int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * PAGE
        return cls(cpu / 1e9, resident)


def _family(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


@dataclass(frozen=True, slots=True)
class Measured:
    """A server that speaks LiveKit's protocol."""

    name: str
    url: str
    key: tuple[str, str]
    pid: int | None  # None: it runs elsewhere, and nobody can say what it uses

    def use(self) -> Use:
        """What it has used."""
        return Use(0.0, 0) if self.pid is None else Use.of(self.pid)


@contextlib.contextmanager
def triosfu(*options: str, config: str = "") -> Iterator[Measured]:
    """This one, by its command line."""
    if config:
        os.environ["LIVEKIT_CONFIG"] = config
    with TemporaryDirectory() as folder, running_server(Path(folder) / "log", *options) as running:
        yield Measured("triosfu", running.url, (KEY, SECRET), running.process.pid)


@contextlib.contextmanager
def elsewhere(url: str, key: str, secret: str) -> Iterator[Measured]:
    """Whatever serves `url`; its process is found by its port if it runs on this machine."""
    port = url.rsplit(":", 1)[-1].strip("/")
    told = subprocess.run(["ss", "-Hltnp", f"sport = :{port}"], capture_output=True, text=True, check=False).stdout
    pid = told.partition("pid=")[2].partition(",")[0]
    yield Measured(url, url, (key, secret), int(pid) if pid else None)
