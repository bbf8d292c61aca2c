"""Ten participants, all publishing and watching audio and video: nothing is lost by us, and nothing is left of them.

A short meeting in the suite; `make soak` holds one of two minutes (`MEETING_SECONDS`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.clients.server import running_server

if TYPE_CHECKING:
    import pytest

    from tests.clients.server import RunningServer

PEOPLE = 10
SECONDS = float(os.environ.get("MEETING_SECONDS", "8"))
GROWTH = 24 << 20  # bytes of resident memory that allocators and caches may keep
MEDIA_PORT = 7882


def tasks(server: RunningServer) -> int:
    """How many tasks `triosfu tasks` sees in the server."""
    command = [sys.executable, "-m", "triosfu", "tasks", "--port", str(server.port), "--json"]
    return count(json.loads(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout))


def count(task: dict[str, Any]) -> int:
    return 1 + sum(count(child) for nursery in task["nurseries"] for child in nursery)


def dropped_by_kernel() -> int:
    """Datagrams that the server's media socket had no room for: the last column of /proc/net/udp."""
    rows = [line.split() for line in Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]]
    return sum(int(row[-1]) for row in rows if row[1].endswith(f":{MEDIA_PORT:04X}"))


def meet(server: RunningServer, seconds: float, room: str) -> dict[str, dict[str, dict[str, int]]]:
    tokens = [server.token(f"p{number}", room) for number in range(PEOPLE)]
    command = [sys.executable, "-m", "tests.clients.ten", str(seconds), server.url, *tokens]
    finished = subprocess.run(command, capture_output=True, check=False, timeout=seconds + 100)
    assert finished.returncode == 0, finished.stderr.decode()[-3000:]
    reports: dict[str, dict[str, dict[str, int]]] = json.loads(finished.stdout.splitlines()[-1])
    return reports


def test_a_meeting_of_ten_loses_nothing_and_leaves_nothing(
    network: None, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEKIT_CONFIG", "room: {departure_timeout: 1}")
    with running_server(artifacts / "test_ten.log") as server:

        def counted() -> tuple[int, int]:
            return tasks(server), server.descriptors()

        empty = counted()
        meet(server, 1, "warm-up")  # allocators and caches fill
        memory = server.resident()
        reports = meet(server, SECONDS, "meeting")
        for identity, tracks in reports.items():
            assert len(tracks) == 2 * (PEOPLE - 1), identity
            for name, report in tracks.items():
                assert report["lost"] <= 0, (identity, name, report)
                assert report["packets"] > 5 * SECONDS, (identity, name, report)
        assert dropped_by_kernel() == 0
        deadline = time.monotonic() + 10
        while counted() != empty and time.monotonic() < deadline:
            time.sleep(0.05)
        assert counted() == empty
        assert server.resident() - memory < GROWTH
