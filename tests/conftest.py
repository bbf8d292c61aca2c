"""What holds for the whole suite: no example is timed, how tests are spread over processes; and shared fixtures.

They are if pytest is called with `--numprocesses=auto`, as `make test` does.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.clients.network import enter_own_network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xdist.remote import Producer

REAL = ("tests/clients/", "tests/conformance/")  # clients
HERE = Path(__file__).parent
FOLDERS = {HERE.parent / folder for folder in REAL}
ARTIFACTS = HERE / "artifacts"

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


class ClientsTogether(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist publishes no types
    """Each test goes to whichever process is free; those with real clients by the file, when the others are done."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if nodeid.startswith(REAL) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """The tests of one file share a server, and each process has a network of its own."""
    config.option.loadscopereorder = False
    return ClientsTogether(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark those with real clients, and run them last: from then on the process has a network of its own."""
    ours = [item for item in items if not FOLDERS.isdisjoint(item.path.parents)]
    for item in ours:
        item.add_marker(pytest.mark.clients)
        # Real clients, in real time, on machines that others use too: one that was starved may try once more, and the
        # summary tells that it did.
        item.add_marker(pytest.mark.flaky(reruns=1))
    items[:] = [item for item in items if FOLDERS.isdisjoint(item.path.parents)] + ours


@pytest.fixture(scope="session")
def network() -> None:
    """No way out of here."""
    enter_own_network()


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where screenshots and logs are kept."""
    ARTIFACTS.mkdir(exist_ok=True)
    return ARTIFACTS


def pytest_unconfigure() -> None:
    """Let the wheel's Rust core end while the interpreter can still take its calls; later, it aborts the process."""
    module = sys.modules.get("livekit.rtc._ffi_client")
    if module is not None and module.FfiClient._instance is not None:
        module.FfiClient.instance._dispose()
        time.sleep(0.5)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What nobody refers to is gone at once, or the test sees it: cycles stay."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
