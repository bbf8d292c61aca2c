"""What an attendee has whatever the server speaks: a WebSocket, and peer connections to watch and to publish with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, TypeVar
from urllib.parse import urlsplit

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

from bench.sfu.feedback import Feedback
from bench.sfu.peer import PATIENCE, End, Ended, Waiting, first_of
from bench.sfu.playing import Outgoing
from triosfu.net.udp import UdpMux

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bench.sfu.counting import CountingSocket

    P = TypeVar("P", bound="Presence")

QUEUED = 100  # messages of the server that nobody has read yet


class Presence(Waiting, ABC):
    """Somebody who is connected to `url` and says what the protocol at hand wants to hear."""

    rids: ClassVar[bool]  # whether the streams of a track are told by rids
    subprotocols: ClassVar[Sequence[str]] = ()
    keep_alive_every: ClassVar[float]  # seconds

    def __init__(self, identity: str, url: str, resource: str) -> None:
        super().__init__(identity)
        self._url, self._resource = urlsplit(url), resource
        self._signal: WebSocketConnection | None = None
        self._subscriber: End | None = None
        self._way: Outgoing | None = None

    def begin(self, subscriber: End, publisher: End | None) -> None:
        """Take the peer connections."""
        self._subscriber = subscriber
        self._way = None if publisher is None else Outgoing(publisher, rids=self.rids)

    @property
    def subscriber(self) -> End:
        """The peer connection to watch with."""
        assert self._subscriber is not None, "before it has begun"
        return self._subscriber

    @property
    def publishes(self) -> bool:
        """Whether there is a peer connection to publish with."""
        return self._way is not None

    @property
    def way(self) -> Outgoing:
        """Where its packets leave."""
        assert self._way is not None, "only some publish"
        return self._way

    @property
    def publisher(self) -> End:
        """The peer connection to publish with."""
        return self.way.end

    @abstractmethod
    async def arrive(self) -> None:
        """Join, until all is up that one has who publishes and watches nothing."""

    @abstractmethod
    async def handle(self, frame: bytes | str) -> None:
        """Act on a message of the server."""

    @abstractmethod
    async def keep_alive(self) -> None:
        """Say that this one is still there."""

    async def connected(self) -> None:
        """Wait until messages can be sent."""
        await self.until(lambda: self._signal, "signalling")

    async def send(self, frame: bytes | str) -> None:
        """Send a message.

        Raises:
            Ended: The server has ended it.
        """
        await self.connected()
        assert self._signal is not None
        try:
            await self._signal.send_message(frame)
        except ConnectionClosed as closed:
            raise Ended(f"{self.identity}: signalling ended: {closed!r}") from None

    async def converse(self) -> None:
        """Connect, and act on what the server says until cancelled.

        Raises:
            Ended: The server has ended it; in a group.
        """
        host, port = self._url.hostname or "", self._url.port or 80
        try:
            with trio.fail_after(PATIENCE):
                stream = await trio.open_tcp_stream(host, port)
            async with stream, trio.open_nursery() as nursery:
                with trio.fail_after(PATIENCE):
                    self._signal = await wrap_client_stream(
                        nursery, stream, f"{host}:{port}", self._resource, subprotocols=self.subprotocols,
                        message_queue_size=QUEUED,
                    )  # fmt: skip
                self.tell()
                nursery.start_soon(self._keep_alive)
                while True:
                    await self.handle(await self._signal.get_message())
                    self.tell()
        except* (OSError, trio.TooSlowError, HandshakeError, ConnectionClosed) as group:
            raise Ended(f"{self.identity}: signalling ended: {first_of(group)!r}") from None

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(self.keep_alive_every)
            await self.keep_alive()


@asynccontextmanager
async def present(somebody: P, *, sock: CountingSocket, publishes: bool, feedback: bool) -> AsyncIterator[P]:
    """Have somebody there until the end of the block; what comes to them comes to `sock`."""
    async with AsyncExitStack() as stack:
        mux = UdpMux([sock], batched=False, wait_readable=sock.readable)
        await stack.enter_async_context(mux.served())
        subscriber = End(f"{somebody.identity}'s subscriber", mux, offerer=False, owner=somebody, message=sock.take)
        publisher = None
        if publishes:
            other = await stack.enter_async_context(UdpMux.open([sock.host], 0))
            publisher = End(f"{somebody.identity}'s publisher", other, offerer=True, owner=somebody)
        somebody.begin(subscriber, publisher)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscriber.run)
            if publisher is not None:
                nursery.start_soon(publisher.run)
            nursery.start_soon(somebody.converse)
            await somebody.arrive()
            sock.attach(subscriber, Feedback(subscriber, sock, tells=feedback))
            yield somebody
            sock.detach()
            nursery.cancel_scope.cancel()
