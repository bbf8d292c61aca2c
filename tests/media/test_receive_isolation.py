"""What bugs of several subscribers at once cost: their own media, and nobody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.media.receiver import TrackReceiver
from triosfu.rtp.wire import RtpPacket, build_rtp

if TYPE_CHECKING:
    from triosfu.media.burst import Burst


class Broken:
    """A subscriber with a bug."""

    lane = None
    source = -1

    def take(self, burst: Burst, now: float, start: int = 0) -> None:
        raise LookupError


class Sound:
    """One without."""

    def __init__(self) -> None:
        self.packets: list[RtpPacket] = []

    lane = None
    source = -1

    def take(self, burst: Burst, now: float, start: int = 0) -> None:
        self.packets += burst.packets


def test_subscribers_that_fail_together_fail_alone() -> None:
    receiver = TrackReceiver(kind="audio", mime="audio/opus", clock_rate=48000, now=0.0)
    first, last = Sound(), Sound()
    for subscriber in (first, Broken(), Broken(), last):
        receiver.subscribe(subscriber)
    data = build_rtp(ssrc=1, payload_type=111, sequence=1, timestamp=960, payload=b"sound")
    packet = RtpPacket.parse(data, 0.0)
    receiver.deliver(packet, 0.0)
    receiver.forward(0.0)
    assert first.packets == last.packets == [packet]
    assert receiver.subscribers == [first, last]
    assert receiver.failed_subscribers == 2
