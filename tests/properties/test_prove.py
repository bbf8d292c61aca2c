"""`make prove` and `make prove-mutants`: what they run, count and show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.properties import prove
from tests.properties.catalogue import numbers
from tests.properties.prove_worker import examples_in

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

TINY = """
import trio
from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

@given(st.integers())
def test_p1_never_holds(number):
    assert number > number + 1

@given(st.integers())
async def test_p2_holds(number):
    await trio.lowlevel.checkpoint()

class Machine(RuleBasedStateMachine):
    @rule()
    def step(self):
        pass

TestP3P4Machine = Machine.TestCase

async def test_p4_is_one_example(autojump_clock):
    await trio.sleep(1_000_000)
"""


def row(output: str, name: str) -> list[str]:
    line = next(line for line in output.splitlines() if line.startswith(f"│ {name} "))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_table_has_what_was_run_what_failed_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_tiny.py").write_text(TINY)
    arguments = ["--hours=0", "--workers=1", f"--folder={tmp_path}", f"--database={tmp_path / 'failed'}"]
    assert prove.main([*arguments, "P1", "P2", "P3", "p4", "P5"]) == 1
    output = capsys.readouterr().out
    assert row(output, "P1")[4] == "1"
    assert "number=0," in output, "the shrunk example"
    assert (tmp_path / "failed").is_dir(), "the next run finds it again"
    assert row(output, "P2")[2:5] == ["5", "-", "none"]
    assert row(output, "P3")[2:5] == ["5", "500", "none"]
    assert row(output, "P4")[2:5] == ["6", "500", "none"]
    assert row(output, "P5")[4] == "no test"


def test_a_test_says_by_its_name_which_properties_it_is_of() -> None:
    assert numbers("test_p7_the_gate_is_a_level") == (7,)
    assert numbers("test_p3_p14_both") == (3, 14)
    assert numbers("TestP12P19Association") == (12, 19)
    assert numbers("test_prove") == numbers("TestPeer") == ()


def test_examples_are_counted_as_hypothesis_tells_of_them() -> None:
    now = "- during generate phase (1 seconds):\n    - 41 passing, 1 failing, and 7 invalid test cases\n"
    before = "    - 100 passing examples, 0 failing examples, 3 invalid examples\n"
    assert examples_in(now) == 42
    assert examples_in(now + before) == 142
