"""LiveKit's Go SDK in processes of its own: what `tests/clients/go` tells, and what it publishes."""

from __future__ import annotations

import json
import math
import struct
import time
from array import array
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av

from tests.clients.child import Child
from tests.clients.server import KEY, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.clients.server import RunningServer

PROGRAM = Path(__file__).parents[2] / ".make" / "go-client"
RATE = 48_000  # samples per second
SECONDS = 60  # what the files last
FRAMES = 10  # pictures per second
OPTIONS = {
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
    "libx264": {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline"},
}


class GoParticipant:
    """A participant, and what it told so far."""

    def __init__(self, child: Child) -> None:
        self.child = child

    def do(self, wish: str, **details: object) -> None:
        """Have it do something; what comes of it, it tells."""
        self.child.tell(json.dumps({"do": wish, **details}))

    def told(self, event: str, **expected: object) -> list[dict[str, Any]]:
        """What it told of one kind, as far as it contains `expected`."""
        return [one for one in self.child.events(event) if expected.items() <= one.items()]

    def wait_for(self, event: str, *, seconds: float = 10, times: int = 1, **expected: object) -> dict[str, Any]:
        """Wait until it has told something for the `times`-th time."""
        deadline = time.monotonic() + seconds
        while len(found := self.told(event, **expected)) < times:
            assert self.child.process.poll() is None, f"it ended: {self.child.told}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {event} {expected}; told: {self.child.told}"
            time.sleep(0.02)
        return found[times - 1]

    def report(self) -> dict[str, Any]:
        """Where it stands."""
        before = len(self.child.events("report"))
        self.do("report")
        return self.wait_for("report", times=before + 1)

    def receives(
        self, who: str, kind: str, *, packets: int, width: int | None = None, seconds: float = 10
    ) -> dict[str, Any]:
        """Wait until so many packets of somebody's track have come, the latest key frame being so wide."""
        deadline = time.monotonic() + seconds
        while True:
            tracks = [track for track in self.report()["tracks"] if (track["who"], track["kind"]) == (who, kind)]
            for found in tracks:
                if found["packets"] >= packets and width in {None, found["width"]}:
                    enough: dict[str, Any] = found
                    return enough
            assert time.monotonic() < deadline, f"not within {seconds} s: {packets} of {who}'s {kind}; {tracks}"
            time.sleep(0.05)

    def silent(self) -> bool:
        """Whether nothing comes for a while."""
        before = self.report()["tracks"]
        time.sleep(0.3)
        return bool(before == self.report()["tracks"])


@contextmanager
def go_participant(
    server: RunningServer,
    room: str,
    identity: str,
    log: Path,
    *,
    mode: str,
    subscribe: bool = True,
    publish: Sequence[Path] = (),
) -> Iterator[GoParticipant]:
    """Join, and announce what is to `publish` with the request; it leaves at the end, and must exit with 0."""
    arguments = [server.url, KEY, SECRET, room, identity, mode, "subscribe" if subscribe else "no-subscribe"]
    arguments += [str(file) for file in publish]
    child = Child("participant", *arguments, log=log, program=[str(PROGRAM)])
    try:
        participant = GoParticipant(child)
        participant.wait_for("joined", identity=identity, room=room)
        yield participant
        assert child.process.stdin is not None
        child.process.stdin.close()
        assert child.process.wait(timeout=10) == 0, log.read_text()
    finally:
        child.end()


def write_sound(path: Path) -> None:
    """A tone, as Opus packets of 20 ms in an Ogg file."""
    with av.open(str(path), "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=RATE)
        stream.layout = "mono"
        size = RATE // 50
        wave = array(
            "h", (round(8000 * math.sin(2 * math.pi * 500 * at / RATE)) for at in range(size))
        )  # whole periods
        for at in range(50 * SECONDS):
            frame = av.AudioFrame(format="s16", layout="mono", samples=size)
            frame.sample_rate, frame.pts, frame.time_base = RATE, at * size, Fraction(1, RATE)
            frame.planes[0].update(wave.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_picture(path: Path, codec: str, width: int) -> None:
    """A picture that changes, a second of it again and again, in an IVF file (VP8) or as an Annex B stream (H.264)."""
    height = width * 9 // 16
    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.thread_count = Fraction(1, FRAMES), 1
    encoder.options = OPTIONS[codec]
    packets: list[bytes] = []
    for at in range(FRAMES):
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane, shade in zip(frame.planes, (at * 20, 128, 128), strict=True):
            plane.update(bytes([shade]) * plane.buffer_size)
        frame.pts = at
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    packets += [bytes(packet) for packet in encoder.encode(None)]
    if path.suffix != ".ivf":
        path.write_bytes(b"".join(packets) * SECONDS)
        return
    with path.open("wb") as file:
        header = (b"DKIF", 0, 32, b"VP80", width, height, FRAMES, 1, len(packets) * SECONDS, 0)
        file.write(struct.pack("<4sHH4sHHIIII", *header))
        for at, packet in enumerate(packets * SECONDS):
            file.write(struct.pack("<IQ", len(packet), at) + packet)
