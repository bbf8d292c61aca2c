"""A client in a process of its own, behind a cable or not: told what to do by lines, it tells by lines of JSON."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.clients.cable import Cable

# Its network is there before it is told so, and it begins when its cable is plugged in.
WAIT = """echo '{"event": "here"}'; read go; exec "$@" """


class Child:
    """A process and all that it has told so far; what it complains of goes to `log`."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        log: Path,
        cable: Cable | None = None,
        program: Sequence[str] = (sys.executable, "-m"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `module`, which is what `program` takes; with an `environment` it leads a session of its own."""
        command = [*program, module, *arguments]
        if cable is not None:
            command = ["unshare", "--net", "sh", "-c", WAIT, "sh", *command]
        self.told: list[dict[str, Any]] = []
        with log.open("ab") as complaints:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True,
                env=environment, start_new_session=environment is not None,
            )  # fmt: skip
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()
        if cable is not None:
            self.wait_for("here")
            cable.plug_in(self.process.pid)
            self.tell("go")

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            if line.startswith('{"event"'):
                self.told.append(json.loads(line))

    def tell(self, line: str) -> None:
        """Say a line to the process."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it told of one kind."""
        return [event for event in self.told if event["event"] == name]

    def wait_for(self, name: str, *, seconds: float = 30) -> dict[str, Any]:
        """Wait until it has told `name`."""
        deadline = time.monotonic() + seconds
        while not (found := self.events(name)):
            assert self.process.poll() is None, f"the client ended with {self.process.returncode}: {self.told}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {name}; told: {self.told}"
            time.sleep(0.02)
        return found[0]

    def end(self, *, patience: float = 0) -> None:
        """Kill it; with `patience` only after it was told to end, which who has processes of its own needs."""
        if patience and self.process.poll() is None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self.tell("end")
                self.process.wait(patience)
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


def tell(event: str, **more: object) -> None:
    """What a child says to its parent."""
    print(json.dumps({"event": event, "at": time.monotonic(), **more}), flush=True)  # noqa: T201  its parent reads it
