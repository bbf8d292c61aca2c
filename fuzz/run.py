"""Runs the checks on inputs that nobody wrote: `python -m fuzz.run [--seconds 60] [check_stun ...]`.

With the names of saved inputs instead, tries these again. See docs/fuzzing.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import re
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from fuzz.catalogue import FOUND, catalogue, load, owner_of

AT_A_TIME = 2  # targets, a process each
SAVED = re.compile(r"Test unit written to (\S+)")


@dataclass(slots=True)
class Result:
    """What became of one target."""

    name: str
    log: str
    failed: bool
    new: int  # inputs that reached something new

    def stat(self, name: str) -> int:
        """One of libFuzzer's numbers."""
        found = re.search(rf"stat::{name}:\s+(\d+)", self.log)
        return int(found[1]) if found else 0


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
        parser.error("atheris is not installed: pip install -e '.[fuzz]' (CPython 3.11 to 3.13)")
    names = options.what or list(known)
    share = options.seconds * min(options.jobs, len(names)) / len(names)
    sys.stdout.write(f"{len(names)} targets, {share:.1f} s each, {options.jobs} at a time\n")
    sys.stdout.write(f"{'target':<28}{'runs':>10}{'runs/s':>9}{'new':>7}{'failures':>10}\n")
    return int(trio.run(run_all, names, share, options.jobs))


async def run_all(names: list[str], seconds: float, jobs: int) -> bool:
    """Run each target for so long, print a line when it is done; whether any failed."""
    turn = trio.CapacityLimiter(jobs)
    failed = False

    async def one(name: str) -> None:
        nonlocal failed
        async with turn:
            result = await run(name, seconds)
        failed |= result.failed
        runs, speed = result.stat("number_of_executed_units"), result.stat("average_exec_per_sec")
        sys.stdout.write(f"{name:<28}{runs:>10}{speed:>9}{result.new:>7}{result.failed:>10}\n")
        if result.failed:
            sys.stdout.write(_what_failed(result))
        sys.stdout.flush()

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(one, name)
    return failed


async def run(name: str, seconds: float) -> Result:
    """Fuzz one target in a process of its own."""
    found = FOUND / name
    before = _count(found)
    command = [sys.executable, "-m", "fuzz.target", name, f"--seconds={seconds}", "-print_final_stats=1"]
    with trio.move_on_after(seconds + 60) as patience:
        done = await trio.run_process(
            command, check=False, capture_stdout=False, stdout=subprocess.DEVNULL, capture_stderr=True
        )
        log = done.stderr.decode(errors="replace")
        return Result(name, log, done.returncode != 0, _count(found) - before)
    assert patience.cancelled_caught
    return Result(name, "the process did not come to an end", failed=True, new=_count(found) - before)


def _count(folder: Path) -> int:
    return sum(1 for _ in os.scandir(folder)) if folder.is_dir() else 0


def _what_failed(result: Result) -> str:
    """What to tell of a failure: where it came from, and how to see it again."""
    saved = SAVED.search(result.log)
    if saved is None:
        return result.log[-4000:] + "\n"
    path = Path(saved[1])
    where = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    errors = [line for line in result.log.splitlines() if line.startswith(("Traceback", "  File", "ALARM", "=="))]
    last = result.log.partition("Uncaught Python exception: ===")[2].strip().splitlines()[:1]
    return "".join(f"  {line}\n" for line in (*last, *errors[-1:], f"python -m fuzz.run {where}"))


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


if __name__ == "__main__":
    sys.exit(main())
