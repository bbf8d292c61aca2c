"""Ctrl-C: the first asks everybody to leave and exits with 0; the second ends the process at once."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
from livekit.protocol import models, rtc

from triosfu.tokens import create_token

if TYPE_CHECKING:
    from collections.abc import Iterator

GRACE = 5.0


@contextlib.contextmanager
def server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`triosfu run --dev` on free ports, and the port that it tells."""
    command = [sys.executable, "-m", "triosfu", "run", "--dev", "--bind", "127.0.0.1", "--port", "0", "--udp-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            told = next(line for line in process.stdout if "LiveKit URL" in line)
            yield process, int(told.rpartition(":")[2])
        finally:
            process.kill()


def join(port: int) -> socket.socket:
    """A client of few words: it joins, and never answers anything, not even the end of the WebSocket."""
    query = urlencode({"access_token": create_token("devkey", "secret", identity="alice", room="demo"), "protocol": 17})
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(
        f"GET /rtc?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = read(client, b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    return client


def read(client: socket.socket, until: bytes) -> bytes:
    """Receive up to and including `until`."""
    data = b""
    while until not in data:
        more = client.recv(65536)
        assert more, data
        data += more
    return data


LEAVE = rtc.SignalResponse(
    leave=rtc.LeaveRequest(reason=models.DisconnectReason.SERVER_SHUTDOWN, action=rtc.LeaveRequest.Action.DISCONNECT)
).SerializeToString()


def test_the_first_ctrl_c_tells_clients_and_exits_with_0() -> None:
    with server() as (process, port), join(port) as client:
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        read(client, LEAVE)
        assert process.wait(timeout=GRACE + 1) == 0
        assert time.monotonic() - asked < GRACE


def test_the_second_ctrl_c_does_not_wait_for_anybody() -> None:
    with server() as (process, port), join(port) as client:
        process.send_signal(signal.SIGINT)
        read(client, LEAVE)  # goodbyes are under way, and this client does not answer them
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=2) == 130


@pytest.mark.parametrize("arguments", [["--port", "99999"], ["--bind", "nowhere.invalid"], ["--config", "/nowhere"]])
def test_what_cannot_be_is_one_line_and_exit_code_2(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "triosfu", "run", "--dev", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert finished.returncode == 2
    assert len(finished.stderr.splitlines()) == 1
    assert finished.stdout == ""
