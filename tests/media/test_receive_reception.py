from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triosfu.media.reception import STRAY, Reception
from triosfu.rtp.rtcp import SenderReport
from triosfu.rtp.wire import RtpPacket, build_rtp


def packet(sequence: int, timestamp: int = 0, arrival: float = 0.0) -> RtpPacket:
    data = build_rtp(ssrc=1, payload_type=96, sequence=sequence & 0xFFFF, timestamp=timestamp & 0xFFFFFFFF)
    return RtpPacket.parse(data, arrival)


def received(*sequences: int) -> Reception:
    reception = Reception(packet(sequences[0]), 90000)
    for sequence in sequences:
        reception.observe(packet(sequence))
    return reception


def test_the_delay_since_a_sender_report_is_that_of_the_standards_example() -> None:
    # RFC 3550, section 6.4.1, figure 2: SR at b44db705:20000000, answered after 5.250 s.
    reception = received(1)
    reception.sender_reported(SenderReport(1, 0xB44DB705_20000000, 0, 0, 0), now=100.0)
    block = reception.report(1, now=105.25)
    assert (block.last_sr, block.delay_since_last_sr) == (0xB7052000, 0x00054000)


def test_before_the_first_sender_report_both_times_are_zero() -> None:
    block = received(1).report(1, now=7.0)
    assert (block.last_sr, block.delay_since_last_sr) == (0, 0)


def test_the_fraction_lost_is_that_since_the_last_report() -> None:
    reception = received(*(n for n in range(100) if n % 4))
    assert reception.report(1, 1.0).fraction_lost == (24 << 8) // 99  # 1 to 99 expected, 24 of them lost
    for sequence in range(100, 200):
        reception.observe(packet(sequence))
    block = reception.report(1, 2.0)
    assert (block.fraction_lost, block.cumulative_lost) == (0, 24)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=300), st.integers(0, 0xFFFF))
def test_totals_are_those_of_appendix_a3(steps: list[int], base: int) -> None:
    reception = received(*(base + 1000 + step for step in steps))
    block = reception.report(1, 0.0)
    first, highest = base + 1000 + steps[0], base + 1000 + max(steps)
    assert block.highest_sequence == (first & 0xFFFF) + highest - first
    assert block.cumulative_lost == highest - first + 1 - len(steps)
    expected = highest - first + 1
    lost = expected - len(steps)
    assert block.fraction_lost == (lost * 256 // expected if lost > 0 else 0)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.0, 1.0)), max_size=50), st.integers(0, 2**32 - 1))
def test_jitter_is_the_estimator_of_appendix_a8(steps: list[tuple[int, float]], start: int) -> None:
    reception = Reception(packet(0, start, 10.0), 90000)
    reception.observe(packet(0, start, 10.0))
    jitter, timestamp, arrival = 0.0, start, 10.0
    for sequence, (ticks, seconds) in enumerate(steps, 1):
        jitter += (abs(seconds * 90000 - ticks) - jitter) / 16
        timestamp, arrival = timestamp + ticks, arrival + seconds
        reception.observe(packet(sequence, timestamp, arrival))
    assert reception.jitter == pytest.approx(jitter, abs=1e-3)


def test_packets_of_one_frame_do_not_count_as_jitter() -> None:
    reception = Reception(packet(0), 90000)
    for sequence in range(10):
        reception.observe(packet(sequence, 0, sequence / 100))
    assert reception.jitter == 0


def test_numbers_go_on_through_the_wrap_and_back_for_late_packets() -> None:
    reception = Reception(packet(0xFFFE), 90000)
    numbers = [reception.observe(packet(sequence)) for sequence in (0xFFFE, 1, 0xFFFF, 0, 0xFFFD)]
    assert [number - numbers[0] for number in numbers] == [0, 3, 1, 2, -1]
    assert reception.report(1, 0.0).highest_sequence == 0x10001


def test_one_packet_from_nowhere_is_not_believed() -> None:
    reception = received(100)
    assert reception.observe(packet(30_000)) == STRAY
    assert reception.observe(packet(101)) == reception.highest
    assert (reception.lost, reception.strays, reception.restarts) == (0, 1, 0)


def test_two_consecutive_packets_from_nowhere_are_a_new_beginning_without_loss() -> None:
    reception = received(100)
    reception.sender_reported(SenderReport(1, 1 << 32, 0, 0, 0), now=0.0)
    reception.observe(packet(30_000))
    assert reception.observe(packet(30_001)) & 0xFFFF == 30_001
    block = reception.report(1, 1.0)
    assert (block.cumulative_lost, block.fraction_lost, block.last_sr) == (0, 0, 0)


def test_duplicates_cannot_make_the_fraction_negative() -> None:
    block = received(1, 1, 1, 2).report(1, 0.0)
    assert (block.cumulative_lost, block.fraction_lost) == (-2, 0)
