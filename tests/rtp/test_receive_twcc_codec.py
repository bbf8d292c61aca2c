from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.checks.rtcp import check_rtcp
from triosfu.errors import MalformedPacket
from triosfu.rtp.rtcp import TransportFeedback, parse_compound

deltas = st.integers(0, 255) | st.integers(-0x8000, 0x7FFF)
gaps = st.integers(0, 3) | st.integers(0, 20) | st.just(0) | st.integers(0, 9000)


@st.composite
def feedbacks(draw: st.DrawFn) -> TransportFeedback:
    received, distance = [], -1
    for gap, delta in draw(st.lists(st.tuples(gaps, deltas), max_size=60)):
        distance += 1 + gap
        if distance > 0xFFFF - 100:
            break
        received.append((distance, delta))
    trailing = draw(st.integers(0, 100))
    return TransportFeedback(
        sender_ssrc=draw(st.integers(0, 2**32 - 1)),
        media_ssrc=draw(st.integers(0, 2**32 - 1)),
        base_sequence=draw(st.integers(0, 0xFFFF)),
        status_count=(received[-1][0] + 1 if received else 0) + trailing,
        reference_time=draw(st.integers(-(2**23), 2**23 - 1)),
        feedback_count=draw(st.integers(0, 255)),
        received=tuple(received),
    )


@given(feedbacks())
def test_feedback_says_what_was_put_in(feedback: TransportFeedback) -> None:
    data = feedback.serialize()
    assert parse_compound(data) == [feedback]
    check_rtcp(data)


@given(st.integers(0, 0xFFFF), st.binary(max_size=60))
def test_any_statuses_and_deltas_are_read_or_malformed(count: int, body: bytes) -> None:
    body = bytes(10) + count.to_bytes(2, "big") + bytes(4) + body
    body += bytes(-len(body) % 4)
    check_rtcp(bytes([0x8F, 205]) + (len(body) // 4).to_bytes(2, "big") + body)


def test_arrivals_accumulate_deltas_from_the_reference_time() -> None:
    feedback = TransportFeedback(1, 2, 0xFFFF, 4, 3, 0, ((0, 4), (1, -2), (3, 400)))
    assert feedback.arrivals() == [(0xFFFF, 0.193), (0, 0.1925), (2, 0.2925)]


def raw(count: int, chunks_and_deltas: bytes) -> bytes:
    body = bytes(10) + count.to_bytes(2, "big") + bytes(4) + chunks_and_deltas
    body += bytes(-len(body) % 4)
    return bytes([0x8F, 205]) + (len(body) // 4).to_bytes(2, "big") + body


def test_symbols_beyond_the_count_mean_nothing() -> None:
    # A one-bit vector of fourteen, of which three count; the deltas of the others are not there.
    (feedback,) = parse_compound(raw(3, b"\xbf\xff\x01\x02\x03"))
    assert isinstance(feedback, TransportFeedback)
    assert feedback.received == ((0, 1), (1, 2), (2, 3))


def test_a_run_that_the_datagram_cannot_back_is_refused_before_it_is_unrolled() -> None:
    with pytest.raises(MalformedPacket, match="no room"):
        parse_compound(raw(0xFFFF, b"\x3f\xff" * 8))


def test_the_reserved_status_is_malformed() -> None:
    with pytest.raises(MalformedPacket, match="reserved"):
        parse_compound(raw(1, b"\xf0\x00" + bytes(8)))


def test_a_long_loss_costs_four_bytes() -> None:
    feedback = TransportFeedback(1, 2, 0, 8002, 0, 0, ((0, 0), (8001, 0)))
    assert len(feedback.serialize()) <= 20 + 8 + 4
