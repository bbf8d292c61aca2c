"""Shows that the properties can fail: `python -m tests.properties.prove_mutants`.

Each mutant is put into the code in turn, and the property that is there to notice is run until it fails. The list is
that of every module `mutants*.py` of this folder; test_mutants.py, in the suite, runs the same.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from hypothesis.statistics import collector
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.properties.catalogue import FOLDER, PROPERTIES, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.properties.mutants import Mutant

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

CONDITIONS = {
    1: "an OPEN is written inside the description",
    2: "without a deadline",
    3: "behind a gate that all channels share",
    4: "which tells of an edge, once, and not of the end",
    5: "on an association that never gives up",
}  # of the wedge; all five together were it


# What a test says that fails; any other error is a mutant that does not work. Pytest's is no Exception.
FAILURES = (AssertionError, pytest.fail.Exception, trio.TooSlowError)


@dataclass(frozen=True, slots=True)
class Hunt:
    """How a mutant fared."""

    name: str
    caught: bool
    examples: int
    seconds: float
    error: str  # the first line of what it failed with


def mutants() -> list[Mutant]:
    """All there are."""
    modules = sorted(path.stem for path in FOLDER.glob("mutants*.py"))
    return [mutant for module in modules for mutant in import_module(f"tests.properties.{module}").MUTANTS]


def number(mutant: Mutant) -> int:
    """The property that has to notice."""
    return mutant.number or numbers(mutant.test.partition("::")[2])[0]


def hunt(mutant: Mutant) -> Hunt:
    """Run the property against the mutant until it fails, or its examples are used up."""
    examples = 0

    def count(statistics: Any) -> None:  # noqa: ANN401  a dictionary of phases
        nonlocal examples
        examples += len(statistics.get("generate-phase", {}).get("test-cases", ()))

    started = time.perf_counter()
    error = ""
    with put_in(mutant), collector.with_value(cast("None", count)):  # it is typed by its default
        try:
            run(mutant.test)
        except FAILURES as failure:
            error = _first_line(failure)
        except BaseExceptionGroup as group:
            failures = group.subgroup(FAILURES)
            if failures is None:
                raise
            error = _first_line(failures)
    return Hunt(mutant.name, bool(error), examples or 1, time.perf_counter() - started, error)


@contextmanager
def put_in(mutant: Mutant) -> Iterator[None]:
    """Within the block the code is broken."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, method, replacement in mutant.patches:
            assert hasattr(owner, method), f"{mutant.name}: there is no {owner.__name__}.{method}"
            patch.setattr(owner, method, replacement)
        yield


def run(test: str) -> None:
    """Run one test, "module::name", without pytest."""
    module, _, name = test.partition("::")
    found = getattr(import_module(f"tests.properties.{module}"), name)
    if isinstance(found, type) and issubclass(found, RuleBasedStateMachine):
        run_state_machine_as_test(found, settings=HUNT)
        return
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(found, "hypothesis"):
            patch.setattr(found, "_hypothesis_internal_use_settings", HUNT)
        found()


def _first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return (str(error).splitlines() or [""])[0].strip() or type(error).__name__


def _hunt_by_index(index: int) -> Hunt:
    return hunt(mutants()[index])


def table(found: list[tuple[Mutant, Hunt]]) -> Table:
    """One row for each mutant."""
    shown = Table("what is broken", "wedge", "property", "caught by")
    shown.add_column("examples", justify="right")
    shown.add_column("time", justify="right")
    for mutant, hunted in found:
        condition = f"{mutant.wedge}" if mutant.wedge else ""
        by = mutant.test.partition("::")[2] if hunted.caught else "NOTHING: it survives"
        style = None if hunted.caught else "red"
        time_taken = f"{hunted.seconds:.2f} s"
        shown.add_row(mutant.name, condition, f"P{number(mutant)}", by, str(hunted.examples), time_taken, style=style)
    return shown


def main(argv: list[str] | None = None) -> int:
    """Try all mutants and print the table; 1 if one survives, or a property or a condition of the wedge has none."""
    parser = argparse.ArgumentParser(prog="python -m tests.properties.prove_mutants", description=__doc__)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes; one per core")
    options = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 200)
    listed = mutants()
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        coming = pool.imap(_hunt_by_index, range(len(listed)))
        hunts = list(track(coming, "mutants", len(listed), console=console, transient=True))
    found = sorted(zip(listed, hunts, strict=True), key=lambda pair: number(pair[0]))
    console.print(table(found))
    console.print("The wedge was five things at once:", highlight=False)
    back = {mutant.wedge for mutant in listed}
    for condition, sentence in CONDITIONS.items():
        missing = "" if condition in back else "  (NOT PUT BACK BY ANY MUTANT)"
        console.print(f"  {condition}  {sentence}{missing}", highlight=False)
    without = [f"P{one}" for one in PROPERTIES if one not in {number(mutant) for mutant in listed}]
    survivors = [mutant.name for mutant, hunted in found if not hunted.caught]
    for what, names in (("survive", survivors), ("have no mutant", without)):
        if names:
            console.print(f"{len(names)} {what}: {', '.join(names)}", style="red", highlight=False)
    return 1 if survivors or without or not CONDITIONS.keys() <= back else 0


if __name__ == "__main__":
    sys.exit(main())
