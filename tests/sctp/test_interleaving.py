"""I-DATA (RFC 8260): messages of different streams share the way, and what a peer can do wrong with it."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.network import PLAIN, Network, associations, established
from tests.support.schedules import both
from triosfu.sctp.core import Association, Ended, Message, ResetDone, Settings, State
from triosfu.sctp.inbound import Inbound
from triosfu.sctp.interleaved import Interleaved
from triosfu.sctp.parameters import CauseCode
from triosfu.sctp.sendqueue import OutMessage, SendQueue
from triosfu.sctp.violation import Violation
from triosfu.sctp.wire import BEGIN, END, UNORDERED, Chunk, Data, Error, ForwardTsn, IData, IForwardTsn, Packet

FULL = Settings(zero_checksum=False)  # so that what is sent can be parsed without further ado


def fragment(fsn: int, payload: bytes, flags: int = 0, *, stream: int = 1, mid: int = 0, tsn: int = 0) -> IData:
    flags |= BEGIN if fsn == 0 else 0
    return IData(flags, tsn, stream, mid, 53 if fsn == 0 else fsn, payload)


def fill(store: Interleaved, fragments: list[IData]) -> None:
    for chunk in fragments:
        store.add(chunk)


def feed(inbound: Inbound, chunks: list[IData]) -> None:
    for chunk in chunks:
        inbound.receive(chunk)


def receiver() -> tuple[Inbound, list[object]]:
    events: list[object] = []
    inbound = Inbound(
        initial_tsn=0,
        buffer=100_000,
        max_message_size=20_000,
        streams=10,
        partial_reliability=True,
        events=events,  # type: ignore[arg-type]
        interleaving=True,
    )
    return inbound, events


def tell(end: Association, *chunks: Chunk) -> None:
    tag = end._connection.handshake.tag
    end.receive_datagram(Packet(5000, 5000, tag, list(chunks)).serialize(), 1.0)


@pytest.mark.parametrize(("mine", "other"), [(FULL, FULL), (FULL, PLAIN), (PLAIN, FULL)])
def test_it_is_used_if_both_announce_it(mine: object, other: object) -> None:
    settings = (mine, other)
    left, right = (Association(now=0.0, rng=Random(i), settings=settings[i]) for i in range(2))  # type: ignore[arg-type]
    network = Network(left, right)
    left.connect(0.0)
    network.run(until=1.0)
    left.send(0, b"hello", ppid=53, now=1.0)
    network.run(until=2.0)
    agreed = mine is other
    assert left.interleaving is right.interleaving is agreed
    kinds = {type(chunk) for chunk in network.paths[0].chunks()} & {Data, IData}
    assert kinds == {IData if agreed else Data}
    assert network.of(1, Message) == [Message(0, 53, b"hello")]


@pytest.mark.parametrize("interleaving", [False, True])
def test_a_large_message_does_not_hold_a_small_one_of_another_stream(interleaving: bool) -> None:
    network = established(settings=FULL if interleaving else PLAIN)
    left, _ = both(network)
    left.send(1, bytes(200_000), ppid=53, now=1.0)
    network.run(until=1.03)
    left.send(2, b"small", ppid=53, now=network.now)
    network.run(until=10.0)
    first, _second = network.of(1, Message)
    assert (first.data == b"small") is interleaving


def test_large_messages_share_the_way_evenly() -> None:
    network = established(settings=FULL)
    left, _ = both(network)
    for stream in range(4):
        left.send(stream, bytes(50_000), ppid=53, now=1.0)
    network.run(until=20.0)
    order = [chunk.stream_id for chunk in network.paths[0].chunks() if isinstance(chunk, IData)]
    assert len(network.of(1, Message)) == 4
    assert max(order[:100].count(stream) for stream in range(4)) <= 26


def test_without_it_streams_take_turns_message_by_message() -> None:
    network = established(settings=PLAIN)
    left, _ = both(network)
    for stream in range(3):
        for number in range(10):
            left.send(stream, bytes([number]) * 3000, ppid=53, now=1.0)
    left.send(3, b"OPEN", ppid=50, now=1.0, urgent=True)
    network.run(until=10.0)
    assert [m.stream_id for m in network.of(1, Message)] == [3, *[0, 1, 2] * 10]


def message(queue: SendQueue, stream: int, size: int, *, urgent: bool = False) -> OutMessage:
    made = OutMessage(
        queue.stream(stream),
        bytes(size),
        ppid=53,
        unordered=False,
        max_retransmits=None,
        expires_at=math.inf,
        urgent=urgent,
    )
    queue.append(made)
    return made


@pytest.mark.parametrize("interleaving", [False, True])
def test_an_urgent_message_goes_ahead_of_whatever_has_not_begun(interleaving: bool) -> None:
    queue = SendQueue()
    queue.interleaving, queue.most_begun = interleaving, 1 << 20
    large = message(queue, 1, 5000)
    assert queue.next(0.0) is large
    urgent = message(queue, 2, 10, urgent=True)
    assert queue.next(0.0) is urgent
    queue.take(100)
    assert queue.next(0.0) is large
    queue.take(1000)
    again = message(queue, 2, 10, urgent=True)
    assert queue.next(0.0) is (again if interleaving else large)


def test_no_more_is_begun_than_the_receiver_can_hold() -> None:
    """Or none of the messages could ever end: each waits for room that the others take."""
    network = established(settings=FULL)
    left, _ = both(network)
    for stream in range(40):
        left.send(stream, bytes(200_000), ppid=53, now=1.0)
    network.run(until=300.0, done=lambda: not left.total_buffered)
    assert left.state is State.ESTABLISHED
    assert len(network.of(1, Message)) == 40


@given(st.permutations(range(30)), st.integers(1, 4))
def test_fragments_in_any_order_make_the_messages(order: list[int], messages: int) -> None:
    inbound, events = receiver()
    for tsn, number in enumerate(order):
        mid, fsn = number % messages, number // messages
        count = len(range(mid, 30, messages))
        flags = END if fsn == count - 1 else 0
        inbound.receive(fragment(fsn, bytes([mid, fsn]), flags, mid=mid, tsn=tsn))
    expected = [
        Message(1, 53, b"".join(bytes([mid, fsn]) for fsn in range(len(range(mid, 30, messages)))))
        for mid in range(messages)
    ]
    assert events == expected
    assert inbound.held == inbound._interleaved.held == 0


@pytest.mark.parametrize(
    "fragments",
    [
        [(0, BEGIN), (0, BEGIN)],  # twice the same
        [(1, 0), (1, 0)],
        [(2, END), (3, 0)],  # beyond the end
        [(3, 0), (2, END)],
        [(2, END), (1, END)],
    ],
)
def test_fragments_that_contradict_each_other(fragments: list[tuple[int, int]]) -> None:
    store = Interleaved(max_message_size=20_000)
    with pytest.raises(Violation):
        fill(store, [fragment(fsn, b"x", flags) for fsn, flags in fragments])


def test_a_fragment_zero_that_does_not_begin() -> None:
    with pytest.raises(Violation):
        Interleaved(max_message_size=100).add(IData(0, 0, 1, 0, 0, b"x"))


def test_a_message_that_never_ends_hits_its_limit() -> None:
    store = Interleaved(max_message_size=20_000)
    with pytest.raises(Violation) as caught:
        fill(store, [fragment(fsn, bytes(1000)) for fsn in range(1000)])
    assert caught.value.cause == CauseCode.PROTOCOL_VIOLATION


@pytest.mark.parametrize("size", [1, 1000])
def test_messages_that_never_end_hit_the_limit_of_all(size: int) -> None:
    """What it costs to hold a byte counts too."""
    inbound, _ = receiver()
    with pytest.raises(Violation) as caught:
        feed(inbound, [fragment(0, bytes(size), mid=tsn, tsn=tsn) for tsn in range(10_000)])
    assert caught.value.cause == CauseCode.OUT_OF_RESOURCE
    assert len(inbound._interleaved._partial[1, False]) < 400


def test_a_skipped_message_is_let_go_of_and_those_behind_it_are_delivered() -> None:
    inbound, events = receiver()
    inbound.receive(fragment(0, b"lost", mid=0, tsn=0))
    inbound.receive(fragment(0, b"next", END, mid=1, tsn=2))
    inbound.receive(IData(BEGIN | UNORDERED, 3, 1, 7, 53, b"half"))
    assert events == []
    inbound.receive_forward(IForwardTsn(1, ((1, False, 0), (1, True, 6))))
    assert events == [Message(1, 53, b"next")]
    assert inbound.held > 0
    inbound.receive_forward(IForwardTsn(4, ((1, True, 7),)))
    assert inbound.held == 0
    inbound.receive(fragment(1, b"late", mid=0, tsn=5))
    assert inbound.held == 0, "of a message that has been skipped"


def test_what_comes_late_of_an_unordered_message_that_was_skipped_is_not_kept() -> None:
    """The peer's new cumulative TSN may lie in the middle of it, if a message of another stream is between."""
    inbound, events = receiver()
    inbound.receive(IData(BEGIN | UNORDERED, 0, 1, 7, 53, b"lost"))
    inbound.receive(IData(BEGIN, 1, 2, 0, 53, b"an"))
    inbound.receive_forward(IForwardTsn(2, ((1, True, 7),)))
    before = inbound.held
    inbound.receive(IData(END | UNORDERED, 4, 1, 7, 2, b"late"))
    assert inbound.held == before
    inbound.receive(IData(END, 3, 2, 0, 1, b"other"))
    assert events == [Message(2, 53, b"another")]
    assert inbound.held == 0
    inbound.receive(IData(BEGIN | UNORDERED, 5, 1, 8, 53, b"the "))
    inbound.receive(IData(END | UNORDERED, 6, 1, 8, 1, b"next"))
    assert events[1:] == [Message(1, 53, b"the next")]
    far = 8 + (1 << 20)
    inbound.receive(IData(BEGIN | END | UNORDERED, 7, 1, far, 53, b"whole"))
    inbound.receive(IData(BEGIN | UNORDERED, 8, 1, far + 1, 53, b"much "))
    inbound.receive(IData(END | UNORDERED, 9, 1, far + 1, 1, b"later"))
    assert not inbound._interleaved._skipped, "MIDs come round some time"
    inbound.reset(1)
    assert inbound.held == 0


