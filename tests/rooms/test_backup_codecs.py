"""Publishers that can send a second codec: when they are asked for it, who gets it, and what happens if they do not."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import trio
from livekit.protocol import models, rtc

import triosfu
from tests.signalling.world import dual, running
from tests.support.client import join
from tests.support.side import LIMIT
from triosfu.config import load_config
from triosfu.rooms.settings import RoomSettings, Times
from triosfu.sdp.policy import MediaPolicy
from triosfu.sdp.sections import Sender

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.client import Client
    from triosfu.media.receiver import TrackReceiver
    from triosfu.rooms.publication import Publication
    from triosfu.server import Server

CONFIG = load_config(development=True, overrides={"port": 0, "rtc": {"udp_port": 0}})
VP8, VP9 = "video/VP8", "video/VP9"
KEYFRAMES = {VP8: b"\x10\x00\x00\x00\x9d\x01\x2a\x40\x01\xb4\x00", VP9: b"\x0c\x82\x49\x83\x42\x00"}
Policy = models.BackupCodecPolicy
sequence = count(1)


class Camera:
    """A publisher's camera in VP9, and what it sends of it in VP8 when it is asked."""

    def __init__(self, owner: Client) -> None:
        self.owner = owner
        self.sid = ""
        self.sent: list[Sender] = []

    async def begin(self, policy: Policy) -> None:
        track = self._track(VP9, "camera")
        await self._add(track, announcement(backup_codec_policy=policy))
        self.sid = self.owner.sid(track)

    async def add_backup(self) -> None:
        await self._add(
            self._track(VP8, "clone"),
            rtc.AddTrackRequest(
                cid="clone",
                sid=self.sid,
                type=models.TrackType.VIDEO,
                simulcast_codecs=[
                    rtc.SimulcastCodec(codec="vp8", cid="clone", layers=[models.VideoLayer(width=64, height=48)])
                ],
            ),
        )

    async def drop_backup(self) -> None:
        await self.owner.unpublish(self.sent.pop())

    async def until(self, *wanted: tuple[Viewer, str]) -> None:
        """Film until each of these gets pictures in that codec and in no other."""
        with trio.fail_after(LIMIT):
            while [viewer.look() for viewer, _ in wanted] != [{codec} for _, codec in wanted]:
                for _ in range(3):
                    for track in self.sent:
                        self.owner.publisher.send_rtp(track, next(sequence), KEYFRAMES[track.codecs[0]])
                    with trio.move_on_after(0.02):
                        await self.owner.until(lambda: False)

    def _track(self, mime: str, name: str) -> Sender:
        ssrc = 100 + next(sequence)
        track = Sender(kind="video", track_id=name, stream_id="client-stream", ssrc=ssrc, codecs=[mime])
        self.owner.publisher.peer.negotiation.add_sender(track)
        self.sent.append(track)
        return track

    async def _add(self, track: Sender, request: rtc.AddTrackRequest) -> None:
        await self.owner.signal(rtc.SignalRequest(add_track=request))
        await self.owner.offer()
        await self.owner.until(lambda: bool(track.negotiated and self.owner.sid(track)))


