"""What a peer should not send: fragments that fit nowhere, TSNs out of reach, floods."""

from __future__ import annotations

from random import Random

import pytest

from tests.support.inbound import data, feed, make
from tests.support.network import established
from triosfu.sctp.core import Association, Ended, Message
from triosfu.sctp.parameters import CauseCode
from triosfu.sctp.violation import Violation
from triosfu.sctp.wire import BEGIN, END, IMMEDIATE, UNORDERED, ForwardTsn, Packet, PacketHeader


def test_a_message_that_never_ends_hits_its_limit() -> None:
    inbound, _ = make()
    inbound.receive(data(0, BEGIN, payload=bytes(1000)))
    with pytest.raises(Violation) as caught:
        feed(inbound, [data(tsn, 0, payload=bytes(1000)) for tsn in range(1, 100)])
    assert caught.value.cause == CauseCode.PROTOCOL_VIOLATION
    assert inbound.held <= 22_000


def test_data_that_asks_for_a_sack_at_once_gets_it() -> None:
    inbound, _ = make()
    inbound.receive(data(0))
    inbound.sack_now = False
    inbound.receive(data(1, ssn=1))
    assert not inbound.sack_now
    inbound.receive(data(2, BEGIN | END | IMMEDIATE, ssn=2))
    assert inbound.sack_now


def test_tsns_far_ahead_are_dropped() -> None:
    inbound, _ = make()
    inbound.receive(data(0))
    for tsn in (2001, 2**31 - 1, 2**31, -5):
        inbound.receive(data(tsn))
    assert inbound.cumulative == 0
    assert not inbound.has_gaps
    assert inbound.dropped == 4


def test_every_second_tsn_makes_a_bounded_sack() -> None:
    inbound, _ = make()
    for tsn in range(1, 1999, 2):
        inbound.receive(data(tsn))
        inbound.receive(data(tsn))
    sack = inbound.sack()
    assert len(sack.gaps) == 40
    assert len(sack.duplicates) == 20
    assert inbound.sack().duplicates == ()


def test_data_without_data_is_a_violation() -> None:
    network = established()
    left = network.ends[0]
    assert isinstance(left, Association)
    assert left._connection.inbound is not None
    chunk = data(left._connection.inbound.cumulative + 1, payload=b"")
    left.receive_datagram(Packet(5000, 5000, left._connection.handshake.tag, [chunk]).serialize(), 1.0)
    network.run(until=2.0)
    assert network.of(0, Ended) == [Ended("sctp: DATA without data")]
    assert network.of(1, Ended) == [Ended("aborted by the peer: no user data")]


def test_data_on_a_stream_that_does_not_exist_is_acknowledged_and_reported() -> None:
    inbound, events = make()
    inbound.receive(data(0, stream=10))
    assert inbound.cumulative == 0
    assert inbound.unknown_streams == [10]
    assert events == []


@pytest.mark.parametrize(
    "fragments",
    [
        [(0, BEGIN, 0), (1, BEGIN | END, 0)],  # begins within another
        [(0, BEGIN, 0), (1, BEGIN, 0)],
        [(1, BEGIN | END, 0), (0, BEGIN, 0)],
        [(0, BEGIN | END, 0), (1, END, 1)],  # continues what has ended
        [(1, END, 0), (0, BEGIN | END, 0)],
        [(2, END, 0), (1, 0, 0), (0, BEGIN | END, 0)],
    ],
)
def test_fragments_that_fit_nowhere(fragments: list[tuple[int, int, int]]) -> None:
    strict, _ = make(partial_reliability=False)
    with pytest.raises(Violation):
        feed(strict, [data(tsn, flags, ssn=ssn) for tsn, flags, ssn in fragments])
    # With messages that may be abandoned they can be honest left-overs, which are let go of.
    lenient, _ = make()
    for tsn, flags, ssn in fragments:
        lenient.receive(data(tsn, flags, ssn=ssn))
    lenient.receive_forward(ForwardTsn(10, ((0, 5),)))
    assert lenient.held == 0


def test_fragments_of_different_messages_do_not_mix() -> None:
    for other in (data(1, END, ssn=1), data(1, END, stream=1), data(1, END | UNORDERED)):
        inbound, _ = make()
        inbound.receive(data(0, BEGIN))
        with pytest.raises(Violation):
            inbound.receive(other)


def test_fragments_in_any_order_make_the_message() -> None:
    for seed in range(50):
        inbound, events = make()
        parts = [bytes([n]) * 10 for n in range(30)]
        order = list(range(30))
        Random(seed).shuffle(order)
        for n in order:
            flags = (BEGIN if n == 0 else 0) | (END if n == 29 else 0)
            inbound.receive(data(n, flags, payload=parts[n]))
        assert events == [Message(0, 53, b"".join(parts))]
        assert inbound.held == 0
        assert not inbound._by_start
        assert not inbound._by_end


def test_a_forward_tsn_spares_a_message_that_goes_on_behind_it() -> None:
    inbound, events = make()
    inbound.receive(data(1, BEGIN, ssn=1, payload=b"be"))
    inbound.receive_forward(ForwardTsn(1, ((0, 0),)))
    inbound.receive(data(2, END, ssn=1, payload=b"gin"))
    assert events == [Message(0, 53, b"begin")]


def test_a_forward_tsn_delivers_what_waited() -> None:
    inbound, events = make()
    for n in (3, 1, 4):
        inbound.receive(data(n, ssn=n, payload=bytes([n])))
    inbound.receive_forward(ForwardTsn(2, ((0, 2),)))
    assert [event.data[0] for event in events if isinstance(event, Message)] == [1, 3, 4]
    assert inbound.held == 0
    assert inbound.cumulative == 4


@pytest.mark.parametrize("tsn", [2**31, 2001, 2**32 - 1, 0])
def test_a_forward_tsn_that_is_old_or_too_far_is_not_applied(tsn: int) -> None:
    inbound, _ = make()
    inbound.receive(data(0))
    inbound.receive_forward(ForwardTsn(tsn, ((0, 77),)))
    assert inbound.cumulative == 0
    assert inbound._next_ssn == {0: 1}


def test_one_packet_full_of_heartbeats_causes_one_packet() -> None:
    network = established()
    left = network.ends[0]
    assert isinstance(left, Association)
    body = b"\4\0\0\4" * 3000
    header = Packet(5000, 5000, left._connection.handshake.tag, []).serialize()
    left.receive_datagram(Packet.parse(header).serialize() + body, 1.0)  # its checksum is wrong
    assert left.datagrams_to_send() == []
    left.receive_datagram(PacketHeader(5000, 5000, left._connection.handshake.tag).packet([body]), 1.0)
    (answer,) = left.datagrams_to_send()
    assert len(answer) <= 1191
