"""A client whose process is killed is removed within 20 s, and the others are told.

One whose link goes down, which says even less, is in tests/clients/test_black_hole.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.clients.python_client import Participant, leaving, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.server import RunningServer

WITHIN = 20.0  # seconds


@contextlib.contextmanager
def victim(server: RunningServer, room: str) -> Iterator[subprocess.Popen[str]]:
    """A participant in a process of its own."""
    command = [sys.executable, "-m", "tests.clients.one", server.url, server.token("victim", room)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "joined\n"
            yield process
        finally:
            process.kill()


def test_a_killed_process_is_gone(server: RunningServer) -> None:
    with victim(server, "killed") as process:

        async def watch() -> float:
            bob = Participant("bob")
            async with leaving((bob,)):
                await bob.join(server.url, server.token("bob", "killed"), single=True)
                await until(lambda: bob.video_frames["victim"] > 5, seconds=15, what="the victim's camera")
                struck = time.monotonic()
                process.kill()
                gone = "participant_disconnected"
                await until(lambda: bob.when(gone, "victim") is not None, seconds=WITHIN + 5, what="bob is told")
                return time.monotonic() - struck

        assert asyncio.run(asyncio.wait_for(watch(), 60)) < WITHIN
