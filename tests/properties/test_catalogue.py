"""Each property of the transport reference has tests, and mutants that show that these can fail."""

from __future__ import annotations

import re
from importlib import import_module

from tests.properties.catalogue import FOLDER, PROPERTIES, by_number
from tests.properties.prove_mutants import CONDITIONS, mutants, number

DOCS = FOLDER.parents[1] / "docs" / "properties.md"


def test_each_property_has_a_test_and_a_mutant() -> None:
    assert list(PROPERTIES) == list(range(1, 25))
    assert by_number(FOLDER).keys() == PROPERTIES.keys()
    assert {number(mutant) for mutant in mutants()} == PROPERTIES.keys()


def test_each_condition_of_the_wedge_is_put_back_by_a_mutant() -> None:
    assert {mutant.wedge for mutant in mutants()} - {None} == CONDITIONS.keys() == {1, 2, 3, 4, 5}


def test_each_mutant_names_a_test_that_is_there() -> None:
    names = [mutant.name for mutant in mutants()]
    assert len(set(names)) == len(names)
    for mutant in mutants():
        module, _, name = mutant.test.partition("::")
        assert hasattr(import_module(f"tests.properties.{module}"), name), mutant.test


def test_the_page_lists_every_property_and_every_mutant() -> None:
    rows = dict(re.findall(r"^\| P(\d+) \| (.*) \|$", DOCS.read_text(), re.MULTILINE))
    assert {int(row): cells.split(" | ")[0] for row, cells in rows.items()} == PROPERTIES
    for one, where in by_number(FOLDER).items():
        cells = rows[str(one)]
        assert all(f"`{test.partition('::')[0]}.py`" in cells for test in where), cells
        assert all(mutant.name in cells for mutant in mutants() if number(mutant) == one), cells
