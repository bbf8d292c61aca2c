"""After every call that changes a core, nothing of it is left undrained, and its deadline is the alarm's."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.virtual import Joined, joined, virtual_time
from triosfu.media.down_track import DownTrack
from triosfu.media.receiver import TrackReceiver
from triosfu.peer import PeerConnection, PeerState
from triosfu.peer.transport import Touched
from triosfu.rtp.rtcp import (
    Fir,
    Nack,
    Pli,
    ReceiverReferenceTime,
    ReceiverReport,
    Remb,
    ReportBlock,
    SenderReport,
    TransportFeedback,
    Xr,
    build_compound,
)
from triosfu.rtp.wire import RtpPacket, build_rtp
from triosfu.sdp.sections import Sender

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triosfu.peer import DataChannel
    from triosfu.rtp.rtcp import RtcpPacket

SSRC = 4712


def assert_drained(peer: PeerConnection) -> None:
    """Nothing waits in any of its cores, and the alarm rings for the first of them."""
    transport, data = peer._transport, peer._data
    assert transport.ice.events() == []
    assert transport.ice.datagrams_to_send() == []
    if transport._dtls is not None:
        assert transport._dtls.events() == []
        assert transport._dtls.datagrams_to_send() == []
    assert data.events() == []
    assert data.datagrams_to_send() == []
    assert data.probes_to_send() == []
    assert not peer.ingress._feedback.ready
    assert peer.sender.rtcp_to_send() == []
    assert transport.outbound is None or not peer.ingress.reports_due
    first = min(
        transport.next_timeout(),
        data.next_timeout(),
        peer.ingress.next_timeout(),
        peer.sender.next_timeout(),
        peer._connect_by,
    )
    assert peer._alarm.deadline == first


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, int]]:
    """Look after each drain of what was touched; how many of each kind there were."""
    counts = dict.fromkeys(range(16), 0)
    drain = PeerConnection._drain_touched

    def looked_at(self: PeerConnection, touched: int, now: float) -> None:
        counts[touched] += 1
        drain(self, touched, now)
        if not self._draining and self.state is not PeerState.CLOSED:
            assert_drained(self)

    media = PeerConnection.transport_media

    def looked_at_too(self: PeerConnection, now: float) -> None:
        counts[Touched.NOTHING] += 1
        media(self, now)
        if self.state is not PeerState.CLOSED:
            assert_drained(self)

    send = PeerConnection.send_message
    sent = 0

    def looked_at_then(self: PeerConnection, channel: DataChannel, data: bytes, *, binary: bool) -> bool:
        nonlocal sent
        sent += 1
        queued = send(self, channel, data, binary=binary)
        assert not self._draining
        assert_drained(self)
        return queued

    monkeypatch.setattr(PeerConnection, "send_message", looked_at_then)
    monkeypatch.setattr(PeerConnection, "_drain_touched", looked_at)
    monkeypatch.setattr(PeerConnection, "transport_media", looked_at_too)
    yield counts
    assert counts[Touched.NOTHING] > 20
    assert counts[Touched.ICE] > 20
    assert counts[Touched.MEDIA] > 20
    assert counts[Touched.DATA] > 20
    assert sent > 20
    assert counts[Touched.ALL] > 5


class Show:
    """A picture and its sound from the offerer; the answerer says all that can be said about them."""

    def __init__(self, both: Joined) -> None:
        self.both = both
        self.peer = both.offerer.peer
        outgoing = Sender(kind="video", track_id="TR_x", stream_id="PA_x", ssrc=SSRC, codecs=["video/VP8"])
        self.peer.negotiation.add_sender(outgoing)
        self.outgoing = outgoing
        self.sequence = 0

    def begin(self) -> None:
        now = trio.current_time()
        self.receiver = TrackReceiver(kind="video", mime="video/VP8", clock_rate=90000, now=now)
        down = DownTrack(
            receiver=self.receiver, sink=self.peer.sink, ssrc=SSRC, rtx_ssrc=None, rng=Random(1), now=now,
            cname="PA_x", mid=self.outgoing.mid or "",
        )  # fmt: skip
        down.bind(
            payload_types={codec.mime: codec.payload_type for codec in self.outgoing.negotiated},
            rtx_payload_types={}, extension_ids=self.outgoing.extensions, now=now,
        )  # fmt: skip
        self.peer.sender.add(down)
        self.peer.drain_soon()

    def play(self) -> None:
        self.sequence += 1
        now = trio.current_time()
        packet = build_rtp(
            ssrc=1, payload_type=96, sequence=self.sequence, timestamp=3000 * self.sequence, marker=True,
            payload=bytes([0x90, 0x80, self.sequence & 0x7F, 0]) + bytes(100),
        )  # fmt: skip
        self.receiver.deliver(RtpPacket.parse(packet, now), now)
        self.receiver.forward(now)

    def comment(self) -> None:
        block = ReportBlock(SSRC, 0, 0, self.sequence, 0, 0, 0)
        said: tuple[list[RtcpPacket], ...] = (
            [ReceiverReport(1, (block,))],
            [ReceiverReport(1, (block,)), Remb(1, 1_000_000, (SSRC,))],
            [SenderReport(4711, 1 << 40, 1, 1, 1, (block,))],
            [Nack(1, SSRC, (self.sequence & 0xFFFF,))],
            [Pli(1, SSRC)],
            [Fir(1, ((SSRC, self.sequence & 0xFF),))],
            [TransportFeedback(1, SSRC, 0, 1, 1, 1, ((0, 4),))],
            [Xr(1, (ReceiverReferenceTime(1 << 40),))],
        )
        for packets in said:
            self.both.answerer.peer._transport.send_rtcp(build_compound(packets))


@virtual_time
async def a_show() -> None:
    async with joined(seed=3) as both:
        published = both.offerer.publish()
        show = Show(both)
        await both.connect()
        channel, _ = await both.channel()
        show.begin()

        def restart_ice() -> None:
            """From within the callback of a message: other cores have something to send then, too."""
            if len(both.answerer.messages) == 20:
                both.answerer.on_news = None
                both.negotiate(ice_restart=True)

        both.answerer.on_news = restart_ice
        for number in range(40):
            show.play()
            both.offerer.send_rtp(published, 2 * number, b"sound")  # every other one is missing
            show.comment()
            await trio.sleep(0.15)
            await channel.send(b"%d" % number)
            await trio.sleep(0.15)
        both.negotiate(ice_restart=True)
        for _ in range(10):
            show.comment()
            await trio.sleep(0.3)
        both.out.dark = both.back.dark = trio.current_time(), trio.current_time() + 7  # silent, and back again
        await trio.sleep(20)
        assert PeerState.DISCONNECTED in both.offerer.states
        assert both.offerer.peer.state is PeerState.CONNECTED
        ours, _ = await both.channel("late")
        await ours.send(b"still there")
        await both.answerer.until(lambda side: ("late", b"still there", True) in side.messages)
        await trio.sleep(10)


@virtual_time
async def sounds_with_checks_and_messages() -> None:
    async with joined(seed=5) as both:
        ours = both.offerer
        published = ours.publish()
        await both.connect()
        channel, _ = await both.channel()
        numbers = iter(range(1000))

        async def comes(sequence: int) -> None:
            await trio.sleep(1.5 * both.out.latency)
            (track,) = both.answerer.tracks.values()
            assert track.packets[-1].sequence == sequence

        for _ in range(5):
            ours.send_rtp(published, number := next(numbers), b"sound")
            await comes(number)
        for _ in range(10):
            await trio.sleep_until(ours.peer._ice_at)  # a check leaves at this moment, and comes with the packet
            ours.send_rtp(published, number := next(numbers), b"sound")
            await comes(number)
            ours.send_rtp(published, number := next(numbers), b"sound")
            await channel.send(b"message")
            await comes(number)


def test_media_of_a_batch_with_a_check_or_a_message_goes_on_at_once() -> None:
    sounds_with_checks_and_messages()


@pytest.mark.usefixtures("narrow")
def test_nothing_is_left_of_what_was_touched() -> None:
    a_show()
