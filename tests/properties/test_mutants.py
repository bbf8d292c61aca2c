"""Each property can fail: it does when the core is broken in the way that it is there to notice."""

from __future__ import annotations

from importlib import import_module

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.properties.mutants import MUTANTS, Mutant

# The same examples each time, and the first that fails is enough.
HUNT = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    report_multiple_bugs=False,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


def run(test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, name = test.partition("::")
    found = getattr(import_module(f"tests.properties.{module}"), name)
    if isinstance(found, type) and issubclass(found, RuleBasedStateMachine):
        run_state_machine_as_test(found, settings=HUNT)
        return
    if hasattr(found, "hypothesis"):
        monkeypatch.setattr(found, "_hypothesis_internal_use_settings", HUNT)
    found()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_property_catches_the_mutant(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, method, replacement in mutant.patches:
        assert hasattr(owner, method)
        monkeypatch.setattr(owner, method, replacement)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run(mutant.test, monkeypatch)
