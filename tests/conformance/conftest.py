"""One server for the scenarios of a process, with the webhooks of docs/webhooks.md, and a pair for each mode."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.clients.server import running_server
from tests.conformance.hooks import figures, page_backend
from tests.conformance.meeting import Meeting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clients.server import RunningServer

# Who drains less than a Mbit/s is slow.
MORE = """
rtc:
  datachannel_slow_threshold: 1000000
prometheus:
  port: 6790
"""


@pytest.fixture(scope="session")
def hooked(
    network: None, artifacts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningServer, Path]]:
    """The server, and what its webhooks' backend prints."""
    folder = tmp_path_factory.mktemp("hooks")
    with page_backend(folder) as printed:
        config = folder / "livekit.yaml"
        config.write_text(config.read_text(encoding="utf-8") + MORE, encoding="utf-8")
        options = ("--config", str(config), "--udp-port", "7899")
        with running_server(artifacts / f"conformance-{os.getpid()}.log", *options, port=7898) as running:
            yield running, printed
            seen = figures()
            assert seen.value("triosfu_bugs_total") == seen.value("triosfu_waits", bound="none") == 0, (
                "in all scenarios"
            )


@pytest.fixture(scope="session")
def server(hooked: tuple[RunningServer, Path]) -> RunningServer:
    return hooked[0]


@pytest.fixture(params=[True, False], ids=["single", "dual"], scope="session")
def single(request: pytest.FixtureRequest) -> bool:
    """Whether clients have one peer connection."""
    mode: bool = request.param
    return mode


@pytest.fixture
def meeting(server: RunningServer, single: bool, request: pytest.FixtureRequest) -> Iterator[Meeting]:
    """A room of the test's own, and nobody in it yet."""
    with closing(Meeting(server, request.node.name, single=single)) as made:
        yield made


@pytest.fixture(scope="module")
def pair(server: RunningServer, single: bool, request: pytest.FixtureRequest) -> Iterator[Meeting]:
    """Alice and Bob, who stay for all tests of a module in one mode."""
    with Meeting(server, f"{request.module.__name__}-{single}", single=single) as meeting:
        yield meeting
