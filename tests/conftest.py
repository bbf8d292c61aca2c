"""What holds for the whole suite: no example is timed, how tests are spread over processes; and a shared fixture.

They are if pytest is called with `--numprocesses=auto`, as `make test` does.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xdist.remote import Producer

REAL = ("tests/clients/", "tests/conformance/")  # clients

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


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What nobody refers to is gone at once, or the test sees it: cycles stay."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
