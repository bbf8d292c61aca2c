from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from tests.support.network import Network, associations, established
from triosfu.errors import UsageError
from triosfu.sctp.core import Association, Ended, Established, Message, Restarted, Settings, State
from triosfu.sctp.parameters import CauseCode, Tlv, cause
from triosfu.sctp.state import TRANSITIONS, On
from triosfu.sctp.timers import Timer
from triosfu.sctp.wire import (
    Abort,
    Chunk,
    CookieAck,
    CookieEcho,
    Data,
    Error,
    Heartbeat,
    Init,
    Packet,
    Shutdown,
    ShutdownAck,
    ShutdownComplete,
    Unknown,
)


def state(end: Association) -> State:
    return end.state


def packets(end: Association) -> list[Packet]:
    return [Packet.parse(data) for data in end.datagrams_to_send()]


def only_chunk(end: Association) -> Chunk:
    (packet,) = packets(end)
    (chunk,) = packet.chunks
    return chunk


def test_one_end_connects_and_the_other_answers() -> None:
    left, right = associations()
    network = Network(left, right)
    left.connect(0.0)
    network.run(until=1.0)
    assert left.state is right.state is State.ESTABLISHED
    assert network.events == ([Established()], [Established()])


def test_a_responder_keeps_no_state_before_the_cookie_returns() -> None:
    left, right = associations()
    left.connect(0.0)
    for data in left.datagrams_to_send():
        right.receive_datagram(data, 0.0)
    assert right.state is State.CLOSED
    assert right.next_timeout() == math.inf
    assert right._connection.handshake.peer is None


def test_data_rides_behind_the_cookie() -> None:
    left, right = associations()
    network = Network(left, right)
    left.send(0, b"early", ppid=51, now=0.0)
    left.connect(0.0)
    network.run(until=5.0, done=lambda: bool(network.of(1, Message)))
    assert network.now == pytest.approx(3 * 0.02)
    assert network.of(1, Message) == [Message(0, 51, b"early")]
    (echo,) = [data for _, data in network.paths[0].sent if isinstance(Packet.parse(data).chunks[0], CookieEcho)]
    assert isinstance(Packet.parse(echo).chunks[1], Data)


def test_data_rides_behind_every_copy_of_the_cookie() -> None:
    left, right = associations()
    network = Network(left, right)
    echoes: list[bytes] = []

    def swallow(packet: bytes, _now: float) -> bool:
        if packet[12] == 10:
            echoes.append(packet)
        return packet[12] == 10 and len(echoes) < 3

    network.paths[0].swallow = swallow
    left.send(0, b"early", ppid=51, now=0.0)
    left.connect(0.0)
    network.run(until=10.0, done=lambda: bool(network.of(1, Message)))
    assert [type(Packet.parse(echo).chunks[-1]) for echo in echoes] == [Data] * 3


def test_the_handshake_measures_the_round_trip() -> None:
    left, right = associations()
    network = Network(left, right)
    left.connect(0.0)
    network.run(until=1.0)
    assert left.round_trip_time == pytest.approx(0.04)


def test_two_ends_that_connect_at_once_share_one_association() -> None:
    left, right = associations()
    network = Network(left, right)
    left.connect(0.0)
    right.connect(0.0)
    network.run(until=1.0)
    assert network.events == ([Established()], [Established()])
    assert left._connection.handshake.tag == right._connection.handshake.peer_tag
    assert right._connection.handshake.tag == left._connection.handshake.peer_tag


