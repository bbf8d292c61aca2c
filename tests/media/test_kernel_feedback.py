"""The compiled kernel reads transport-wide feedback as Python does, and leaves to it what is not well-formed."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.checks.feedback import Way, check_feedback, taken_alike
from triosfu.errors import MalformedPacket
from triosfu.kernel import Kernel, installed
from triosfu.media.estimate import KEPT
from triosfu.media.feedback_lane import FeedbackLane
from triosfu.media.sender import Sender
from triosfu.media.sent_log import REMEMBERED
from triosfu.rtp.rtcp import Pli, TransportFeedback
from triosfu.srtp import Inbound, Outbound, SrtpError, SrtpKeys, SrtpProfile
from triosfu.srtp.binding import ffi

pytestmark = pytest.mark.skipif(installed() is None, reason="the kernel is not installed")

GCM = SrtpProfile.AEAD_AES_128_GCM

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


logs = st.integers(1, 60) | st.just(REMEMBERED + 50), st.just(0) | st.just(0xFFFF - 20) | st.integers(0, 0xFFFF)


@given(st.lists(feedbacks(), min_size=1, max_size=4), *logs)
def test_well_formed_feedback_tells_the_same(said: list[TransportFeedback], sent: int, begun: int) -> None:
    assert all(taken_alike([feedback.serialize() for feedback in said], sent, begun))


@given(st.integers(0, 0xFFFF) | st.integers(0, 60), st.binary(max_size=60), *logs)
def test_any_statuses_and_deltas_tell_the_same_or_are_left_to_python(
    count: int, body: bytes, sent: int, begun: int
) -> None:
    body = bytes(8) + begun.to_bytes(2, "big") + count.to_bytes(2, "big") + bytes(4) + body
    body += bytes(-len(body) % 4)
    packet = bytes([0x8F, 205]) + (len(body) // 4).to_bytes(2, "big") + body
    assert taken_alike([packet], sent, begun) == [Way(sent, begun).take(packet)]


@given(feedbacks(), st.data())
def test_damaged_feedback_tells_the_same_or_is_left_to_python(feedback: TransportFeedback, data: st.DataObject) -> None:
    packet = bytearray(feedback.serialize())
    for _ in range(data.draw(st.integers(0, 3))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    check_feedback(bytes(packet[: data.draw(st.integers(0, len(packet)))]))


def test_a_clock_that_leaps_to_and_fro_makes_nothing_grow() -> None:
    # Within the same second, but no more than two packets in one share.
    received = tuple((number, 2000 if number % 2 else -2000) for number in range(400))
    packet = TransportFeedback(1, 2, 0, 400, 0, 0, received).serialize()
    assert taken_alike([packet], 500, 0) == [True]
    way = Way(500, 0)
    assert way.take(packet)
    assert way.estimate._places[1] == KEPT
    assert way.estimate.arrival_rate == 8 * sum(range(400 - 2 * KEPT + 1, 401))


def test_padding_and_compounds_are_left_to_python() -> None:
    packet = TransportFeedback(1, 2, 0, 2, 0, 0, ((0, 4), (1, 4))).serialize()
    padded = bytes([packet[0] | 0x20]) + packet[1:3] + bytes([packet[3] + 1]) + packet[4:] + bytes([0, 0, 0, 4])
    for whole in (padded, packet + Pli(1, 2).serialize(), Pli(1, 2).serialize() + packet):
        assert taken_alike([whole], 10, 0) == [False]
    assert Way(10, 0).take(padded)


@pytest.mark.parametrize("kernel", [None, installed()], ids=["python", "compiled"])
def test_a_sender_takes_feedback_alone_and_nothing_else(kernel: Kernel | None) -> None:
    sender = Sender(rng=Random(1), now=0.0, kernel=kernel)
    packet = TransportFeedback(1, 2, 0, 4, 0, 0, ((0, 4), (1, 4), (3, 400))).serialize()
    assert sender.receive_feedback(packet, 0.1)  # nothing was sent: that a quarter is lost is known all the same
    assert sender.estimate.loss == pytest.approx(0.05)
    assert sender.estimate.arrival_rate is None
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
    sender.close()
    assert sender.receive_feedback(packet, 0.4)
    assert sender.estimate.arrival_rate == 24_000, "what is not sent any more has not arrived either"


def test_what_is_protected_is_taken_only_if_it_is_authentic() -> None:
    keys = SrtpKeys.from_exporter(GCM, Random(3).randbytes(GCM.export_length), client=True)
    outbound, inbound = Outbound(keys), Inbound(keys.swapped())
    way = Way(4, 0)
    kernel = installed()
    assert kernel is not None
    lane = FeedbackLane(kernel, way.log, way.estimate)
    assert lane.secure(inbound.address)
    packet = TransportFeedback(1, 2, 0, 2, 0, 0, ((0, 4), (1, 4))).serialize()
    whole, report = outbound.protect_rtcp(packet), outbound.protect_rtcp(Pli(1, 2).serialize())
    room = ffi.new("char[]", 2048)

    def receive(data: bytes) -> int:
        ffi.memmove(room, data, len(data))
        return lane.receive(room, len(data), 1.5)

    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], whole[:20]):
        with pytest.raises(SrtpError):
            receive(damaged)
    assert way.estimate.feedback_at is None
    assert receive(whole) == 0
    assert way.estimate.feedback_at == 1.5
    with pytest.raises(SrtpError):
        receive(whole)  # again
    assert bytes(ffi.buffer(room, receive(report))) == Pli(1, 2).serialize()
    assert not lane.secure(0)
