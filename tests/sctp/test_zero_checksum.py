"""Packets without a checksum, where DTLS protects them (RFC 9653)."""

from __future__ import annotations

from random import Random

import pytest

from tests.support.network import Network
from triosfu.sctp.core import Association, Message, Settings, State
from triosfu.sctp.wire import ChunkType, Heartbeat, PacketHeader

WITHOUT = Settings(zero_checksum=False)


def pair(*, over_dtls: tuple[bool, bool] = (True, True), settings: Settings | None = None) -> Network:
    left = Association(now=0.0, rng=Random(1), over_dtls=over_dtls[0])
    right = Association(now=0.0, rng=Random(2), over_dtls=over_dtls[1], settings=settings)
    network = Network(left, right)
    left.connect(0.0)
    left.send(0, b"early", ppid=53, now=0.0)
    network.run(until=1.0)
    left.send(0, b"hello", ppid=53, now=1.0)
    right.send(0, b"hello", ppid=53, now=1.0)
    network.run(until=2.0)
    assert [m.data for m in network.of(1, Message)] == [b"early", b"hello"]
    return network


def unchecked(network: Network, end: int) -> set[int]:
    """The first chunks of the packets that went out without a checksum."""
    return {data[12] for _, data in network.paths[end].sent if data[8:12] == bytes(4)}


def checked(network: Network, end: int) -> set[int]:
    return {data[12] for _, data in network.paths[end].sent if data[8:12] != bytes(4)}


def test_between_two_that_announce_it_only_the_handshake_has_checksums() -> None:
    network = pair()
    assert checked(network, 0) == {ChunkType.INIT, ChunkType.COOKIE_ECHO}
    assert checked(network, 1) == {ChunkType.INIT_ACK}
    assert ChunkType.I_DATA in unchecked(network, 0) | unchecked(network, 1)


@pytest.mark.parametrize(
    ("over_dtls", "settings"), [((True, False), None), ((False, True), None), ((True, True), WITHOUT)]
)
def test_nobody_is_sent_what_he_did_not_offer_to_take(over_dtls: tuple[bool, bool], settings: Settings | None) -> None:
    network = pair(over_dtls=over_dtls, settings=settings)
    assert unchecked(network, 0) == unchecked(network, 1) == set()


@pytest.mark.parametrize("accepts", [False, True])
@pytest.mark.parametrize("checksum", [b"\0\0\0\0", b"\1\2\3\4", None])
def test_a_wrong_checksum_is_none(accepts: bool, checksum: bytes | None) -> None:
    network = pair(over_dtls=(accepts, accepts))
    left = network.ends[0]
    assert isinstance(left, Association)
    good = PacketHeader(5000, 5000, left._connection.handshake.tag).packet([Heartbeat(False, b"ping").serialize()])
    left.receive_datagram(good if checksum is None else good[:8] + checksum + good[12:], 2.0)
    taken = checksum is None or (accepts and checksum == bytes(4))
    assert len(left.datagrams_to_send()) == taken
    assert left.dropped["checksum"] == (not taken)


@pytest.mark.parametrize("kind", [ChunkType.INIT, ChunkType.COOKIE_ECHO])
def test_the_handshake_is_checked_in_any_case(kind: ChunkType) -> None:
    left, right = (Association(now=0.0, rng=Random(seed), over_dtls=True) for seed in range(2))
    left.connect(0.0)
    for _ in range(4):
        for data in left.datagrams_to_send():
            right.receive_datagram(data[:8] + bytes(4) + data[12:] if data[12] == kind else data, 0.0)
        for data in right.datagrams_to_send():
            left.receive_datagram(data, 0.0)
    assert right.state is State.CLOSED
    assert right.dropped["checksum"] == 1
