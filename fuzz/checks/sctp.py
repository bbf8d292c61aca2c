"""What must hold for any bytes given to the SCTP codec and to an association."""

from __future__ import annotations

from random import Random

from triosfu.errors import MalformedPacket
from triosfu.sctp.core import Association, Settings, State
from triosfu.sctp.parameters import OtherRequest, parse_reconfig
from triosfu.sctp.wire import PACKET_HEADER_SIZE, Packet, PacketHeader, ReConfig, parse_chunks

_MTU = 1191


def check_sctp(data: bytes) -> None:
    """`data` as a whole packet, and as the chunks of one whose checksum is right."""
    try:
        packet = Packet.parse(data)
    except MalformedPacket:
        pass
    else:
        assert Packet.parse(packet.serialize()) == packet
    try:
        chunks = parse_chunks(bytes(PACKET_HEADER_SIZE) + data)
    except MalformedPacket:
        return
    packet = Packet(5000, 5000, 1, chunks)
    assert Packet.parse(packet.serialize()) == packet
    for chunk in chunks:
        if isinstance(chunk, ReConfig):
            for tlv in chunk.parameters:
                try:
                    parameter = parse_reconfig(tlv)
                except MalformedPacket:
                    continue
                if not isinstance(parameter, OtherRequest):
                    assert parse_reconfig(parameter.tlv()) == parameter


def pair(state: int) -> tuple[Association, Association]:
    """Two associations, brought as far as `state` says."""
    settings = Settings(interleaving=bool(state & 64))
    left, right = (
        Association(now=0.0, rng=Random(seed), initial_tsn=100, over_dtls=bool(state & 128), settings=settings)
        for seed in (1, 2)
    )
    left.connect(0.0)
    left.send(1, b"left" * 1000, ppid=53, now=0.0)
    for _ in range(state % 8):
        for datagram in left.datagrams_to_send():
            right.receive_datagram(datagram, 0.0)
        for datagram in right.datagrams_to_send():
            left.receive_datagram(datagram, 0.0)
        if state & 16 and left.state is State.ESTABLISHED:
            left.shutdown(0.0)
    if state & 8:
        left, right = right, left
    if state & 32 and left.state in (State.CLOSED, State.COOKIE_WAIT, State.COOKIE_ECHOED, State.ESTABLISHED):
        left.send(2, b"lossy" * 1000, ppid=53, now=0.0, max_retransmits=0)
        left.reset_stream(2, 0.0)
    left.datagrams_to_send()
    left.events()
    return left, right


def check_sctp_association(data: bytes) -> None:
    """Packets cut out of `data`, each with a right header, arrive at an association in one of its states (P17).

    The first byte chooses the state; then come packets, each led by a u16: its size and, in the top bits, what to do
    to the time and to the tag.
    """
    if not data:
        return
    core, _ = pair(data[0])
    now, position, sent_before = 0.0, 1, core.total_buffered
    while position + 2 <= len(data) and core.state is not State.ENDED:
        head = int.from_bytes(data[position : position + 2], "big")
        size = head & 0x7FF
        body = data[position + 2 : position + 2 + size]
        position += 2 + size
        tag = core._connection.handshake.peer_tag if head & 0x8000 else core._connection.handshake.tag  # noqa: SLF001
        core.receive_datagram(PacketHeader(5000, 5000, 0 if head & 0x4000 else tag).packet([body]), now)
        packets = core.datagrams_to_send()
        assert len(packets) <= 8, "one packet causes many"
        assert all(len(packet) <= max(_MTU, size + 64) for packet in packets)
        assert core.total_buffered <= sent_before
        if head & 0x2000:
            now += 0.5
            core.handle_timeout(now)
            assert core.next_timeout() > now
    events = core.events()
    assert all(type(event).__name__ != "Ended" for event in events[:-1])
    # Whatever has happened: silence ends it, or nothing is under way.
    for _ in range(200):
        now = core.next_timeout()
        if now > 3600.0:
            break
        core.handle_timeout(now)
        core.datagrams_to_send()
    assert core.state is State.ENDED or not core._connection.outbound.outstanding  # noqa: SLF001