class Viewer:
    """What comes to a client of the one video that there is."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._seen = 0

    def look(self) -> set[str]:
        """The codecs that came since the last look."""
        found = set()
        for receiver in self._receivers():
            seen = sum(stream.packets - stream.padding - stream.foreign for stream in receiver.streams.values())
            found |= {receiver.mime} if seen > self._seen else set()
            found |= {receiver.unexpected_mime} if receiver.unexpected_mime else set()
            self._seen, receiver.unexpected_mime = seen, None
        return found

    def ssrcs(self) -> set[int]:
        return {stream.ssrc for receiver in self._receivers() for stream in receiver.streams.values()}

    def _receivers(self) -> list[TrackReceiver]:
        tracks = self.client.subscriber.tracks.values()
        return [track.receiver for track in tracks if track.receiver.kind == "video"]


def announcement(**more: Any) -> rtc.AddTrackRequest:  # noqa: ANN401  protobuf fields
    codecs = [rtc.SimulcastCodec(codec="vp9", cid="camera"), rtc.SimulcastCodec(codec="vp8")]
    return rtc.AddTrackRequest(cid="camera", type=models.TrackType.VIDEO, simulcast_codecs=codecs, **more)


def asked(alice: Client) -> set[str]:
    """The codecs that she was last told to send."""
    told = alice.seen("subscribed_quality_update")
    codecs = told[-1].subscribed_quality_update.subscribed_codecs if told else []
    return {codec.codec for codec in codecs if any(one.enabled for one in codec.qualities)}


def published(server: Server) -> Publication:
    (room,) = server.rooms
    return next(one for one in room.participants["alice"].publications if one.kind == "video")


def without_vp9(client: Client) -> None:
    for side in client.sides:
        policy = side.peer.negotiation.policy
        codecs = tuple(mime for mime in policy.receive if mime != VP9)
        side.peer.negotiation.policy = replace(policy, receive=codecs, send=codecs)


@asynccontextmanager
async def meeting(server: Server) -> AsyncIterator[tuple[Client, Client, Client]]:
    """Alice, who publishes; Bob, who takes no VP9; Carol, who takes all."""
    async with join(server, "alice") as alice, join(server, "bob") as bob, join(server, "carol") as carol:
        without_vp9(bob)
        for client in (alice, bob, carol):
            await client.ready()
        yield alice, bob, carol


@pytest.mark.parametrize("policy", [Policy.PREFER_REGRESSION, Policy.REGRESSION, Policy.SIMULCAST])
async def test_who_lacks_the_codec_gets_the_backup_and_the_others_follow_if_the_policy_says_so(policy: Policy) -> None:
    async with triosfu.serve(CONFIG) as server, meeting(server) as (alice, bob, carol):
        camera, at_bob, at_carol = Camera(alice), Viewer(bob), Viewer(carol)
        await camera.begin(policy)
        await camera.until((at_carol, VP9))
        await alice.until(lambda: asked(alice) == {"vp8", "vp9"})
        await camera.add_backup()
        assert [layer.width for layer in published(server).layers(VP8)] == [64]
        if policy == Policy.SIMULCAST:
            await camera.until((at_bob, VP8), (at_carol, VP9))
        else:
            before = at_carol.ssrcs()
            await camera.until((at_bob, VP8), (at_carol, VP8))
            assert at_carol.ssrcs() == before, "one stream, to her"
            await camera.drop_backup()
            await camera.until((at_carol, VP9))
        assert not bob.seen("subscription_response")


async def test_where_many_are_both_codecs_are_sent() -> None:
    """Until so many have left that one will do."""
    config = replace(CONFIG, video=replace(CONFIG.video, codec_regression_threshold=4))
    async with triosfu.serve(config) as server, meeting(server) as (alice, bob, carol):
        async with join(server, "dave") as dave:
            await dave.ready()
            camera, at_bob, at_carol = Camera(alice), Viewer(bob), Viewer(carol)
            await camera.begin(Policy.PREFER_REGRESSION)
            await alice.until(lambda: asked(alice) == {"vp8", "vp9"})
            await camera.add_backup()
            await camera.until((at_bob, VP8), (at_carol, VP9))
            published(server).publisher.publications.follow_codecs()
            await camera.until((at_bob, VP8), (at_carol, VP9))
            await dave.leave()
        await camera.until((at_bob, VP8), (at_carol, VP8))


async def test_a_publisher_that_does_not_send_what_it_promised_is_not_waited_for_for_ever() -> None:
    """But for as long as it has muted the track, when it is not to send."""
    times = Times(backup_codec=0.2)
    async with (
        running(RoomSettings(times=times)) as world,
        dual(world, "alice") as alice,
        dual(world, "bob") as bob,
    ):
        bob.subscriber.peer.negotiation.policy = MediaPolicy(receive=("video/VP8",))
        alice.publisher.peer.negotiation.add_sender(
            Sender(kind="video", track_id="camera", stream_id="s", ssrc=1, codecs=[VP9])
        )
        await alice.client.send(add_track=announcement(muted=True))
        sid = (await alice.client.expect("track_published")).track.sid
        await alice.offer()
        await bob.take_offer()
        with trio.move_on_after(3 * times.backup_codec):
            await bob.client.expect("subscription_response")
            raise AssertionError("a muted track has failed")
        await alice.client.send(mute=rtc.MuteTrackRequest(sid=sid))
        await alice.client.expect(
            "subscribed_quality_update", lambda one: one.subscribed_codecs[1].qualities[0].enabled
        )
        response = await bob.client.expect("subscription_response")
        assert (response.track_sid, response.err) == (sid, models.SubscriptionError.SE_CODEC_UNSUPPORTED)
        assert ("codec", sid) not in world.participant("bob").deadlines
