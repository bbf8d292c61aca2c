"""RTCP as a whole: what may stand in a compound packet, and compounds themselves (RFC 3550, section 6; RFC 5506)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from triosfu.rtp.feedback import PAYLOAD, TRANSPORT, Fir, Nack, Pli, Remb
from triosfu.rtp.framing import frame, split
from triosfu.rtp.reports import (
    Bye,
    DelaySinceLastRr,
    Dlrr,
    OtherXrBlock,
    ReceiverReferenceTime,
    ReceiverReport,
    ReportBlock,
    Sdes,
    SdesChunk,
    SenderReport,
    Xr,
)
from triosfu.rtp.twcc import TransportFeedback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "Bye",
    "DelaySinceLastRr",
    "Dlrr",
    "Fir",
    "Nack",
    "OtherRtcp",
    "OtherXrBlock",
    "Pli",
    "ReceiverReferenceTime",
    "ReceiverReport",
    "Remb",
    "ReportBlock",
    "RtcpPacket",
    "Sdes",
    "SdesChunk",
    "SenderReport",
    "TransportFeedback",
    "Xr",
    "build_compound",
    "parse_compound",
]


@dataclass(frozen=True, slots=True)
class OtherRtcp:
    """A packet of a kind that nothing here uses, kept as it is."""

    packet_type: int
    count: int
    body: bytes

    def serialize(self) -> bytes:
        """The packet with its header."""
        return frame(self.packet_type, self.count, self.body)


RtcpPacket = SenderReport | ReceiverReport | Sdes | Bye | Xr | Nack | TransportFeedback | Pli | Fir | Remb | OtherRtcp

Report = SenderReport | ReceiverReport | Sdes | Bye | Xr
Feedback = Nack | TransportFeedback | Pli | Fir

REPORTS: dict[int, Callable[[int, bytes], Report]] = {
    200: SenderReport.parse_body,
    201: ReceiverReport.parse_body,
    202: Sdes.parse_body,
    203: Bye.parse_body,
    207: Xr.parse_body,
}
FEEDBACK: dict[tuple[int, int], Callable[[bytes], Feedback]] = {
    (TRANSPORT, 1): Nack.parse_body,
    (TRANSPORT, 15): TransportFeedback.parse_body,
    (PAYLOAD, 1): Pli.parse_body,
    (PAYLOAD, 4): Fir.parse_body,
}


def parse_compound(data: bytes) -> list[RtcpPacket]:
    """The packets of one datagram, in order. A reduced-size compound (RFC 5506) may begin with any kind.

    Raises:
        MalformedPacket: The datagram, or a packet of a known kind in it, is not valid.
    """
    return [parse_one(packet_type, count, body) for packet_type, count, body in split(data)]


def parse_one(packet_type: int, count: int, body: bytes) -> RtcpPacket:
    """One packet behind its header, by type and, for feedback, format."""
    if report := REPORTS.get(packet_type):
        return report(count, body)
    if feedback := FEEDBACK.get((packet_type, count)):
        return feedback(body)
    if packet_type == PAYLOAD and count == 15 and body[8:12] == b"REMB":
        return Remb.parse_body(body)
    return OtherRtcp(packet_type, count, body + bytes(-len(body) % 4))


def build_compound(packets: Iterable[RtcpPacket]) -> bytes:
    """These packets as one datagram, in this order."""
    return b"".join(packet.serialize() for packet in packets)
