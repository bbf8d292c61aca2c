"""Somebody in a room of a server that speaks LiveKit's protocol: real transports, and media that is only counted."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from livekit.protocol import models, rtc

from bench.sfu.peer import Ended
from bench.sfu.playing import Data, Picture, Quality, Sound, next_sender
from bench.sfu.presence import Presence, present
from triosfu.tokens import VideoGrant, create_token

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager
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
LOWEST_TO_BEST = (models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH)


class Attendee(Presence):
    """What one participant has, and knows of the others."""

    rids = True
    keep_alive_every = 5.0

    def __init__(self, identity: str, url: str, token: str) -> None:
        query = urlencode({"access_token": token, "protocol": 15, "sdk": "go", "auto_subscribe": 0})
        super().__init__(identity, url, f"/rtc?{query}")
        self._published: dict[str, models.TrackInfo] = {}  # by cid

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
        await self.connected()
        if self.publishes:  # as clients do if the server says `fast_publish`
            peer = self.publisher.peer
            peer.negotiation.enable_data()
            peer.open_channel(RELIABLE)
            peer.open_channel(LOSSY, ordered=False, max_retransmits=0)
            await self._offer()
        await self.until(
            lambda: self.subscriber.connected and (not self.publishes or self.publisher.connected), "a peer connection"
        )

    # --- publishing ------------------------------------------------------------------------------------------------

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

    async def keep_alive(self) -> None:
        """Say that this one is still there."""
        await self._say(rtc.SignalRequest(ping=time.time_ns() // 1_000_000))

    async def handle(self, frame: bytes | str) -> None:
        """Act on a message of the server."""
        if not isinstance(frame, bytes):
            return
        message = rtc.SignalResponse.FromString(frame)
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
        await self.send(request.SerializeToString())


def attend(
    url: str, key: tuple[str, str], identity: str, room: str, *, sock: CountingSocket, publishes: bool, feedback: bool
) -> AbstractAsyncContextManager[Attendee]:
    """Somebody in a room until the end of the block; what comes to them comes to `sock`."""
    grant = VideoGrant(room_join=True, room=room, can_publish=publishes)
    token = create_token(*key, now=time.time(), identity=identity, video=grant)
    return present(Attendee(identity, url, token), sock=sock, publishes=publishes, feedback=feedback)