def test_a_cookie_is_good_for_a_minute() -> None:
    left, right = associations()
    left.connect(0.0)
    for data in left.datagrams_to_send():
        right.receive_datagram(data, 0.0)
    for data in right.datagrams_to_send():
        left.receive_datagram(data, 0.0)
    (echo,) = left.datagrams_to_send()
    right.receive_datagram(echo, 61.0)
    assert state(right) is State.CLOSED
    (packet,) = packets(right)
    assert isinstance(packet.chunks[0], Error)
    assert packet.chunks[0].causes[0] == Tlv(CauseCode.STALE_COOKIE, (1_000_000).to_bytes(4, "big"))
    # The peer tries once more from the beginning.
    left.receive_datagram(packet.serialize(), 61.0)
    assert state(left) is State.COOKIE_WAIT
    network = Network(left, right)
    network.now = 61.0
    network.run(until=62.0)
    assert (state(left), state(right)) == (State.ESTABLISHED, State.ESTABLISHED)


def as_far_as_the_cookie() -> tuple[Association, Association, Packet]:
    """Two ends, the first of which has just been given its cookie, and the packet in which it echoes that."""
    left, right = associations()
    left.connect(0.0)
    for data in left.datagrams_to_send():
        right.receive_datagram(data, 0.0)
    for data in right.datagrams_to_send():
        left.receive_datagram(data, 0.0)
    (packet,) = packets(left)
    return left, right, packet


def test_a_changed_cookie_is_worth_nothing() -> None:
    _left, right, packet = as_far_as_the_cookie()
    (echo,) = packet.chunks
    assert isinstance(echo, CookieEcho)
    for at in range(len(echo.cookie)):
        damaged = bytearray(echo.cookie)
        damaged[at] ^= 1
        right.receive_datagram(Packet(5000, 5000, packet.tag, [CookieEcho(bytes(damaged))]).serialize(), 0.0)
        assert right.state is State.CLOSED
    assert right.datagrams_to_send() == []


def test_a_repeated_cookie_is_acknowledged_again() -> None:
    left, right = associations()
    network = Network(left, right)
    left.connect(0.0)
    network.run(until=1.0)
    (echo,) = [data for _, data in network.paths[0].sent if data[12] == 10]
    right.receive_datagram(echo, 1.0)
    assert only_chunk(right) == CookieAck()
    right.receive_datagram(echo, 200.0)  # stale, but of the association that is up
    assert only_chunk(right) == CookieAck()
    assert right.events() == []


def test_a_cookie_counts_only_under_its_own_tag() -> None:
    _left, right, packet = as_far_as_the_cookie()
    right.receive_datagram(Packet(5000, 5000, packet.tag ^ 1, packet.chunks).serialize(), 0.0)
    assert right.state is State.CLOSED


def test_a_cookie_of_the_association_before_the_last_restarts_nothing() -> None:
    network = established()
    right = network.ends[1]
    assert isinstance(right, Association)
    echoes = []
    for seed in (98, 99):
        stranger = Association(now=1.0, rng=Random(seed))
        stranger.connect(1.0)
        for data in stranger.datagrams_to_send():
            right.receive_datagram(data, 1.0)
        for data in right.datagrams_to_send():
            stranger.receive_datagram(data, 1.0)
        echoes += stranger.datagrams_to_send()
    right.receive_datagram(echoes[1], 1.0)
    assert right.events() == [Restarted()]
    right.receive_datagram(echoes[0], 1.0)
    assert right.events() == []
    assert right.dropped["cookie"] == 1


def test_an_init_to_an_established_association_changes_nothing_until_its_cookie_returns() -> None:
    network = established()
    left, right = network.ends
    assert isinstance(left, Association)
    assert isinstance(right, Association)
    stranger = Association(now=1.0, rng=Random(99))
    stranger.connect(1.0)
    (init,) = stranger.datagrams_to_send()
    tag = right._connection.handshake.tag
    right.receive_datagram(init, 1.0)
    chunk = only_chunk(right)
    assert isinstance(chunk, Init)
    assert chunk.tag != tag
    assert right._connection.handshake.tag == tag
    left.send(0, b"still here", ppid=53, now=1.0)
    network.run(until=2.0)
    assert network.of(1, Message) == [Message(0, 53, b"still here")]


