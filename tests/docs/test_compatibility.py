"""docs/compatibility.md names tests that exist, for everything that it says works."""

from __future__ import annotations

import ast
import re
from functools import cache

from tests.docs.pages import ROOT, read

TESTS = ROOT / "tests"
PAGE = read("docs/compatibility.md")
ROWS = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in re.findall(r"^\| .*\|$", PAGE, re.MULTILINE)]
STATES = {"works", "differs", "not yet"}
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
HEADS = {"state"}


def surface() -> list[tuple[str, str, str]]:
    """Each row: what, its state, and the rest."""
    return [(row[0], row[1], row[2] if len(row) > 2 else "") for row in ROWS if row[1] not in HEADS]


@cache
def defined_in(path: str) -> frozenset[str]:
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds) and node.name.startswith("test_"))


def test_every_named_test_exists() -> None:
    named = sorted(set(NAMED.findall(PAGE)))
    assert len(named) > 50
    assert [f"{path}::{name}" for path, name in named if name not in defined_in(path)] == []


def test_every_row_has_a_state_and_what_works_names_a_test() -> None:
    assert len(surface()) > 150
    assert {state for _, state, _ in surface()} == STATES
    assert [what for what, state, shown in surface() if state == "works" and not NAMED.search(shown)] == []


def test_what_names_a_client_was_seen_with_one() -> None:
    clients = re.compile(r"the wheel|livekit-client|livekit-server-sdk|livekit-agents|aiortc|FFmpeg|Chromium")
    seen = ("clients/", "conformance/")
    rows = [(what, shown) for what, state, shown in surface() if state != "not yet" and clients.search(shown)]
    assert len(rows) > 5
    assert [what for what, shown in rows if not any(path.startswith(seen) for path, _ in NAMED.findall(shown))] == []
