"""The sending half alone: fast retransmit, time-outs, abandoned messages, the windows."""

from __future__ import annotations

import pytest

from tests.support.outbound import FIRST, UNIT, make, newly, queue, sack, transmit, tsns
from triosfu.sctp.congestion import CongestionWindow
from triosfu.sctp.rto import RetransmissionTimeout


def test_a_sack_acknowledges_bytes_once() -> None:
    outbound = make()
    outbound.congestion.bytes = 100_000
    queue(outbound, 10 * 1160)
    transmit(outbound)
    assert outbound.queue.buffered == 11_600
    assert newly(outbound, 0, 3, 4) == 2 * 1176
    assert outbound.queue.buffered == 8 * 1160
    assert newly(outbound, 0, 3, 4) == 0
    assert newly(outbound, 0, 2, 5) == 2 * 1176
    assert newly(outbound, 10) == 6 * 1176
    assert outbound.queue.buffered == outbound.flight == outbound.in_flight == 0
    assert outbound.idle


def test_three_reports_make_a_loss_and_halve_the_window_once() -> None:
    outbound = make()
    outbound.congestion.bytes = 20 * UNIT
    queue(outbound, 12 * 1160)
    transmit(outbound)
    for last in (2, 3):
        sack(outbound, 0, 2, last)
        assert transmit(outbound) == []
    assert outbound.congestion.bytes == 20 * UNIT
    sack(outbound, 0, 2, 4)
    assert outbound.congestion.bytes == outbound.congestion.ssthresh == 10 * UNIT
    assert tsns(transmit(outbound)) == [0]
    # More losses within the same recovery cost nothing more.
    for last in (8, 9, 10):
        sack(outbound, 0, 2, 4, 6, last)
    assert outbound.congestion.bytes == 10 * UNIT
    assert tsns(transmit(outbound)) == [4]
    sack(outbound, 12)
    assert outbound.congestion.recovery_exit is None


def test_only_what_was_sent_before_something_new_counts_as_missing() -> None:
    """HTNA: repeated SACKs that acknowledge nothing new are no evidence."""
    outbound = make()
    outbound.congestion.bytes = 20 * UNIT
    queue(outbound, 12 * 1160)
    transmit(outbound)
    for _ in range(10):
        sack(outbound, 0, 2, 2)
    assert transmit(outbound) == []


def test_a_retransmission_is_repeated_only_when_reported_missing_anew() -> None:
    outbound = make()
    outbound.congestion.bytes = 30 * UNIT
    queue(outbound, 16 * 1160)
    transmit(outbound, packets=10)
    for last in (2, 3, 4):
        sack(outbound, 0, 2, last)
    assert tsns(transmit(outbound, packets=1))[0] == 0
    # These were sent before the retransmission and say nothing about it.
    for last in (5, 6, 7, 8, 9, 10):
        sack(outbound, 0, 2, last)
    later = tsns(transmit(outbound))
    assert 0 not in later
    assert later[-1] == 15
    # These were sent after it.
    for last in (11, 12, 13):
        sack(outbound, 0, 2, last)
    assert tsns(transmit(outbound)) == [0]


def test_the_first_fast_retransmission_ignores_the_congestion_window() -> None:
    outbound = make()
    outbound.congestion.bytes = 40 * UNIT
    queue(outbound, 40 * 1160)
    transmit(outbound)
    for last in (2, 3, 4):
        sack(outbound, 0, 2, last)
    assert outbound.flight > outbound.congestion.bytes
    assert tsns(transmit(outbound)) == [0]


def test_a_time_out_sends_one_packet_and_starts_slowly() -> None:
    outbound = make()
    outbound.congestion.bytes = 20 * UNIT
    queue(outbound, 12 * 1160)
    transmit(outbound)
    outbound.timed_out()
    assert outbound.flight == 0
    assert outbound.congestion.ssthresh == 10 * UNIT
    assert outbound.congestion.bytes == UNIT
    assert tsns(transmit(outbound)) == [0]
    sack(outbound, 1)
    assert outbound.congestion.bytes == 2 * UNIT
    assert tsns(transmit(outbound)) == [1, 2]


def test_a_peer_that_takes_back_its_report_gets_the_data_again() -> None:
    outbound = make()
    outbound.congestion.bytes = 20 * UNIT
    message = queue(outbound, 4 * 1160)
    transmit(outbound)
    sack(outbound, 0, 2, 4)
    assert message.stream.buffered == 1160
    sack(outbound, 0)  # it has thrown 2 to 4 away
    outbound.timed_out()
    assert message.stream.buffered == 4 * 1160
    sent = []
    for acknowledged in range(1, 5):
        sent += tsns(transmit(outbound))
        sack(outbound, acknowledged)
    assert sorted(set(sent)) == [0, 1, 2, 3]
    assert message.stream.buffered == 0


