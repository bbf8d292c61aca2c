"""Somebody in a room of a server that speaks LiveKit's protocol: real transports, and media that is only counted."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import trio
from livekit.protocol import models, rtc
from trio_websocket import WebSocketConnection, wrap_client_stream

from bench.sfu.counting import CountingSocket
from bench.sfu.playing import Outgoing, Picture, Quality, Sound, sent_at
from tests.support.side import Side
from triosfu.errors import MalformedPacket
from triosfu.net.udp import UdpMux
from triosfu.peer import PeerState
from triosfu.sdp.sections import Sender
from triosfu.tokens import VideoGrant, create_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

PATIENCE = 60.0  # seconds for a join; many at once share two cores with the server
RELIABLE = "_reliable"
ssrcs = count(10_000, 10)


class Attendee:
    """What one participant has, and knows of the others."""

    def __init__(self, identity: str, publisher: Side, subscriber: Side, sock: CountingSocket) -> None:
        self.identity = identity
        self.publisher, self.subscriber, self.socket = publisher, subscriber, sock
        self.way = Outgoing(publisher.peer)
        self._layers: dict[str, int] = {}  # of tracks in several streams, by cid
        self._published: dict[str, str] = {}  # sid by cid
        self._signal: WebSocketConnection | None = None
        self._news = trio.Event()
        sock.decrypt = self._sent_at
        publisher.on_news = subscriber.on_news = self._tell

    async def until_watching(self) -> None:
        """Wait until what others send can come."""
        await self._until(lambda: self.subscriber.peer.state is PeerState.CONNECTED)

    async def publish_sound(self) -> Sound:
        """Publish a microphone."""
        sender = await self._publish("audio", "audio/opus", models.TrackType.AUDIO, ())
        return Sound(self.way, sender)

    async def publish_picture(self, qualities: Sequence[Quality]) -> Picture:
        """Publish a camera; several streams are given lowest quality first."""
        sender = await self._publish("video", "video/VP8", models.TrackType.VIDEO, qualities)
        return Picture(self.way, sender, qualities)

    async def want(self, sids: Sequence[str], quality: models.VideoQuality) -> None:
        """Ask for tracks in a quality."""
        settings = rtc.UpdateTrackSettings(track_sids=sids, quality=quality)
        await self._say(rtc.SignalRequest(track_setting=settings))

    @property
    def tracks(self) -> list[str]:
        """The sids of what this one publishes."""
        return list(self._published.values())

    async def _publish(self, kind: str, mime: str, track: models.TrackType, qualities: Sequence[Quality]) -> Sender:
        ssrc = next(ssrcs)
        sender = Sender(kind=kind, track_id=f"track-{ssrc}", stream_id=self.identity, ssrc=ssrc, codecs=[mime])
        names = [models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH]
        if len(qualities) == 1:
            names = [models.VideoQuality.HIGH]
        layers = [
            models.VideoLayer(
                quality=name, width=one.width, height=one.width * 9 // 16, bitrate=round(one.rate),
                ssrc=ssrc + number,
            )
            for number, (name, one) in enumerate(zip(names, qualities, strict=False))
        ]  # fmt: skip
        if len(qualities) > 1:
            self._layers[sender.track_id] = len(qualities)
        width = max((one.width for one in qualities), default=0)
        await self._say(
            rtc.SignalRequest(
                add_track=rtc.AddTrackRequest(
                    cid=sender.track_id, type=track, disable_red=True, layers=layers,
                    width=width, height=width * 9 // 16,
                )
            )
        )  # fmt: skip
        await self._until(lambda: sender.track_id in self._published)
        self.publisher.peer.negotiation.add_sender(sender)
        await self._offer()
        await self._until(lambda: bool(sender.negotiated) and self.publisher.peer.state is PeerState.CONNECTED)
        return sender

    async def _offer(self) -> None:
        lines: list[str] = []
        for line in self.publisher.peer.create_offer().splitlines():
            lines.append(line)
            for cid, layers in self._layers.items():
                if line.startswith("a=msid:") and line.endswith(cid):
                    lines += self._streams(cid, layers)
        sdp = "\r\n".join(lines) + "\r\n"
        await self._say(rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp=sdp, id=1)))

    def _streams(self, cid: str, layers: int) -> list[str]:
        """The lines for a track in several streams; our own stack offers one of each."""
        first = int(cid.removeprefix("track-"))
        numbers = range(first, first + layers)
        group = "a=ssrc-group:SIM " + " ".join(map(str, numbers))
        return [group, *(f"a=ssrc:{number} cname:{self.identity}" for number in numbers[1:])]

    def _sent_at(self, packet: bytes) -> int | None:
        inbound = self.subscriber.peer._transport._inbound  # noqa: SLF001  only a benchmark looks at some packets
        try:
            return None if inbound is None else sent_at(inbound.unprotect(packet))
        except MalformedPacket:
            return None

    # --- signalling ------------------------------------------------------------------------------------------------

    async def converse(self, url: str, token: str) -> None:
        """Join, and answer until cancelled."""
        parts = urlsplit(url)
        query = urlencode({"access_token": token, "protocol": 15, "sdk": "go", "auto_subscribe": 1})
        async with (
            await trio.open_tcp_stream(parts.hostname or "", parts.port or 80) as stream,
            trio.open_nursery() as nursery,
        ):
            host = f"{parts.hostname}:{parts.port}"
            self._signal = await wrap_client_stream(nursery, stream, host, f"/rtc?{query}", message_queue_size=100)
            self._tell()
            nursery.start_soon(self._keep_alive)
            while True:
                frame = await self._signal.get_message()
                if isinstance(frame, bytes):
                    await self._handle(rtc.SignalResponse.FromString(frame))
                self._tell()

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(5)
            await self._say(rtc.SignalRequest(ping=time.time_ns() // 1_000_000))

    async def _handle(self, message: rtc.SignalResponse) -> None:
        match message.WhichOneof("message"):
            case "offer":
                peer = self.subscriber.peer
                peer.accept_offer(message.offer.sdp)
                answer = rtc.SessionDescription(type="answer", sdp=peer.create_answer(), id=message.offer.id)
                await self._say(rtc.SignalRequest(answer=answer))
            case "answer":
                self.publisher.peer.accept_answer(message.answer.sdp)
            case "trickle":
                side = self.publisher if message.trickle.target == rtc.SignalTarget.PUBLISHER else self.subscriber
                side.peer.add_remote_candidate(str(json.loads(message.trickle.candidateInit)["candidate"]))
            case "track_published":
                self._published[message.track_published.cid] = message.track_published.track.sid
            case "leave":
                raise ConnectionError(f"the server ended it: {message.leave}")

    async def _say(self, request: rtc.SignalRequest) -> None:
        await self._until(lambda: self._signal is not None)
        assert self._signal is not None
        await self._signal.send_message(request.SerializeToString())

    async def _until(self, condition: object) -> None:
        assert callable(condition)
        with trio.fail_after(PATIENCE):
            while not condition():
                await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


@asynccontextmanager
async def attend(
    url: str, key: tuple[str, str], identity: str, room: str, *, sockets: set[CountingSocket], publishes: bool
) -> AsyncIterator[Attendee]:
    """Somebody in a room, until the end of the block; `sockets` are looked at by `look_at_all`."""
    grant = VideoGrant(room_join=True, room=room, can_publish=publishes)
    token = create_token(*key, now=time.time(), identity=identity, video=grant)
    sock = CountingSocket("127.0.0.1")
    sockets.add(sock)
    async with AsyncExitStack() as stack:
        stack.callback(sockets.discard, sock)
        stack.callback(sock.close)
        mux = UdpMux([sock], batched=False, wait_readable=sock.readable)
        await stack.enter_async_context(mux.served())
        subscriber = Side(f"{identity}'s sub", mux, offerer=False)
        other = await stack.enter_async_context(UdpMux.open(["127.0.0.1"], 0))
        publisher = Side(f"{identity}'s pub", other, offerer=True)
        attendee = Attendee(identity, publisher, subscriber, sock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publisher.peer.run)
            nursery.start_soon(subscriber.peer.run)
            nursery.start_soon(attendee.converse, url, token)
            yield attendee
            nursery.cancel_scope.cancel()
