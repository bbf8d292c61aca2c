"""Somebody in a room of a server that speaks LiveKit's protocol: real transports, and media that is only counted."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import trio
from livekit.protocol import models, rtc
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

from bench.sfu.feedback import Feedback
from bench.sfu.peer import PATIENCE, End, Ended, Waiting, first_of
from bench.sfu.playing import Data, Outgoing, Picture, Quality, Sound, next_sender
from triosfu.net.udp import UdpMux
from triosfu.tokens import VideoGrant, create_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from typing import Protocol

    from bench.sfu.counting import CountingSocket
    from triosfu.sdp.sections import Sender

    class Somebody(Protocol):
        """What the scenarios ask of an attendee, whatever the server speaks."""

        identity: str

        async def publish_sound(self) -> Sound:
            """Publish a microphone."""

        async def publish_picture(self, qualities: Sequence[Quality]) -> Picture:
            """Publish a camera; several streams are given lowest quality first."""

        async def publish_data(self) -> Data:
            """Get ready to send packets of data to all others."""

        async def watch(self, others: Sequence[Somebody], best: Somebody | None) -> None:
            """Subscribe to all that `others` publish, the picture of `best` in the best quality, others in the worst.

            None leaves the qualities to the server. Returns when everything can come.
            """

        async def watch_over(self) -> None:
            """Raise `Ended` when the server has ended it."""


RELIABLE, LOSSY = "_reliable", "_lossy"
PING_EVERY = 5.0  # seconds
LOWEST_TO_BEST = (models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH)


class Attendee(Waiting):
    """What one participant has, and knows of the others."""

    def __init__(self, identity: str, subscriber: End, publisher: End | None) -> None:
        super().__init__(identity)
        self.subscriber = subscriber
        self._publisher = publisher
        self._way = None if publisher is None else Outgoing(publisher, rids=True)
        self._published: dict[str, models.TrackInfo] = {}  # by cid
        self._signal: WebSocketConnection | None = None

    # --- what the scenarios ask ------------------------------------------------------------------------------------

    @property
    def tracks(self) -> list[models.TrackInfo]:
        """What this one publishes."""
        return list(self._published.values())

    async def publish_sound(self) -> Sound:
        """Publish a microphone."""
        return Sound(self.way, await self._publish("audio", "audio/opus", models.TrackType.AUDIO, ()))

    async def publish_picture(self, qualities: Sequence[Quality]) -> Picture:
        """Publish a camera; several streams are given lowest quality first."""
        sender = await self._publish("video", "video/VP8", models.TrackType.VIDEO, qualities)
        return Picture(self.way, sender, qualities)

    async def publish_data(self) -> Data:
        """Get ready to send reliable packets."""
        publisher = self.publisher
        await self.until(lambda: RELIABLE in publisher.channels, "a data channel")
        return Data(publisher.channels[RELIABLE])

    async def watch(self, others: Sequence[Somebody], best: Somebody | None) -> None:
        """Subscribe to what others publish."""
        tracks = [track for other in others if isinstance(other, Attendee) for track in other.tracks]
        if not tracks:  # of data there is nothing to subscribe to
            await self.until(lambda: RELIABLE in self.subscriber.channels, "a data channel")
            return
        sids = [track.sid for track in tracks]
        await self._say(rtc.SignalRequest(subscription=rtc.UpdateSubscription(track_sids=sids, subscribe=True)))
        if isinstance(best, Attendee):
            for quality, its in ((models.VideoQuality.HIGH, True), (models.VideoQuality.LOW, False)):
                wanted = [
                    track.sid
                    for track in tracks
                    if track.type == models.TrackType.VIDEO and (track in best.tracks) is its
                ]
                settings = rtc.UpdateTrackSettings(track_sids=wanted, quality=quality)
                await self._say(rtc.SignalRequest(track_setting=settings))
        await self.until(lambda: len(self.subscriber.sections) >= len(tracks), "a subscription")

    async def arrive(self) -> None:
        """Wait until the peer connections are up that one has who has just joined."""
        await self.until(lambda: self._signal, "signalling")
        if self._publisher is not None:  # as clients do if the server says `fast_publish`
            self._publisher.peer.negotiation.enable_data()
            self._publisher.peer.open_channel(RELIABLE)
            self._publisher.peer.open_channel(LOSSY, ordered=False, max_retransmits=0)
            await self._offer()
        await self.until(
            lambda: self.subscriber.connected and (self._publisher is None or self._publisher.connected),
            "a peer connection",
        )

    # --- publishing ------------------------------------------------------------------------------------------------

    @property
    def publisher(self) -> End:
        """The peer connection for what it sends."""
        assert self._publisher is not None, "only some publish"
        return self._publisher

    @property
    def way(self) -> Outgoing:
        """Where its packets leave."""
        assert self._way is not None, "only some publish"
        return self._way

    async def _publish(self, kind: str, mime: str, track: models.TrackType, qualities: Sequence[Quality]) -> Sender:
        sender = next_sender(kind, mime, self.identity)
        names = LOWEST_TO_BEST[-1:] if len(qualities) == 1 else LOWEST_TO_BEST
        layers = [
            models.VideoLayer(
                quality=name, width=one.width, height=one.width * 9 // 16, bitrate=round(one.rate),
                ssrc=sender.ssrc + number,
            )
            for number, (name, one) in enumerate(zip(names, qualities, strict=False))
        ]  # fmt: skip
        if len(qualities) > 1:
            self.way.layers[sender.track_id] = len(qualities)
        width = max((one.width for one in qualities), default=0)
        await self._say(
            rtc.SignalRequest(
                add_track=rtc.AddTrackRequest(
                    cid=sender.track_id, type=track, disable_red=True, layers=layers,
                    width=width, height=width * 9 // 16,
                )
            )
        )  # fmt: skip
        await self.until(lambda: sender.track_id in self._published, "a published track")
        self.publisher.peer.negotiation.add_sender(sender)
        await self._offer()
        await self.until(lambda: sender.negotiated and self.publisher.connected, "an answer")
        self.way.learn()
        return sender

    async def _offer(self) -> None:
        sdp = self.way.offer()
        await self._say(rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp=sdp, id=1)))

    # --- signalling ------------------------------------------------------------------------------------------------

    async def converse(self, url: str, token: str) -> None:
        """Join, and answer until cancelled.

        Raises:
            Ended: The server has ended it.
        """
        parts = urlsplit(url)
        query = urlencode({"access_token": token, "protocol": 15, "sdk": "go", "auto_subscribe": 0})
        try:
            with trio.fail_after(PATIENCE):
                stream = await trio.open_tcp_stream(parts.hostname or "", parts.port or 80)
            async with stream, trio.open_nursery() as nursery:
                host = f"{parts.hostname}:{parts.port or 80}"
                with trio.fail_after(PATIENCE):
                    self._signal = await wrap_client_stream(
                        nursery, stream, host, f"/rtc?{query}", message_queue_size=100
                    )
                self.tell()
                nursery.start_soon(self._keep_alive)
                while True:
                    frame = await self._signal.get_message()
                    if isinstance(frame, bytes):
                        await self._handle(rtc.SignalResponse.FromString(frame))
                    self.tell()
        except* (OSError, trio.TooSlowError, HandshakeError, ConnectionClosed) as group:
            raise Ended(f"{self.identity}: signalling ended: {first_of(group)!r}") from None

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(PING_EVERY)
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
                publishing = message.trickle.target == rtc.SignalTarget.PUBLISHER
                end = self.publisher if publishing else self.subscriber
                end.peer.add_remote_candidate(str(json.loads(message.trickle.candidateInit)["candidate"]))
            case "track_published":
                self._published[message.track_published.cid] = message.track_published.track
            case "leave":
                raise Ended(f"{self.identity}: the server has it leave: {message.leave.reason}")

    async def _say(self, request: rtc.SignalRequest) -> None:
        await self.until(lambda: self._signal, "signalling")
        assert self._signal is not None
        try:
            await self._signal.send_message(request.SerializeToString())
        except ConnectionClosed as closed:
            raise Ended(f"{self.identity}: signalling ended: {closed!r}") from None


@asynccontextmanager
async def attend(
    url: str, key: tuple[str, str], identity: str, room: str, *, sock: CountingSocket, publishes: bool, feedback: bool
) -> AsyncIterator[Attendee]:
    """Somebody in a room until the end of the block; what comes to them comes to `sock`."""
    grant = VideoGrant(room_join=True, room=room, can_publish=publishes)
    token = create_token(*key, now=time.time(), identity=identity, video=grant)
    async with AsyncExitStack() as stack:
        mux = UdpMux([sock], batched=False, wait_readable=sock.readable)
        await stack.enter_async_context(mux.served())

        def tell() -> None:
            attendee.tell()

        def over(why: str) -> None:
            attendee.over(why)

        subscriber = End(f"{identity}'s subscriber", mux, offerer=False, tell=tell, over=over, message=sock.take)
        publisher = None
        if publishes:
            other = await stack.enter_async_context(UdpMux.open([sock.host], 0))
            publisher = End(f"{identity}'s publisher", other, offerer=True, tell=tell, over=over)
        attendee = Attendee(identity, subscriber, publisher)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscriber.run)
            if publisher is not None:
                nursery.start_soon(publisher.run)
            nursery.start_soon(attendee.converse, url, token)
            await attendee.arrive()
            sock.attach(subscriber, Feedback(subscriber, sock) if feedback else None)
            yield attendee
            sock.detach()
            nursery.cancel_scope.cancel()
