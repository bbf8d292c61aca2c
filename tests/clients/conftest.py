"""Fixtures of the tests with real clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.server import RunningServer, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server(network: None, artifacts: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server of this module's own, started by the command line."""
    with running_server(artifacts / f"{request.module.__name__.rpartition('.')[2]}.log") as running:
        yield running
