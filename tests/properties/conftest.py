"""Two Hypothesis profiles for this folder alone: a short one, and `HYPOTHESIS_PROFILE=prove`, which searches for long.

A test takes the settings that are in force when its module is imported, so the profile is loaded around the collection
of each module and nobody else's tests see it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator

_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

settings.register_profile("properties", max_examples=120, stateful_step_count=40, deadline=None)
settings.register_profile(
    "prove", max_examples=10_000, stateful_step_count=100, deadline=None, suppress_health_check=_SLOW
)

PROVE = os.environ.get("HYPOTHESIS_PROFILE") == "prove"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    before = settings.get_current_profile_name()
    settings.load_profile("prove" if PROVE else "properties")
    try:
        return (yield)
    finally:
        settings.load_profile(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What searches for long may take long."""
    for item in items:
        if PROVE and "properties" in item.path.parts:
            item.add_marker(pytest.mark.timeout(6 * 3600))
