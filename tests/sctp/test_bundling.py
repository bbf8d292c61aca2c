"""What shares a packet, and in which order (RFC 9260, section 6.10)."""

from __future__ import annotations

from tests.support.network import Network, associations
from triosfu.sctp.wire import Data, Packet


def test_control_chunks_come_before_data_in_every_packet() -> None:
    ends = associations()
    network = Network(*ends)
    ends[0].connect(0.0)
    network.run(until=1.0)
    for path in network.paths:
        path.loss = 0.1
    for turn in range(40):
        for end in ends:
            end.send(turn % 5, bytes(300), ppid=53, now=network.now, max_retransmits=turn % 2)
        if turn % 9 == 0:
            ends[0].reset_stream(6 + turn, network.now)
        network.run(until=network.now + 0.05)
    bundles = 0
    for path in network.paths:
        for _, packet in path.sent:
            is_data = [isinstance(chunk, Data) for chunk in Packet.parse(packet).chunks]
            assert is_data == sorted(is_data)
            bundles += len(set(is_data)) == 2
    assert bundles > 20
