"""One published track in one codec, as it arrives: up to three layers, and the subscribers they fan out to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from triosfu.rtp.wire import RtpPacket


class Subscriber(Protocol):
    """What a receiver feeds: `media.down_track.DownTrack`."""

    def forward(self, packet: RtpPacket, now: float) -> None:
        """Take one packet. `packet` must not be changed; it stays valid for as long as it is kept."""


@dataclass(frozen=True, slots=True)
class SenderReportInfo:
    """The last sender report of one layer, and when it came."""

    ntp: float  # seconds since 1900, the publisher's clock
    rtp_timestamp: int
    arrival: float  # seconds, our clock


class TrackReceiver:
    """One published track in one codec."""

    kind: str  # "audio" or "video"
    mime: str
    clock_rate: int
    extension_ids: Mapping[str, int]  # the publisher's: uri -> identifier in received packets
    subscribers: list[Subscriber]  # replaced, never changed in place: a packet is being handed along it
    rtt: float  # seconds, to the publisher

    def subscribe(self, subscriber: Subscriber) -> None:
        """Feed `subscriber` from the next packet on."""
        self.subscribers = [*self.subscribers, subscriber]

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Feed `subscriber` no more."""
        self.subscribers = [other for other in self.subscribers if other is not subscriber]

    def request_keyframe(self, spatial: int, now: float) -> None:
        """Ask the publisher for a keyframe of layer `spatial`, soon: throttled, and remembered while throttled."""
        raise NotImplementedError

    def packet(self, spatial: int, index: int) -> RtpPacket | None:
        """The buffered packet of layer `spatial` with this `index`, for a retransmission."""
        raise NotImplementedError

    def sender_report(self, spatial: int) -> SenderReportInfo | None:
        """The last sender report of layer `spatial`; None before the first."""
        raise NotImplementedError

    @property
    def available(self) -> tuple[int, ...]:
        """The spatial layers that media arrives on now, lowest first."""
        raise NotImplementedError

    def bitrate(self, spatial: int) -> int:
        """Bits per second that arrive on layer `spatial`."""
        raise NotImplementedError
