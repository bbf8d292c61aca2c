"""A server without configuration or command line, and clients that speak signalling, and peer connections, to it."""

from __future__ import annotations

import base64
import gzip
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import quote, urlencode

import trio
from google.protobuf import json_format
from livekit.protocol import models, rtc
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from triosfu import tokens
from triosfu.dtls.certificate import Certificate
from triosfu.net.http import serve_http
from triosfu.net.listeners import open_listeners
from triosfu.net.udp import UdpMux
from triosfu.peer import PeerConnection, PeerSettings, PeerState
from triosfu.rooms.directory import Rooms
from triosfu.rooms.joining import Services
from triosfu.rooms.settings import RoomSettings
from triosfu.sdp.policy import MediaPolicy
from triosfu.signalling.routes import Signalling, token_refresher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from triosfu.peer import DataChannel
    from triosfu.rooms.listener import RoomListener
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.room import Room
    from triosfu.sdp.sections import Section

Message: TypeAlias = Any  # one of the protocol's, of which a test knows which
KEYS = {"devkey": "secret"}
LIMIT = 10.0  # seconds; reached only by a failing test
CORPUS = Path(__file__).parent.parent / "sdp" / "corpus"

certificate = cache(Certificate.generate)


def offer_of(name: str) -> str:
    """A real client's offer."""
    return (CORPUS / f"{name}.sdp").read_bytes().decode().replace("\r\n", "\n").replace("\n", "\r\n")


def join_request(*, compressed: bool = True, **fields: Any) -> str:  # noqa: ANN401  protobuf fields
    """The query of a session with one peer connection."""
    body = rtc.JoinRequest(**fields).SerializeToString()
    gzipped = rtc.WrappedJoinRequest.Compression.GZIP
    wrapped = rtc.WrappedJoinRequest(
        compression=gzipped if compressed else rtc.WrappedJoinRequest.Compression.NONE,
        join_request=gzip.compress(body, mtime=0) if compressed else body,
    )
    return "join_request=" + quote(base64.urlsafe_b64encode(wrapped.SerializeToString()), safe="")


