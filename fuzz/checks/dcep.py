"""What must hold for any bytes given to the DCEP codec and to data channels."""

from __future__ import annotations

from random import Random

from triosfu.datachannel.core import ChannelClosed, ChannelOpened, DataChannels
from triosfu.datachannel.wire import Ack, parse_dcep
from triosfu.errors import MalformedPacket
from triosfu.sctp.core import Association


def check_dcep(data: bytes) -> None:
    """`data` as one DCEP message."""
    try:
        message = parse_dcep(data)
    except MalformedPacket:
        return
    if isinstance(message, Ack):
        assert message.serialize() == data[:1]
    else:
        assert message.serialize() == data


def check_datachannels(data: bytes) -> None:
    """Messages cut out of `data` arrive on streams of an association: led by stream, payload protocol and size."""
    peer, core = Association(now=0.0, rng=Random(1)), Association(now=0.0, rng=Random(2))
    channels = DataChannels(core, dtls_client=True)
    opened = {channels.open("ours", now=0.0)}
    peer.connect(0.0)
    closed: set[int] = set()
    position = 0
    while True:
        for _ in range(8):
            for datagram in peer.datagrams_to_send():
                channels.receive_datagram(datagram, 0.0)
            for datagram in channels.datagrams_to_send():
                peer.receive_datagram(datagram, 0.0)
        peer.events()
        for event in channels.events():
            if isinstance(event, ChannelOpened):
                opened.add(event.id)
                assert event.id not in closed
            elif isinstance(event, ChannelClosed):
                assert event.id in opened
                assert event.id not in closed, "two terminal events"
                closed.add(event.id)
            else:
                assert getattr(event, "id", 0) not in closed
        if position + 3 > len(data):
            return
        stream, what, size = data[position] & 7, data[position + 1], data[position + 2]
        body = data[position + 3 : position + 3 + size] or b"\0"
        position += 3 + size
        if what & 0x80:
            peer.reset_stream(stream, 0.0)
        elif not peer.is_resetting(stream):
            peer.send(stream, body, ppid=50 + (what & 7) if what & 0x40 else 50, now=0.0)
