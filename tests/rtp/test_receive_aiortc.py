"""aiortc reads what we write, and we read what it writes."""

from __future__ import annotations

from aiortc import rtp as aiortc
from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters, RTCRtpParameters

from triosfu.media.rebuild import original_of
from triosfu.rtp.rtcp import (
    Bye,
    Nack,
    Pli,
    ReceiverReport,
    Remb,
    ReportBlock,
    Sdes,
    SenderReport,
    build_compound,
    parse_compound,
)
from triosfu.rtp.wire import RtpPacket, build_rtp

MID, LEVEL = "urn:ietf:params:rtp-hdrext:sdes:mid", "urn:ietf:params:rtp-hdrext:ssrc-audio-level"


def extension_map() -> aiortc.HeaderExtensionsMap:
    extensions = aiortc.HeaderExtensionsMap()
    extensions.configure(
        RTCRtpParameters(
            headerExtensions=[RTCRtpHeaderExtensionParameters(4, MID), RTCRtpHeaderExtensionParameters(1, LEVEL)]
        )
    )
    return extensions


def test_aiortc_reads_our_rtp() -> None:
    data = build_rtp(
        ssrc=7,
        payload_type=111,
        sequence=65535,
        timestamp=2**32 - 1,
        marker=True,
        payload=b"sound",
        csrcs=(1, 2),
        extensions={4: b"0", 1: b"\x94"},
        padding=4,
    )
    packet = aiortc.RtpPacket.parse(data, extension_map())
    assert (packet.ssrc, packet.payload_type, packet.sequence_number) == (7, 111, 65535)
    assert (packet.timestamp, packet.marker, packet.payload, packet.csrc) == (2**32 - 1, 1, b"sound", [1, 2])
    assert packet.padding_size == 4
    assert (packet.extensions.mid, packet.extensions.audio_level) == ("0", (True, 20))


def test_we_read_aiortcs_rtp() -> None:
    theirs = aiortc.RtpPacket(payload_type=96, marker=1, sequence_number=9, timestamp=11, ssrc=13, payload=b"picture")
    theirs.extensions.mid = "video"
    theirs.padding_size = 3
    packet = RtpPacket.parse(theirs.serialize(extension_map()))
    assert (packet.ssrc, packet.payload_type, packet.sequence, packet.timestamp) == (13, 96, 9, 11)
    assert (packet.payload, packet.padding, packet.extension(4), packet.extension(1)) == (b"picture", 3, b"video", None)


def test_aiortc_reads_our_rtcp() -> None:
    block = ReportBlock(5, 64, -3, 70000, 12, 0xB7052000, 0x54000)
    data = build_compound(
        [
            SenderReport(1, 0xB44DB705_20000000, 90000, 10, 1000, (block,)),
            ReceiverReport(1, (block, block)),
            Sdes.cname(1, "alice"),
            Bye((1, 2)),
            Nack(1, 5, (65533, 65535, 100, 103)),
            Pli(1, 5),
        ]
    )
    info = aiortc.RtcpSenderInfo(
        ntp_timestamp=0xB44DB705_20000000, rtp_timestamp=90000, packet_count=10, octet_count=1000
    )
    theirs = aiortc.RtcpReceiverInfo(
        ssrc=5, fraction_lost=64, packets_lost=-3, highest_sequence=70000, jitter=12, lsr=0xB7052000, dlsr=0x54000
    )
    assert aiortc.RtcpPacket.parse(data) == [
        aiortc.RtcpSrPacket(ssrc=1, sender_info=info, reports=[theirs]),
        aiortc.RtcpRrPacket(ssrc=1, reports=[theirs, theirs]),
        aiortc.RtcpSdesPacket(chunks=[aiortc.RtcpSourceInfo(ssrc=1, items=[(1, b"alice")])]),
        aiortc.RtcpByePacket(sources=[1, 2]),
        aiortc.RtcpRtpfbPacket(fmt=1, ssrc=1, media_ssrc=5, lost=[65533, 65535, 100, 103]),
        aiortc.RtcpPsfbPacket(fmt=1, ssrc=1, media_ssrc=5),
    ]


def test_we_read_aiortcs_rtcp() -> None:
    info = aiortc.RtcpSenderInfo(ntp_timestamp=1 << 40, rtp_timestamp=5, packet_count=6, octet_count=7)
    block = aiortc.RtcpReceiverInfo(
        ssrc=5, fraction_lost=1, packets_lost=-2, highest_sequence=3, jitter=4, lsr=5, dlsr=6
    )
    estimate = aiortc.pack_remb_fci(1_000_000, [5, 6])
    data = b"".join(
        bytes(packet)
        for packet in (
            aiortc.RtcpSrPacket(ssrc=1, sender_info=info, reports=[block]),
            aiortc.RtcpRrPacket(ssrc=1, reports=[block]),
            aiortc.RtcpSdesPacket(chunks=[aiortc.RtcpSourceInfo(ssrc=1, items=[(1, b"bob")])]),
            aiortc.RtcpByePacket(sources=[1]),
            aiortc.RtcpRtpfbPacket(fmt=1, ssrc=1, media_ssrc=5, lost=[1, 2, 18]),
            aiortc.RtcpPsfbPacket(fmt=1, ssrc=1, media_ssrc=5),
            aiortc.RtcpPsfbPacket(fmt=15, ssrc=1, media_ssrc=0, fci=estimate),
        )
    )
    ours = ReportBlock(5, 1, -2, 3, 4, 5, 6)
    packets = parse_compound(data)
    assert packets[:6] == [
        SenderReport(1, 1 << 40, 5, 6, 7, (ours,)),
        ReceiverReport(1, (ours,)),
        Sdes.cname(1, "bob"),
        Bye((1,)),
        Nack(1, 5, (1, 2, 18)),
        Pli(1, 5),
    ]
    remb = packets[6]
    assert isinstance(remb, Remb)
    assert (remb.ssrcs, remb.bitrate) == ((5, 6), 1_000_000 & ~7)


def test_aiortc_reads_our_estimate() -> None:
    fci = Remb(1, 2_000_000, (5,)).serialize()[12:]
    bitrate, ssrcs = aiortc.unpack_remb_fci(fci)
    assert ssrcs == [5]
    assert 2_000_000 - 16 < bitrate <= 2_000_000


def test_aiortc_unwraps_retransmissions_as_we_do() -> None:
    theirs = aiortc.RtpPacket(payload_type=96, marker=1, sequence_number=9, timestamp=11, ssrc=13, payload=b"picture")
    wrapped = aiortc.wrap_rtx(theirs, payload_type=97, sequence_number=1, ssrc=14)
    original = original_of(RtpPacket.parse(wrapped.serialize()), 13, 96)
    assert original.data == theirs.serialize()
