"""How much media went through: the numbers of streams that are, and of those that have ended, in one sum.

The packet path counts in plain ints that each stream has anyway; whoever wants totals adds them up here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.media.receiver import TrackReceiver
    from triosfu.media.send_reports import SendStats
    from triosfu.media.stream import ReceiveStream


@dataclass(slots=True)
class MediaCounts:
    """What was sent, or what was received, on any number of streams. All of it only ever grows."""

    packets: int = 0
    octets: int = 0  # received: whole RTP packets; sent: their payload
    resent_packets: int = 0  # on streams of their own (RFC 4588)
    resent_octets: int = 0
    nacks: int = 0  # packets asked for again
    plis: int = 0  # keyframes asked for, in either way
    firs: int = 0
    late: int = 0  # received and of no use: too late, twice, or of another codec
    duplicates: int = 0
    foreign: int = 0
    bugs: int = 0  # subscribers that were cut off because forwarding to them raised

    def add(self, other: MediaCounts) -> None:
        """Count what `other` did, too."""
        self.packets += other.packets
        self.octets += other.octets
        self.resent_packets += other.resent_packets
        self.resent_octets += other.resent_octets
        self.nacks += other.nacks
        self.plis += other.plis
        self.firs += other.firs
        self.late += other.late
        self.duplicates += other.duplicates
        self.foreign += other.foreign
        self.bugs += other.bugs

    def add_stream(self, stream: ReceiveStream) -> None:
        """Count one received stream, too."""
        self.packets += stream.packets
        self.octets += stream.bytes
        self.nacks += stream.nacks.asked
        self.plis += stream.keyframes.sent
        self.late += stream.late
        self.duplicates += stream.duplicates
        self.foreign += stream.foreign

    @property
    def bytes(self) -> int:
        """All octets, the first time and again."""
        return self.octets + self.resent_octets


def received(receiver: TrackReceiver) -> MediaCounts:
    """What has come for one track in one codec, also on streams that others have replaced."""
    counts = MediaCounts()
    counts.add(receiver.past)
    for stream in receiver.streams.values():
        counts.add_stream(stream)
    counts.bugs = receiver.failed_subscribers
    return counts


def sent(stats: SendStats) -> MediaCounts:
    """What one subscriber was sent of one track."""
    return MediaCounts(
        packets=stats.packets,
        octets=stats.octets,
        resent_packets=stats.resent_packets,
        resent_octets=stats.resent_octets,
        nacks=stats.nacks,
        plis=stats.plis,
        firs=stats.firs,
    )
