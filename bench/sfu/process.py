"""A server's process: begun, looked at, and gone at the end of the run, however that ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench.sfu.peer import Ended

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE = os.sysconf("SC_PAGE_SIZE")
PR_SET_PDEATHSIG = 1
PATIENCE = 10.0  # seconds for a server to end by itself
A_MOMENT = 0.5  # seconds in which it is seen that a server has ended

libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Use:
    """What a server has used until now."""

    cpu: float  # seconds, of all its threads and processes
    resident: int  # bytes

    @classmethod
    def of(cls, pid: int) -> Self:
        """Of the process `pid` and those it has started."""
        cpu = resident = 0
        for process in _family(pid):
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{process}/task").iterdir():
                    with contextlib.suppress(OSError):
                        cpu += int((task / "schedstat").read_text(encoding="ascii").split()[0])
                resident += int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * PAGE
        return cls(cpu / 1e9, resident)


def _family(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                with contextlib.suppress(OSError):
                    found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def _die_with_us() -> None:
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, *, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server that runs within the block, in a group of its own; its output goes to `log`.

    At the end it is asked to go (SIGINT), and after a while killed with all that it has started. If this process is
    killed, the kernel kills the server.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=_die_with_us,  # noqa: PLW1509  no thread runs in this process
            env={**os.environ, **environment},
        )  # fmt: skip
    try:
        yield process
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=PATIENCE)
    except Exception as error:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=A_MOMENT)
            # Whatever the clients have noticed first, this is why.
            raise Ended(f"the server has ended with exit code {process.returncode}:\n{tail(log)}") from error
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tail(log: Path) -> str:
    """The end of what a server has said."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
