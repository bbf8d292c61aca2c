"""The page on embedding is true: its files are written out, and run."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"
BLOCK = re.compile(r"^```python\n# (?P<name>\w+\.py).*?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    return {match["name"]: match["code"] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}


def run(folder: Path, *arguments: str, aborts: bool = False) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert finished.returncode in {0, -signal.SIGABRT if aborts else 0}, finished.stdout + finished.stderr
    return finished.stdout


def test_the_bot_is_tested_as_the_page_says(network: None, tmp_path: Path) -> None:
    for name, code in files().items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    # The wheel's Rust core now and then aborts a process that ends right after its last room (docs/interop.md).
    assert "1 passed" in run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_bot.py", aborts=True)


def test_the_trio_program_runs_and_ends(network: None, tmp_path: Path) -> None:
    (tmp_path / "embedded.py").write_text(files()["embedded.py"], encoding="utf-8")
    url, token = run(tmp_path, "embedded.py").split()
    assert url.startswith("ws://127.0.0.1:")
    assert token.count(".") == 2
