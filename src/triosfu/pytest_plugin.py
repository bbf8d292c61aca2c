"""pytest fixtures: a real triosfu server for the tests of a LiveKit application.

    def test_my_bot(triosfu_server):
        token = triosfu_server.create_token(identity="bot", room="test")
        asyncio.run(my_bot(triosfu_server.url, token))

The server runs in a thread of its own, so tests may use asyncio, trio, or nothing of the kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triosfu.config import Config
    from triosfu.server import Server


@pytest.fixture
def triosfu_config() -> Config:
    """The configuration of `triosfu_server`: loopback, free ports, key `devkey`. Override it to test with another."""
    # The plugin is loaded by every pytest run of whoever has triosfu installed: import when it is used.
    from triosfu.config import load_config  # noqa: PLC0415

    return load_config(development=True, overrides={"port": 0, "rtc": {"udp_port": 0}})


@pytest.fixture
def triosfu_server(triosfu_config: Config) -> Iterator[Server]:
    """A running server, ended with the test: its participants are told and nothing is left behind."""
    from triosfu.server.threaded import serve_in_thread  # noqa: PLC0415

    with serve_in_thread(triosfu_config, grace=1.0) as server:
        yield server
