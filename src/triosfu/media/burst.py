"""Packets of one stream that came together, and go out together: to one subscriber after the other, not in turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.rtp.wire import RtpPacket


class Burst:
    """What one batch of datagrams brought of one stream, in the order in which it is to be forwarded; never empty."""

    __slots__ = ("keyframe", "packets", "source")

    def __init__(self, packet: RtpPacket) -> None:
        self.source = packet.ssrc
        self.packets = [packet]
        self.keyframe = packet.keyframe  # whether one begins in it

    def add(self, packet: RtpPacket) -> None:
        """Append a packet of the same stream."""
        self.packets.append(packet)
        self.keyframe |= packet.keyframe