def test_an_abort_ends_both_ends_once() -> None:
    network = established()
    left, right = network.ends
    assert isinstance(left, Association)
    left.abort("enough", 1.0)
    left.abort("enough", 1.0)
    network.run(until=2.0)
    assert network.of(0, Ended) == [Ended("enough")]
    assert network.of(1, Ended) == [Ended("aborted by the peer: user abort (enough)")]
    assert left.next_timeout() == right.next_timeout() == math.inf
    with pytest.raises(UsageError):
        left.send(0, b"x", ppid=53, now=2.0)


@pytest.mark.parametrize("reflected", [False, True])
def test_an_abort_with_a_wrong_tag_is_ignored(reflected: bool) -> None:
    network = established()
    left = network.ends[0]
    assert isinstance(left, Association)
    wrong = (left._connection.handshake.tag if reflected else left._connection.handshake.peer_tag) ^ 1
    left.receive_datagram(Packet(5000, 5000, wrong, [Abort(reflected)]).serialize(), 1.0)
    assert state(left) is State.ESTABLISHED
    right_tag = left._connection.handshake.peer_tag if reflected else left._connection.handshake.tag
    left.receive_datagram(Packet(5000, 5000, right_tag, [Abort(reflected, (Tlv(999, b""),))]).serialize(), 1.0)
    assert left.state is State.ENDED


def test_wrong_ports_are_ignored() -> None:
    network = established()
    left = network.ends[0]
    assert isinstance(left, Association)
    left.receive_datagram(Packet(5001, 5000, left._connection.handshake.tag, [Abort(False)]).serialize(), 1.0)
    assert left.state is State.ESTABLISHED
    assert left.dropped["port"] == 1


def test_a_shutdown_delivers_what_is_queued_first() -> None:
    network = established()
    left, right = network.ends
    assert isinstance(left, Association)
    assert isinstance(right, Association)
    for number in range(50):
        left.send(0, bytes([number]) * 2000, ppid=53, now=1.0)
    left.shutdown(1.0)
    with pytest.raises(UsageError):
        left.send(0, b"late", ppid=53, now=1.0)
    network.run(until=15.0)
    assert [m.data[0] for m in network.of(1, Message)] == list(range(50))
    assert left.state is right.state is State.ENDED
    assert len(network.of(0, Ended)) == len(network.of(1, Ended)) == 1


def test_data_that_crosses_a_shutdown_is_answered_with_shutdown() -> None:
    network = established()
    left, right = network.ends
    assert isinstance(left, Association)
    assert isinstance(right, Association)
    left.shutdown(1.0)
    left.datagrams_to_send()
    right.send(0, b"crossing", ppid=53, now=1.0)
    for data in right.datagrams_to_send():
        left.receive_datagram(data, 1.0)
    assert left.events() == [Message(0, 53, b"crossing")]
    assert Shutdown(right._connection.outbound.next_tsn - 1 & 0xFFFFFFFF) in [
        c for packet in packets(left) for c in packet.chunks
    ]


def test_both_ends_shut_down_at_once() -> None:
    network = established()
    left, right = network.ends
    assert isinstance(left, Association)
    assert isinstance(right, Association)
    left.send(0, b"a", ppid=53, now=1.0)
    left.shutdown(1.0)
    right.shutdown(1.0)
    network.run(until=10.0)
    assert left.state is right.state is State.ENDED
    assert network.of(1, Message) == [Message(0, 53, b"a")]


@pytest.mark.parametrize("loss", [0.3, 0.6])
@pytest.mark.parametrize("seed", range(10))
def test_a_shutdown_over_a_bad_path_ends_in_bounded_time(seed: int, loss: float) -> None:
    network = established(seed)
    left, right = network.ends
    assert isinstance(left, Association)
    assert isinstance(right, Association)
    for path in network.paths:
        path.loss = loss
    left.send(0, b"x" * 5000, ppid=53, now=1.0)
    left.shutdown(1.0)
    network.run(until=40.0)
    assert left.state is State.ENDED
    assert right.state is State.ENDED or right.state is State.ESTABLISHED


