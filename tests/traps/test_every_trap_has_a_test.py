"""Sixty things that break real clients (protocol reference, section 13): each has a test that names its number.

A test `test_trap_17_...` or `test_traps_25_28_...`, anywhere below tests/, stands for these traps.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
TRAPS = range(1, 61)
NAME = re.compile(r"test_traps?_((?:\d\d_)+)")
NOT_APPLICABLE: dict[int, str] = {}  # by number, why a trap cannot be stepped into here
IDLE = frozenset({"skip", "skipif", "xfail"})


def runs(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether nothing is there that lets the test off."""
    names = {node.attr for decorator in function.decorator_list for node in ast.walk(decorator)
             if isinstance(node, ast.Attribute)}  # fmt: skip
    return not names & IDLE


def covered() -> dict[int, list[str]]:
    """The names of the tests of each trap."""
    found: dict[int, list[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        if "node_modules" in path.parts:
            continue
        for node in ast.parse(path.read_text(), path.name).body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not runs(node):
                continue
            if name := NAME.match(node.name):
                for number in name[1].split("_")[:-1]:
                    found.setdefault(int(number), []).append(node.name)
    return found


def test_every_trap_has_a_test_or_a_reason() -> None:
    assert sorted(set(TRAPS) - covered().keys()) == sorted(NOT_APPLICABLE)


def test_there_are_no_tests_of_other_traps() -> None:
    assert covered().keys() <= set(TRAPS)
