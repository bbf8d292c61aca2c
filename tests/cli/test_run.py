from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from triosfu.tokens import check_join, verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-m", "triosfu", "run"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("LIVEKIT_")}


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    """The development server, on free ports, as a user starts it."""
    command = [*COMMAND, "--dev", "--port", "0", "--udp-port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT | {"PYTHONUNBUFFERED": "1"}
    ) as process:
        yield process
        process.kill()


def greeting(process: subprocess.Popen[str]) -> list[str]:
    lines: list[str] = []
    assert process.stdout is not None
    while not lines or "Ctrl-C" not in lines[-1]:
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        lines.append(line.rstrip("\n"))
    return lines


def test_a_newcomer_gets_two_links_that_join_and_a_clean_end(server: subprocess.Popen[str]) -> None:
    lines = greeting(server)
    found = re.fullmatch(r"triosfu \S+ serves (http://localhost:(\d+))", lines[0])
    assert found
    web, port = found[1], int(found[2])
    assert f"  LiveKit URL   ws://127.0.0.1:{port}" in lines
    links = [line for line in lines if line.startswith(f"{web}/demo?")]
    assert len(links) == 2
    for link, identity in zip(links, ("alice", "bob"), strict=True):
        query = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
        assert (query["room"], query["identity"]) == ("demo", identity)
        claims = verify(query["token"], {"devkey": "secret"}, now=time.time())
        assert (claims.identity, check_join(claims).room) == (identity, "demo")
    assert any("triosfu token create --dev" in line for line in lines)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply:
        assert (reply.status, reply.read()) == (200, b"OK")
    server.send_signal(signal.SIGINT)
    _, err = server.communicate(timeout=10)
    assert server.returncode == 0
    assert "Traceback" not in err


def test_a_taken_port_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [*COMMAND, "--dev", "--udp-port", "0", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=ENVIRONMENT, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"port: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