def test_a_stream_that_is_reset_counts_from_zero_again() -> None:
    network = established(settings=FULL)
    left, right = both(network)
    for turn in range(3):
        for ordered in (True, False):
            left.send(1, bytes([turn]) * 3000, ppid=53, now=network.now, ordered=ordered)
        left.reset_stream(1, network.now)
        network.run(until=network.now + 2.0)
    assert network.of(0, ResetDone) == [ResetDone(1, True)] * 3
    assert len(network.of(1, Message)) == 6
    assert right._connection.inbound is not None
    assert right._connection.inbound.held == 0


@pytest.mark.parametrize("chunk", [Data(BEGIN | END, 0, 0, 0, 53, b"x"), ForwardTsn(0)])
def test_the_chunks_that_it_replaces_are_violations(chunk: Chunk) -> None:
    network = established(settings=FULL)
    left, _ = both(network)
    tell(left, chunk)
    network.run(until=2.0)
    assert len(network.of(0, Ended)) == 1
    assert [end.reason[:37] for end in network.of(1, Ended)] == ["aborted by the peer: protocol violati"]


@pytest.mark.parametrize("chunk", [IData(BEGIN | END, 0, 0, 0, 53, b"x"), IForwardTsn(0)])
def test_without_negotiation_it_is_unknown(chunk: Chunk) -> None:
    network = established(settings=PLAIN)
    left, _ = both(network)
    tell(left, chunk)
    errors = [c for data in left.datagrams_to_send() for c in Packet.parse(data).chunks]
    assert [c.causes[0].type for c in errors if isinstance(c, Error)] == [CauseCode.UNRECOGNIZED_CHUNK]
    assert left.state is State.ESTABLISHED
    assert left.events() == []


