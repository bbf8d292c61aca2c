"""What holds for the whole suite: no example is timed, how tests are spread over processes; and shared fixtures.

They are if pytest is called with `--numprocesses=auto`, as `make test` does.
"""

from __future__ import annotations

import contextlib
import gc
import os
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

FIRST, LAST = "tests/clients/", "tests/conformance/"  # with real clients, when several processes share the tests
HERE = Path(__file__).parent
FOLDERS = {HERE.parent / folder for folder in (FIRST, LAST)}
ARTIFACTS = HERE / "artifacts"
MODEST = 10  # how nice a process is that has no real clients

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


class ClientsTogether(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist publishes no types
    """Each test goes to whichever process is free; those of a folder with real clients all to one.

    The first folder has a process of its own from the beginning. The other one's is that which first finds nothing else
    to do.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in (FIRST, LAST) if nodeid.startswith(folder)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Real clients wait for each other much of the time, and a process of theirs leaves room for the other tests."""
    config.option.loadscopereorder = False
    return ClientsTogether(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process for each core, and one for the real clients."""
    return (os.cpu_count() or 1) + 1


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave the machine to real clients, which have deadlines, where other tests have processes of their own."""
    if not os.environ.get("PYTEST_XDIST_WORKER"):
        return
    real = item.get_closest_marker("clients") is not None
    if real and os.nice(0):
        with contextlib.suppress(PermissionError):  # all others have finished nearly
            os.setpriority(os.PRIO_PROCESS, 0, 0)
    elif not real and not os.nice(0):
        os.nice(MODEST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark those with real clients. They run last: from then on the process has a network of its own.

    If several processes share the tests, those of one folder come first, and one process begins with them.
    """
    ours = [item for item in items if not FOLDERS.isdisjoint(item.path.parents)]
    for item in ours:
        item.add_marker(pytest.mark.clients)
        # Real clients, in real time, on machines that others use too: one that was starved may try once more, and the
        # summary tells that it did.
        item.add_marker(pytest.mark.flaky(reruns=1))
    others = [item for item in items if FOLDERS.isdisjoint(item.path.parents)]
    first = [item for item in ours if HERE.parent / FIRST in item.path.parents]
    last = [item for item in ours if HERE.parent / FIRST not in item.path.parents]
    items[:] = first + others + last if os.environ.get("PYTEST_XDIST_WORKER") else others + ours


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