def test_a_shutdown_into_a_black_hole_ends_at_its_guard() -> None:
    network = established()
    left = network.ends[0]
    assert isinstance(left, Association)
    network.paths[0].dark = (0.0, math.inf)
    left.send(0, b"x", ppid=53, now=1.0)
    left.shutdown(1.0)
    network.run(until=100.0, done=lambda: left.state is State.ENDED)
    assert network.now == pytest.approx(1.0 + 15.0)


def test_a_peer_in_shutdown_ack_sent_is_helped_out() -> None:
    left, _ = associations()
    left.connect(0.0)
    left.datagrams_to_send()
    left.receive_datagram(Packet(5000, 5000, 4711, [ShutdownAck()]).serialize(), 0.0)
    (packet,) = packets(left)
    assert packet.tag == 4711
    assert packet.chunks == [ShutdownComplete(True)]
    assert left.state is State.COOKIE_WAIT


def test_a_heartbeat_is_echoed_byte_for_byte() -> None:
    network = established()
    left = network.ends[0]
    assert isinstance(left, Association)
    left.receive_datagram(
        Packet(5000, 5000, left._connection.handshake.tag, [Heartbeat(False, b"\1\2\3")]).serialize(), 1.0
    )
    assert only_chunk(left) == Heartbeat(True, b"\1\2\3")


def test_only_the_very_same_info_answers_a_heartbeat() -> None:
    network = established()
    left = network.ends[0]
    assert isinstance(left, Association)
    left.datagrams_to_send()
    while not (sent := [c for packet in packets(left) for c in packet.chunks]):
        left.handle_timeout(left.next_timeout())
    (beat,) = sent
    assert isinstance(beat, Heartbeat)
    now = left.next_timeout() - 0.1
    for body in (b"", beat.body[:-1] + b"?"):
        left.receive_datagram(
            Packet(5000, 5000, left._connection.handshake.tag, [Heartbeat(True, body)]).serialize(), now
        )
        assert Timer.HEARTBEAT_ACK in left._connection.timers
    left.receive_datagram(
        Packet(5000, 5000, left._connection.handshake.tag, [Heartbeat(True, beat.body)]).serialize(), now
    )
    assert Timer.HEARTBEAT_ACK not in left._connection.timers


def test_a_heartbeat_measures_the_round_trip_even_if_its_answer_is_late() -> None:
    network = established()
    left = network.ends[0]
    assert isinstance(left, Association)
    for path in network.paths:
        path.latency = 0.7
    before = left.round_trip_time
    assert before is not None
    network.run(until=60.0)
    expected = before + (1.4 - before) / 8
    assert left.round_trip_time == pytest.approx(expected)
    assert left._connection.liveness.errors == 0, "an answer behind the time-out is an answer"


def test_heartbeats_go_only_when_nothing_that_wants_an_answer_has_gone_for_long() -> None:
    network = established()
    left, right = network.ends
    assert isinstance(left, Association)
    assert isinstance(right, Association)
    for path in network.paths:
        path.sent.clear()
    for at in range(1, 301, 5):
        network.run(until=float(at))
        left.send(0, b"x", ppid=53, now=network.now)
    beats = [[time for time, data in path.sent if data[12] == 4] for path in network.paths]
    assert beats[0] == []
    assert 5 < len(beats[1]) < 20, "a SACK wants no answer"
    network.run(until=350.0)
    first = next(time for time, data in network.paths[0].sent if data[12] == 4)
    assert first - 296.0 >= 15.0


def test_an_idle_association_sends_heartbeats_and_lives() -> None:
    network = established()
    network.run(until=600.0)
    left = network.ends[0]
    assert isinstance(left, Association)
    assert left.state is State.ESTABLISHED
    assert left._connection.liveness.errors == 0
    beats = [time for time, data in network.paths[0].sent if data[12] == 4]
    assert 10 < len(beats) < 40


