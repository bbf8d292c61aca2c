"""A process that runs property tests when it is told to: pytest, with its loop over the tests replaced.

What runs is what the suite runs, with its fixtures and its trio mode; only the number of examples comes from outside,
and each run draws new ones.
"""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.stateful import RuleBasedStateMachine

from tests.properties.catalogue import numbers
from triosfu.dtls.core import DtlsConnection
from triosfu.ice.core import IceAgent
from triosfu.sctp.core import Association

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

ROOT = Path(__file__).parents[2]
DATABASE = ROOT / ".hypothesis" / "examples"  # where the suite looks too: a failure found here fails there
STEPS = 100  # rules in one run of a machine


@dataclass(frozen=True, slots=True)
class Found:
    """A test that there is."""

    nodeid: str
    numbers: tuple[int, ...]
    searches: bool  # has examples to draw; or else it is one example, and run once


@dataclass(frozen=True, slots=True)
class Order:
    """Run one test with so many examples."""

    nodeid: str
    examples: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an order."""

    examples: int
    steps: int
    seconds: float
    failure: str | None  # with the shrunk example


class Servant:
    """The plugin: tells which tests there are, then runs one for each order that comes."""

    def __init__(self, orders: Connection, database: Path) -> None:
        self._orders = orders
        self._database = DirectoryBasedExampleDatabase(database)
        self._failures: list[str] = []
        self._rules = 0
        self._datagrams = 0
        # A machine checks its invariants once when it is made, and after each rule.
        _before(RuleBasedStateMachine, "__init__", self._discount_rule)
        _before(RuleBasedStateMachine, "check_invariants", self._count_rule)
        for core in (Association, IceAgent, DtlsConnection):
            _before(core, "receive_datagram", self._count_datagram)

    def _count_rule(self) -> None:
        self._rules += 1

    def _discount_rule(self) -> None:
        self._rules -= 1

    def _count_datagram(self) -> None:
        self._datagrams += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Failed("a test module cannot be imported")
        items: dict[str, pytest.Item] = {}
        found = []
        for item in session.items:
            if named := numbers(_name(item)):
                items[item.nodeid] = item
                found.append(Found(item.nodeid, named, _is_machine(item) or hasattr(_function(item), "hypothesis")))
        self._orders.send(found)
        while (order := self._orders.recv()) is not None:
            self._orders.send(self._run(items[order.nodeid], order.examples))
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failures.append(f"{report.longreprtext}\n{report.capstdout}".strip())

    def _run(self, item: pytest.Item, examples: int) -> Outcome:
        self._prepare(item, examples)
        self._failures.clear()
        self._rules = self._datagrams = 0
        started = time.perf_counter()
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        seconds = time.perf_counter() - started
        statistics = item.__dict__.pop("hypothesis_statistics", None)
        ran = examples_in(statistics) if statistics is not None else 1
        steps = self._rules if _is_machine(item) else self._datagrams
        return Outcome(ran, steps, seconds, "\n".join(self._failures) or None)

    def _prepare(self, item: pytest.Item, examples: int) -> None:
        chosen = settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=self._database,
            derandomize=False,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )
        if _is_machine(item):
            assert isinstance(item, pytest.Function)
            item.cls.settings = chosen
        elif hasattr(function := _function(item), "hypothesis"):
            function._hypothesis_internal_use_settings = chosen


def serve(orders: Connection, folder: Path, log: Path, database: Path, *, long: bool) -> None:
    """Run orders until None comes. What pytest has to say goes to `log`; `long` is for tests that know two lengths."""
    if long:
        os.environ["HYPOTHESIS_PROFILE"] = "prove"
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    arguments = ["-q", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    # Whoever gives the orders knows how long it may take. Hypothesis is here before pytest could rewrite it, which is
    # nothing to be warned of.
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    arguments += ["-p", "no:xdist", "--timeout=0", "--capture=no", str(folder)]
    sys.exit(pytest.main(arguments, plugins=[Servant(orders, database)]))


def examples_in(statistics: str) -> int:
    """How many examples that counted the statistics of Hypothesis speak of."""
    return sum(int(passing) + int(failing) for passing, failing in _COUNTS.findall(statistics))


_COUNTS = re.compile(r"(\d+) passing\D+?(\d+)\s+failing")


def _name(item: pytest.Item) -> str:
    """What the test is called in its module: a class by the name that it has there."""
    if isinstance(item.parent, pytest.Class):
        return item.parent.name
    return item.originalname if isinstance(item, pytest.Function) else item.name


def _function(item: pytest.Item) -> Any:  # noqa: ANN401  Hypothesis keeps what it needs on the function
    function = getattr(item, "obj", None)
    return getattr(function, "__func__", function)


def _is_machine(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and item.originalname == "runTest" and hasattr(item.cls, "settings")


def _before(owner: type, method: str, tell: Callable[[], None]) -> None:
    """Have `tell` called before each call of the method."""
    original = getattr(owner, method)

    def telling(self: object, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401  whatever it takes
        tell()
        return original(self, *arguments, **keywords)

    setattr(owner, method, telling)
