from __future__ import annotations

import math

import pytest

from tests.support.network import Network, established
from triosfu.errors import UsageError
from triosfu.sctp.core import Association, Ended, Message, ResetDone, State, StreamReset
from triosfu.sctp.parameters import OutgoingReset, ParameterType, ReconfigResponse, Tlv, parse_reconfig
from triosfu.sctp.wire import Data, Packet, ReConfig


def ends(network: Network) -> tuple[Association, Association]:
    left, right = network.ends
    assert isinstance(left, Association)
    assert isinstance(right, Association)
    return left, right


def tell(end: Association, *parameters: Tlv, now: float = 1.0) -> list[ReconfigResponse]:
    """Give a RE-CONFIG to `end`; its answers."""
    end.receive_datagram(Packet(5000, 5000, end._connection.handshake.tag, [ReConfig(parameters)]).serialize(), now)
    chunks = [chunk for data in end.datagrams_to_send() for chunk in Packet.parse(data).chunks]
    answers = [parse_reconfig(tlv) for chunk in chunks if isinstance(chunk, ReConfig) for tlv in chunk.parameters]
    return [answer for answer in answers if isinstance(answer, ReconfigResponse)]


def test_a_reset_follows_the_data_and_the_stream_begins_anew() -> None:
    network = established()
    left, right = ends(network)
    for number in range(20):
        left.send(3, bytes([number]) * 2000, ppid=53, now=1.0)
    left.reset_stream(3, 1.0)
    left.reset_stream(3, 1.0)
    with pytest.raises(UsageError):
        left.send(3, b"late", ppid=53, now=1.0)
    network.run(until=5.0)
    events = [e for e in network.events[1] if isinstance(e, Message | StreamReset)]
    assert events[-1] == StreamReset(3)
    assert len(events) == 21
    assert network.of(0, ResetDone) == [ResetDone(3, True)]
    network.paths[0].sent.clear()
    left.send(3, b"anew", ppid=53, now=5.0)
    network.run(until=6.0)
    assert network.of(1, Message)[-1] == Message(3, 53, b"anew")
    assert [chunk.ssn for chunk in network.paths[0].chunks() if isinstance(chunk, Data)] == [0]
    assert right.state is State.ESTABLISHED


def test_one_request_at_a_time_then_the_others_together() -> None:
    network = established()
    left, _ = ends(network)
    left.reset_stream(0, 1.0)
    network.flush()
    for stream in range(1, 50):
        left.reset_stream(stream, 1.0)
    network.run(until=3.0)
    requests = [chunk for chunk in network.paths[0].chunks() if isinstance(chunk, ReConfig)]
    assert len(requests) == 2
    assert {event.stream_id for event in network.of(0, ResetDone)} == set(range(50))


def test_a_request_is_repeated_unchanged_until_answered() -> None:
    network = established()
    left, _ = ends(network)
    network.paths[1].dark = (1.0, 4.0)
    left.reset_stream(7, 1.0)
    network.run(until=20.0)
    requests = [data for data in network.paths[0].chunks() if isinstance(data, ReConfig)]
    assert len(requests) > 2
    assert len(set(requests)) == 1
    assert network.of(0, ResetDone) == [ResetDone(7, True)]
    assert network.of(1, StreamReset) == [StreamReset(7)]


def test_silence_ends_an_association_with_a_reset_under_way() -> None:
    network = established()
    left, _ = ends(network)
    network.paths[0].dark = (1.0, math.inf)
    left.reset_stream(7, 1.0)
    network.run(until=100.0, done=lambda: left.state is State.ENDED)
    assert network.now <= 34.5
    assert network.of(0, Ended) == [Ended("RE-CONFIG went unanswered too often")]


def test_silence_is_counted_once_when_data_and_a_reset_wait_for_it() -> None:
    network = established()
    left, _ = ends(network)
    network.paths[0].dark = (1.0, math.inf)
    left.send(7, b"x", ppid=53, now=1.0)
    left.reset_stream(7, 1.0)
    network.run(until=100.0, done=lambda: left.state is State.ENDED)
    assert 26.0 < network.now <= 34.5


