from __future__ import annotations

import math

import pytest

from tests.support.network import FULL, PLAIN, Network, established
from triosfu.sctp.core import Association, Ended, Message, ResetDone, Settings, State
from triosfu.sctp.wire import Data, ForwardTsn, Packet


def ends(network: Network) -> tuple[Association, Association]:
    left, right = network.ends
    assert isinstance(left, Association)
    assert isinstance(right, Association)
    return left, right


def data_of(packet: bytes) -> list[Data]:
    return [chunk for chunk in Packet.parse(packet).chunks if isinstance(chunk, Data)]


def test_a_message_without_retransmissions_is_sent_once_and_blocks_nothing() -> None:
    network = established()
    left, _ = ends(network)
    lost: list[int] = []

    def swallow(packet: bytes, _now: float) -> bool:
        if any(chunk.payload[:4] == b"lost" for chunk in data_of(packet)):
            lost.append(1)
            return True
        return False

    network.paths[0].swallow = swallow
    for number in range(10):
        left.send(0, (b"lost" if number == 3 else b"kept") * 280, ppid=53, now=1.0, max_retransmits=0)
    network.run(until=4.0)
    assert len(lost) == 1
    assert len(network.of(1, Message)) == 9
    assert left.total_buffered == 0
    assert network.times[1][-1] < 2.0


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_the_budget_of_retransmissions_is_used_and_not_exceeded(budget: int) -> None:
    network = established()
    left, _ = ends(network)
    tries = [0]

    def swallow(packet: bytes, _now: float) -> bool:
        doomed = any(chunk.payload == b"doomed" for chunk in data_of(packet))
        tries[0] += doomed
        return doomed

    network.paths[0].swallow = swallow
    left.send(0, b"doomed", ppid=53, now=1.0, max_retransmits=budget)
    network.run(until=30.0)
    assert tries == [budget + 1]
    left.send(0, b"next", ppid=53, now=30.0)
    network.run(until=31.0)
    assert [m.data for m in network.of(1, Message)] == [b"next"]


def test_a_message_whose_time_is_over_is_not_sent_at_all() -> None:
    network = established()
    left, _ = ends(network)
    network.paths[0].dark = (1.0, 3.0)
    for number in range(20):
        left.send(0, bytes([number]) * 1100, ppid=53, now=1.0, lifetime=0.3)
    network.run(until=3.5)
    left.send(0, b"fresh", ppid=53, now=network.now, lifetime=5.0)
    network.run(until=12.0)
    assert [m.data for m in network.of(1, Message)][-1] == b"fresh"
    assert len(network.of(1, Message)) < 5
    sent = {chunk.payload[0] for _, packet in network.paths[0].sent for chunk in data_of(packet)}
    assert 19 not in sent
    assert left.total_buffered == 0


def test_a_large_message_is_given_up_as_a_whole() -> None:
    network = established()
    left, right = ends(network)
    seen = [0]

    def swallow(packet: bytes, _now: float) -> bool:
        chunks = [chunk for chunk in data_of(packet) if chunk.payload[0] == 7]
        seen[0] += len(chunks)
        return bool(chunks) and seen[0] == 2  # the second fragment is lost

    network.paths[0].swallow = swallow
    left.send(0, b"\7" * 60_000, ppid=53, now=1.0, max_retransmits=0)
    left.send(0, b"after", ppid=53, now=1.0)
    left.send(1, b"other", ppid=53, now=1.0)
    network.run(until=10.0)
    assert sorted(m.data for m in network.of(1, Message)) == [b"after", b"other"]
    assert right._connection.inbound is not None
    assert right._connection.inbound.held == 0
    assert right._connection.inbound._by_start == {}
    assert right.state is State.ESTABLISHED
    assert seen[0] < 30, "the rest is not sent"


def test_a_lost_forward_tsn_is_repeated() -> None:
    network = established()
    left, _ = ends(network)
    forwards = [0]

    def swallow(packet: bytes, _now: float) -> bool:
        if any(isinstance(chunk, ForwardTsn) for chunk in Packet.parse(packet).chunks):
            forwards[0] += 1
            return forwards[0] <= 3
        return any(chunk.payload == b"lost" for chunk in data_of(packet))

    network.paths[0].swallow = swallow
    left.send(0, b"lost", ppid=53, now=1.0, max_retransmits=0)
    left.send(0, b"kept", ppid=53, now=1.0)
    network.run(until=30.0)
    assert [m.data for m in network.of(1, Message)] == [b"kept"]
    assert forwards[0] == 4
    assert not left._connection.outbound.outstanding


@pytest.mark.parametrize("settings", [PLAIN, FULL])
@pytest.mark.parametrize("seed", range(20))
def test_what_was_given_up_before_a_reset_is_not_taken_for_the_stream_that_begins_anew(
    seed: int, settings: Settings
) -> None:
    network = established(seed, settings=settings)
    left, _ = ends(network)
    for path in network.paths:
        path.loss, path.jitter = 0.4, 0.05
    for _ in range(5):
        left.send(1, bytes(5000), ppid=53, now=network.now, max_retransmits=0)
    left.reset_stream(1, network.now)
    for _ in range(60):
        left.send(3, bytes(5000), ppid=53, now=network.now, max_retransmits=0)
        network.run(until=network.now + 0.02)
    network.run(until=20.0, done=lambda: bool(network.of(0, ResetDone)))
    left.send(1, b"anew", ppid=53, now=network.now)
    for path in network.paths:
        path.loss = 0.0
    network.run(until=network.now + 10.0)
    assert Message(1, 53, b"anew") in network.of(1, Message)


def test_silence_also_ends_an_association_that_only_has_abandoned_data() -> None:
    network = established()
    left, _ = ends(network)
    network.paths[0].dark = (1.0, math.inf)
    left.send(0, b"gone", ppid=53, now=1.0, max_retransmits=0)
    network.run(until=60.0, done=lambda: left.state is State.ENDED)
    assert left.state is State.ENDED
    assert network.now < 34.5


def test_without_negotiation_everything_is_reliable() -> None:
    network = established()
    left, _ = ends(network)
    left._connection.outbound.partial_reliability = False
    network.paths[0].dark = (1.0, 8.0)
    left.send(0, b"stubborn", ppid=53, now=1.0, max_retransmits=0)
    left.send(0, b"x" * 3000, ppid=53, now=1.0, max_retransmits=0)
    network.run(until=20.0)
    assert [m.data[:8] for m in network.of(1, Message)] == [b"stubborn", b"x" * 8]


def test_a_forward_tsn_without_negotiation_is_a_violation() -> None:
    network = established()
    left, _ = ends(network)
    left._connection.outbound.partial_reliability = False
    tag = left._connection.handshake.tag
    left.receive_datagram(Packet(5000, 5000, tag, [ForwardTsn(0)]).serialize(), 1.0)
    assert left.events() == [Ended("sctp: FORWARD-TSN was not negotiated")]
