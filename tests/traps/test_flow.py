"""Traps of media that only show in a whole server: publisher, server and subscriber over loopback."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import trio
from livekit.protocol import models, rtc

from tests.media.receive_publisher import new_audio, new_video
from tests.media.send_path import vp8
from tests.sdp.client import parsed
from tests.signalling.world import LIMIT, DualClient, World, dual, running
from triosfu.media.down_track import DownTrack
from triosfu.peer import PeerState
from triosfu.rtp.wire import build_rtp
from triosfu.sdp.sections import Sender

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(eq=False)
class Published:
    """A track of a client with two connections."""

    one: DualClient
    sid: str
    sender: Sender

    def send(self, sequence: int, payload: bytes) -> None:
        data = build_rtp(
            ssrc=self.sender.ssrc,
            payload_type=self.sender.negotiated[0].payload_type,
            sequence=sequence,
            timestamp=sequence * 3000,
            payload=payload,
        )
        sink = self.one.publisher.peer.sink
        offset = sink.reserve()
        sink.arena[offset : offset + len(data)] = data
        sink.commit_rtp(offset, len(data))


async def publish(one: DualClient, kind: str, number: int, *, muted: bool = False) -> Published:
    cid = f"{kind}{number}"
    wanted = models.TrackType.AUDIO if kind == "audio" else models.TrackType.VIDEO
    await one.client.send(add_track=rtc.AddTrackRequest(cid=cid, type=wanted, muted=muted))
    sid: str = (await one.client.expect("track_published")).track.sid
    codecs = ["audio/opus"] if kind == "audio" else ["video/VP8"]
    sender = Sender(kind=kind, track_id=cid, stream_id="s", ssrc=1000 + number, codecs=codecs)
    one.publisher.peer.negotiation.add_sender(sender)
    await one.offer(number)
    await one.publisher.until(lambda side: side.state is PeerState.CONNECTED)
    return Published(one, sid, sender)


def down_of(world: World, identity: str, sid: str) -> DownTrack | None:
    return next((one.down for one in world.participant(identity).subscriptions if one.track_sid == sid), None)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(LIMIT):
        while not condition():
            await trio.lowlevel.checkpoint()


async def flowing(world: World, bob: DualClient, video: Published) -> DownTrack:
    """The way of a track to Bob, once a keyframe has come through it."""
    while not down_of(world, "bob", video.sid):
        await bob.take_offer()
        await until(lambda: not world.participant("bob").shape.subscriber.negotiation.pending_offer)
    down = down_of(world, "bob", video.sid)
    assert down is not None
    video.send(1, vp8(1, key=True))
    await until(lambda: down.current_layer == 0)
    return down


async def test_trap_42_the_publisher_is_asked_for_a_keyframe_by_a_subscription() -> None:
    async with running() as world, dual(world, "alice") as alice:
        video = await publish(alice, "video", 1)
        video.send(1, vp8(1, key=True))
        receiver = world.participant("alice").publications.find(video.sid)
        assert receiver is not None
        ((_, received),) = receiver.receivers.items()
        await until(lambda: bool(received.streams))
        video.send(2, vp8(2))
        counter = DownTrack(  # of the client's: it counts what it is asked for
            receiver=new_video(),
            sink=alice.publisher.peer.sink,
            ssrc=video.sender.ssrc,
            rtx_ssrc=None,
            rng=Random(1),
            now=trio.current_time(),
            cname="",
        )
        alice.publisher.peer.sender.add(counter)
        async with dual(world, "bob"):
            await until(lambda: counter.stats.plis > 0)


async def test_trap_43_a_subscriber_of_a_muted_track_hears_padding_soon() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        track = await publish(alice, "audio", 1, muted=True)
        while not bob.subscriber.sections:
            await bob.take_offer()
        (section,) = bob.subscriber.sections
        incoming = section.incoming
        assert incoming is not None
        receiver = new_audio()
        bob.subscriber.peer.ingress.add_track(
            receiver,
            mid=section.mid,
            ssrcs=incoming.ssrcs,
            payload_types={codec.payload_type: codec.mime for codec in incoming.codecs},
            extension_ids={},
        )
        with trio.fail_after(2):
            await until(lambda: bool(receiver.streams))
        assert receiver.streams[0].ssrc == incoming.ssrcs[0]
        assert incoming.track_id == track.sid


async def test_trap_59_another_tracks_negotiation_does_not_interrupt_a_stream() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        video = await publish(alice, "video", 1)
        down = await flowing(world, bob, video)
        for number in (2, 3):
            other = await publish(alice, "audio", number)
            while not down_of(world, "bob", other.sid):
                await bob.take_offer()
                await until(lambda: not world.participant("bob").shape.subscriber.negotiation.pending_offer)
            assert down_of(world, "bob", video.sid) is down
            assert down.current_layer == 0  # no new keyframe is needed
            sent = down.stats.packets
            video.send(number, vp8(number))
            await until(lambda sent=sent: down.stats.packets == sent + 1)  # type: ignore[misc]


async def test_trap_58_the_sources_of_a_section_stay_while_its_track_does() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        offers = []
        tracks: list[Published] = []
        for number, kind in enumerate(("audio", "video", "audio"), start=1):
            tracks.append(await publish(alice, kind, number))
            while not down_of(world, "bob", tracks[-1].sid):
                offers.append(parsed((await bob.take_offer()).sdp))
                await until(lambda: not world.participant("bob").shape.subscriber.negotiation.pending_offer)
        for wanted in (False, True):
            update = rtc.UpdateSubscription(track_sids=[tracks[0].sid], subscribe=wanted)
            await bob.client.send(subscription=update)
            offers.append(parsed((await bob.take_offer()).sdp))
            await until(lambda: not world.participant("bob").shape.subscriber.negotiation.pending_offer)
        known: dict[str | None, tuple[str, list[int]]] = {}
        for offer in offers:
            for media in offer.media:
                if not media.msids:
                    known.pop(media.mid, None)  # inactive: what comes next is a new track to the client
                    continue
                now = media.msids[0].track, [source.ssrc for source in media.ssrcs]
                assert known.setdefault(media.mid, now) == now
        assert len(known) == 3
        for track in tracks:  # and what is signalled is what is sent
            down = down_of(world, "bob", track.sid)
            assert down is not None
            signalled = next(sources for sid, sources in known.values() if sid == track.sid)
            assert signalled == [ssrc for ssrc in (down.ssrc, down.rtx_ssrc) if ssrc is not None]