def test_a_large_message_is_given_up_as_a_whole_between_others() -> None:
    network = established(settings=FULL)
    left, right = both(network)
    seen = [0]

    def swallow(packet: bytes, _now: float) -> bool:
        chunks = [c for c in Packet.parse(packet).chunks if isinstance(c, IData) and c.payload[0] == 7]
        seen[0] += len(chunks)
        return bool(chunks) and seen[0] == 2  # the second fragment is lost

    network.paths[0].swallow = swallow
    left.send(0, b"\7" * 60_000, ppid=53, now=1.0, max_retransmits=0)
    left.send(1, b"other" * 4000, ppid=53, now=1.0)
    left.send(0, b"after", ppid=53, now=1.0)
    network.run(until=10.0)
    assert sorted(m.data[:5] for m in network.of(1, Message)) == [b"after", b"other"]
    assert right._connection.inbound is not None
    assert right._connection.inbound.held == 0
    assert left.total_buffered == 0
    assert seen[0] < 30, "the rest is not sent"
    assert any(isinstance(chunk, IForwardTsn) for chunk in network.paths[0].chunks())


def test_the_message_behind_a_cookie_is_i_data_too() -> None:
    left, right = associations(settings=FULL)
    network = Network(left, right)
    left.send(5, bytes(3000), ppid=53, now=0.0)
    left.connect(0.0)
    network.run(until=2.0)
    assert network.of(1, Message) == [Message(5, 53, bytes(3000))]
