from __future__ import annotations

from triosfu.media.sent_log import REMEMBERED, SentLog
from triosfu.rtp.twcc import TransportFeedback

WRAP = 1 << 16


def told(log: SentLog, first: int, count: int) -> list[tuple[float, int]]:
    """When what feedback names was sent, and its size."""
    feedback = TransportFeedback(
        sender_ssrc=1, media_ssrc=2, base_sequence=first % WRAP, status_count=count, reference_time=0,
        feedback_count=0, received=tuple((place, 1) for place in range(count)),
    )  # fmt: skip
    return [(sent, size) for sent, _, size in log.resolve(feedback)[0]]


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
