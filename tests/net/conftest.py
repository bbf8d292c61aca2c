"""The packet path's tests run with the compiled kernel and without it, with two sockets on a port and with one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from triosfu import kernel
from triosfu.net import egress, udp

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["compiled", "python"], scope="module")
def packet_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which of the two loops `Egress` takes; Python's alone where the kernel is not installed."""
    if request.param == "python":
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(egress, "installed", lambda: None)
            yield request.param
        return
    if kernel.installed() is None:
        pytest.skip("the kernel is not installed")
    yield request.param


@pytest.fixture(params=["pair", "single"], scope="module")
def control_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Whether a mux has a second socket for control; where the system refuses it there is nothing to choose."""
    if request.param == "pair":
        yield request.param
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(udp, "open_beside", lambda _sock: None)
        yield request.param
