"""@livekit/rtc-node in a process of its own."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).parent / "js" / "participant.mjs"


class NodeParticipant:
    """What the script tells, as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.told: list[dict[str, Any]] = []
        self._lines: queue.Queue[str] = queue.Queue()
        assert process.stdout is not None
        self.reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        self.reader.start()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            self._lines.put(line)

    def wait_for(self, *, seconds: float = 15, **expected: object) -> None:
        """Wait until something was told that contains `expected`."""
        deadline = time.monotonic() + seconds
        while not any(expected.items() <= event.items() for event in self.told):
            with contextlib.suppress(queue.Empty, json.JSONDecodeError):
                self.told.append(json.loads(self._lines.get(timeout=0.1)))
            assert time.monotonic() < deadline, f"not within {seconds} s: {expected}; told: {self.told}"


@contextlib.contextmanager
def node_participant(url: str, token: str) -> Iterator[NodeParticipant]:
    """Join by rtc-node; it leaves at the end and must exit with 0."""
    command = ["node", str(SCRIPT), url, token]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        participant = NodeParticipant(process)
        try:
            participant.wait_for(event="joined")
            yield participant
            assert process.stdin is not None
            process.stdin.close()
            participant.wait_for(event="left")
            assert process.wait(timeout=10) == 0
        finally:
            process.kill()
            process.wait()
            participant.reader.join()
