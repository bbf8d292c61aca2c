"""Runs the checks on inputs that nobody wrote: `python -m fuzz.run --minutes 1 [check_stun ...]`; see docs/fuzzing.md.

The loop mutates what is known, and keeps what reaches a line that nothing reached before.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import inspect
import logging
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import structlog

import triosfu
from fuzz import checks
from fuzz.seeds import seeds

if TYPE_CHECKING:
    from types import CodeType, FrameType

Check: TypeAlias = Callable[[bytes], None]
Trace: TypeAlias = Callable[..., Any]  # as `sys.settrace` knows it

CRASHES = Path(__file__).parent / "crashes"
PACKAGE = str(Path(triosfu.__file__).parent)
MAX_SIZE = 8192  # bytes of one input
HANGS = 10.0  # seconds that one input may take
INTERESTING = (0, 1, 2, 3, 4, 7, 8, 0x10, 0x20, 0x7F, 0x80, 0xC0, 0xFE, 0xFF)


@dataclass(slots=True)
class Result:
    """What became of one check."""

    name: str
    runs: int = 0
    failures: dict[str, Path] = field(default_factory=dict)  # by the error and the place that it came from


class Hang(Exception):
    """An input took too long."""


def all_checks() -> dict[str, Check]:
    """Every `check_*` of the package `fuzz.checks` that can be called with bytes alone, by name."""
    found = {}
    for module in pkgutil.iter_modules(checks.__path__):
        for name, check in vars(importlib.import_module(f"{checks.__name__}.{module.name}")).items():
            if name.startswith("check_") and callable(check):
                first, *others = inspect.signature(check).parameters.values()
                if first.annotation == "bytes" and all(other.default is not other.empty for other in others):
                    found[name] = check
    return dict(sorted(found.items()))


def main(argv: list[str] | None = None) -> int:
    """Run checks for a while, or saved inputs once; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.run", description=__doc__)
    parser.add_argument("what", nargs="*", help="checks, or saved inputs to try again; all checks if nothing is named")
    parser.add_argument("--minutes", type=float, default=1.0, help="for all checks together")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="of the mutations")
    options = parser.parse_args(argv)
    # The checks make the code log what it should log; here it would only hide the table.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    known = all_checks()
    files = [Path(name) for name in options.what if name not in known]
    if missing := [str(path) for path in files if not path.is_file() or owner_of(path) not in known]:
        parser.error(f"neither a check nor an input of one: {', '.join(missing)}")
    if files:
        return replay(files, known)
    names = options.what or list(known)
    share = options.minutes * 60 / len(names)
    sys.stdout.write(f"{len(names)} checks, {share:.1f} s each, --seed {options.seed}\n")
    sys.stdout.write(f"{'check':<32}{'runs':>10}{'failures':>10}\n")
    failed = False
    for name in names:
        result = fuzz(known[name], name, share, Random(options.seed))
        failed |= bool(result.failures)
        sys.stdout.write(f"{name:<32}{result.runs:>10}{len(result.failures):>10}\n")
        for what, path in result.failures.items():
            sys.stdout.write(f"  {what}\n  python -m fuzz.run {path}\n")
        sys.stdout.flush()
    return int(failed)


def replay(files: list[Path], known: dict[str, Check]) -> int:
    """Try saved inputs again, and show how each fails."""
    failed = 0
    for path in files:
        try:
            known[owner_of(path)](path.read_bytes())
        except Exception:  # noqa: BLE001  whatever it is, it is to be seen
            failed = 1
            sys.stdout.write(f"{path}\n{traceback.format_exc()}\n")
        else:
            sys.stdout.write(f"{path}: passes\n")
    return failed


def owner_of(path: Path) -> str:
    """The check that a saved input belongs to."""
    return path.name.partition("-")[0]


# --- our own loop --------------------------------------------------------------------------------------------------


