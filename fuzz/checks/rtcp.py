"""Any bytes are an RTCP compound, or malformed; what was understood says the same after it was written again."""

from __future__ import annotations

from triosfu.errors import MalformedPacket
from triosfu.rtp.rtcp import TransportFeedback, build_compound, parse_compound


def check_rtcp(data: bytes) -> None:
    try:
        packets = parse_compound(data)
    except MalformedPacket:
        return
    assert parse_compound(build_compound(packets)) == packets
    for packet in packets:
        if isinstance(packet, TransportFeedback):
            # A datagram cannot make us list more packets than it has bytes.
            assert len(packet.arrivals()) <= len(data)