@dataclass(eq=False)
class World:
    """The server's side of a test."""

    port: int
    rooms: Rooms
    signalling: Signalling
    mux: UdpMux
    nursery: trio.Nursery

    def token(
        self,
        identity: str = "alice",
        room: str = "room",
        *,
        ttl: float = 600,
        key: str = "devkey",
        **grants: Any,  # noqa: ANN401  protobuf fields
    ) -> str:
        claims = {
            name: grants.pop(name)
            for name in ("name", "kind", "metadata", "attributes", "room_config", "room_preset")
            if name in grants
        }
        video = tokens.VideoGrant(**{"room_join": True, "room": room, **grants})
        return tokens.create_token(
            key, KEYS.get(key, "?"), now=time.time(), identity=identity, ttl=ttl, video=video, **claims
        )

    async def get(self, target: str, token: str | None = None, *headers: str) -> tuple[int, dict[str, str], str]:
        """The answer to a plain GET."""
        lines = [f"GET {target} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *(headers or ["Connection: close"])]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        with trio.fail_after(LIMIT):
            async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
                await stream.send_all("\r\n".join([*lines, "", ""]).encode())
                data = b""
                while more := await stream.receive_some(65536):
                    data += more
        head, _, body = data.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        found = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in fields)}
        return int(status.split()[1]), found, body.decode()

    async def refusal(self, target: str, token: str | None) -> tuple[int, str]:
        """Status and text that a WebSocket handshake is refused with."""
        upgrade = ("Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
        key = base64.b64encode(bytes(16)).decode()
        status, _, text = await self.get(target, token, *upgrade, f"Sec-WebSocket-Key: {key}")
        return status, text

    @asynccontextmanager
    async def connect(
        self, identity: str = "alice", *, path: str = "/rtc", query: str = "protocol=17&sdk=js", text: bool = False,
        token: str | None = None, **grants: Any,  # noqa: ANN401  protobuf fields
    ) -> AsyncIterator[Client]:  # fmt: skip
        """A client whose socket is open; it vanishes without a word at the end of the block."""
        token = self.token(identity, **grants) if token is None else token
        target = f"{path}?{query}&{urlencode({'access_token': token})}"
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream, trio.open_nursery() as nursery:
            socket = await wrap_client_stream(
                nursery, stream, "127.0.0.1", target, max_message_size=4 << 20, message_queue_size=100
            )
            yield Client(self, socket, text=text)
            nursery.cancel_scope.cancel()

    def room(self, name: str = "room") -> Room:
        found = self.rooms.find(name)
        assert found is not None
        return found

    def participant(self, identity: str = "alice") -> Participant:
        return self.room().participants[identity]

    async def gone(self, identity: str) -> None:
        """Wait until the participant is."""
        with trio.fail_after(LIMIT):
            while identity in self.room().participants:
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def running(
    settings: RoomSettings | None = None, listeners: tuple[RoomListener, ...] = ()
) -> AsyncIterator[World]:
    """A server on free ports of the loopback interface."""
    rng = Random(4)
    with trio.fail_after(60):
        async with UdpMux.open(["127.0.0.1"], 0) as mux, trio.open_nursery() as nursery:
            peers = partial(
                PeerConnection,
                mux=mux,
                certificate=certificate(),
                policy=MediaPolicy(),
                rng=rng,
                settings=PeerSettings(),
            )
            services = Services(
                peers=peers, rng=rng, settings=settings or RoomSettings(), refresh_token=token_refresher(KEYS),
                listeners=listeners,
            )  # fmt: skip
            rooms = Rooms(services)
            signalling = Signalling(rooms, KEYS)
            sockets = await open_listeners(["127.0.0.1"], 0)
            await nursery.start(rooms.run)
            await nursery.start(serve_http, sockets, signalling.respond)
            yield World(sockets[0].socket.getsockname()[1], rooms, signalling, mux, nursery)
            assert sum(room.counters["bugs"] for room in rooms) == rooms.counters["bugs"] == 0
            nursery.cancel_scope.cancel()


class Client:
    """One signalling connection, read in order; what a test skips over is kept in `skipped`."""

    def __init__(self, world: World, socket: WebSocketConnection, *, text: bool = False) -> None:
        self.world = world
        self.skipped: list[rtc.SignalResponse] = []
        self.heard: list[rtc.SignalResponse] = []  # and all of it
        self.text = text
        self._socket = socket

    async def send(self, **request: Any) -> None:  # noqa: ANN401  protobuf fields
        message = rtc.SignalRequest(**request)
        await self._socket.send_message(
            json_format.MessageToJson(message) if self.text else message.SerializeToString()
        )

    async def send_raw(self, frame: str | bytes) -> None:
        await self._socket.send_message(frame)

    async def receive(self) -> rtc.SignalResponse:
        with trio.fail_after(LIMIT):
            frame = await self._socket.get_message()
        assert isinstance(frame, str) == self.text
        if isinstance(frame, str):
            message = json_format.Parse(frame, rtc.SignalResponse())
        else:
            message = rtc.SignalResponse.FromString(frame)
        self.heard.append(message)
        return message

    async def expect(self, kind: str, condition: Callable[[Message], bool] = lambda _: True) -> Message:
        """The next message of this kind (and content)."""
        with trio.fail_after(LIMIT):
            while True:
                message = await self.receive()
                if message.WhichOneof("message") == kind and condition(getattr(message, kind)):
                    return getattr(message, kind)
                self.skipped.append(message)

    async def expect_participant(self, identity: str, condition: Callable[[Message], bool] = lambda _: True) -> Message:
        """The next news of a participant."""

        def about(update: rtc.ParticipantUpdate) -> bool:
            return any(one.identity == identity and condition(one) for one in update.participants)

        update = await self.expect("update", about)
        return next(one for one in update.participants if one.identity == identity and condition(one))

    async def until_closed(self) -> int:
        """Read to the end; the close code."""
        with trio.fail_after(LIMIT):
            while True:
                try:
                    self.skipped.append(await self.receive())
                except ConnectionClosed as closed:
                    return closed.reason.code if closed.reason else 1006

    async def nothing_of(self, kind: str) -> None:
        """Show that no message of this kind is on its way: a ping's answer comes first."""
        await self.send(ping_req=rtc.Ping(timestamp=1))
        await self.expect("pong_resp")
        assert all(message.WhichOneof("message") != kind for message in self.skipped)

    def seen(self, kind: str) -> list[Any]:
        return [getattr(message, kind) for message in self.skipped if message.WhichOneof("message") == kind]


@dataclass(eq=False)
class Transport:
    """A client's peer connection, made of the same stuff as the server's."""

    label: str
    peer: PeerConnection = field(init=False)
    channels: dict[str, DataChannel] = field(default_factory=dict)
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    strings: int = 0  # of the messages, those that were not binary (trap 34)
    sections: list[Section] = field(default_factory=list)
    state: PeerState = PeerState.NEW
    _news: trio.Event = field(default_factory=trio.Event)

    async def until(self, condition: Callable[[Self], bool]) -> None:
        with trio.fail_after(LIMIT):
            while not condition(self):
                await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def peer_state_changed(self, peer: PeerConnection, state: PeerState, reason: str) -> None:
        self.state = state
        self._tell()

    def peer_incoming_track(self, peer: PeerConnection, section: Section) -> None:
        self.sections.append(section)
        self._tell()

    def peer_incoming_ended(self, peer: PeerConnection, section: Section) -> None:
        self._tell()

    def peer_channel_opened(self, peer: PeerConnection, channel: DataChannel) -> None:
        self.channels[channel.label] = channel
        self._tell()

    def peer_channel_closed(self, peer: PeerConnection, channel: DataChannel, reason: str) -> None:
        self._tell()

    def peer_message(self, peer: PeerConnection, channel: DataChannel, data: bytes, binary: bool) -> None:
        self.strings += not binary
        self.messages.append((channel.label, data))
        self._tell()

    def packets(self, label: str = "_reliable") -> list[models.DataPacket]:
        return [models.DataPacket.FromString(data) for channel, data in self.messages if channel == label]


class DualClient:
    """A client with two peer connections, such as the Go SDK's: the client offers on one, the server on the other."""

    def __init__(self, client: Client, nursery: trio.Nursery, muxes: tuple[UdpMux, UdpMux]) -> None:
        self.client = client
        self.publisher, self.subscriber = Transport("pub"), Transport("sub")
        rng = SystemRandom()  # two sessions of one identity must differ
        for side, offerer, mux in ((self.publisher, True, muxes[0]), (self.subscriber, False, muxes[1])):
            side.peer = PeerConnection(
                name=side.label, mux=mux, certificate=certificate(), handler=side, policy=MediaPolicy(),
                single=False, offerer=offerer, rng=rng,
            )  # fmt: skip
            nursery.start_soon(side.peer.run)
        self.join: rtc.JoinResponse = rtc.JoinResponse()

    async def take_offer(self) -> rtc.SessionDescription:
        """Answer the next offer of the server."""
        offer: rtc.SessionDescription = await self.client.expect("offer")
        self.subscriber.peer.accept_offer(offer.sdp)
        answer = rtc.SessionDescription(type="answer", sdp=self.subscriber.peer.create_answer(), id=offer.id)
        await self.client.send(answer=answer)
        return offer

    async def offer(self, number: int = 1) -> rtc.SessionDescription:
        """Offer what this client publishes."""
        offer = rtc.SessionDescription(type="offer", sdp=self.publisher.peer.create_offer(), id=number)
        await self.client.send(offer=offer)
        answer: rtc.SessionDescription = await self.client.expect("answer")
        self.publisher.peer.accept_answer(answer.sdp)
        return answer

    async def open_data(self) -> None:
        """Open the upstream channels."""
        self.publisher.peer.negotiation.enable_data()
        self.publisher.peer.open_channel("_reliable")
        self.publisher.peer.open_channel("_lossy", ordered=False, max_retransmits=0)
        await self.offer()
        await self.publisher.until(lambda side: {"_reliable", "_lossy"} <= side.channels.keys())

    def send_data(self, label: str = "_reliable", **packet: Any) -> None:  # noqa: ANN401  protobuf fields
        assert self.publisher.channels[label].send_nowait(models.DataPacket(**packet).SerializeToString())


@asynccontextmanager
async def dual(
    world: World,
    identity: str,
    *,
    query: str = "protocol=17&sdk=go",
    meanwhile: Callable[[], Awaitable[None]] | None = None,
    **grants: Any,  # noqa: ANN401  protobuf fields
) -> AsyncIterator[DualClient]:
    """A client that has joined, and whose subscriber side is up; `meanwhile` happens before that is."""
    # A port for each connection, as clients have it: a mux tells connections to one and the same server's address apart
    # by their STUN only.
    sockets = partial(UdpMux.open, ["127.0.0.1"], 0)
    async with sockets() as one_mux, sockets() as other_mux, trio.open_nursery() as nursery:
        async with world.connect(identity, query=query, **grants) as client:
            one = DualClient(client, nursery, (one_mux, other_mux))
            one.join = await client.expect("join")
            if meanwhile is not None:
                await meanwhile()
            await one.take_offer()
            await one.subscriber.until(lambda side: side.state is PeerState.CONNECTED)
            yield one
        nursery.cancel_scope.cancel()
