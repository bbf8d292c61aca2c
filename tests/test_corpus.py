"""Every input that the fuzzer begins with, and every one that ever failed, passes its check."""

from __future__ import annotations

import pytest

from fuzz.catalogue import CORPUS, catalogue, load, owner_of

FEW_DOZEN = 60  # files of one check; what a fuzzer finds besides is not kept


@pytest.mark.parametrize("name", list(catalogue()))
def test_the_whole_corpus_passes(name: str) -> None:
    check = load(name)
    check(b"")
    inputs = sorted((CORPUS / name).iterdir())
    assert 0 < len(inputs) <= FEW_DOZEN
    for path in inputs:
        assert owner_of(path) == name
        check(path.read_bytes())


def test_every_folder_belongs_to_a_check() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(catalogue())
