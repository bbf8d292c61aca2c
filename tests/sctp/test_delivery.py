from __future__ import annotations

import pytest

from tests.support.network import Network, established
from triosfu.sctp.core import Association, Ended, Message, State
from triosfu.sctp.timers import Timer
from triosfu.sctp.wire import Data, Packet, Sack


def lefts(network: Network) -> tuple[Association, Association]:
    left, right = network.ends
    assert isinstance(left, Association)
    assert isinstance(right, Association)
    return left, right


def test_stream_sequence_numbers_wrap() -> None:
    network = established()
    left, _ = lefts(network)
    for number in range(66_000):
        left.send(0, number.to_bytes(3, "big"), ppid=53, now=1.0)
        if number % 3000 == 0:
            network.run(until=network.now + 60.0, done=lambda: left.total_buffered == 0)
    network.run(until=network.now + 60.0, done=lambda: left.total_buffered == 0)
    assert [int.from_bytes(m.data, "big") for m in network.of(1, Message)] == list(range(66_000))


def test_a_message_as_large_as_we_announce_arrives() -> None:
    network = established()
    left, _ = lefts(network)
    data = bytes(range(256)) * 1024
    assert len(data) == 262_144
    left.send(0, data, ppid=53, now=1.0)
    network.run(until=20.0)
    assert network.of(1, Message) == [Message(0, 53, data)]


def test_a_larger_message_ends_the_association() -> None:
    network = established()
    left, right = lefts(network)
    left.send(0, bytes(262_145), ppid=53, now=1.0)
    network.run(until=20.0, done=lambda: right.state is State.ENDED)
    assert network.of(1, Ended) == [Ended("sctp: message is larger than 262144 bytes")]
    assert network.of(1, Message) == []


def test_streams_take_turns() -> None:
    network = established()
    left, _ = lefts(network)
    for number in range(10):
        left.send(0, bytes([number]) * 1100, ppid=53, now=1.0)
    left.send(1, b"second stream", ppid=53, now=1.0)
    network.run(until=5.0)
    order = [m.stream_id for m in network.of(1, Message)]
    assert order.index(1) <= 1


def test_urgent_messages_go_first_and_are_not_counted() -> None:
    network = established()
    left, _ = lefts(network)
    for number in range(10):
        left.send(0, bytes([number]) * 1100, ppid=53, now=1.0)
    before = left.total_buffered
    left.send(1, b"control", ppid=50, now=1.0, urgent=True)
    assert left.total_buffered == before
    assert left.buffered(1) == 0
    network.run(until=5.0)
    assert network.of(1, Message)[0].data == b"control"


def test_nothing_is_sent_twice_over_a_good_path() -> None:
    """T3 starts anew with each acknowledgement, or a long transfer would look like a silence."""
    network = established()
    left, _ = lefts(network)
    for path in network.paths:
        path.latency = 0.1
    for _ in range(5):
        left.send(0, bytes(100_000), ppid=53, now=1.0)
    network.run(until=30.0, done=lambda: left.total_buffered == 0)
    assert network.now > 2.0
    tsns = [chunk.tsn for chunk in network.paths[0].chunks() if isinstance(chunk, Data)]
    assert len(tsns) == len(set(tsns))


def test_small_messages_share_packets() -> None:
    network = established()
    left, _ = lefts(network)
    for _ in range(30):
        left.send(0, b"x" * 20, ppid=53, now=1.0)
    network.run(until=2.0)
    with_data = [
        data for _, data in network.paths[0].sent if any(isinstance(c, Data) for c in Packet.parse(data).chunks)
    ]
    assert len(with_data) == 1


def test_buffered_counts_what_is_not_acknowledged() -> None:
    network = established()
    left, _ = lefts(network)
    left.send(4, b"x" * 1000, ppid=53, now=1.0)
    left.send(5, b"x" * 500, ppid=53, now=1.0)
    assert (left.buffered(4), left.buffered(5), left.total_buffered) == (1000, 500, 1500)
    network.flush()
    assert left.total_buffered == 1500
    network.run(until=2.0)
    assert (left.buffered(4), left.buffered(5), left.total_buffered) == (0, 0, 0)


def test_one_event_lets_out_a_burst_of_four_packets() -> None:
    """P20."""
    network = established()
    left, _ = lefts(network)
    left._connection.outbound.congestion.bytes = 100_000
    left.datagrams_to_send()
    left.send(0, bytes(100_000), ppid=53, now=1.0)
    assert len(left.datagrams_to_send()) == 4
    assert left.datagrams_to_send() == [], "without a new event nothing more goes out"
    sack = Sack(left._connection.outbound.cumulative & 0xFFFFFFFF, 1 << 20)
    left.receive_datagram(Packet(5000, 5000, left._connection.handshake.tag, [sack]).serialize(), 1.1)
    assert len(left.datagrams_to_send()) == 4


