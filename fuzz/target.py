"""Fuzzes one check with atheris, for ever: `python -m fuzz.target check_stun [libFuzzer's arguments]`.

What reaches something new goes to `fuzz/found/<check>`, what fails to `fuzz/crashes`, unless the arguments name other
folders. See docs/fuzzing.md.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, NoReturn

import atheris
import structlog

from fuzz.catalogue import CORPUS, CRASHES, FOUND, catalogue, load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fuzz.catalogue import Check

LIMITS = ("-max_len=32768", "-timeout=10", "-rss_limit_mb=1024")  # bytes of an input, its seconds, the process's MB


def instrumented(names: Iterable[str]) -> dict[str, Check]:
    """Import these checks, and what they check, so that the fuzzer sees where each run goes."""
    with atheris.instrument_imports(include=["triosfu", "fuzz.checks"]):
        checks = {name: load(name) for name in names}
    # The checks make the code log what it should log; a fuzzer has no use for that.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    return checks


def fuzz(name: str, check: Check, arguments: list[str]) -> NoReturn:
    """Fuzz until something fails or the arguments' time is over; libFuzzer ends the process itself."""
    if all(argument.startswith("-") for argument in arguments):
        folders = [FOUND / name, CORPUS / name]
        for folder in (*folders, CRASHES):
            folder.mkdir(parents=True, exist_ok=True)
        arguments = [*arguments, *map(str, folders)]
    atheris.Setup(["fuzz", *LIMITS, f"-artifact_prefix={CRASHES}/{name}-", *arguments], check)
    atheris.Fuzz()
    sys.exit(0)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in catalogue():
        sys.exit(f"usage: python -m fuzz.target CHECK [...]\nchecks: {' '.join(catalogue())}")
    fuzz(sys.argv[1], instrumented(sys.argv[1:2])[sys.argv[1]], sys.argv[2:])
