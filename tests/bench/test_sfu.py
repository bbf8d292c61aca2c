"""The benchmark of the whole server still runs: a room of three, for a second. Nothing is said about time."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPTIONS = "--scenarios meeting,data --sizes 3 --seconds 1 --settle 0.5 --loss 5"


def test_all_that_is_published_comes_to_all_others(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    command = [sys.executable, "-m", "bench.sfu", *OPTIONS.split(), "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {run["scenario"]: run for run in map(json.loads, file.read_text().splitlines())}
    assert runs["meeting"]["subscriptions"] == 3 * 2 * 2  # sound and picture of two others
    assert runs["data"]["subscriptions"] == 2
    assert runs["meeting"]["repaired"] > 0  # of what subscribers have dropped and asked for
    for run in runs.values():
        assert run["packets"] > 0
        assert run["lost"] == 0
        numbers = [run["rate"], run["cost"], run["per_cpu_second"], run["clients"], run["per_participant"]]
        assert all(math.isfinite(number) and number > 0 for number in [*numbers, *run["delays"]]), run
        assert math.isfinite(run["per_subscription"])
