"""What publishers send: packets like those of Opus and VP8, each with the time at which it left."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from triosfu.rtp.wire import build_rtp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triosfu.peer import PeerConnection
    from triosfu.sdp.sections import Sender

MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
LEVEL = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
TRANSPORT_WIDE_CC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
STAMP = struct.Struct("!4sQ")
MARK = b"bnch"
SOUND_EVERY, SOUND_CLOCK = 0.02, 48_000
FRAME_EVERY, PICTURE_CLOCK = 1 / 30, 90_000
KEYFRAME_EVERY = 30  # frames
PACKET = 1_100  # bytes of a packet's payload at most


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


SOUND = 80  # bytes: 32 kbit/s
PICTURE = Quality(2_000_000, 8, 1280)
LAYERS = Quality(150_000, 1, 320), Quality(500_000, 2, 640), Quality(1_700_000, 7, 1280)


def sent_at(packet: bytes) -> int | None:
    """The time in a decrypted packet, in nanoseconds since 1970; None for one that is not ours."""
    at = packet.find(MARK)
    return None if at < 0 else int(STAMP.unpack_from(packet, at)[1])


class Outgoing:
    """One peer connection's way out, which numbers its packets for the transport's feedback as browsers do."""

    def __init__(self, peer: PeerConnection) -> None:
        self._peer = peer
        self._number = 0

    def send(
        self, sender: Sender, sequence: int, timestamp: int, payload: bytes, *, marker: bool = False, layer: int = 0
    ) -> None:
        """Send one packet of a track."""
        self._number = self._number + 1 & 0xFFFF
        values = {
            MID: (sender.mid or "").encode(),
            LEVEL: b"\xa0",
            TRANSPORT_WIDE_CC: self._number.to_bytes(2, "big"),
        }
        packet = build_rtp(
            ssrc=sender.ssrc + layer,
            payload_type=sender.negotiated[0].payload_type,
            sequence=sequence & 0xFFFF,
            timestamp=timestamp & 0xFFFFFFFF,
            payload=payload,
            marker=marker,
            extensions={number: values[uri] for uri, number in sender.extensions.items() if uri in values},
        )
        sink = self._peer.sink
        offset = sink.reserve()
        sink.arena[offset : offset + len(packet)] = packet
        sink.commit_rtp(offset, len(packet))


class Sound:
    """A track of Opus."""

    every = SOUND_EVERY

    def __init__(self, way: Outgoing, sender: Sender) -> None:
        self._way, self._sender = way, sender
        self._sequence = 0
        self._rest = bytes(SOUND - STAMP.size)

    def send(self) -> None:
        """One packet."""
        self._sequence += 1
        payload = STAMP.pack(MARK, time.time_ns()) + self._rest
        self._way.send(self._sender, self._sequence, round(self._sequence * SOUND_EVERY * SOUND_CLOCK), payload)


class Picture:
    """A track of VP8, in one stream or in several."""

    every = FRAME_EVERY

    def __init__(self, way: Outgoing, sender: Sender, qualities: Sequence[Quality]) -> None:
        self._way, self._sender = way, sender
        self._qualities = qualities
        self._sequences = [0] * len(qualities)
        self._frame = 0

    def send(self) -> None:
        """One frame of every stream."""
        self._frame += 1
        timestamp = round(self._frame * FRAME_EVERY * PICTURE_CLOCK)
        for layer, quality in enumerate(self._qualities):
            for number in range(quality.packets):
                self._sequences[layer] += 1
                head = self._head(quality, first=number == 0)
                stamp = STAMP.pack(MARK, time.time_ns())
                payload = head + stamp + bytes(quality.size - len(head) - len(stamp))
                last = number == quality.packets - 1
                self._way.send(self._sender, self._sequences[layer], timestamp, payload, marker=last, layer=layer)

    def _head(self, quality: Quality, *, first: bool) -> bytes:
        """The payload descriptor (RFC 7741, section 4.2), and the beginning of a frame."""
        descriptor = bytes([0x90 if first else 0x80, 0x80]) + (0x8000 | self._frame & 0x7FFF).to_bytes(2, "big")
        if not first:
            return descriptor
        if self._frame % KEYFRAME_EVERY == 1:
            size = quality.width.to_bytes(2, "little") + (quality.width * 9 // 16).to_bytes(2, "little")
            return descriptor + b"\x10\x02\x00\x9d\x01\x2a" + size
        return descriptor + b"\x11\x02\x00"


async def play(track: Sound | Picture, *, after: float) -> None:
    """Send for ever, in time; not all tracks begin at once."""
    due = trio.current_time() + after
    while True:
        await trio.sleep_until(due)
        track.send()
        due += track.every
