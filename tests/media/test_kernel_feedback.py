"""The compiled kernel reads transport-wide feedback as Python does, and leaves to it what is not well-formed."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triosfu.errors import MalformedPacket
from triosfu.kernel import Kernel, installed
from triosfu.media.feedback_reader import LONGEST, reader_of
from triosfu.media.sender import Sender
from triosfu.media.sent_log import REMEMBERED, Arrivals, SentLog
from triosfu.rtp.rtcp import Pli, TransportFeedback, parse_compound

pytestmark = pytest.mark.skipif(installed() is None, reason="the kernel is not installed")

Told = tuple[int, int, Arrivals | None]

deltas = st.integers(0, 255) | st.integers(-0x8000, 0x7FFF) | st.just(4)
gaps = st.just(0) | st.just(0) | st.integers(0, 20) | st.integers(0, 1500)


@st.composite
def feedbacks(draw: st.DrawFn) -> TransportFeedback:
    received, distance = [], -1
    for gap, delta in draw(st.lists(st.tuples(gaps, deltas), max_size=40)):
        distance += 1 + gap
        received.append((distance, delta))
    return TransportFeedback(
        sender_ssrc=1,
        media_ssrc=2,
        base_sequence=draw(st.integers(0, 0xFFFF) | st.integers(0, 40)),
        status_count=min(0xFFFF, distance + 1 + draw(st.just(0) | st.integers(0, 40))),
        reference_time=draw(st.integers(-(2**23), 2**23 - 1)),
        feedback_count=draw(st.integers(0, 255)),
        received=tuple(one for one in received if one[0] < 0xFFFF),
    )


def kernel() -> Kernel:
    found = installed()
    assert found is not None
    return found


def log_of(sent: int, begun: int) -> SentLog:
    """One that has numbered `sent` packets, the first of them with `begun`."""
    log = SentLog()
    log._next[0] = begun
    for number in range(sent):
        log.sent(number % 1400 + 1, number / 300)
    return log


def state(log: SentLog) -> tuple[list[int], int]:
    return log._sizes.tolist(), log._next[0]


def by_python(packet: bytes, log: SentLog) -> Told | None:
    try:
        packets = parse_compound(packet)
    except MalformedPacket:
        return None
    if len(packets) != 1 or not isinstance(packets[0], TransportFeedback):
        return None
    feedback = packets[0]
    return feedback.status_count, len(feedback.received), log.resolve(feedback)


def check(packet: bytes, sent: int, begun: int) -> Told | None:
    ours, theirs = log_of(sent, begun), log_of(sent, begun)
    found = reader_of(kernel()).read(packet, theirs)
    wanted = by_python(packet, ours)
    if found is None:
        assert state(theirs) == state(log_of(sent, begun)), "it has changed what it has not understood"
    else:
        assert (found, state(theirs)) == (wanted, state(ours))
    return found


logs = st.integers(1, 60) | st.just(REMEMBERED + 50), st.just(0) | st.just(0xFFFF - 20) | st.integers(0, 0xFFFF)


@given(feedbacks(), *logs)
def test_well_formed_feedback_tells_the_same(feedback: TransportFeedback, sent: int, begun: int) -> None:
    packet = feedback.serialize()
    assert (check(packet, sent, begun) is None) == (len(packet) > LONGEST)


@given(st.integers(0, 0xFFFF), st.binary(max_size=60), *logs)
def test_any_statuses_and_deltas_tell_the_same_or_are_left_to_python(
    count: int, body: bytes, sent: int, begun: int
) -> None:
    body = bytes(8) + begun.to_bytes(2, "big") + count.to_bytes(2, "big") + bytes(4) + body
    body += bytes(-len(body) % 4)
    packet = bytes([0x8F, 205]) + (len(body) // 4).to_bytes(2, "big") + body
    found = check(packet, sent, begun)
    assert (found is None) == (by_python(packet, log_of(sent, begun)) is None)


@given(feedbacks(), st.data())
def test_damaged_feedback_tells_the_same_or_is_left_to_python(feedback: TransportFeedback, data: st.DataObject) -> None:
    packet = bytearray(feedback.serialize())
    for _ in range(data.draw(st.integers(0, 3))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(packet[: data.draw(st.integers(0, len(packet)))]), 40, 0)


def test_padding_and_compounds_are_left_to_python() -> None:
    packet = TransportFeedback(1, 2, 0, 2, 0, 0, ((0, 4), (1, 4))).serialize()
    padded = bytes([packet[0] | 0x20]) + packet[1:3] + bytes([packet[3] + 1]) + packet[4:] + bytes([0, 0, 0, 4])
    for whole in (padded, packet + Pli(1, 2).serialize(), Pli(1, 2).serialize() + packet):
        assert check(whole, 10, 0) is None
    assert by_python(padded, log_of(10, 0)) is not None


@pytest.mark.parametrize("kernel", [None, installed()], ids=["python", "compiled"])
def test_a_sender_takes_feedback_alone_and_nothing_else(kernel: Kernel | None) -> None:
    sender = Sender(rng=Random(1), now=0.0, kernel=kernel)
    packet = TransportFeedback(1, 2, 0, 4, 0, 0, ((0, 4), (1, 4), (3, 400))).serialize()
    assert sender.receive_feedback(packet, 0.1)  # nothing was sent: that half is lost is known all the same
    assert (sender.estimate.loss, sender.estimate.arrival_rate) == (pytest.approx(0.05), None)
    for _ in range(4):
        sender.sent_log.sent(1000, 0.0)
    assert sender.receive_feedback(packet, 0.2)
    assert sender.estimate.arrival_rate == 24_000
    assert sender.estimate.queueing == pytest.approx(0.101)
    assert not sender.receive_feedback(packet + Pli(1, 2).serialize(), 0.3)
    assert not sender.receive_feedback(Pli(1, 2).serialize(), 0.3)
    with pytest.raises(MalformedPacket):
        sender.receive_feedback(packet[:3] + bytes([packet[3] - 1]) + packet[4:-4], 0.3)
    assert sender.estimate.feedback_at == 0.2
