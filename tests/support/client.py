"""A LiveKit client made of our own cores: WebSocket signalling, one or two peer connections, data and a track of sound.

async with join(server, "alice") as alice, join(server, "bob") as bob:
    await alice.ready()
    await bob.ready()
    await alice.say(b"hello", to=bob)
"""

from __future__ import annotations

import base64
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import trio
from livekit.protocol import models, rtc
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

from tests.support.side import LIMIT, Side
from triosfu.net.udp import UdpMux
from triosfu.peer import PeerState
from triosfu.sdp.sections import Sender

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from trio import TaskStatus

    from triosfu.peer import PeerSettings
    from triosfu.server import Server

RELIABLE, LOSSY = "_reliable", "_lossy"
LOW = models.VideoQuality.LOW
numbers = count(1)


class Client:
    """What one client has, knows and hears. Without a `subscriber` of its own it has one peer connection."""

    def __init__(
        self, identity: str, publisher: Side, subscriber: Side, *, auto_subscribe: bool = True, query: str = ""
    ) -> None:
        self.identity = identity
        self.auto_subscribe = auto_subscribe
        self._query = query  # more of it, with two peer connections
        self.publisher, self.subscriber = publisher, subscriber
        self.signals: list[rtc.SignalResponse] = []
        self.gone = False  # the signalling connection is over,
        self.code: int | None = None  # closed with this code
        self.track: Sender = publisher.publish(ssrc=next(numbers))
        self._sids: dict[str, str] = {}  # of its tracks
        self._socket: WebSocketConnection | None = None
        self._stream: trio.SocketStream | None = None
        self.nursery: trio.Nursery | None = None  # for its tasks
        self._room = ""
        self._session = ""  # the sid of its participant
        self._news = trio.Event()
        self._sequence = 0
        publisher.peer.negotiation.enable_data()
        publisher.peer.open_channel(RELIABLE)
        publisher.peer.open_channel(LOSSY, ordered=False, max_retransmits=0)
        for side in self.sides:
            side.on_news = self.tell

    @property
    def single(self) -> bool:
        return self.publisher is self.subscriber

    @property
    def sides(self) -> tuple[Side, ...]:
        return (self.publisher,) if self.single else (self.publisher, self.subscriber)

    # --- what a test asks ------------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool], *, within: float = LIMIT) -> None:
        """Wait until news make `condition` hold."""
        with trio.fail_after(within):
            while not condition():
                await self._news.wait()

    async def ready(self) -> None:
        """Wait until everything works: both ways are up, channels are open, the track is published."""
        await self.until(lambda: self.is_ready)

    @property
    def is_ready(self) -> bool:
        return (
            all(side.peer.state is PeerState.CONNECTED for side in self.sides)
            and {RELIABLE, LOSSY} <= self.publisher.channels.keys()
            and {RELIABLE, LOSSY} <= self.subscriber.channels.keys()
            and bool(self.track.negotiated)
            and bool(self.seen("track_published"))
        )

    @property
    def heard(self) -> list[tuple[str, bytes]]:
        """Who sent what, in data packets."""
        packets = [models.DataPacket.FromString(data) for _, data, _ in self.subscriber.messages]
        return [(packet.participant_identity, packet.user.payload) for packet in packets]

    def seen(self, kind: str) -> list[rtc.SignalResponse]:
        return [message for message in self.signals if message.WhichOneof("message") == kind]

    def sid(self, track: Sender | None = None) -> str:
        """What the server calls a track of this client's; empty until it has said."""
        return self._sids.get((track or self.track).track_id, "")

    def told(self, identity: str) -> models.ParticipantInfo | None:
        """What this client was told last of a participant."""
        updates = [info for one in self.seen("update") for info in one.update.participants]
        return next((info for info in reversed(updates) if info.identity == identity), None)

    def told_of(self, identity: str, sid: str) -> models.TrackInfo | None:
        """What this client was told last of a participant's track; None when that has no such track."""
        info = self.told(identity)
        return None if info is None else next((track for track in info.tracks if track.sid == sid), None)

    def forget(self) -> None:
        """Keep nothing of what came until now: a client that stays long would look at it again each time."""
        for side in self.sides:
            side.messages.clear()
            for track in side.tracks.values():
                track.packets.clear()
        self.signals.clear()

    # --- what a test has it do -------------------------------------------------------------------------------------

    async def say(self, text: bytes, *, to: Client, label: str = RELIABLE, within: float = LIMIT) -> None:
        """Send a message to the room; `to` gets it."""
        packet = models.DataPacket(user=models.UserPacket(payload=text))
        await self.publisher.channels[label].send(packet.SerializeToString())
        await to.until(lambda: (self.identity, text) in to.heard, within=within)

    async def play(self, text: bytes, *, to: Client, track: Sender | None = None, within: float = LIMIT) -> None:
        """Send a packet of a track every 20 ms, until `to`, which has two peer connections, gets one."""
        with trio.fail_after(within):
            while text not in to.sounds:
                self._sequence += 1
                self.publisher.send_rtp(track or self.track, self._sequence, text)
                with trio.move_on_after(0.02):
                    await to.until(lambda: text in to.sounds)

    async def publish(self, kind: str = "audio", mime: str = "audio/opus") -> Sender:
        """Announce and offer one more track; wait until it may be sent."""
        ssrc = next(numbers)
        track = Sender(kind=kind, track_id=f"track-{ssrc}", stream_id="client-stream", ssrc=ssrc, codecs=[mime])
        self.publisher.peer.negotiation.add_sender(track)
        await self.signal(rtc.SignalRequest(add_track=add_track(track)))
        await self.offer()
        await self.until(lambda: bool(track.negotiated and self.sid(track)))
        return track

    async def unpublish(self, track: Sender) -> None:
        """Take a track away."""
        self.publisher.peer.negotiation.remove_sender(track)
        await self.offer()

    async def mute(self, track: Sender, *, muted: bool) -> None:
        """Tell that a track of this client's is silent, or is not any more."""
        await self.signal(rtc.SignalRequest(mute=rtc.MuteTrackRequest(sid=self.sid(track), muted=muted)))

    async def subscribe(self, sid: str, *, wanted: bool) -> None:
        """Ask for a track of somebody else's, or have no more of it; wait for the negotiation that follows."""
        await self.signal(rtc.SignalRequest(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=wanted)))
        await self.until(lambda: bool(self._mids(sid)) is wanted)

    async def want(self, sid: str, *, disabled: bool = False, quality: models.VideoQuality = LOW) -> None:
        """Say how much of a track is wanted."""
        settings = rtc.UpdateTrackSettings(track_sids=[sid], disabled=disabled, quality=quality)
        await self.signal(rtc.SignalRequest(track_setting=settings))

    def _mids(self, sid: str) -> set[str]:
        """The sections in which a track of somebody else's comes."""
        sections = self.subscriber.peer.negotiation.sections
        return {one.mid for one in sections if one.incoming is not None and one.incoming.track_id == sid}

    async def leave(self) -> None:
        """Say that this client leaves, and wait for the server's last word."""
        await self.signal(rtc.SignalRequest(leave=rtc.LeaveRequest()))
        await self.until(lambda: self.gone)

    async def drop(self) -> None:
        """Lose the signalling connection, as by a network that changes."""
        assert self._stream is not None
        await trio.aclose_forcefully(self._stream)
        await self.until(lambda: self.gone)

    def resume(self, server: Server) -> None:
        """Come back to the session that was dropped."""
        assert self.nursery is not None
        self.gone = False
        self.signals.clear()
        self.nursery.start_soon(
            partial(self.converse, server, self._room, resuming=True), name=f"client {self.identity}"
        )

    async def start_over(self, server: Server, *, settings: PeerSettings | None = None) -> Client:
        """Join anew under the same identity, with transports of its own; the session before is left as it is."""
        assert self.nursery is not None
        joining = partial(join, server, self.identity, room=self._room, single=self.single, settings=settings)
        again: Client = await self.nursery.start(_live, joining)
        return again

    @property
    def sounds(self) -> set[bytes]:
        """The payloads of all media received."""
        return {packet.payload for track in self.subscriber.tracks.values() for packet in track.packets}

    async def signal(self, request: rtc.SignalRequest | bytes | str) -> None:
        """Send a signal message; into nothing when the connection is over."""
        if self._socket is not None and not self.gone:
            try:
                data = request.SerializeToString() if isinstance(request, rtc.SignalRequest) else request
                await self._socket.send_message(data)
            except ConnectionClosed:
                self._over()

    # --- what it does by itself ------------------------------------------------------------------------------------

    async def converse(self, server: Server, room: str, *, resuming: bool = False) -> None:
        """Join, or come back, and answer, until the server ends it."""
        self._room = room
        host, port = server.url.removeprefix("ws://").rsplit(":", 1)
        query = {"access_token": server.create_token(identity=self.identity, room=room)}
        try:
            async with (
                await trio.open_tcp_stream(host.strip("[]"), int(port)) as stream,
                trio.open_nursery() as nursery,
            ):
                self._stream = stream
                target = (self._target_of_resume() if resuming else self._target()) + urlencode(query)
                self._socket = await wrap_client_stream(nursery, stream, host, target, message_queue_size=100)
                while not self.gone:
                    message = _response(await self._socket.get_message())
                    self.signals.append(message)
                    await self._handle(message)
                    self.tell()
        except* (OSError, HandshakeError, ConnectionClosed, trio.BrokenResourceError):
            pass
        finally:
            if self._socket is not None and self._socket.closed is not None:
                self.code = self._socket.closed.code
            self._over()

    def _target(self) -> str:
        if not self.single:
            return f"/rtc?protocol=17&sdk=go&auto_subscribe={self.auto_subscribe:d}&{self._query}&"
        offer = rtc.SessionDescription(type="offer", sdp=self.publisher.peer.create_offer(), id=1)
        body = rtc.JoinRequest(
            client_info=models.ClientInfo(protocol=17),
            connection_settings=rtc.ConnectionSettings(auto_subscribe=self.auto_subscribe),
            add_track_requests=[add_track(self.track)],
            publisher_offer=offer,
        )
        wrapped = rtc.WrappedJoinRequest(join_request=body.SerializeToString())
        encoded = base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()
        return f"/rtc/v1?join_request={quote(encoded, safe='')}&"

    def _target_of_resume(self) -> str:
        if not self.single:
            return f"/rtc?protocol=17&sdk=go&reconnect=1&sid={self._session}&{self._query}&"
        body = rtc.JoinRequest(
            client_info=models.ClientInfo(protocol=17), reconnect=True, participant_sid=self._session
        )
        wrapped = rtc.WrappedJoinRequest(join_request=body.SerializeToString())
        encoded = base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()
        return f"/rtc/v1?join_request={quote(encoded, safe='')}&"

    async def _handle(self, message: rtc.SignalResponse) -> None:
        if message.HasField("join"):
            self._session = message.join.participant.sid
        match message.WhichOneof("message"):
            case "reconnect":
                await self.signal(rtc.SignalRequest(sync_state=rtc.SyncState()))
                await self.offer(ice_restart=True)
            case "join" if not self.single:
                await self.signal(rtc.SignalRequest(add_track=add_track(self.track)))
                await self.offer()
            case "offer":
                self.subscriber.peer.accept_offer(message.offer.sdp)
                answer = rtc.SessionDescription(
                    type="answer", sdp=self.subscriber.peer.create_answer(), id=message.offer.id
                )
                await self.signal(rtc.SignalRequest(answer=answer))
            case "answer":
                self.publisher.peer.accept_answer(message.answer.sdp)
            case "track_published":
                self._sids[message.track_published.cid] = message.track_published.track.sid

    async def offer(self, *, ice_restart: bool = False) -> None:
        """Offer what is published."""
        sdp = self.publisher.peer.create_offer(ice_restart=ice_restart)
        await self.signal(rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp=sdp, id=1)))

    def tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _over(self) -> None:
        self.gone = True
        self.tell()


