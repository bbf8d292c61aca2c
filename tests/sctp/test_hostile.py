"""P17 and P18: whatever arrives, no exception escapes, memory and output stay bounded."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.checks.sctp import check_sctp_association, pair
from tests.sctp.test_wire import chunks
from tests.support.network import established
from triosfu.sctp.core import Association, Ended, Event, Message, State
from triosfu.sctp.inbound import Inbound, Violation
from triosfu.sctp.parameters import CauseCode
from triosfu.sctp.wire import BEGIN, END, IMMEDIATE, UNORDERED, Chunk, Data, ForwardTsn, Packet, PacketHeader

BUFFER = 100_000


def make(*, partial_reliability: bool = True, max_message_size: int = 20_000) -> tuple[Inbound, list[Event]]:
    events: list[Event] = []
    inbound = Inbound(
        initial_tsn=0,
        buffer=BUFFER,
        max_message_size=max_message_size,
        streams=10,
        partial_reliability=partial_reliability,
        events=events,
    )
    return inbound, events


def data(tsn: int, flags: int = BEGIN | END, *, ssn: int = 0, stream: int = 0, payload: bytes = b"x") -> Data:
    return Data(flags, tsn & 0xFFFFFFFF, stream, ssn, 53, payload)


def feed(inbound: Inbound, chunks: list[Data]) -> None:
    for chunk in chunks:
        inbound.receive(chunk)


@settings(deadline=None)
@given(st.binary(max_size=1500), st.integers(0, 255))
def test_any_datagram_in_any_state(body: bytes, state: int) -> None:
    core, _ = pair(state)
    core.receive_datagram(body, 0.0)
    assert len(core.datagrams_to_send()) <= 2


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
@example(bytes.fromhex("0400140200001400000000000000000100000000000000"))
def test_any_packets_with_right_headers_in_any_state(data: bytes) -> None:
    check_sctp_association(data)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 255), st.lists(st.tuples(st.lists(chunks, min_size=1, max_size=3), st.integers(0, 7)), max_size=8)
)
def test_any_chunks_in_any_state(state: int, packets: list[tuple[list[Chunk], int]]) -> None:
    """Well-formed chunks with senseless content reach deeper than bytes do."""
    script = bytearray([state])
    for content, what in packets:
        body = b"".join(chunk.serialize() for chunk in content)[:0x7FF]
        script += (what << 13 | len(body)).to_bytes(2, "big") + body
    check_sctp_association(bytes(script))


@settings(deadline=None)
@given(st.lists(chunks, min_size=1, max_size=3), st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_a_wrong_tag_changes_nothing(content: list[Chunk], tag: int, state: int) -> None:
    core, _ = pair(state)
    if core.state in (State.CLOSED, State.COOKIE_WAIT, State.ENDED) or tag in (
        0,
        core._handshake.tag,
        core._handshake.peer_tag,
    ):
        return
    before = (core.state, core.next_timeout(), core._outbound.cumulative, core._outbound.flight)
    core.receive_datagram(Packet(5000, 5000, tag, content).serialize(), 0.0)
    assert (core.state, core.next_timeout(), core._outbound.cumulative, core._outbound.flight) == before
    assert core.events() == []


def test_a_message_that_never_ends_hits_its_limit() -> None:
    inbound, _ = make()
    inbound.receive(data(0, BEGIN, payload=bytes(1000)))
    with pytest.raises(Violation) as caught:
        feed(inbound, [data(tsn, 0, payload=bytes(1000)) for tsn in range(1, 100)])
    assert caught.value.cause == CauseCode.PROTOCOL_VIOLATION
    assert inbound.held <= 22_000


def test_many_messages_that_never_end_hit_the_window() -> None:
    """P21: a sender that ignores the window gets nothing in but what moves the cumulative TSN."""
    inbound, _ = make()
    inbound.receive(data(0))
    for tsn in range(2, 2000, 2):
        inbound.receive(data(tsn, BEGIN | UNORDERED, payload=bytes(1000)))
    assert inbound.held <= BUFFER
    assert inbound.sack().a_rwnd == BUFFER - inbound.held
    inbound.receive(data(1))
    assert inbound.cumulative >= 2


def test_messages_that_wait_for_one_that_never_comes_hit_the_window() -> None:
    inbound, _ = make()
    with pytest.raises(Violation) as caught:
        feed(inbound, [data(tsn, ssn=1 + tsn, payload=bytes(1000)) for tsn in range(1000)])
    assert caught.value.cause == CauseCode.OUT_OF_RESOURCE
    assert inbound.held <= BUFFER + 21_000


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
    assert left._inbound is not None
    chunk = data(left._inbound.cumulative + 1, payload=b"")
    left.receive_datagram(Packet(5000, 5000, left._handshake.tag, [chunk]).serialize(), 1.0)
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
    header = Packet(5000, 5000, left._handshake.tag, []).serialize()
    left.receive_datagram(Packet.parse(header).serialize() + body, 1.0)  # its checksum is wrong
    assert left.datagrams_to_send() == []
    left.receive_datagram(PacketHeader(5000, 5000, left._handshake.tag).packet([body]), 1.0)
    (answer,) = left.datagrams_to_send()
    assert len(answer) <= 1191
