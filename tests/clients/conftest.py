"""Fixtures of the tests with real clients."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.clients.network import enter_own_network
from tests.clients.server import RunningServer, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
ARTIFACTS = HERE.parent / "artifacts"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder, and run it last: from then on the process has a network of its own."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.clients)
        # Real clients, in real time, on machines that others use too: one that was starved may try once more, and the
        # summary tells that it did.
        item.add_marker(pytest.mark.flaky(reruns=1))
    items[:] = [item for item in items if HERE not in item.path.parents] + ours


@pytest.fixture(scope="session")
def network() -> None:
    """No way out of here."""
    enter_own_network()


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where screenshots and logs are kept."""
    ARTIFACTS.mkdir(exist_ok=True)
    return ARTIFACTS


@pytest.fixture(scope="module")
def server(network: None, artifacts: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server of this module's own, started by the command line."""
    with running_server(artifacts / f"{request.module.__name__.rpartition('.')[2]}.log") as running:
        yield running


def pytest_unconfigure() -> None:
    """Let the wheel's Rust core end while the interpreter can still take its calls; later, it aborts the process."""
    module = sys.modules.get("livekit.rtc._ffi_client")
    if module is not None and module.FfiClient._instance is not None:
        module.FfiClient.instance._dispose()
        time.sleep(0.5)