def test_sacks_that_arrive_together_let_out_a_burst_each() -> None:
    network = established()
    left, _ = lefts(network)
    left._connection.outbound.congestion.bytes = 100_000
    left.send(0, bytes(100_000), ppid=53, now=1.0)
    assert len(left.datagrams_to_send()) == 4
    for _ in range(3):
        sack = Sack(left._connection.outbound.cumulative & 0xFFFFFFFF, 1 << 20)
        left.receive_datagram(Packet(5000, 5000, left._connection.handshake.tag, [sack]).serialize(), 1.1)
    assert len(left.datagrams_to_send()) == 12


def test_t3_starts_anew_when_its_chunk_is_sent_again() -> None:
    network = established()
    left, _ = lefts(network)
    first = left._connection.outbound.next_tsn & 0xFFFFFFFF
    copies: list[float] = []

    def swallow(packet: bytes, now: float) -> bool:
        found = any(isinstance(chunk, Data) and chunk.tsn == first for chunk in Packet.parse(packet).chunks)
        copies.extend([now] * found)
        return found and len(copies) == 1

    network.paths[0].swallow = swallow
    left._connection.outbound.congestion.bytes = 100_000
    left.send(0, bytes(10_000), ppid=53, now=1.0)
    network.run(until=1.02)
    left.send(0, bytes(10_000), ppid=53, now=1.02)
    network.run(until=2.0, done=lambda: len(copies) == 2)
    assert copies[1] < 1.1, "by fast retransmission"
    assert left._connection.timers[Timer.T3_RTX] == pytest.approx(copies[1] + left._connection.rto.value)


def test_a_delayed_sack_rides_along_with_data() -> None:
    network = established()
    left, right = lefts(network)
    left.send(0, b"first", ppid=53, now=1.0)
    network.run(until=2.0)
    left.send(0, b"question", ppid=53, now=2.0)
    network.run(until=2.05)
    network.paths[1].sent.clear()
    right.send(0, b"answer", ppid=53, now=2.05)
    network.run(until=2.08)
    assert {type(chunk) for chunk in network.paths[1].chunks()} == {Sack, Data}


def test_sacks_come_for_every_second_packet_or_after_100_ms() -> None:
    network = established()
    left, _ = lefts(network)
    left.send(0, b"first of all", ppid=53, now=1.0)
    network.run(until=1.05)
    assert [type(c) for c in network.paths[1].chunks()] == [Sack]  # the very first is acknowledged at once
    network.paths[1].sent.clear()
    network.run(until=2.0)
    left.send(0, b"alone", ppid=53, now=2.0)
    network.run(until=3.0)
    ((at, _),) = network.paths[1].sent
    assert at == pytest.approx(2.12)
    network.paths[1].sent.clear()
    for _ in range(2):
        left.send(0, b"x" * 1100, ppid=53, now=3.0)
    network.run(until=4.0)
    ((at, _),) = network.paths[1].sent
    assert at == pytest.approx(3.02)


def test_a_gap_is_reported_at_once() -> None:
    network = established()
    left, _ = lefts(network)
    left.send(0, b"first", ppid=53, now=1.0)
    network.run(until=2.0)
    network.paths[0].dark = (2.0, 2.001)
    left.send(0, b"lost", ppid=53, now=2.0)
    network.run(until=2.01)
    network.paths[1].sent.clear()
    left.send(0, b"arrives", ppid=53, now=2.01)
    network.run(until=2.04)
    (sack,) = network.paths[1].chunks()
    assert isinstance(sack, Sack)
    assert sack.gaps == (2, 2)


def test_a_small_window_is_respected() -> None:
    for window in (1, 1162, 3000):
        network = established()
        left, _ = lefts(network)
        left._connection.outbound.a_rwnd = window
        left.send(0, bytes(20_000), ppid=53, now=1.0)
        network.flush()
        data = [chunk for chunk in network.paths[0].chunks() if isinstance(chunk, Data)]
        assert len(data) == 1 or sum(len(chunk.payload) for chunk in data) <= window


def test_what_the_user_has_not_taken_makes_the_window_smaller_and_the_peer_learns_when_it_has() -> None:
    network = established()
    left, right = lefts(network)
    window = right._connection.settings.receive_buffer
    right.withhold(window - 2000, 1.0)
    left.send(0, bytes(200_000), ppid=53, now=1.0)
    network.run(until=2.0)
    assert left._connection.outbound.a_rwnd <= 2000
    assert not network.of(1, Message)
    network.paths[1].sent.clear()
    right.withhold(0, 2.0)
    (packet,) = right.datagrams_to_send()
    (sack,) = Packet.parse(packet).chunks
    assert isinstance(sack, Sack)
    assert sack.a_rwnd > window // 2
    left.receive_datagram(packet, 2.0)
    network.run(until=4.0)
    assert [len(message.data) for message in network.of(1, Message)] == [200_000]
