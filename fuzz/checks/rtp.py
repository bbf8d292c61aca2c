"""Any bytes are an RTP packet whose parts lie inside it, or they are malformed; a publisher's ingress survives both."""

from __future__ import annotations

from contextlib import suppress
from random import Random

from fuzz.script import Script
from triosfu.errors import MalformedPacket
from triosfu.media.ingress import TRANSPORT_WIDE_CC, Ingress
from triosfu.media.receiver import TrackReceiver
from triosfu.rtp.rtcp import parse_compound
from triosfu.rtp.wire import RtpPacket, build_rtp


def check_rtp(data: bytes) -> None:
    try:
        packet = RtpPacket.parse(data)
    except MalformedPacket:
        return
    assert packet.data is data
    assert 12 <= packet.payload_offset <= packet.payload_end <= len(data)
    assert len(packet.payload) + packet.padding == len(data) - packet.payload_offset
    first: dict[int, bytes] = {}
    for number, start, end in packet.elements():
        assert packet.extension_offset < start <= end <= packet.extension_end <= packet.payload_offset
        first.setdefault(number, data[start:end])
    for number in (0, *list(first)[:16], 15, 16, 255):
        assert packet.extension(number) == first.get(number)


def check_ingress(data: bytes) -> None:
    """Feed `data` as packets of a length byte each; whatever they are, reports stay valid and time advances."""
    ingress = Ingress(rng=Random(1), now=0.0)
    video = TrackReceiver(kind="video", mime="video/VP8", clock_rate=90000, now=0.0)
    audio = TrackReceiver(kind="audio", mime="audio/red", clock_rate=48000, now=0.0)
    extensions = {
        TRANSPORT_WIDE_CC: 3,
        "urn:ietf:params:rtp-hdrext:sdes:mid": 4,
        "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id": 10,
        "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id": 11,
        "urn:ietf:params:rtp-hdrext:ssrc-audio-level": 1,
    }
    ingress.add_track(
        video, mid="0", rids="qhf", payload_types={96: "video/VP8", 97: 96, 98: "video/VP9"}, extension_ids=extensions
    )
    ingress.add_track(
        audio,
        mid="1",
        payload_types={63: "audio/red", 111: "audio/opus"},
        extension_ids=extensions,
        ssrcs=[1],
        rtx={1: 2},
    )
    now, position = 0.0, 0
    while position < len(data):
        size = data[position]
        datagram = data[position + 1 : position + 1 + size]
        position += 1 + size
        now += size / 1000
        ingress.receive_rtp(datagram, now)
        with suppress(MalformedPacket):
            ingress.receive_rtcp(parse_compound(datagram), now)
        ingress.handle_timeout(now)
        assert ingress.next_timeout() > now
        for compound in ingress.rtcp_to_send():
            assert len(compound) <= 1200
            parse_compound(compound)


def check_header_extensions(data: bytes) -> None:
    """Any identifiers and values are read back from the packet that they are written into, in the form they fit.

    `data` is a list of identifiers and values, each value behind its length.
    """
    script = Script(data)
    extensions: dict[int, bytes] = {}
    payload = script.chunk()
    while script and len(extensions) < 64:  # more elements than any client has numbers for
        extensions[script.number() or 1] = script.chunk()
    packet = RtpPacket.parse(
        build_rtp(ssrc=1, payload_type=96, sequence=2, timestamp=3, payload=payload, extensions=extensions or None)
    )
    assert packet.payload == payload
    assert {number: packet.data[start:end] for number, start, end in packet.elements()} == extensions
    for number in (0, *extensions, 15, 16, 255):
        assert packet.extension(number) == extensions.get(number)