def test_the_first_missing_chunk_goes_out_though_the_window_is_closed() -> None:
    """A full receiver may be waiting for just that one."""
    outbound = make()
    outbound.congestion.bytes = 20 * UNIT
    queue(outbound, 12 * 1160)
    transmit(outbound)
    for last in (2, 3, 4):
        sack(outbound, 0, 2, last, rwnd=0)
    assert outbound.flight
    assert tsns(transmit(outbound)) == [0]


def test_the_end_of_an_abandoned_message_has_a_tsn_that_is_never_sent() -> None:
    """Or the next message would begin right behind one that has not ended, which receivers call a violation."""
    outbound = make()
    queue(outbound, 60_000, max_retransmits=0)
    last = tsns(transmit(outbound))[-1]
    outbound.timed_out()
    queue(outbound, 100)
    assert tsns(transmit(outbound)) == [last + 2]
    forward = outbound.forward_tsn(UNIT, 0.0)
    assert forward is not None
    assert int.from_bytes(forward[4:8], "big") == (FIRST + last + 1) & 0xFFFFFFFF


def test_a_message_whose_time_ends_midway_is_not_sent_to_its_end() -> None:
    outbound = make()
    queue(outbound, 100_000, expires_at=0.5)
    sent = len(tsns(transmit(outbound)))
    sack(outbound, sent, now=0.6)
    assert transmit(outbound, 0.6) == []
    assert outbound.queue.empty
    assert outbound.queue.buffered == 0


def test_a_forward_tsn_is_repeated_when_a_round_trip_has_passed_without_effect() -> None:
    outbound = make()
    outbound._rto.measured(0.1)
    queue(outbound, 100, max_retransmits=0)
    transmit(outbound)
    outbound.timed_out()
    assert outbound.forward_tsn(UNIT, 1.0) is not None
    sack(outbound, 0, now=1.05)
    assert not outbound.forward_is_due
    sack(outbound, 0, now=1.15)
    assert outbound.forward_is_due


def test_a_closed_window_lets_one_probe_out() -> None:
    outbound = make(rwnd=0)
    queue(outbound, 5000)
    assert len(tsns(transmit(outbound))) == 1
    assert transmit(outbound) == []
    sack(outbound, 1, rwnd=0)
    assert tsns(transmit(outbound)) == [1]


def test_rtt_is_measured_once_per_round_trip_and_never_from_retransmissions() -> None:
    outbound = make()
    outbound.congestion.bytes = 20 * UNIT
    queue(outbound, 4 * 1160)
    transmit(outbound, 0.0)
    sack(outbound, 1, now=0.1)
    assert outbound._rto.srtt == pytest.approx(0.1)
    sack(outbound, 2, now=0.5)  # sent in the same round
    assert outbound._rto.srtt == pytest.approx(0.1)
    outbound.timed_out()
    transmit(outbound, 1.0)
    sack(outbound, 4, now=9.0)
    assert outbound._rto.srtt == pytest.approx(0.1)
    fresh = make()
    queue(fresh, 100)
    transmit(fresh, 0.0)
    fresh.timed_out()
    transmit(fresh, 1.0)
    sack(fresh, 1, now=1.1)
    assert fresh._rto.srtt is None, "which of the two was acknowledged?"


def test_congestion_avoidance_adds_one_packet_for_each_full_window() -> None:
    window = CongestionWindow(unit=UNIT)
    window.bytes, window.ssthresh = 8 * UNIT, 4 * UNIT
    grown = []
    for _ in range(36):
        window.acknowledged(UNIT, flight_before=window.bytes, flight=window.bytes)
        grown.append(window.bytes // UNIT)
    assert [grown.index(size) + 1 for size in (9, 10, 11)] == [8, 17, 27]
    window.acknowledged(100 * UNIT, flight_before=UNIT, flight=UNIT)
    assert window.bytes == 11 * UNIT, "a window that was not used up does not grow"


def test_back_off_doubles_up_to_the_cap_until_something_is_acknowledged() -> None:
    rto = RetransmissionTimeout(initial=1.0, minimum=0.4, maximum=3.0)
    values = []
    for _ in range(11):
        values.append(rto.value)
        rto.back_off()
    assert values[:4] == [1.0, 2.0, 3.0, 3.0]
    assert sum(values) == 30.0, "D_abort"
    rto.recovered()
    assert rto.value == 1.0
    rto.measured(0.01)
    assert rto.value == 0.4
    rto.measured(60.0)
    assert rto.value == 3.0


def test_the_window_decays_when_nothing_is_sent() -> None:
    outbound = make()
    outbound.congestion.bytes = 64 * UNIT
    queue(outbound, 100)
    transmit(outbound, 0.0)
    sack(outbound, 1, now=0.1)
    queue(outbound, 100)
    transmit(outbound, 0.1 + 3.5 * outbound._rto.value)
    assert outbound.congestion.bytes == 8 * UNIT
