"""A server that runs until it is told to stop: the first signal asks, the second insists."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import structlog
import trio

from triosfu.errors import ConfigError
from triosfu.server.admin import default_socket_path, open_admin_socket, serve_admin
from triosfu.server.app import serve
from triosfu.server.front import Front, serve_front

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Sequence

    from triosfu.config import Config
    from triosfu.server.app import Server

log = structlog.get_logger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INSISTED = 130  # the exit code of a process that ends at the second signal


async def run_until_signalled(
    config: Config,
    *,
    on_ready: Callable[[Server | Front], None],
    worker: Sequence[str] = (),
    admin_socket: Path | Literal["default"] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; `on_ready` is called once clients can connect. A second signal ends the process.

    `worker` is the command that starts a worker process, where the configuration wants several.

    The live tree of tasks is served at `admin_socket`, from before the first answer to a client until after the
    goodbyes. The default place is not worth a start that fails: there may be no socket then, and a warning. Cancelled,
    it has ended the server as `serve` does, and removed the socket.

    Raises:
        ConfigError: A port, an address or the given `admin_socket` cannot be had.
    """
    with trio.open_signal_receiver(*SIGNALS) as signals, ExitStack() as stack:
        async with trio.open_nursery() as nursery:

            def begin(server: Server | Front) -> None:
                if (listener := _open(admin_socket, server.port, stack)) is not None:
                    others = server.trees if isinstance(server, Front) else None
                    nursery.start_soon(partial(serve_admin, listener, others=others), name="admin")

            several = config.workers > 1
            serving = serve_front(config, worker, before=begin) if several else serve(config, before=begin)
            async with serving as server:
                on_ready(server)
                await anext(signals)
                log.info("stopping", hint="once more to stop at once")
                nursery.start_soon(_insist, signals)
            nursery.cancel_scope.cancel()


def _open(place: Path | Literal["default"] | None, port: int, stack: ExitStack) -> socket.socket | None:
    if isinstance(place, Path):
        return stack.enter_context(open_admin_socket(place))
    if place is None:
        return None
    try:
        return stack.enter_context(open_admin_socket(default_socket_path(port)))
    except ConfigError as error:
        log.warning("admin.no_socket", reason=str(error))
        return None


async def _insist(signals: AsyncIterator[int]) -> None:
    await anext(signals)
    # Whatever holds up the goodbyes, this does not wait for it: no finally block, no flush.
    os._exit(INSISTED)
