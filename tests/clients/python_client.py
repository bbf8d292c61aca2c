"""The `livekit` wheel as tests drive it: publishes a tone and a picture, and counts what it gets."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from array import array
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from livekit import rtc
from livekit.rtc._ffi_client import FfiClient
from livekit.rtc._proto import ffi_pb2, room_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

RATE = 48_000  # samples per second
FRAME = RATE // 100  # samples in 10 ms
LOUD = 1000  # of 32767: the tone is there
AMPLITUDE = 8000


class Participant:
    """One client. Everything it hears and sees is counted by the identity of who sent it."""

    def __init__(self, identity: str, *, count: bool = True) -> None:
        self.identity = identity
        self.subscribed = 0
        self._count = count  # frames cost their watcher a lot; statistics may do
        self.room = rtc.Room()
        self.video_frames: dict[str, int] = defaultdict(int)
        self.first_frame_at: dict[str, float] = {}
        self.audio_frames: dict[str, int] = defaultdict(int)
        self.loud_frames: dict[str, int] = defaultdict(int)
        self.data: list[tuple[str, bytes, bool]] = []
        self.events: list[tuple[str, str, float]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self.room.on("track_subscribed", self._subscribed)
        self.room.on("data_received", self._received)
        self.room.on("participant_connected", lambda who: self._note("participant_connected", who.identity))
        self.room.on("participant_disconnected", lambda who: self._note("participant_disconnected", who.identity))
        self.room.on("track_muted", lambda who, _: self._note("track_muted", who.identity))
        self.room.on("track_unmuted", lambda who, _: self._note("track_unmuted", who.identity))
        self.room.on("track_unpublished", lambda _, who: self._note("track_unpublished", who.identity))
        self.room.on("active_speakers_changed", self._spoken)

    def _spoken(self, speakers: list[rtc.Participant]) -> None:
        for speaker in speakers:
            self._note("speaks", speaker.identity)

    def _note(self, name: str, identity: str) -> None:
        self.events.append((name, identity, time.monotonic()))

    def when(self, name: str, identity: str) -> float | None:
        """When an event was first seen, or None."""
        return next((at for event, who, at in self.events if (event, who) == (name, identity)), None)

    def _received(self, packet: rtc.DataPacket) -> None:
        sender = packet.participant.identity if packet.participant else ""
        self.data.append((sender, bytes(packet.data), packet.kind == rtc.DataPacketKind.KIND_RELIABLE))

    def _subscribed(self, track: rtc.RemoteTrack, _: object, who: rtc.RemoteParticipant) -> None:
        self.subscribed += 1
        if self._count:
            watch = self._watch if track.kind == rtc.TrackKind.KIND_VIDEO else self._listen
            self._spawn(watch(track, who.identity))

    async def _watch(self, track: rtc.Track, identity: str) -> None:
        async for _ in rtc.VideoStream(track):
            self.first_frame_at.setdefault(identity, time.monotonic())
            self.video_frames[identity] += 1

    async def _listen(self, track: rtc.Track, identity: str) -> None:
        async for event in rtc.AudioStream(track):
            self.audio_frames[identity] += 1
            samples = array("h", bytes(event.frame.data))
            self.loud_frames[identity] += max(samples, default=0) > LOUD

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def join(
        self, url: str, token: str, *, single: bool, watch: bool = True, encryption: rtc.E2EEOptions | None = None
    ) -> None:
        """Connect, with one peer connection or two; who does not `watch` subscribes to nobody."""
        options = rtc.RoomOptions(auto_subscribe=watch, single_peer_connection=single, encryption=encryption)
        await self.room.connect(url, token, options)

    async def publish_microphone(self) -> rtc.LocalTrackPublication:
        """Publish a tone that does not end."""
        source = rtc.AudioSource(RATE, 1)
        track = rtc.LocalAudioTrack.create_audio_track("tone", source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        publication = await self.room.local_participant.publish_track(track, options)
        self._spawn(self._play(source))
        return publication

    async def _play(self, source: rtc.AudioSource) -> None:
        period = [round(AMPLITUDE * math.sin(2 * math.pi * 500 * at / RATE)) for at in range(FRAME)]  # 5 whole periods
        frame = rtc.AudioFrame(array("h", period).tobytes(), RATE, 1, FRAME)
        while True:
            await source.capture_frame(frame)  # paces itself

    async def publish_camera(
        self,
        *,
        width: int = 640,
        height: int = 360,
        rate: int = 20,
        codec: rtc.VideoCodec.ValueType | None = None,
        simulcast: bool = True,
    ) -> rtc.LocalTrackPublication:
        """Publish a picture that changes `rate` times a second."""
        source = rtc.VideoSource(width, height)
        track = rtc.LocalVideoTrack.create_video_track("picture", source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA, simulcast=simulcast)
        if codec is not None:
            options.video_codec = codec
        publication = await self.room.local_participant.publish_track(track, options)
        self._spawn(self._film(source, width, height, rate))
        return publication

    async def _film(self, source: rtc.VideoSource, width: int, height: int, rate: int) -> None:
        shade = 0
        while True:
            shade = (shade + 3) % 256
            planes = bytes([shade]) * (width * height) + bytes([128]) * (width * height // 2)
            source.capture_frame(rtc.VideoFrame(width, height, rtc.VideoBufferType.I420, planes))
            await asyncio.sleep(1 / rate)

    async def leave(self) -> None:
        """Stop everything and disconnect."""
        for task in list(self._tasks):
            task.cancel()
        await self.room.disconnect()


async def simulate(room: rtc.Room, kind: str) -> None:
    """Ask the core for one of its scenarios; Python's part of the wheel does not show them."""
    request = ffi_pb2.FfiRequest()
    request.simulate_scenario.room_handle = room._ffi_handle.handle  # type: ignore[union-attr]
    request.simulate_scenario.scenario = room_pb2.SimulateScenarioKind.Value(f"SIMULATE_{kind}")
    queue = FfiClient.instance.queue.subscribe()
    try:
        asked = FfiClient.instance.request(request).simulate_scenario.async_id
        await queue.wait_for(lambda event: event.simulate_scenario.async_id == asked)
    finally:
        FfiClient.instance.queue.unsubscribe(queue)


async def until(condition: Callable[[], bool], *, seconds: float, what: str = "") -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def leaving(participants: Iterable[Participant]) -> AsyncIterator[None]:
    """Have everybody leave at the end."""
    try:
        yield
    finally:
        for participant in participants:
            await participant.leave()
