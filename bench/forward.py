"""Microseconds of CPU to forward and protect one packet for one of three hundred subscribers, without system calls.

Run: `python -m bench.forward`. One line per kind of track.
"""

from __future__ import annotations

import subprocess
import time
import timeit
from random import Random
from typing import Any

from triosfu.kernel import installed
from triosfu.media.codecs import DEPENDENCY_DESCRIPTOR
from triosfu.media.down_track import DownTrack
from triosfu.media.receiver import TrackReceiver
from triosfu.media.shape import ABS_SEND_TIME
from triosfu.net.egress import Destination, Egress
from triosfu.peer.sink import TransportSink
from triosfu.rtp.wire import RtpPacket, build_rtp
from triosfu.srtp import Outbound, SrtpKeys, SrtpProfile

SUBSCRIBERS = 300
PACKETS = 200
GCM = SrtpProfile.AEAD_AES_128_GCM


class Nowhere:
    """An outlet that throws everything away."""

    def send(self, slots: range) -> tuple[()]:
        """Send nothing."""
        return ()

    def send_one(self, data: bytes, address: object) -> bool:
        """Send nothing."""
        return True

    def probe(self, data: bytes, address: object) -> None:
        """Send nothing."""

    def close(self) -> None:
        """Nothing to do."""


def sinks(*, compiled: bool) -> list[TransportSink]:
    """One for each subscriber, with keys of its own, on one egress."""
    egress = Egress(compiled=compiled)
    kernel = installed() if compiled else None
    made = []
    for number in range(SUBSCRIBERS):
        material = Random(number).randbytes(GCM.export_length)
        sink = TransportSink(egress)
        sink.outbound = Outbound(SrtpKeys.from_exporter(GCM, material, client=True))
        sink.destination = Destination(("127.0.0.1", 9), Nowhere(), kernel)
        made.append(sink)
    return made


def vp8_packet(index: int, size: int, *, temporal: int = 0) -> bytes:
    frame, part = divmod(index, 5)
    descriptor = bytes([0x90 if part == 0 else 0x80, 0xF0, 0x80 | frame >> 8 & 0x7F, frame & 0xFF, frame & 0xFF])
    layer = bytes([temporal << 6 | 0x20 | 1])
    return descriptor + layer + bytes([index != 0]) + bytes(size - 7)


def packets(kind: str, layers: int = 1) -> list[RtpPacket]:
    made = []
    for index in range(PACKETS):
        for spatial in range(layers):
            video = kind == "video"
            data = build_rtp(
                ssrc=1000 + spatial,
                payload_type=96 if video else 111,
                sequence=index & 0xFFFF,
                timestamp=index // 5 * 3000 if video else index * 960,
                marker=index % 5 == 4,
                payload=vp8_packet(index, 1100, temporal=index // 5 % 2) if video else bytes(80),
                extensions={1: b"\x30", 4: b"0"},
            )
            packet = RtpPacket.parse(data, index / 100)
            packet.spatial, packet.index = spatial, index
            made.append(packet)
    return made


def bench(kind: str, *, compiled: bool, extensions: dict[str, int], layers: int = 1, temporal: int = 3) -> float:
    """Microseconds a packet and subscriber, best of five."""
    mime = "video/VP8" if kind == "video" else "audio/opus"
    receiver = TrackReceiver(kind=kind, mime=mime, clock_rate=90000 if kind == "video" else 48000, now=0.0)
    receiver.available = tuple(range(layers))
    for number, sink in enumerate(sinks(compiled=compiled)):
        track = DownTrack(
            receiver=receiver, sink=sink, ssrc=number + 1, rtx_ssrc=None, rng=Random(number), now=0.0, cname="bench"
        )
        track.bind(payload_types={mime: 96}, rtx_payload_types={}, extension_ids=extensions, now=0.0)
        track.set_max_layer(0, temporal, 0.0)
    stream = packets(kind, layers)
    for packet in stream:
        receiver.inspect(packet)
    run = 0

    def once() -> None:
        nonlocal run
        for packet in stream:
            packet.index += PACKETS if run else 0
            receiver.deliver(packet, packet.arrival)
            if packet.marker or (len(stream) == PACKETS and kind == "audio"):
                receiver.forward(packet.arrival)
        run += 1

    return min(timeit.repeat(once, number=1, repeat=5, timer=time.process_time)) / (PACKETS * SUBSCRIBERS) * 1e6


def main() -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(
        f"commit {commit.stdout.strip()}, {SUBSCRIBERS} subscribers, us of CPU per packet and subscriber, with AES-GCM"
    )
    send_time = {ABS_SEND_TIME: 3}
    kinds: dict[str, dict[str, Any]] = {
        "opus": {"kind": "audio", "extensions": {}},
        "vp8": {"kind": "video", "extensions": send_time},
        "vp8, two extensions": {"kind": "video", "extensions": {**send_time, DEPENDENCY_DESCRIPTOR: 4}},
        "vp8, half dropped": {"kind": "video", "extensions": send_time, "temporal": 0},
        "vp8, 3 layers in, 1 out": {"kind": "video", "extensions": send_time, "layers": 3},
    }
    print(f"{'':26}python  compiled")
    for name, of in kinds.items():
        plain = bench(compiled=False, **of)
        compiled = f"{bench(compiled=True, **of):10.2f}" if installed() else "  not installed"
        print(f"{name:24}{plain:8.2f}{compiled}")


if __name__ == "__main__":
    main()
