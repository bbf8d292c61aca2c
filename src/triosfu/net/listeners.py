"""Listening TCP sockets: opened together, and a task for each connection that is accepted.

for listener in await open_listeners(["127.0.0.1"], 7880):
nursery.start_soon(serve_listener, listener, handler, nursery)
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NoReturn

import structlog
import trio

from triosfu.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

log = structlog.get_logger(__name__)

SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
REST: Final = 0.1  # seconds until a server that has no descriptor left tries again


async def open_listeners(addresses: Sequence[str], port: int, *, key: str = "port") -> list[trio.SocketListener]:
    """Listening sockets on each address; with port 0, the same free port on all. An absent IPv6 is passed over.

    Cancelled, it has left no socket open.

    Raises:
        ConfigError: A port is taken, which `key` of the configuration has chosen, or an address is not ours.
    """
    listeners: list[trio.SocketListener] = []
    try:
        for address in addresses:
            try:
                opened = await trio.open_tcp_listeners(port, host=address)
            except OSError as error:
                if ":" in address and error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT} and len(addresses) > 1:
                    continue
                blamed = key if error.errno in {errno.EADDRINUSE, errno.EACCES} else "bind_addresses"
                raise ConfigError(f"{blamed}: cannot listen on {address} port {port}: {error.strerror}") from None
            listeners += opened
            port = opened[0].socket.getsockname()[1]
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    if not listeners:
        raise ConfigError("bind_addresses: none of them can be listened on")
    return listeners


async def serve_listener(
    listener: trio.abc.Listener[trio.SocketStream],
    handler: Callable[[trio.SocketStream], Awaitable[None]],
    nursery: trio.Nursery,
) -> NoReturn:
    """Have `handler` called in a task of `nursery` with each connection of `listener`, which it has to close.

    As `trio.serve_listeners` does, whose own way to make sure that a connection is closed costs each of them two turns
    of the event loop. Cancelled, it has closed the listener; connections are their tasks' business.
    """
    async with listener:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in SCARCE:
                    raise
                log.warning("accept failed", error=error.strerror)
                await trio.sleep(REST)
            else:
                nursery.start_soon(handler, stream)
