"""A worker process: a server without a port for clients, who come from the front by its control socket."""

from __future__ import annotations

import os
import pickle
import signal
import socket
from typing import TYPE_CHECKING, Final

import trio

from triosfu.cluster.control import Control, ControlClosed
from triosfu.cluster.post import Post
from triosfu.errors import ConfigError
from triosfu.server.app import serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.config import Config

START: Final = 30.0  # seconds for the front to say what is to be served
LOST: Final = 1  # the exit code of a process whose front is gone


async def run_worker(descriptor: int, prepare: Callable[[Config], None]) -> None:
    """Serve what the front says by the socket `descriptor`, until it says stop; `prepare` is told the configuration.

    When the front is gone, this process ends at once, and says goodbye to nobody: clients come back to whatever is
    there instead. Cancelled, it has ended the server as `serve` does.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they are for the front, which tells us
    control = Control(socket.socket(fileno=descriptor))
    try:
        with trio.fail_after(START):
            letter = await control.receive()
        config: Config = pickle.loads(letter.data)  # noqa: S301  from the process that started us
        prepare(config)
        post = Post(control, node_id=letter.text("node_id"))
        async with serve(config, post=post) as server:
            post.ready(server.media_ports)
            if not await post.until_told():
                os._exit(LOST)
    except* ControlClosed:
        os._exit(LOST)
    except* ConfigError as wrong:
        control.tell({"kind": "refused", "reason": str(_leaf(wrong))})
    finally:
        control.close()


def _leaf(group: BaseExceptionGroup[ConfigError]) -> ConfigError:
    inner = group.exceptions[0]
    return _leaf(inner) if isinstance(inner, BaseExceptionGroup) else inner
