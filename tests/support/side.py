"""A peer connection with somebody behind it who writes everything down, and two of them joined over loopback."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import cache
from random import SystemRandom
from typing import TYPE_CHECKING, Self

import trio
import trio.testing

from triosfu.dtls.certificate import Certificate
from triosfu.media.receiver import TrackReceiver
from triosfu.net.udp import UdpMux
from triosfu.peer import ChannelState, PeerConnection, PeerSettings, PeerState
from triosfu.rtp.wire import build_rtp
from triosfu.sdp.policy import MediaPolicy
from triosfu.sdp.sections import Sender

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from random import Random

    from triosfu.media.burst import Burst
    from triosfu.peer import DataChannel
    from triosfu.rtp.wire import RtpPacket
    from triosfu.sdp.sections import Section

LIMIT = 10.0  # seconds; reached only by a failing test

certificate = cache(Certificate.generate)


class Side:
    """A `PeerHandler` and its peer connection."""

    def __init__(
        self,
        name: str,
        mux: UdpMux,
        *,
        offerer: bool,
        single: bool = False,
        settings: PeerSettings | None = None,
        rng: Random | None = None,
        policy: MediaPolicy | None = None,
    ) -> None:
        self.mux = mux
        self.states: list[PeerState] = []
        self.reasons: list[str] = []
        self.channels: dict[str, DataChannel] = {}  # that opened
        self.ended: list[str] = []  # labels of channels, once for each end
        self.messages: list[tuple[str, bytes, bool]] = []
        self.tracks: dict[str, Track] = {}  # by mid
        self.ended_tracks: list[str] = []
        self.on_news: Callable[[], None] | None = None  # called at each callback: to close within one
        self._news = trio.Event()
        self.peer = PeerConnection(
            name=name,
            mux=mux,
            certificate=certificate(),
            handler=self,
            policy=policy or MediaPolicy(),
            single=single,
            offerer=offerer,
            rng=rng or SystemRandom(),
            settings=settings,
        )

    async def until(self, condition: Callable[[Self], bool], *, within: float = LIMIT) -> None:
        """Wait for news that make `condition` hold."""
        with trio.fail_after(within):
            while not condition(self):
                await self._news.wait()

    async def connected(self) -> None:
        await self.until(lambda side: side.peer.state is PeerState.CONNECTED)

    async def opened(self, label: str) -> DataChannel:
        await self.until(lambda side: label in side.channels)
        return self.channels[label]

    def publish(self, kind: str = "audio", mime: str = "audio/opus", *, ssrc: int = 4711) -> Sender:
        """Offer a track to send."""
        sender = Sender(kind=kind, track_id="client-track", stream_id="client-stream", ssrc=ssrc, codecs=[mime])
        self.peer.negotiation.add_sender(sender)
        return sender

    def send_rtp(self, sender: Sender, sequence: int, payload: bytes) -> None:
        """Send one packet of a published track."""
        packet = build_rtp(
            ssrc=sender.ssrc,
            payload_type=sender.negotiated[0].payload_type,
            sequence=sequence,
            timestamp=sequence * 960,
            payload=payload,
        )
        sink = self.peer.sink
        offset = sink.reserve()
        sink.arena[offset : offset + len(packet)] = packet
        sink.commit_rtp(offset, len(packet))

    def tell(self) -> None:
        """Wake whoever waits for news."""
        self._news.set()
        self._news = trio.Event()
        if self.on_news is not None:
            self.on_news()

    def peer_state_changed(self, peer: PeerConnection, state: PeerState, reason: str) -> None:
        assert peer.state is state
        self.states.append(state)
        self.reasons.append(reason)
        self.tell()

    def peer_incoming_track(self, peer: PeerConnection, section: Section) -> None:
        self.tracks[section.mid] = Track(self, section)
        self.tell()

    def peer_incoming_ended(self, peer: PeerConnection, section: Section) -> None:
        self.ended_tracks.append(section.mid)
        self.tell()

    def peer_channel_opened(self, peer: PeerConnection, channel: DataChannel) -> None:
        assert channel.state is ChannelState.OPEN
        self.channels[channel.label] = channel
        self.tell()

    def peer_channel_closed(self, peer: PeerConnection, channel: DataChannel, reason: str) -> None:
        assert channel.state is ChannelState.CLOSED
        self.ended.append(channel.label)
        self.tell()

    def peer_message(self, peer: PeerConnection, channel: DataChannel, data: bytes, binary: bool) -> None:
        self.messages.append((channel.label, data, binary))
        self.tell()


class Track:
    """What comes in through one section; as a subscriber of its own receiver, it keeps the packets."""

    def __init__(self, side: Side, section: Section) -> None:
        incoming = section.incoming
        assert incoming is not None
        codec = incoming.codecs[0]
        self.packets: list[RtpPacket] = []
        self._side = side
        self.receiver = TrackReceiver(
            kind=section.kind, mime=codec.mime, clock_rate=codec.clock_rate, now=trio.current_time()
        )
        self.receiver.subscribe(self)
        side.peer.ingress.add_track(
            self.receiver,
            mid=section.mid,
            rids=incoming.rids,
            ssrcs=incoming.ssrcs,
            rtx=incoming.fid,
            payload_types={item.payload_type: item.mime for item in incoming.codecs},
            extension_ids={uri: number for number, uri in incoming.extensions.items()},
        )

    lane = None
    source = -1

    def take(self, burst: Burst, now: float, start: int = 0) -> None:
        self.packets += burst.packets
        self._side.tell()


class Pair:
    """An offerer and an answerer, each with a UDP port of its own; a test is the signalling between them."""

    def __init__(self, offerer: Side, answerer: Side, nursery: trio.Nursery) -> None:
        self.offerer, self.answerer = offerer, answerer
        self.running = 0
        self.scopes = {side: trio.CancelScope() for side in self.sides}  # around each `run`
        for side in self.sides:
            nursery.start_soon(self._run, side)

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.offerer, self.answerer

    def negotiate(self, *, ice_restart: bool = False) -> None:
        """One offer, one answer."""
        self.answerer.peer.accept_offer(self.offerer.peer.create_offer(ice_restart=ice_restart))
        self.offerer.peer.accept_answer(self.answerer.peer.create_answer())

    async def connect(self) -> None:
        """Negotiate, with a section for data, until both sides are connected."""
        self.offerer.peer.negotiation.enable_data()
        self.negotiate()
        await self.offerer.connected()
        await self.answerer.connected()

    async def channel(self, label: str = "chat") -> tuple[DataChannel, DataChannel]:
        """A channel that the offerer opens, as both sides see it."""
        self.offerer.peer.open_channel(label)
        return await self.offerer.opened(label), await self.answerer.opened(label)

    async def ended(self) -> None:
        """Wait for both `run`s to return; then nothing may be left of either connection."""
        with trio.fail_after(LIMIT):
            while self.running:
                await trio.testing.wait_all_tasks_blocked()
        for side in self.sides:
            assert_forgotten(side.mux)

    async def _run(self, side: Side) -> None:
        self.running += 1
        try:
            with self.scopes[side]:
                await side.peer.run()
        finally:
            self.running -= 1


def tables(mux: UdpMux) -> dict[str, int]:
    """How much the mux remembers."""
    return {
        "routes": len(mux._routes),
        "ufrags": len(mux._by_ufrag),
        "prefixes": len(mux._by_prefix),
        "tuples": len(mux._by_tuple),
        "bound streams": sum(len(port.by_source) for port in mux._streams.values()),
    }


def assert_forgotten(mux: UdpMux) -> None:
    assert not any(tables(mux).values()), tables(mux)


@asynccontextmanager
async def pair(*, single: bool = False, settings: PeerSettings | None = None) -> AsyncIterator[Pair]:
    """Two connections that run; leaving the block cancels them, and shows that nothing is left of them."""
    async with UdpMux.open(["127.0.0.1"], 0) as near, UdpMux.open(["127.0.0.1"], 0) as far:
        async with trio.open_nursery() as nursery:
            yield Pair(
                Side("offerer", near, offerer=True, settings=settings),
                Side("answerer", far, offerer=False, single=single, settings=settings),
                nursery,
            )
            nursery.cancel_scope.cancel()
        assert_forgotten(near)
        assert_forgotten(far)
