"""A talker and two listeners in one process, which measure how long things take from one to the others.

Usage: python -m tests.clients.crowd_child URL ROOM

They are clients made of our own cores. The talker sends a reliable and a lossy message and a packet of sound every ten
milliseconds, each with its time, and changes its metadata ten times a second. A line `phase NAME` on stdin begins a
phase; the line `report` has all delays told, by phase and by kind.
"""

from __future__ import annotations

import contextlib
import struct
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import trio
from livekit.protocol import models, rtc

from tests.clients.child import tell
from tests.clients.server import KEY, SECRET
from tests.support.client import LOSSY, RELIABLE, join
from triosfu.tokens import VideoGrant, create_token

if TYPE_CHECKING:
    from tests.support.client import Client
    from triosfu.server import Server

LISTENERS = 2
EVERY = 0.01  # seconds
METADATA = 50_000  # bytes
CHANGES = 0.1  # seconds between two changes of metadata
STAMP = struct.Struct("!dB")  # when it was sent, and in which phase
MARK = b"crowd"
READERS = (*(f"listener{number}" for number in range(LISTENERS)), "stopped", "closed")  # all but who sends bursts


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A server in another process, as far as `join` needs it."""

    url: str

    @property
    def host(self) -> str:
        """Its address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Its HTTP port."""
        return urlsplit(self.url).port or 0

    @property
    def server(self) -> Server:
        """For `join`, which asks for no more than this class has."""
        return cast("Server", self)

    def create_token(self, *, identity: str, room: str) -> str:
        """A token that allows everything."""
        grant = VideoGrant(room_join=True, room=room, can_update_own_metadata=True)
        return create_token(KEY, SECRET, now=time.time(), identity=identity, video=grant)


class Delays:
    """Seconds from sending to receiving, by phase and kind."""

    def __init__(self) -> None:
        self.phases = [""]  # the first is before any
        self.measured: dict[tuple[str, str], list[float]] = defaultdict(list)

    def stamp(self) -> bytes:
        """What is to be sent now."""
        return MARK + STAMP.pack(time.perf_counter(), len(self.phases) - 1)

    def received(self, kind: str, payload: bytes) -> None:
        """Something has arrived."""
        if payload.startswith(MARK):
            sent, phase = STAMP.unpack_from(payload, len(MARK))
            self.measured[self.phases[phase], kind].append(time.perf_counter() - sent)

    def report(self) -> None:
        """Tell all of it, in milliseconds."""
        for (phase, kind), seconds in self.measured.items():
            if phase:
                tell("delays", phase=phase, kind=kind, milliseconds=[round(1000 * one, 2) for one in seconds])


class Listener:
    """Notes when each thing arrived, within the callback that brings it."""

    def __init__(self, client: Client, delays: Delays) -> None:
        self._client, self._delays = client, delays
        self._sounds: dict[str, int] = defaultdict(int)
        client.subscriber.on_news = self._news

    def _news(self) -> None:
        side = self._client.subscriber
        for label, data, _ in side.messages:
            payload = models.DataPacket.FromString(data).user.payload
            self._delays.received("reliable" if label == RELIABLE else "lossy", payload)
        side.messages.clear()
        for mid, track in side.tracks.items():
            for packet in track.packets[self._sounds[mid] :]:
                self._delays.received("media", bytes(packet.payload))
            self._sounds[mid] = len(track.packets)
        self._client.tell()


async def talk(talker: Client, delays: Delays) -> None:
    """Send a message of each kind at each tick."""
    sequence, tick = 0, trio.current_time()
    channels = talker.publisher.channels
    while True:
        sequence += 1
        for label in (RELIABLE, LOSSY):
            user = models.UserPacket(payload=delays.stamp() + bytes(100), destination_identities=READERS)
            channels[label].send_nowait(models.DataPacket(user=user).SerializeToString())
        talker.publisher.send_rtp(talker.track, sequence, delays.stamp() + bytes(100))
        tick = max(tick + EVERY, trio.current_time() - EVERY)
        await trio.sleep_until(tick)


async def change(talker: Client) -> None:
    """Cause signals to everyone."""
    number = 0
    while True:
        number += 1
        request = rtc.UpdateParticipantMetadata(metadata=f"{number:08d}" * (METADATA // 8))
        await talker.signal(rtc.SignalRequest(update_metadata=request))
        await trio.sleep(CHANGES)


async def obey(delays: Delays) -> None:
    """Do what the lines on stdin say, until they end."""
    stdin = trio.lowlevel.FdStream(0)
    rest = b""
    while data := await stdin.receive_some():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            word, _, name = line.decode().partition(" ")
            if word == "phase":
                delays.phases.append(name)
            elif word == "report":
                delays.report()
                tell("reported")


async def main(url: str, room: str) -> None:
    """Join with all of them, measure, and report."""
    server, delays = Elsewhere(url).server, Delays()
    async with contextlib.AsyncExitStack() as stack:
        talker = await stack.enter_async_context(join(server, "talker", room=room))
        listeners = [
            await stack.enter_async_context(join(server, f"listener{number}", room=room)) for number in range(LISTENERS)
        ]
        for client in (talker, *listeners):
            await client.until(lambda client=client: client.is_ready, within=30)  # type: ignore[misc]
        for client in listeners:
            Listener(client, delays)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, talker, delays)
            nursery.start_soon(change, talker)
            tell("ready")
            await obey(delays)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
