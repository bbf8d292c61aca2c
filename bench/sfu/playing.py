"""What publishers send: packets like those of Opus and VP8, and data, each with the time at which it left."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from itertools import count as numbers_from
from random import Random
from typing import TYPE_CHECKING

import trio
from livekit.protocol import models

from triosfu.rtp.rtcp import SenderReport
from triosfu.rtp.wire import build_rtp
from triosfu.sdp.extmap import AUDIO_LEVEL, MID, RID, TRANSPORT_CC
from triosfu.sdp.sections import Sender

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.sfu.peer import End
    from triosfu.peer import DataChannel

STAMP = struct.Struct("!4sQI")  # mark, nanoseconds since 1970, number
MARK = b"bnch"
SOUND_EVERY, SOUND_CLOCK = 0.02, 48_000
SILENCE_EVERY = 0.4  # seconds, of Opus with DTX
FRAME_EVERY, PICTURE_CLOCK = 1 / 30, 90_000
KEYFRAME_EVERY = 300  # frames, if nobody asks for one
KEYFRAME_AFTER = 9  # frames from one to the next that is asked for: libwebrtc waits 300 ms
DATA_EVERY, DATA_SIZE = 0.02, 1_000
REPORT_EVERY = 1.0  # seconds between two sender reports on a stream
NTP = 2_208_988_800  # seconds from 1900 to 1970
OFFERED = {"audio": {MID: 10, AUDIO_LEVEL: 11}, "video": {MID: 10, RID: 12}}  # besides what our own stack offers
RIDS = "qhf"  # as LiveKit's clients name their streams, lowest quality first
INTRODUCED = 100  # packets of a stream that say where it belongs; browsers stop when a receiver report has come

ssrcs = numbers_from(10_000, 10)


@dataclass(frozen=True, slots=True)
class Quality:
    """One stream of a track."""

    rate: float  # bits per second
    packets: int  # in each frame
    width: int

    @property
    def size(self) -> int:
        """Bytes of a packet's payload."""
        return round(self.rate * FRAME_EVERY / 8 / self.packets)


SOUND = 40, 120  # bytes, at random, as Opus has them with a variable rate: 32 kbit/s
PICTURE = Quality(2_000_000, 8, 1280)
LAYERS = Quality(150_000, 1, 320), Quality(500_000, 2, 640), Quality(1_700_000, 7, 1280)


def sent_at(packet: bytes) -> tuple[int, int] | None:
    """Time (nanoseconds since 1970) and number of what is in the clear; None for what is not ours."""
    at = packet.find(MARK)
    if not 0 <= at <= len(packet) - STAMP.size:
        return None
    _, sent, number = STAMP.unpack_from(packet, at)
    return sent, number


def next_sender(kind: str, mime: str, identity: str) -> Sender:
    """A track to offer, with room for several streams in the numbers from its SSRC on."""
    ssrc = next(ssrcs)
    return Sender(kind=kind, track_id=f"track-{ssrc}", stream_id=identity, ssrc=ssrc, codecs=[mime])


def _named(rids: str) -> list[str]:
    return [*(f"a=rid:{rid} send" for rid in rids), f"a=simulcast:send {';'.join(rids)}"]


def _grouped(first: int, count: int) -> list[str]:
    numbers = range(first, first + count)
    group = "a=ssrc-group:SIM " + " ".join(map(str, numbers))
    return [group, *(f"a=ssrc:{number} cname:bench" for number in numbers[1:])]


class Outgoing:
    """One peer connection's way out, which numbers its packets for the transport's feedback as browsers do."""

    def __init__(self, end: End, *, rids: bool) -> None:
        self.end = end
        self.layers: dict[str, int] = {}  # how many, of tracks in several streams, by cid
        self._rids = rids
        self._number = 0
        self._extensions: dict[str, dict[str, int]] = {}  # by mid: id by URI

    def offer(self) -> str:
        """An offer of our own stack with what browsers have besides: extensions, and tracks in several streams.

        The streams are told by rids (RFC 8853), or by a group of SSRCs, as Chromium did before.
        """
        lines: list[str] = []
        kind = ""
        for line in self.end.peer.create_offer().splitlines():
            lines.append(line)
            if line.startswith("m="):
                kind = line[2:].partition(" ")[0]
            elif line.startswith("a=msid:"):
                lines += [f"a=extmap:{number} {uri}" for uri, number in OFFERED[kind].items()]
                cid = line.rpartition(" ")[2]
                if count := self.layers.get(cid):
                    lines += _named(RIDS[:count]) if self._rids else _grouped(int(cid.removeprefix("track-")), count)
        return "\r\n".join(lines) + "\r\n"

    def learn(self) -> None:
        """Take from the latest answer which extensions the server wants."""
        for section in self.end.peer.negotiation.sections:
            if section.remote is not None:
                self._extensions[section.mid] = {item.uri: item.id for item in section.remote.extensions}

    def send(
        self, sender: Sender, sequence: int, timestamp: int, payload: bytes, *, marker: bool = False, layer: int = 0
    ) -> None:
        """Queue one packet of a track; `layer` counts the streams of a track."""
        mid = sender.mid or ""
        self._number = self._number + 1 & 0xFFFF
        values = {AUDIO_LEVEL: b"\xa0", TRANSPORT_CC: self._number.to_bytes(2, "big")}
        if sequence <= INTRODUCED:
            values[MID] = mid.encode()
            if self._rids and sender.track_id in self.layers:
                values[RID] = RIDS[layer].encode()
        wanted = self._extensions.get(mid, {})
        packet = build_rtp(
            ssrc=sender.ssrc + layer,
            payload_type=sender.negotiated[0].payload_type,
            sequence=sequence & 0xFFFF,
            timestamp=timestamp & 0xFFFFFFFF,
            payload=payload,
            marker=marker,
            extensions={wanted[uri]: value for uri, value in values.items() if uri in wanted},
        )
        sink = self.end.peer.sink
        offset = sink.reserve()
        sink.arena[offset : offset + len(packet)] = packet
        sink.commit_rtp(offset, len(packet))

    def flush(self) -> None:
        """Let what is queued leave now: who waits for the event loop to come by measures it, too."""
        self.end.mux.egress.flush()