def fuzz(check: Check, name: str, seconds: float, rng: Random, crashes: Path = CRASHES) -> Result:
    """Run `check` for so long; what it fails on is saved."""
    result = Result(name)
    corpus = seeds(name)
    coverage = Coverage()
    until = time.monotonic() + seconds
    previous = signal.signal(signal.SIGALRM, _hang)
    try:
        while time.monotonic() < until:
            data = corpus[result.runs] if result.runs < len(corpus) else mutate(rng, corpus)
            coverage.fresh = False
            signal.setitimer(signal.ITIMER_REAL, HANGS)
            try:
                with coverage:
                    check(data)
            except Exception as error:  # noqa: BLE001  that is what is looked for
                where = _place(error)
                if where not in result.failures:
                    result.failures[where] = save(name, data, crashes)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if coverage.fresh and result.runs >= len(corpus):
                corpus.append(data)
            result.runs += 1
    finally:
        signal.signal(signal.SIGALRM, previous)
        coverage.close()
    return result


def mutate(rng: Random, corpus: list[bytes]) -> bytes:
    """One of the inputs, changed in one to eight places; the newest, which found something, are taken more often."""
    newest = corpus[-8:]
    data = bytearray(rng.choice(newest if rng.random() < 0.3 else corpus))
    for _ in range(1 << rng.randrange(4)):
        at = rng.randrange(len(data) + 1)
        size = min(1 << rng.randrange(8), len(data) - at)
        kind = rng.randrange(8)
        if kind == 0:
            data[at:at] = rng.randbytes(1 + rng.randrange(8))
        elif kind == 1:
            del data[at : at + size]
        elif kind == 2:
            data[at:at] = data[at : at + size]
        elif kind == 3:
            other = rng.choice(corpus)
            start = rng.randrange(len(other) + 1)
            data[at : at + size] = other[start : start + (1 << rng.randrange(8))]
        elif kind == 4:
            wide = rng.choice((2, 4))
            data[at : at + wide] = rng.choice((0, 1, len(data), 2 ** (8 * wide) - 1)).to_bytes(wide, "big")
        elif at < len(data):
            change = (rng.choice(INTERESTING), data[at] ^ 1 << rng.randrange(8), rng.randrange(256))
            data[at] = change[kind - 5]
    return bytes(data[:MAX_SIZE])


def save(name: str, data: bytes, crashes: Path) -> Path:
    """Keep an input; the path, from here if it can be."""
    crashes.mkdir(parents=True, exist_ok=True)
    path = crashes / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


class Coverage:
    """Sees which lines of the package are reached: `fresh` says that one was for the first time."""

    def __init__(self) -> None:
        self.fresh = False
        self._seen: set[tuple[CodeType, int]] = set()
        # From Python 3.12 on, each line can be told of once, and costs nothing from then on.
        self._monitoring = getattr(sys, "monitoring", None)
        if self._monitoring is not None:
            tool = self._monitoring.COVERAGE_ID
            self._monitoring.use_tool_id(tool, "fuzz")
            self._monitoring.register_callback(tool, self._monitoring.events.LINE, self._line)
            self._monitoring.restart_events()

    def __enter__(self) -> None:
        if self._monitoring is None:
            sys.settrace(self._call)
        else:
            self._monitoring.set_events(self._monitoring.COVERAGE_ID, self._monitoring.events.LINE)

    def __exit__(self, *_: object) -> None:
        if self._monitoring is None:
            sys.settrace(None)
        else:
            self._monitoring.set_events(self._monitoring.COVERAGE_ID, 0)

    def close(self) -> None:
        """Give the interpreter's tool back."""
        if self._monitoring is not None:
            self._monitoring.free_tool_id(self._monitoring.COVERAGE_ID)

    def _line(self, code: CodeType, _: int) -> object:
        if code.co_filename.startswith(PACKAGE):
            self.fresh = True
        return self._monitoring.DISABLE if self._monitoring is not None else None

    def _call(self, frame: FrameType, _event: str, _argument: object) -> Trace | None:
        return self._trace if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _trace(self, frame: FrameType, _event: str, _argument: object) -> Trace:
        line = frame.f_code, frame.f_lineno
        if line not in self._seen:
            self._seen.add(line)
            self.fresh = True
        return self._trace


def _hang(_number: int, _frame: object) -> NoReturn:
    raise Hang(f"took more than {HANGS:g} s")


def _place(error: Exception) -> str:
    """The kind of an error and the line that it came from."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"


if __name__ == "__main__":
    sys.exit(main())
