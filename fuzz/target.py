"""Fuzzes one check with atheris, for ever: `python -m fuzz.target check_stun [--seconds=60] [libFuzzer's arguments]`.

What reaches something new goes to `fuzz/found/<check>`, what fails to `fuzz/crashes`, unless the arguments name other
folders. See docs/fuzzing.md.
"""

from __future__ import annotations

import logging
import sys
import time

import atheris
import structlog

from fuzz.catalogue import CORPUS, CRASHES, FOUND, catalogue, load

SECONDS = "--seconds="
LIMITS = ("-max_len=8192", "-timeout=10", "-rss_limit_mb=1024")  # bytes of an input, its seconds, the process's MB


def main(argv: list[str]) -> int:
    """Fuzz until something fails or the time is over; libFuzzer ends the process itself."""
    began = time.monotonic()
    if len(argv) < 2 or argv[1] not in catalogue():
        sys.stderr.write(f"usage: python -m fuzz.target CHECK [...]\nchecks: {' '.join(catalogue())}\n")
        return 2
    program, name, *arguments = argv
    with atheris.instrument_imports(include=["triosfu", "fuzz.checks"]):
        check = load(name)
    # The checks make the code log what it should log; a fuzzer has no use for that.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    options = [argument for argument in arguments if not argument.startswith(SECONDS)]
    if given := [argument for argument in arguments if argument.startswith(SECONDS)]:
        # Importing under instrumentation takes seconds of its own, which count too.
        left = float(given[-1].removeprefix(SECONDS)) - (time.monotonic() - began)
        # libFuzzer stops in the second after its last one.
        options.append(f"-max_total_time={max(1, round(left) - 1)}")
    if all(argument.startswith("-") for argument in options):
        folders = [FOUND / name, CORPUS / name]
        for folder in (*folders, CRASHES):
            folder.mkdir(parents=True, exist_ok=True)
        options += map(str, folders)
    atheris.Setup([program, *LIMITS, f"-artifact_prefix={CRASHES}/{name}-", *options], check)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