def test_unanswered_heartbeats_end_an_idle_association() -> None:
    network = established()
    left = network.ends[0]
    assert isinstance(left, Association)
    network.paths[1].dark = (0.0, math.inf)
    network.run(until=11 * 50.0, done=lambda: left.state is State.ENDED)
    assert left.state is State.ENDED


@pytest.mark.parametrize(
    ("kind", "reported", "goes_on"),
    [(0x3E, False, False), (0x7E, True, False), (0xBE, False, True), (0xFE, True, True)],
)
def test_unknown_chunks_are_treated_as_their_type_says(kind: int, reported: bool, goes_on: bool) -> None:
    network = established()
    left = network.ends[0]
    assert isinstance(left, Association)
    unknown = Unknown(kind, 0, b"what")
    packet = Packet(5000, 5000, left._connection.handshake.tag, [unknown, Heartbeat(False, b"ping")])
    left.receive_datagram(packet.serialize(), 1.0)
    expected: list[Any] = [Error((cause(CauseCode.UNRECOGNIZED_CHUNK, unknown.serialize()),))] if reported else []
    expected += [Heartbeat(True, b"ping")] if goes_on else []
    assert [chunk for packet in packets(left) for chunk in packet.chunks] == expected


def test_unknown_parameters_are_reported_when_they_ask_for_it() -> None:
    _, right = associations()
    parameters = (Tlv(0xC00A, b"report"), Tlv(0x800A, b"skip"), Tlv(0x400A, b"report and stop"), Tlv(0xC00B, b"late"))
    init = Init(False, 77, 100_000, 10, 10, 5, parameters)
    right.receive_datagram(Packet(5000, 5000, 0, [init]).serialize(), 0.0)
    ack = only_chunk(right)
    assert isinstance(ack, Init)
    reported = [tlv.body for tlv in ack.parameters if tlv.type == 8]
    assert reported == [parameters[0].serialize()[:10], parameters[2].serialize()[:19]]


@pytest.mark.parametrize(
    "init",
    [
        Init(False, 0, 100_000, 10, 10, 5),
        Init(False, 7, 100_000, 0, 10, 5),
        Init(False, 7, 100_000, 10, 0, 5),
        Init(False, 7, 1499, 10, 10, 5),
    ],
)
def test_an_init_that_cannot_be_gets_no_answer(init: Init) -> None:
    _, right = associations()
    right.receive_datagram(Packet(5000, 5000, 0, [init]).serialize(), 0.0)
    assert right.datagrams_to_send() == []


def test_an_init_is_alone_in_its_packet_with_tag_zero() -> None:
    _, right = associations()
    init = Init(False, 7, 100_000, 10, 10, 5)
    right.receive_datagram(Packet(5000, 5000, 0, [init, CookieAck()]).serialize(), 0.0)
    right.receive_datagram(Packet(5000, 5000, 3, [init]).serialize(), 0.0)
    assert right.datagrams_to_send() == []


def test_streams_are_the_fewer_of_both_ends() -> None:
    left = Association(now=0.0, rng=Random(1))
    right = Association(now=0.0, rng=Random(2), settings=Settings(streams=1024))
    network = Network(left, right)
    left.connect(0.0)
    network.run(until=1.0)
    assert left.outbound_streams == right.outbound_streams == 1024
    with pytest.raises(UsageError):
        left.send(1024, b"x", ppid=53, now=1.0)


def test_no_event_leaves_the_end() -> None:
    assert all(state is not State.ENDED for state, _ in TRANSITIONS)
    assert all((state, On.END) in TRANSITIONS for state in State if state is not State.ENDED)


def test_connecting_twice_or_after_the_peer_did_is_harmless() -> None:
    network = established()
    left = network.ends[0]
    assert isinstance(left, Association)
    left.connect(1.0)
    assert left.state is State.ESTABLISHED
    assert left.datagrams_to_send() == []
