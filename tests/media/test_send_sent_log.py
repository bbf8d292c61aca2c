from __future__ import annotations

from triosfu.media.sent_log import REMEMBERED, SentLog
from triosfu.rtp.twcc import TransportFeedback

WRAP = 1 << 16


def told(log: SentLog, first: int, count: int) -> list[tuple[float, float]]:
    """When what feedback names was sent, and its size."""
    found = []
    for number in range(first, first + count):
        arrived = log.resolve(TransportFeedback(1, 2, number % WRAP, 1, 0, 0, ((0, 4),)))  # at a millisecond
        if arrived is not None:
            ((at, size),) = arrived.shares
            assert arrived.lowest == arrived.last
            found.append((round(at - arrived.last, 6), size))
    return found


def test_feedback_tells_of_the_latest_packets_once_and_of_no_others() -> None:
    log = SentLog()
    assert told(log, 0, 3) == []
    total = WRAP + 100  # the numbers have wrapped
    for number in range(total):
        assert log.sent(number % 1000 + 1, float(number)) == number % WRAP
    oldest = total - REMEMBERED
    assert told(log, oldest - 5, 5) == []  # their slots are others' now
    assert told(log, total, 5) == []  # not sent yet
    assert told(log, oldest, 2) == [(float(one), one % 1000 + 1) for one in (oldest, oldest + 1)]
    assert told(log, oldest, 3) == [(float(oldest + 2), (oldest + 2) % 1000 + 1)]
    assert told(log, total - 1, 1) == [(float(total - 1), (total - 1) % 1000 + 1)]
    log.forget()
    assert told(log, total - 2, 1) == []
    assert log.sent(7, 1.0) == total % WRAP
    assert told(log, total, 1) == [(1.0, 7)]


def test_what_arrives_is_told_in_shares_with_the_shortest_way_and_that_of_the_last() -> None:
    log = SentLog()
    for number in range(10):
        log.sent(100, number * 0.02)
    # 20 ms on the way each, but for 5, which takes 10, and the last, which takes 30; 3 is missing, 4 is told of again.
    ways = {0: 80, 1: 80, 2: 80, 4: 80, 5: 40, 6: 80, 7: 80, 8: 80, 9: 120}  # in ticks
    log.resolve(TransportFeedback(1, 2, 4, 1, 0, 0, ((0, 4),)))
    ticks, received = 0, []
    for number, way in ways.items():
        received.append((number, number * 80 + way - ticks))
        ticks = number * 80 + way
    arrived = log.resolve(TransportFeedback(1, 2, 0, 10, 0, 0, tuple(received)))
    assert arrived is not None
    assert (round(arrived.lowest, 6), round(arrived.last, 6)) == (0.01, 0.03)
    assert [(round(at, 6), octets) for at, octets in arrived.shares] == [(0.11, 400), (0.21, 400)]
    assert log.resolve(TransportFeedback(1, 2, 0, 10, 0, 0, tuple(received))) is None
