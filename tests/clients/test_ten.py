"""Ten participants, all publishing and watching audio and video: nothing is lost by us, and nothing is left of them.

A short meeting in the suite; `make soak` holds one of two minutes (`MEETING_SECONDS`).
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import trio

from triosfu.config import load_config
from triosfu.server import Server, serve_in_thread

PEOPLE = 10
SECONDS = float(os.environ.get("MEETING_SECONDS", "8"))
GROWTH = 24 << 20  # bytes of resident memory that allocators and caches may keep
LOSS_BY_CLIENT = {"unbound_tuple", "unknown_ufrag", "unknown_transaction"}  # what comes after a goodbye
COUNTED = {"datagrams", "batches"}


def tasks() -> int:
    """The number of trio tasks in the server's thread."""
    statistics = trio.lowlevel.current_statistics()
    return statistics.tasks_living


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def meet(server: Server, seconds: float, room: str) -> dict[str, dict[str, dict[str, int]]]:
    tokens = [server.create_token(identity=f"p{number}", room=room) for number in range(PEOPLE)]
    command = [sys.executable, "-m", "tests.clients.ten", str(seconds), server.url, *tokens]
    finished = subprocess.run(command, capture_output=True, check=False, timeout=seconds + 100)
    assert finished.returncode == 0, finished.stderr.decode()[-3000:]
    reports: dict[str, dict[str, dict[str, int]]] = json.loads(finished.stdout.splitlines()[-1])
    return reports


def test_a_meeting_of_ten_loses_nothing_and_leaves_nothing(network: None) -> None:
    with serve_in_thread(load_config(development=True, overrides={"room": {"departure_timeout": 1}})) as server:

        def counted() -> tuple[int, int, int]:
            return trio.from_thread.run_sync(tasks, trio_token=server.trio_token), descriptors(), len(server.rooms)

        empty = counted()
        meet(server, 1, "warm-up")  # allocators and caches fill
        memory = resident()
        reports = meet(server, SECONDS, "meeting")
        for identity, tracks in reports.items():
            assert len(tracks) == 2 * (PEOPLE - 1), identity
            for name, report in tracks.items():
                assert report["lost"] <= 0, (identity, name, report)
                assert report["packets"] > 5 * SECONDS, (identity, name, report)
        dropped = {reason: count for reason, count in server.mux.counters.items() if count and reason not in COUNTED}
        assert dropped.keys() <= LOSS_BY_CLIENT, dropped
        deadline = time.monotonic() + 10
        while counted() != empty and time.monotonic() < deadline:
            time.sleep(0.05)
        assert counted() == empty
        assert resident() - memory < GROWTH
