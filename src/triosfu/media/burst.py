"""Packets of one stream that came together, and go out together: to one subscriber after the other, not in turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.media.runs import Run
    from triosfu.rtp.wire import RtpPacket


class Burst:
    """What one batch of datagrams brought of one stream, in the order in which it is to be forwarded; never empty.

    It is made of packets that Python has read, or of runs that the kernel has; a mixture is packets all through.
    """

    __slots__ = ("_packets", "keyframe", "runs", "source")

    def __init__(self, source: int) -> None:
        self.source = source
        self.keyframe = False  # whether one begins in it
        self.runs: list[Run] = []  # all of it; empty if it is packets
        self._packets: list[RtpPacket] = []

    def add(self, packet: RtpPacket) -> None:
        """Append a packet of the same stream."""
        packets = self.packets
        packets.append(packet)
        self.runs = []
        self.keyframe |= packet.keyframe

    def add_run(self, run: Run) -> None:
        """Append packets of the same stream."""
        if self._packets:
            self._packets += run.packets()
            self.runs = []
        else:
            self.runs.append(run)

    @property
    def packets(self) -> list[RtpPacket]:
        """All of them."""
        if not self._packets and self.runs:
            self._packets = [packet for run in self.runs for packet in run.packets()]
        return self._packets

    @property
    def newest(self) -> RtpPacket:
        """The last one."""
        return self._packets[-1] if self._packets else self.runs[-1].newest()
