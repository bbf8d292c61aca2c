"""Microseconds of Python for one received packet, from plaintext to the subscribers, of which there is one.

Run: `python -m bench.receive`. One line per kind of track; decryption and system calls are not in it.
"""

from __future__ import annotations

import subprocess
import timeit
from random import Random
from time import process_time
from typing import TYPE_CHECKING

from triosfu.media.ingress import TRANSPORT_WIDE_CC, Ingress
from triosfu.media.levels import SSRC_AUDIO_LEVEL
from triosfu.media.receiver import TrackReceiver
from triosfu.rtp.wire import build_rtp

if TYPE_CHECKING:
    from triosfu.media.burst import Burst

PACKETS = 5000
MID = "urn:ietf:params:rtp-hdrext:sdes:mid"


class Sink:
    """A subscriber that throws everything away."""

    lane = None
    source = -1

    def take(self, burst: Burst, now: float, start: int = 0) -> None:
        """Take packets."""


def packet(kind: str, number: int, *, loss: bool) -> bytes:
    transport = {3: (number & 0xFFFF).to_bytes(2, "big")}
    if kind == "audio":
        return build_rtp(
            ssrc=1,
            payload_type=111,
            sequence=number,
            timestamp=number * 960,
            payload=bytes(80),
            extensions={1: b"\x9e"},
        )
    frame, part = divmod(number, 5)
    descriptor = bytes([0x90 if part == 0 else 0x80, 0x80, frame & 0x7F, frame > 0])
    return build_rtp(
        ssrc=1,
        payload_type=96,
        sequence=number + number // 50 if loss else number,
        timestamp=frame * 3000,
        marker=part == 4,
        payload=descriptor + bytes(1100),
        extensions={4: b"0", 2: bytes(3), **transport},
    )


def bench(kind: str, *, loss: bool = False) -> float:
    """Microseconds of CPU a packet, best of seven."""
    mime = "video/VP8" if kind == "video" else "audio/opus"
    stream = [packet(kind, number, loss=loss) for number in range(PACKETS)]

    def run() -> None:
        ingress = Ingress(rng=Random(1), now=0.0)
        receiver = TrackReceiver(kind=kind, mime=mime, clock_rate=90000 if kind == "video" else 48000, now=0.0)
        extensions = {TRANSPORT_WIDE_CC: 3, MID: 4} if kind == "video" else {SSRC_AUDIO_LEVEL: 1, MID: 4}
        ingress.add_track(
            receiver, mid="0", ssrcs=[1], payload_types={96: "video/VP8", 111: "audio/opus"}, extension_ids=extensions
        )
        receiver.subscribe(Sink())
        now = 0.0
        for data in stream:
            now += 0.002
            ingress.receive_rtp(data, now)
            ingress.forward(now)
            if now >= ingress.next_timeout():
                ingress.handle_timeout(now)
                ingress.rtcp_to_send()

    return min(timeit.repeat(run, timer=process_time, number=1, repeat=7)) / PACKETS * 1e6


def main() -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    for name, kind, loss in (("audio", "audio", False), ("video", "video", False), ("video, 2 % lost", "video", True)):
        print(f"{commit.stdout.strip()} receive {name}: {bench(kind, loss=loss):.2f} µs")


if __name__ == "__main__":
    main()
