"""Runs the checks on inputs that nobody wrote: `python -m fuzz.run [--seconds 60] [check_stun ...]`.

With the names of saved inputs instead, tries these again. See docs/fuzzing.md.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import io
import logging
import multiprocessing
import os
import re
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from fuzz.catalogue import FOUND, catalogue, load, owner_of

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from fuzz.catalogue import Check

AT_A_TIME = 2  # targets, a process each
PATIENCE = 30.0  # seconds that a target may take longer than it should, to end what it is at
SAVED = re.compile(r"Test unit written to (\S+)")


def main(argv: list[str] | None = None) -> int:
    """Run all targets for a while, or saved inputs once; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.run", description=__doc__)
    parser.add_argument("what", nargs="*", help="checks, or saved inputs to try again; all checks if nothing is named")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all checks together")
    parser.add_argument("--jobs", type=int, default=AT_A_TIME, help=f"targets at a time; {AT_A_TIME} by default")
    options = parser.parse_args(argv)
    known = catalogue()
    files = [Path(name) for name in options.what if name not in known]
    if missing := [str(path) for path in files if not path.is_file() or owner_of(path) not in known]:
        parser.error(f"neither a check nor an input of one: {', '.join(missing)}")
    if files:
        return replay(files)
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed: pip install -e '.[fuzz]' (CPython 3.11 to 3.13 on Linux)")
    return run_all(options.what or list(known), options.seconds, options.jobs)


def replay(files: list[Path]) -> int:
    """Try saved inputs again, and show how each fails."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    failed = 0
    for path in files:
        try:
            load(owner_of(path))(path.read_bytes())
        except Exception:  # noqa: BLE001  whatever it is, it is to be seen
            failed = 1
            sys.stdout.write(f"{path}\n{traceback.format_exc()}\n")
        else:
            sys.stdout.write(f"{path}: passes\n")
    return failed


# --- all targets ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Running:
    """A target at work."""

    name: str
    process: BaseProcess
    log: Path
    found: int  # inputs that were known to reach something, before
    until: float


def run_all(names: list[str], seconds: float, jobs: int) -> int:
    """Share the time among the targets, print a line for each when it is done; 1 if any failed."""
    from fuzz.target import instrumented  # noqa: PLC0415  it needs atheris, which replaying does not

    # Importing under instrumentation takes a while, and comes on top: once, as the targets are forked from here.
    with contextlib.redirect_stderr(io.StringIO()):  # atheris names every module
        checks = instrumented(names)
    share = max(1, round(seconds * min(jobs, len(names)) / len(names)))
    sys.stdout.write(f"{len(names)} targets, {share} s each, {jobs} at a time\n")
    sys.stdout.write(f"{'target':<28}{'runs':>10}{'runs/s':>9}{'new':>7}{'failures':>10}\n")
    waiting, running, failures = list(names), list[Running](), 0
    with tempfile.TemporaryDirectory() as logs:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                running.append(_start(name, checks[name], share, Path(logs) / name))
            wait([one.process.sentinel for one in running], timeout=1.0)
            for one in [one for one in running if not one.process.is_alive() or time.monotonic() > one.until]:
                running.remove(one)
                failures += _finish(one)
    return int(failures > 0)


def _start(name: str, check: Check, seconds: int, log: Path) -> Running:
    sys.stdout.flush()
    process = multiprocessing.get_context("fork").Process(target=_fuzz, args=(name, check, seconds, log))
    process.start()
    return Running(name, process, log, _count(FOUND / name), time.monotonic() + seconds + PATIENCE)


def _fuzz(name: str, check: Check, seconds: int, log: Path) -> None:
    from fuzz.target import fuzz  # noqa: PLC0415  see above

    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        # libFuzzer stops in the second after its last one.
        fuzz(name, check, [f"-max_total_time={max(1, seconds - 1)}", "-print_final_stats=1"])
    finally:
        # After an exception atheris leaves by SystemExit, and libFuzzer saves the input in an atexit hook of C's, which
        # the end of a forked process would pass over.
        ctypes.CDLL(None).exit(1)


def _finish(one: Running) -> bool:
    """Print what became of a target; whether it failed."""
    hangs = one.process.is_alive()
    if hangs:
        one.process.kill()
    one.process.join()
    failed = hangs or one.process.exitcode != 0
    log = one.log.read_text(encoding="utf-8", errors="replace") if one.log.exists() else ""
    new = max(0, _count(FOUND / one.name) - one.found)
    runs, speed = _stat(log, "number_of_executed_units"), _stat(log, "average_exec_per_sec")
    sys.stdout.write(f"{one.name:<28}{runs:>10}{speed:>9}{new:>7}{failed:>10}\n")
    if failed:
        sys.stdout.write("  it did not come to an end\n" if hangs else _what_failed(log))
    sys.stdout.flush()
    return failed


def _stat(log: str, name: str) -> int:
    """One of libFuzzer's numbers."""
    found = re.search(rf"stat::{name}:\s+(\d+)", log)
    return int(found[1]) if found else 0


def _count(folder: Path) -> int:
    return sum(1 for _ in os.scandir(folder)) if folder.is_dir() else 0


def _what_failed(log: str) -> str:
    """Where a failure came from, and how to see it again."""
    saved = SAVED.search(log)
    if saved is None:
        return f"{log[-4000:]}\n"
    path = Path(saved[1])
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    where = [line.strip() for line in log.splitlines() if line.startswith("  File")]
    what = log.partition("Uncaught Python exception: ===")[2].strip().splitlines()
    return "".join(f"  {line}\n" for line in (*what[:1], *where[-1:], f"python -m fuzz.run {shown}"))


if __name__ == "__main__":
    sys.exit(main())
