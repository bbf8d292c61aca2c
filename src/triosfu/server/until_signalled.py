"""A server that runs until it is told to stop: the first signal asks, the second insists."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import structlog
import trio

from triosfu.server.app import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from triosfu.config import Config
    from triosfu.server.app import Server

log = structlog.get_logger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INSISTED = 130  # the exit code of a process that ends at the second signal


async def run_until_signalled(config: Config, *, on_ready: Callable[[Server], None]) -> None:
    """Serve until SIGINT or SIGTERM; `on_ready` is called once clients can connect. A second signal ends the process.

    Raises:
        ConfigError: A port or an address cannot be had.
    """
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            async with serve(config) as server:
                on_ready(server)
                await anext(signals)
                log.info("stopping", hint="once more to stop at once")
                nursery.start_soon(_insist, signals)
            nursery.cancel_scope.cancel()


async def _insist(signals: AsyncIterator[int]) -> None:
    await anext(signals)
    # Whatever holds up the goodbyes, this does not wait for it: no finally block, no flush.
    os._exit(INSISTED)
