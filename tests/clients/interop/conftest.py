"""The foreign peers, each in one process that serves all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.interop.foreign import COMMANDS, ForeignProcess, foreign_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session", params=COMMANDS)
def process(network: None, artifacts: Path, request: pytest.FixtureRequest) -> Iterator[ForeignProcess]:
    """One implementation after the other."""
    with foreign_process(request.param, artifacts / f"interop-{request.param}.log") as running:
        yield running
