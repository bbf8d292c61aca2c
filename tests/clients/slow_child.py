"""Clients that do not read, or slowly.

Usage: python -m tests.clients.slow_child window|signals|drains URL ROOM IDENTITY [dual]

`drains`: a peer whose application takes a MiB of messages a second, and tells the number of each.
`window`: a peer whose application takes nothing, so that its SCTP window is closed, while ICE and signalling live on.
`signals`: somebody who joins and then never reads the WebSocket.
"""

from __future__ import annotations

import socket
import sys
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio
from livekit.protocol import models

from tests.clients.child import tell
from tests.clients.crowd_child import Elsewhere
from tests.support.client import join
from triosfu.sctp.inbound import Inbound

if TYPE_CHECKING:
    from triosfu.sctp.wire import Data, IData, Sack

DRAINED = 1 << 20  # bytes a second
TURN = 0.02  # seconds
RECEIVE_BUFFER = 4096  # bytes, of a socket that nobody reads
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class NeverDrained(Inbound):
    """The receive buffer of an application that takes nothing: full, so nothing more fits."""

    __slots__ = ()

    def receive(self, chunk: Data | IData) -> None:
        """Refuse it, and say how things are."""
        del chunk
        self.dropped += 1
        self.sack_now = True

    def sack(self) -> Sack:
        """What had arrived before, and no room."""
        return replace(super().sack(), a_rwnd=0)


async def close_window(server: Elsewhere, room: str, identity: str, *, single: bool) -> None:
    """Join, then close the window."""
    async with join(server.server, identity, room=room, single=single) as client:
        await client.ready()
        inbound = client.subscriber.peer._data._association._connection.inbound
        assert inbound is not None
        inbound.__class__ = NeverDrained
        tell("slow")
        await client.until(lambda: client.gone, within=3600)
        tell("over")


async def drain(server: Elsewhere, room: str, identity: str, *, single: bool) -> None:
    """Take messages at that speed; the window is smaller by what waits."""
    async with join(server.server, identity, room=room, single=single) as client:
        await client.ready()
        tell("slow")
        messages, peer, untaken, allowed = client.subscriber.messages, client.subscriber.peer, 0, 0.0
        while not client.gone:
            await trio.sleep(TURN)
            allowed = min(allowed + DRAINED * TURN, float(DRAINED))
            while messages and len(messages[0][1]) <= allowed:
                _, message, _ = messages.pop(0)
                allowed -= len(message)
                tell("taken", number=int.from_bytes(models.DataPacket.FromString(message).user.payload[:4], "big"))
            if (waiting := sum(len(message) for _, message, _ in messages)) != untaken:
                untaken = waiting
                peer.withhold(untaken)


def read_no_signals(server: Elsewhere, room: str, identity: str) -> None:
    """Join, then do nothing."""
    token = server.create_token(identity=identity, room=room)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        connection.connect((server.host, server.port))
        target = f"/rtc?protocol=17&sdk=go&auto_subscribe=1&access_token={token}"
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n{UPGRADE.format(key=KEY)}\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 101"
        tell("slow")
        time.sleep(3600)


def main(kind: str, url: str, room: str, identity: str, mode: str = "single") -> None:
    """Be slow until killed."""
    if kind in {"window", "drains"}:
        be_slow = partial(close_window if kind == "window" else drain, single=mode == "single")
        trio.run(be_slow, Elsewhere(url), room, identity)
    else:
        read_no_signals(Elsewhere(url), room, identity)


if __name__ == "__main__":
    main(*sys.argv[1:])
