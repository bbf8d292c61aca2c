"""Which checks there are, found without importing them: a fuzzer must import them under its own eyes."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeAlias

Check: TypeAlias = Callable[[bytes], None]

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"  # one folder a check: seeds, and every input that ever failed
FOUND = HERE / "found"  # the same, of what a fuzzer found to reach something new; not kept in git
CRASHES = HERE / "crashes"  # inputs that failed, as `<check>-<kind>-<hash>`; not kept in git


@cache
def catalogue() -> dict[str, str]:
    """Every `check_*` of `fuzz.checks` that can be called with bytes alone, with its module, by name."""
    found = {}
    for path in (HERE / "checks").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("check_"):
                first, *others = node.args.args
                if ast.unparse(first.annotation or first) == "bytes" and len(others) == len(node.args.defaults):
                    found[node.name] = f"fuzz.checks.{path.stem}"
    return dict(sorted(found.items()))


def load(name: str) -> Check:
    """The check of that name; KeyError if there is none."""
    check: Check = getattr(importlib.import_module(catalogue()[name]), name)
    return check


def owner_of(path: Path) -> str:
    """The check that a saved input belongs to: it says so in its own name or in its folder's."""
    return path.parent.name if path.parent.name.startswith("check_") else path.name.partition("-")[0]