class Reports:
    """Sender reports for the streams of a track."""

    def __init__(self, way: Outgoing) -> None:
        self._way = way
        self._due = trio.current_time()

    def send(self, timestamp: int, streams: Sequence[tuple[int, int, int]]) -> None:
        """Report when it is time; `streams` are SSRC, packets and bytes."""
        if trio.current_time() < self._due:
            return
        self._due = trio.current_time() + REPORT_EVERY
        ntp = int((time.time() + NTP) * 2**32) & 0xFFFFFFFFFFFFFFFF
        self._way.end.send_rtcp(
            *(
                SenderReport(ssrc, ntp, timestamp & 0xFFFFFFFF, packets, octets & 0xFFFFFFFF).serialize()
                for ssrc, packets, octets in streams
            )
        )


class Sound:
    """A track of Opus; `every` so many seconds a packet, which is seldom where nobody speaks (DTX)."""

    def __init__(self, way: Outgoing, sender: Sender) -> None:
        self.every = SOUND_EVERY
        self._way, self._sender = way, sender
        self._sequence = 0
        self._octets = 0
        self._random = Random(sender.ssrc)
        self._reports = Reports(way)

    def send(self) -> None:
        """One packet."""
        self._sequence += 1
        timestamp = round(self._sequence * self.every * SOUND_CLOCK)
        size = self._random.randint(*SOUND)
        self._octets += size
        payload = STAMP.pack(MARK, time.time_ns(), self._sequence) + bytes(size - STAMP.size)
        self._way.send(self._sender, self._sequence, timestamp, payload)
        self._way.flush()
        self._reports.send(timestamp, [(self._sender.ssrc, self._sequence, self._octets)])


class Picture:
    """A track of VP8, in one stream or in several."""

    every = FRAME_EVERY

    def __init__(self, way: Outgoing, sender: Sender, qualities: Sequence[Quality]) -> None:
        self._way, self._sender = way, sender
        self._qualities = qualities
        self._sequences = [0] * len(qualities)
        self._keyframes = [-KEYFRAME_EVERY] * len(qualities)  # the frames that were the latest
        self._frame = 0
        self._reports = Reports(way)

    def send(self) -> None:
        """One frame of every stream."""
        self._frame += 1
        timestamp = round(self._frame * FRAME_EVERY * PICTURE_CLOCK)
        for layer, quality in enumerate(self._qualities):
            key = self._is_keyframe(layer)
            for number in range(quality.packets):
                self._sequences[layer] += 1
                head = self._head(quality, first=number == 0, key=key)
                stamp = STAMP.pack(MARK, time.time_ns(), self._sequences[layer])
                payload = head + stamp + bytes(quality.size - len(head) - len(stamp))
                last = number == quality.packets - 1
                self._way.send(self._sender, self._sequences[layer], timestamp, payload, marker=last, layer=layer)
            self._way.flush()
        streams = [
            (self._sender.ssrc + layer, packets, packets * quality.size)
            for layer, (packets, quality) in enumerate(zip(self._sequences, self._qualities, strict=True))
        ]
        self._reports.send(timestamp, streams)

    def _is_keyframe(self, layer: int) -> bool:
        ssrc, wanted = self._sender.ssrc + layer, self._way.end.peer.wanted
        due = KEYFRAME_AFTER if ssrc in wanted else KEYFRAME_EVERY
        if self._frame - self._keyframes[layer] < due:
            return False
        wanted.discard(ssrc)
        self._keyframes[layer] = self._frame
        return True

    def _head(self, quality: Quality, *, first: bool, key: bool) -> bytes:
        """The payload descriptor (RFC 7741, section 4.2), and the beginning of a frame."""
        descriptor = bytes([0x90 if first else 0x80, 0x80]) + (0x8000 | self._frame & 0x7FFF).to_bytes(2, "big")
        if not first:
            return descriptor
        if key:
            size = quality.width.to_bytes(2, "little") + (quality.width * 9 // 16).to_bytes(2, "little")
            return descriptor + b"\x10\x02\x00\x9d\x01\x2a" + size
        return descriptor + b"\x11\x02\x00"


class Data:
    """Reliable packets of data to all in the room."""

    every = DATA_EVERY

    def __init__(self, channel: DataChannel) -> None:
        self._channel = channel
        self._number = 0
        self._rest = bytes(DATA_SIZE - STAMP.size)

    def send(self) -> None:
        """One packet; a channel that is full has it lost."""
        self._number += 1
        payload = STAMP.pack(MARK, time.time_ns(), self._number) + self._rest
        packet = models.DataPacket(kind=models.DataPacket.Kind.RELIABLE, user=models.UserPacket(payload=payload))
        self._channel.send_nowait(packet.SerializeToString())


class Punctuality:
    """How late publishers were at worst: more than a moment says that the machine had something else to do."""

    def __init__(self) -> None:
        self.worst = 0.0  # seconds

    def begin(self) -> None:
        """Count from here on."""
        self.worst = 0.0


async def play(track: Sound | Picture | Data, *, after: float, punctuality: Punctuality) -> None:
    """Send for ever, in time; not all tracks begin at once."""
    due = trio.current_time() + after
    while True:
        await trio.sleep_until(due)
        punctuality.worst = max(punctuality.worst, trio.current_time() - due)
        track.send()
        due += track.every