def add_track(track: Sender) -> rtc.AddTrackRequest:
    """The announcement of a track."""
    kind = models.TrackType.AUDIO if track.kind == "audio" else models.TrackType.VIDEO
    return rtc.AddTrackRequest(cid=track.track_id, type=kind, disable_red=True)


def _response(frame: str | bytes) -> rtc.SignalResponse:
    assert isinstance(frame, bytes), "who sends binary frames gets binary ones"
    return rtc.SignalResponse.FromString(frame)


async def _live(joining: Callable[[], AbstractAsyncContextManager[Client]], *, task_status: TaskStatus[Client]) -> None:
    """A client that is there until it is cancelled."""
    async with joining() as client:
        task_status.started(client)
        await trio.sleep_forever()


@asynccontextmanager
async def join(
    server: Server,
    identity: str,
    *,
    room: str = "room",
    single: bool = False,
    auto_subscribe: bool = True,
    settings: PeerSettings | None = None,
    query: str = "",
) -> AsyncIterator[Client]:
    """A client that is joining; at the end of the block it vanishes, with a DTLS goodbye and nothing else."""
    async with AsyncExitStack() as stack:
        # A port for each connection, as real clients have it.
        muxes = [await stack.enter_async_context(UdpMux.open(["127.0.0.1"], 0)) for _ in range(1 if single else 2)]
        publisher = Side(f"{identity}'s pub", muxes[0], offerer=True, settings=settings)
        subscriber = publisher if single else Side(f"{identity}'s sub", muxes[1], offerer=False, settings=settings)
        client = Client(identity, publisher, subscriber, auto_subscribe=auto_subscribe, query=query)
        async with trio.open_nursery() as client.nursery:
            nursery = client.nursery
            for side in client.sides:
                nursery.start_soon(side.peer.run, name=f"client {side.peer.name}")
            nursery.start_soon(client.converse, server, room, name=f"client {identity}")
            yield client
            nursery.cancel_scope.cancel()
