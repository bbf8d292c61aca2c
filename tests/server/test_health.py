"""What a server says of itself to whoever asks whether it is there."""

from __future__ import annotations

import pytest
import trio

import triosfu
from triosfu.config import load_config


@pytest.mark.parametrize(
    ("method", "status", "body"), [("GET", 200, "OK"), ("HEAD", 200, ""), ("POST", 405, "Method Not Allowed")]
)
async def test_a_server_that_answers_is_healthy(method: str, status: int, body: str) -> None:
    config = load_config("development: true\nport: 0\nbind_addresses: [127.0.0.1]\nrtc: {udp_port: 0}")
    async with triosfu.serve(config, grace=0) as server:
        with trio.fail_after(10):
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(f"{method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join([data async for data in stream]).decode()
    head, _, said = answer.partition("\r\n\r\n")
    assert (int(head.split()[1]), said.strip()) == (status, body)
