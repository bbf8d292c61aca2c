"""What watches the server from outside: the backend of docs/webhooks.md, as the page has it, and its metrics."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from tests.metrics.scrape import read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.metrics.scrape import Page

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"
BLOCK = re.compile(r"^```(?:python|yaml)\n# (?P<name>[\w.]+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@contextmanager
def page_backend(folder: Path) -> Iterator[Path]:
    """Write the page's files into `folder` and run its backend; what it prints is in the file."""
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        (folder / block["name"]).write_text(block["code"], encoding="utf-8")
    printed, said = folder / "told.txt", folder / "said.txt"
    with printed.open("wb") as output, said.open("wb") as errors:
        process = subprocess.Popen([sys.executable, "backend.py"], cwd=folder, stdout=output, stderr=errors)
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", 8080), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, said.read_text()
                    time.sleep(0.05)
            yield printed
        finally:
            process.kill()
            process.wait()


def figures() -> Page:
    """The server's metrics, at most a second old."""
    return read(httpx.get("http://127.0.0.1:6790/metrics", timeout=5).text)
