"""Each property can fail: it does when the core is broken in the way that it is there to notice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.properties.prove_mutants import hunt, mutants

if TYPE_CHECKING:
    from tests.properties.mutants import Mutant


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)
def test_the_property_catches_the_mutant(mutant: Mutant) -> None:
    assert hunt(mutant).caught
