"""Searches for counterexamples for a long time: `python -m tests.properties.prove --hours 1 [P7 P13 ...]`.

The time of all cores is shared out evenly among the properties, and within a property among its tests. Each test is run
again and again, a slice of time each, with examples that are new each time. See docs/properties.md.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.properties.catalogue import FOLDER, PROPERTIES
from tests.properties.prove_worker import DATABASE, Found, Order, Outcome, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.process import BaseProcess

SLICE = 60.0  # seconds that one test runs at most before another has its turn
SHORTEST = 0.5  # seconds; less than that is mostly setting up
FIRST = 5  # examples of a test of which nothing is known yet
HUNG = 900.0  # seconds beyond its slice after which a test is given up; to shrink an example takes up to 300
LONG = 120.0  # seconds of a property from which on a test may take a minute for one example
NONE = "-"  # in a cell of the table
NEWS = 60.0  # seconds between two lines of progress where there is no terminal


@dataclass(slots=True, eq=False)
class Test:
    """One test, and what came of it so far."""

    found: Found
    examples: int = 0
    steps: int = 0
    seconds: float = 0.0
    busy: bool = False
    failure: str | None = None

    @property
    def done(self) -> bool:
        return self.failure is not None or (self.examples > 0 and not self.found.searches)

    def examples_for(self, seconds: float) -> int:
        """How many examples about fill this time."""
        if not self.examples:
            return FIRST
        return max(1, int(seconds * self.examples / self.seconds)) if self.seconds else 1000


@dataclass(slots=True, eq=False)
class Property:
    """One row of the table."""

    number: int
    sentence: str
    tests: list[Test] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(test.seconds for test in self.tests)

    @property
    def examples(self) -> int:
        return sum(test.examples for test in self.tests)

    @property
    def steps(self) -> int:
        return sum(test.steps for test in self.tests)

    @property
    def failures(self) -> list[Test]:
        return [test for test in self.tests if test.failure is not None]

    @property
    def shown(self) -> bool:
        """Whether every test ran and passed; a property without one is not shown."""
        return bool(self.tests) and all(test.examples and test.failure is None for test in self.tests)


class Worker:
    """A process that runs one test at a time."""

    def __init__(self, number: int, folder: Path, database: Path, logs: Path, *, long: bool) -> None:
        self.log = logs / f"worker-{number}.log"
        self.test: Test | None = None
        self.give_up_at = math.inf
        context = multiprocessing.get_context("spawn")
        self.orders: Connection
        self.orders, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=serve, args=(theirs, folder, self.log, database), kwargs={"long": long}
        )
        self.process.start()
        theirs.close()

    def collected(self) -> list[Found]:
        """The tests that it has found.

        Raises:
            SystemExit: A test module cannot be imported.
        """
        try:
            found: list[Found] = self.orders.recv()
        except EOFError:
            self.process.join()
            raise SystemExit(f"{self.said()}\nthe properties cannot be collected") from None
        return found

    def run(self, test: Test, seconds: float) -> None:
        """Begin with a slice of a test."""
        test.busy = True
        self.test = test
        self.give_up_at = time.monotonic() + seconds + HUNG
        self.orders.send(Order(test.found.nodeid, test.examples_for(seconds)))

    def outcome(self) -> Outcome:
        """What came of it; if the process is no more, that is what came of it."""
        try:
            outcome: Outcome = self.orders.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return Outcome(1, 0, 0.0, f"{self.said()}\nthe process ended with {self.process.exitcode}")
        return outcome

    def interrupt(self) -> None:
        """End the process, which says where it was."""
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGABRT)

    def end(self) -> None:
        """Let the process go."""
        with suppress(ConnectionError):
            self.orders.send(None)
        self.orders.close()
        self.process.join(2.0)
        self.process.kill()

    def said(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-60:])


class Proof:
    """Shares out the time, and keeps the tallies."""

    def __init__(self, numbers: list[int], found: list[Found]) -> None:
        self.properties = [
            Property(number, PROPERTIES[number], [Test(test) for test in found if number in test.numbers])
            for number in numbers
        ]

    @property
    def tests(self) -> Iterator[Test]:
        return (test for one in self.properties for test in one.tests)

    @property
    def complete(self) -> bool:
        return all(one.shown for one in self.properties)

    def next(self) -> Test | None:
        """The test that has had the least of its share: by property first."""
        for one in sorted(self.properties, key=lambda one: one.seconds):
            free = [test for test in one.tests if not test.done and not test.busy]
            if free:
                return min(free, key=lambda test: (test.examples > 0, test.seconds))
        return None

    def first(self) -> Test | None:
        """A test that has not run at all: each runs, however short the time."""
        return next((test for test in self.tests if not test.examples and not test.done and not test.busy), None)

    def slice(self, share: float) -> float:
        """Several turns for each test, none of them long."""
        longest = max((len(one.tests) for one in self.properties), default=1)
        return min(SLICE, max(SHORTEST, share / (4 * max(1, longest))))


def prove(numbers: list[int], seconds: float, *, workers: int, folder: Path, database: Path, console: Console) -> Proof:
    """Run the tests of these properties for so long."""
    long = seconds * workers / len(numbers) >= LONG
    with tempfile.TemporaryDirectory() as logs:
        made = iter(range(1, 1_000_000))

        def hire() -> Worker:
            return Worker(next(made), folder, database, Path(logs), long=long)

        crew = [hire() for _ in range(workers)]
        try:
            found = [worker.collected() for worker in crew]
            proof = Proof(numbers, found[0])
            _run(proof, crew, hire, seconds, console)
        finally:
            for worker in crew:
                worker.end()
    return proof


def _run(proof: Proof, crew: list[Worker], hire: Callable[[], Worker], seconds: float, console: Console) -> None:
    started = time.monotonic()
    until = started + seconds
    turn = proof.slice(seconds * len(crew) / max(1, len(proof.properties)))
    news = started + NEWS
    columns = (BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=seconds)
        while True:
            for worker in crew:
                now = time.monotonic()
                test = worker.test is None and (proof.first() or (proof.next() if now < until else None))
                if test:
                    worker.run(test, max(SHORTEST, min(turn, until - now)))
            busy = {worker.orders: worker for worker in crew if worker.test is not None}
            if not busy:
                return
            line = _line(proof, crew)
            progress.update(bar, completed=min(seconds, time.monotonic() - started), description=line)
            if time.monotonic() > news and not console.is_terminal:
                news += NEWS
                console.print(f"{(time.monotonic() - started) / 60:.0f} min: {line}", highlight=False)
            for ready in wait(list(busy), timeout=1.0):
                assert isinstance(ready, Connection)
                worker = busy[ready]
                _note(worker, worker.outcome())
                if not worker.process.is_alive():
                    worker.end()
                    crew[crew.index(worker)] = replacement = hire()
                    replacement.collected()
            for worker in crew:
                if time.monotonic() > worker.give_up_at:
                    worker.give_up_at = math.inf
                    worker.interrupt()


def _note(worker: Worker, outcome: Outcome) -> None:
    test, worker.test, worker.give_up_at = worker.test, None, math.inf
    assert test is not None
    test.busy = False
    test.examples += outcome.examples
    test.steps += outcome.steps
    test.seconds += outcome.seconds
    test.failure = outcome.failure


def _line(proof: Proof, crew: list[Worker]) -> str:
    running = [_short(worker.test) for worker in crew if worker.test is not None]
    failed = sum(test.failure is not None for test in proof.tests)
    examples = sum(test.examples for test in proof.tests)
    return f"{examples:,} examples, {failed or 'no'} failures; now {', '.join(running)}"


def _short(test: Test) -> str:
    return "/".join(f"P{number}" for number in test.found.numbers)


def table(proof: Proof) -> Table:
    """What was run, one row for each property."""
    shown = Table("property", "", title_justify="left")
    for title in ("examples", "steps", "shrunk failures", "time"):
        shown.add_column(title, justify="right")
    for one in proof.properties:
        if not one.tests:
            shown.add_row(f"P{one.number}", one.sentence, NONE, NONE, "no test", NONE, style="red")
            continue
        failures = str(len(one.failures)) if one.failures else "none"
        steps = f"{one.steps:,}" if one.steps else NONE
        shown.add_row(
            f"P{one.number}",
            one.sentence,
            f"{one.examples:,}",
            steps,
            failures,
            _duration(one.seconds),
            style=None if one.shown else "red",
        )
    return shown


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02} s"


def main(argv: list[str] | None = None) -> int:
    """Search, print the table, and what was found; 1 if a property failed or has no test."""
    parser = argparse.ArgumentParser(prog="python -m tests.properties.prove", description=__doc__)
    parser.add_argument("properties", nargs="*", metavar="P7", help="those to search; all if none is named")
    parser.add_argument("--hours", type=float, default=1.0, help="for all together")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes; one per core")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="with the tests")
    parser.add_argument("--database", type=Path, default=DATABASE, help="of examples that failed")
    options = parser.parse_args(argv)
    known = {f"P{number}": number for number in PROPERTIES}
    if unknown := [name for name in options.properties if name.upper() not in known]:
        parser.error(f"no such property: {', '.join(unknown)}")
    numbers = [known[name.upper()] for name in options.properties] or list(PROPERTIES)
    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 160)
    seconds = options.hours * 3600
    console.print(f"{len(numbers)} properties, {_duration(seconds)} on {options.workers} processes", highlight=False)
    proof = prove(
        numbers,
        seconds,
        workers=max(1, options.workers),
        folder=options.folder,
        database=options.database,
        console=console,
    )
    for one in proof.properties:
        for test in one.failures:
            console.rule(f"P{one.number}: {test.found.nodeid}", style="red")
            console.print(test.failure, markup=False, highlight=False)
    console.print(table(proof))
    if any(one.failures for one in proof.properties):
        console.print(
            "Examples that failed are kept: the next run tries them first, and so does pytest.", highlight=False
        )
    return 0 if proof.complete else 1


if __name__ == "__main__":
    sys.exit(main())
