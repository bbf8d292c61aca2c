"""Received packets that carry another packet: RTX (RFC 4588), and Opus among RED (RFC 2198)."""

from __future__ import annotations

from triosfu.errors import MalformedPacket
from triosfu.rtp.wire import HEADER, PADDING, RtpPacket


def original_of(packet: RtpPacket, ssrc: int, payload_type: int) -> RtpPacket:
    """The packet that this retransmission repeats, as if it had come by itself (RFC 4588, section 4).

    Raises:
        MalformedPacket: There is none in it: the packet is padding that probes for bandwidth.
    """
    data, offset = packet.data, packet.payload_offset
    if packet.payload_end - offset < 2:
        raise MalformedPacket("rtx: no original sequence number")
    sequence = data[offset] << 8 | data[offset + 1]
    header = HEADER.pack(data[0] & ~PADDING, data[1] & 0x80 | payload_type, sequence, packet.timestamp, ssrc)
    return RtpPacket.parse(header + data[12:offset] + data[offset + 2 : packet.payload_end], packet.arrival)


def as_red(packet: RtpPacket, payload_type: int) -> RtpPacket:
    """This packet as a RED packet without redundancy, of the RED payload type `payload_type` (RFC 2198, section 3).

    A publisher of RED sends a frame bare when it has nothing to add to it; subscribers were promised RED.
    """
    data, offset = packet.data, packet.payload_offset
    header = HEADER.pack(
        data[0] & ~PADDING, data[1] & 0x80 | payload_type, packet.sequence, packet.timestamp, packet.ssrc
    )
    body = bytes([packet.payload_type]) + data[offset : packet.payload_end]
    return RtpPacket.parse(header + data[12:offset] + body, packet.arrival)
