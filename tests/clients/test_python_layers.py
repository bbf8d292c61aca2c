"""Simulcast layers with the `livekit` wheel: it gets the one that it asks for, without a break."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from livekit import rtc

from tests.clients.python_client import Participant, leaving, until

if TYPE_CHECKING:
    from tests.clients.server import RunningServer


@pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])
def test_the_wheel_gets_the_layer_that_it_asks_for(server: RunningServer, *, single: bool) -> None:
    async def run() -> None:
        alice, bob = Participant("alice", count=False), Participant("bob", count=False)
        widths: list[int] = []

        async def look(track: rtc.RemoteTrack) -> None:
            async for event in rtc.VideoStream(track):
                widths.append(event.frame.width)  # noqa: PERF401  it is read while it grows

        room = f"wheel-{single}"
        looking: list[asyncio.Task[None]] = []
        bob.room.on("track_subscribed", lambda track, *_: looking.append(asyncio.ensure_future(look(track))))
        async with leaving((alice, bob)):
            await alice.join(server.url, server.token("alice", room), single=single, watch=False)
            await bob.join(server.url, server.token("bob", room), single=single)
            await alice.publish_camera(width=1280, height=720, rate=15)
            await until(lambda: widths[-1:] == [1280], seconds=20, what="the upper layer")
            (remote,) = bob.room.remote_participants.values()
            (publication,) = remote.track_publications.values()
            for quality, width in (
                (rtc.VideoQuality.VIDEO_QUALITY_LOW, 320),
                (rtc.VideoQuality.VIDEO_QUALITY_HIGH, 1280),
            ):
                publication.set_video_quality(quality)
                await until(lambda width=width: widths[-1] == width, seconds=10, what=f"{width}")  # type: ignore[misc]
                seen = len(widths)
                await until(lambda seen=seen: len(widths) > seen + 5, seconds=3, what="it flows")  # type: ignore[misc]
        for task in looking:
            task.cancel()

    asyncio.run(asyncio.wait_for(run(), 60))