def test_a_request_ahead_of_its_data_is_in_progress_and_performed_later() -> None:
    network = established()
    left, right = ends(network)
    left.send(1, b"first", ppid=53, now=1.0)
    network.run(until=2.0)
    network.paths[0].dark = (2.0, 2.1)
    left.send(1, b"lost", ppid=53, now=2.0)
    left.reset_stream(1, 2.0)
    network.run(until=20.0)
    events = [e for e in network.events[1] if isinstance(e, Message | StreamReset)]
    assert events == [Message(1, 53, b"first"), Message(1, 53, b"lost"), StreamReset(1)]
    (performed,) = [at for at, e in zip(network.times[1], network.events[1], strict=True) if e == StreamReset(1)]
    (complete,) = [
        at for at, e in zip(network.times[1], network.events[1], strict=True) if e == Message(1, 53, b"lost")
    ]
    assert performed == complete, "it waits for the data, not for the next request"
    answers = [
        parse_reconfig(tlv)
        for chunk in network.paths[1].chunks()
        if isinstance(chunk, ReConfig)
        for tlv in chunk.parameters
    ]
    results = [answer.result for answer in answers if isinstance(answer, ReconfigResponse)]
    assert results[-1] == 1
    assert set(results[:-1]) <= {6}
    assert network.of(0, ResetDone) == [ResetDone(1, True)]
    assert right.state is State.ESTABLISHED


def test_in_progress_is_no_failure_however_long() -> None:
    network = established()
    left, right = ends(network)
    left.reset_stream(1, 1.0)
    (request,) = [Packet.parse(data).chunks[0] for data in left.datagrams_to_send()]
    assert isinstance(request, ReConfig)
    parsed = parse_reconfig(request.parameters[0])
    assert isinstance(parsed, OutgoingReset)
    now = 1.0
    for _ in range(30):
        answer = ReConfig((ReconfigResponse(parsed.request, 6).tlv(),))
        left.receive_datagram(Packet(5000, 5000, left._connection.handshake.tag, [answer]).serialize(), now)
        now = left.next_timeout()
        left.handle_timeout(now)
        left.datagrams_to_send()
    assert left.state is State.ESTABLISHED
    assert now > 10.0
    del right


def test_the_same_request_again_gets_the_same_answer_and_no_second_action() -> None:
    left, _ = ends(established())
    sequence = left._connection.reconfig._expected
    request = OutgoingReset(
        sequence, 0, (left._connection.inbound.cumulative if left._connection.inbound else 0) & 0xFFFFFFFF, (4,)
    ).tlv()
    assert tell(left, request) == [ReconfigResponse(sequence, 1)]
    assert left.events() == [StreamReset(4)]
    assert tell(left, request) == [ReconfigResponse(sequence, 1)]
    assert left.events() == []


def test_a_request_out_of_sequence_is_refused() -> None:
    left, _ = ends(established())
    sequence = (left._connection.reconfig._expected + 1) & 0xFFFFFFFF
    assert tell(left, OutgoingReset(sequence, 0, 0, (4,)).tlv()) == [ReconfigResponse(sequence, 5)]
    assert left.events() == []


@pytest.mark.parametrize(
    "kind",
    [ParameterType.INCOMING_RESET, ParameterType.TSN_RESET, ParameterType.ADD_OUTGOING, ParameterType.ADD_INCOMING],
)
def test_what_webrtc_does_not_use_is_denied(kind: int) -> None:
    left, _ = ends(established())
    sequence = left._connection.reconfig._expected
    assert tell(left, Tlv(kind, sequence.to_bytes(4, "big") + bytes(4))) == [ReconfigResponse(sequence, 2)]


def test_no_stream_named_is_every_stream() -> None:
    network = established()
    left, right = ends(network)
    right.send(5, b"x", ppid=53, now=1.0)
    left.send(6, b"x", ppid=53, now=1.0)
    network.run(until=2.0)
    left.events()
    assert left._connection.inbound is not None
    request = OutgoingReset(
        left._connection.reconfig._expected, 0, left._connection.inbound.cumulative & 0xFFFFFFFF, ()
    )
    assert len(tell(left, request.tlv(), now=2.0)) == 1
    assert left.events() == [StreamReset(5), StreamReset(6)]


def test_a_broken_parameter_voids_the_whole_chunk() -> None:
    left, _ = ends(established())
    good = OutgoingReset(left._connection.reconfig._expected, 0, 0, (4,)).tlv()
    assert tell(left, good, Tlv(ParameterType.RECONFIG_RESPONSE, b"short")) == []
    assert left.events() == []


@pytest.mark.parametrize("result", [2, 3, 4, 5, 99])
def test_a_refused_reset_is_over(result: int) -> None:
    left, _ = ends(established())
    left.reset_stream(1, 1.0)
    left.datagrams_to_send()
    assert left._connection.reconfig._in_flight is not None
    tell(left, ReconfigResponse(left._connection.reconfig._in_flight.request, result).tlv())
    assert left.events() == [ResetDone(1, False)]
    assert not left.is_resetting(1)


def test_an_answer_to_nothing_is_ignored() -> None:
    left, _ = ends(established())
    tell(left, ReconfigResponse(12345, 1).tlv())
    assert left.events() == []
