"""RFC 8899: packets grow to what the path carries, and nothing is lost by trying."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.network import FULL, Network, Path, established
from tests.support.schedules import seeds
from triosfu.sctp.core import Association, Message
from triosfu.sctp.pathmtu import AFTER_BLACK_HOLE, BULK, SEARCH_AGAIN, TRIES
from triosfu.sctp.wire import Heartbeat, Packet, parse_chunks

BASE = FULL.mtu
SIZE = 60_000


def left_of(network: Network) -> Association:
    left = network.ends[0]
    assert isinstance(left, Association)
    return left


def send(network: Network, messages: int, *, size: int = SIZE, end: int = 0) -> None:
    """So many messages, each acknowledged before the next."""
    sender = network.ends[end]
    assert isinstance(sender, Association)
    for _ in range(messages):
        sender.send(0, bytes(size), ppid=53, now=network.now)
        network.run(until=network.now + 60.0, done=lambda: not sender.total_buffered)
        assert not sender.total_buffered


def probes(path: Path) -> list[int]:
    """The sizes of the packets that are probes."""
    return [len(data) for _, data in path.sent if len(data) > 12 and is_probe(data)]


def is_probe(data: bytes) -> bool:
    return any(isinstance(chunk, Heartbeat) and not chunk.ack and len(data) > BASE for chunk in parse_chunks(data))


@pytest.mark.parametrize(
    ("mtu", "found"), [(1191, 1191), (1331, 1191), (1332, 1332), (1463, 1412), (8963, 8912), (65_000, 16_384)]
)
def test_packets_grow_to_what_the_path_carries(mtu: int, found: int) -> None:
    network = established(settings=FULL)
    network.paths[0].mtu = mtu
    send(network, 8)
    network.run(until=network.now + 5.0)
    assert left_of(network).path_mtu == found
    network.paths[0].sent.clear()
    send(network, 1)
    assert max(len(data) for _, data in network.paths[0].sent) == found & ~3
    assert [len(message.data) for message in network.of(1, Message)] == [SIZE] * 9


def test_small_talk_tries_nothing() -> None:
    network = established(settings=FULL)
    network.paths[0].mtu = network.paths[1].mtu = 65_000
    send(network, BULK - 1, size=10)
    assert left_of(network).path_mtu == BASE
    assert probes(network.paths[0]) == []
    send(network, 2, size=10)
    assert probes(network.paths[0]) != []
    assert probes(network.paths[1]) == [], "who only answers has no use for it"


@pytest.mark.parametrize("lost", range(TRIES + 1))
def test_a_probe_is_tried_thrice_and_its_loss_costs_nothing(lost: int) -> None:
    network = established(settings=FULL)
    network.paths[0].mtu = 1400
    left = left_of(network)
    seen: list[float] = []

    def swallow(data: bytes, now: float) -> bool:
        if not is_probe(data):
            return False
        seen.append(now)
        return len(seen) <= lost

    network.paths[0].swallow = swallow
    send(network, 3)
    network.run(until=network.now + 5.0)
    assert left.path_mtu == (1332 if lost < TRIES else BASE)
    assert left._connection.liveness.errors == 0
    resent = [sent for sent in left._connection.outbound._outstanding.values() if sent.transmissions > 1]
    assert resent == []
    assert left._connection.outbound.congestion.recovery_exit is None


def test_a_path_is_tried_for_more_after_ten_minutes_and_when_there_is_much_to_send() -> None:
    network = established(settings=FULL)
    send(network, 3)
    network.run(until=network.now + 5.0)
    left = left_of(network)
    network.paths[0].mtu = 1500
    send(network, 6)
    assert left.path_mtu == BASE
    network.run(until=network.now + SEARCH_AGAIN)
    assert left.path_mtu == BASE
    send(network, 6)
    assert left.path_mtu == 1412


def test_a_path_that_turns_into_a_black_hole_for_large_packets_is_survived() -> None:
    """Nothing that says so comes back. What has left in large packets gets through in fragments later."""
    network = established(settings=FULL)
    path, left = network.paths[0], left_of(network)
    path.mtu = 9000
    send(network, 8)
    assert left.path_mtu == 8912
    until = network.now + 6.0
    path.swallow = lambda data, now: len(data) > 1500 and now < until
    left.send(0, bytes(SIZE), ppid=53, now=network.now)
    network.run(until=network.now + 3.0)
    assert left.path_mtu == BASE
    path.sent.clear()
    network.run(until=network.now + 20.0)
    send(network, 2)
    assert [len(message.data) for message in network.of(1, Message)] == [SIZE] * 11
    assert left.path_mtu == BASE, "not so soon again"
    path.swallow = None
    network.run(until=network.now + AFTER_BLACK_HOLE)
    send(network, 6)
    assert left.path_mtu == 8912


def test_another_path_is_another_search() -> None:
    network = established(settings=FULL)
    left = left_of(network)
    network.paths[0].mtu = 9000
    send(network, 8)
    assert left.path_mtu == 8912
    left.path_changed(network.now)
    assert left.path_mtu == BASE
    network.paths[0].mtu = 1500
    send(network, 8)
    assert left.path_mtu == 1412


def test_a_restart_begins_with_small_packets() -> None:
    network = established(settings=FULL)
    left = left_of(network)
    network.paths[0].mtu = 9000
    send(network, 8)
    stranger = Association(now=network.now, rng=network.rng, over_dtls=True)
    stranger.connect(network.now)
    for sender, receiver in [(stranger, left), (left, stranger)] * 2:
        for data in sender.datagrams_to_send():
            receiver.receive_datagram(data, network.now)
    assert left.path_mtu == BASE
    assert left._connection.packer.unit == left._connection.outbound._unit == FULL.unit


def test_only_the_very_probe_that_is_under_way_is_answered() -> None:
    network = established(settings=FULL)
    left = left_of(network)
    kept: list[bytes] = []
    network.paths[0].mtu = 1332

    def keep(data: bytes, _now: float) -> bool:
        kept.extend([data] if is_probe(data) else [])
        return is_probe(data)

    network.paths[0].swallow = keep
    send(network, 3)
    network.run(until=network.now + 5.0)
    assert len(kept) == TRIES
    for data in kept:  # late, all of them: the search is over
        network.ends[1].receive_datagram(data, network.now)
    network.run(until=network.now + 1.0)
    assert left.path_mtu == BASE
    left._connection.path._info = b"known to us alone"
    forged = Packet(5000, 5000, left._connection.handshake.tag, [Heartbeat(True, b"guessed")])
    left.receive_datagram(forged.serialize(), network.now)
    assert left.path_mtu == BASE


def test_a_driver_that_cannot_probe_need_not() -> None:
    left = left_of(established(settings=FULL))
    for _ in range(3):
        left._connection.search_path()
    assert len(left.probes_to_send()) == 1, "no more than one waits"
    assert left.probes_to_send() == []
    while left._connection.path._info is not None:
        left.handle_timeout(left.next_timeout())
    assert left.path_mtu == BASE
    assert left.next_timeout() < math.inf  # heartbeats


@given(
    seed=seeds,
    mtus=st.tuples(*[st.integers(1191, 20_000)] * 2),
    loss=st.sampled_from([0.0, 0.02, 0.1]),
    jitter=st.sampled_from([0.0, 0.05]),
    sizes=st.lists(st.integers(1, 200_000), min_size=1, max_size=6),
    changes=st.lists(st.floats(1.0, 10.0), max_size=2),
)
def test_whatever_the_path_loses_no_packet_is_larger_than_it_carries_and_all_arrives(  # noqa: PLR0917
    seed: int, mtus: tuple[int, int], loss: float, jitter: float, sizes: list[int], changes: list[float]
) -> None:
    network = established(seed, settings=FULL)
    for path, mtu in zip(network.paths, mtus, strict=True):
        path.mtu, path.loss, path.jitter = mtu, loss, jitter  # `Network` looks at each packet
    for end in network.ends:
        assert isinstance(end, Association)
        for size in sizes:
            end.send(0, bytes([size % 256]) * size, ppid=53, now=network.now)
    for at in sorted(changes):
        network.run(until=at)
        left_of(network).path_changed(network.now)
    network.run(until=120.0, done=lambda: all(not end.total_buffered for end in network.ends))  # type: ignore[attr-defined]
    for end, receiver, mtu in zip(network.ends, (1, 0), mtus, strict=True):
        assert [len(message.data) for message in network.of(receiver, Message)] == sizes
        assert isinstance(end, Association)
        assert end.path_mtu <= mtu
