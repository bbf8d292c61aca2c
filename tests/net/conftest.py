"""The packet path's tests run with the compiled kernel, and without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from triosfu import kernel
from triosfu.net import egress

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
