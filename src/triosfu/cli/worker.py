"""`python -m triosfu.cli.worker DESCRIPTOR`: a worker process. `triosfu run --workers` starts it, and nobody else."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from triosfu import logs
from triosfu.cli.allocator import give_large_blocks_back
from triosfu.cli.collector import Collector
from triosfu.server.worker import run_worker

if TYPE_CHECKING:
    from triosfu.config import Config

COMMAND: Final = (sys.executable, "-m", "triosfu.cli.worker")


def prepare(config: Config) -> None:
    """What the command line does before it serves."""
    give_large_blocks_back()
    logs.configure(level=config.logging.level, json=config.logging.json, for_good=True)


if __name__ == "__main__":
    trio.run(partial(run_worker, int(sys.argv[1]), prepare), instruments=[Collector()])
