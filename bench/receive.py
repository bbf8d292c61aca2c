"""Microseconds for one received packet, from the datagram to the subscribers, of which there is one.

Run: `python -m bench.receive`. For each kind of track a line for Python, and one for the compiled kernel, which gets a
picture's packets in runs as the system hands them over; decryption (AES-GCM) is in both, system calls are not.
"""

from __future__ import annotations

import subprocess
from random import Random
from time import process_time
from typing import TYPE_CHECKING

from triosfu.kernel import installed
from triosfu.media.ingress import TRANSPORT_WIDE_CC, Ingress
from triosfu.media.levels import SSRC_AUDIO_LEVEL
from triosfu.media.receiver import TrackReceiver
from triosfu.media.runs import intake_of
from triosfu.net.batch import SLOT, Arena
from triosfu.net.egress import Egress
from triosfu.rtp.wire import build_rtp
from triosfu.srtp import Inbound, Outbound, SrtpKeys, SrtpProfile
from triosfu.srtp.binding import unprotect_address

if TYPE_CHECKING:
    from triosfu.media.burst import Burst

PACKETS = 5000
FRAME = 5  # packets of a picture
GCM = SrtpProfile.AEAD_AES_128_GCM
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
    frame, part = divmod(number, FRAME)
    descriptor = bytes([0x90 if part == 0 else 0x80, 0x80, frame & 0x7F, frame > 0])
    return build_rtp(
        ssrc=1,
        payload_type=96,
        sequence=number + number // 50 if loss else number,
        timestamp=frame * 3000,
        marker=part == FRAME - 1,
        payload=descriptor + bytes(1100),
        extensions={4: b"0", 2: bytes(3), **transport},
    )


def bench(kind: str, *, loss: bool = False, compiled: bool = False) -> float:
    """Microseconds of CPU a packet, best of seven."""
    mime = "video/VP8" if kind == "video" else "audio/opus"
    keys = SrtpKeys.from_exporter(GCM, bytes(GCM.export_length), client=True)
    outbound, egress, arena = Outbound(keys), Egress(), Arena(1, 8 * SLOT)
    stream = [outbound.protect(packet(kind, number, loss=loss)) for number in range(PACKETS)]
    together = FRAME if kind == "video" else 1

    def run() -> float:
        intake = intake_of(egress.kernel_queue, unprotect_address()) if compiled else None
        ingress, inbound = Ingress(rng=Random(1), now=0.0, intake=intake), Inbound(keys.swapped())
        receiver = TrackReceiver(kind=kind, mime=mime, clock_rate=90000 if kind == "video" else 48000, now=0.0)
        extensions = {TRANSPORT_WIDE_CC: 3, MID: 4} if kind == "video" else {SSRC_AUDIO_LEVEL: 1, MID: 4}
        ingress.add_track(
            receiver, mid="0", ssrcs=[1], payload_types={96: "video/VP8", 111: "audio/opus"}, extension_ids=extensions
        )
        receiver.subscribe(Sink())
        now, spent = 0.0, 0.0
        for first in range(0, PACKETS, together):
            now += 0.002 * together
            run = b"".join(stream[first : first + together])
            arena.memory[: len(run)] = run
            size, at, began = len(stream[first]), 0, process_time()
            while at < len(run):
                datagrams = arena.memory[at:], arena.pointer + at, len(run) - at, size
                taken, _ = ingress.receive_run(inbound.address, datagrams, now) if compiled else (0, 0)
                if not taken:
                    length = inbound.unprotect_in_place(datagrams[1], size)
                    ingress.receive_rtp(bytes(arena.memory[at : at + length]), now)
                at += size * (taken or 1)
            ingress.forward(now)
            if now >= ingress.next_timeout():
                ingress.handle_timeout(now)
                ingress.rtcp_to_send()
            spent += process_time() - began
        return spent

    return min(run() for _ in range(7)) / PACKETS * 1e6


def main() -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    for name, kind, loss in (("audio", "audio", False), ("video", "video", False), ("video, 2 % lost", "video", True)):
        for way in ("Python", "compiled") if installed() else ("Python",):
            spent = bench(kind, loss=loss, compiled=way == "compiled")
            print(f"{commit.stdout.strip()} receive {name}, {way}: {spent:.2f} µs")


if __name__ == "__main__":
    main()
