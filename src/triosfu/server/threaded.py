"""A server in a thread of its own, for programs that do not run trio: asyncio tests, notebooks, scripts.

    with serve_in_thread(load_config(development=True)) as server:
        print(server.url, server.create_token(identity="alice", room="demo"))

Leaving the block ends the server as `triosfu.serve` does, and joins the thread.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from triosfu.server.app import GRACE, Server, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triosfu.config import Config

START_TIMEOUT = 10.0  # seconds
STOP_MARGIN = 5.0  # seconds beyond the grace in which the thread must have ended


@contextmanager
def serve_in_thread(config: Config, *, grace: float = GRACE) -> Iterator[Server]:
    """Serve in a thread until the block is left. The server may be asked for its URL and tokens from any thread.

    Raises:
        ConfigError: A port or an address cannot be had.
        TimeoutError: The server did not start within ten seconds, or did not end in time.
    """
    started: Future[tuple[Server, trio.Event]] = Future()
    ended: Future[None] = Future()

    async def main() -> None:
        async with serve(config, grace=grace) as server:
            stop = trio.Event()
            started.set_result((server, stop))
            await stop.wait()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:  # noqa: BLE001  it is raised again where the block is entered or left
            (ended if started.done() else started).set_exception(error)
        else:
            ended.set_result(None)

    thread = threading.Thread(target=run, name="triosfu", daemon=True)
    thread.start()
    server, stop = started.result(timeout=START_TIMEOUT)
    try:
        yield server
    finally:
        if not ended.done():
            server.trio_token.run_sync_soon(stop.set)
        ended.result(timeout=grace + STOP_MARGIN)
        thread.join(timeout=STOP_MARGIN)
