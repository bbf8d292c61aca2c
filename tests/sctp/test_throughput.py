"""The window opens as wide as the path is long, also for a driver that drains a batch at a time."""

from __future__ import annotations

from itertools import count

import pytest

from tests.support.network import established
from triosfu.sctp.core import Association, Message

SIZE = 50_000
HIGH_WATER = 1 << 20


def throughput(*, round_trip: float, loss: float, seconds: float) -> float:
    """Mbit/s that arrive, after a second to begin, from a sender who never lets the queue run dry."""
    network = established()
    left, _ = network.ends
    assert isinstance(left, Association)
    for path in network.paths:
        path.latency, path.loss = round_trip / 2, loss
    start, steps = network.now, count(1)
    before = 0
    while network.now < start + 1.0 + seconds:
        while left.total_buffered < HIGH_WATER:
            left.send(0, bytes(SIZE), ppid=53, now=network.now)
        network.run(until=start + next(steps) * 0.01)
        for path in network.paths:
            path.sent.clear()
        if network.now < start + 1.0:
            before = len(network.of(1, Message))
    return (len(network.of(1, Message)) - before) * SIZE * 8 / seconds / 1e6


def test_a_round_trip_of_fifty_milliseconds_carries_eighty_five_megabits() -> None:
    assert throughput(round_trip=0.05, loss=0.0, seconds=1.0) > 85


def test_one_percent_of_loss_costs_what_a_window_halved_again_and_again_allows() -> None:
    # Mathis and others, 1997: size / round trip * sqrt(3 / (2 loss)).
    expected = 1163 * 8 / 0.1 * (1.5 / 0.01) ** 0.5 / 1e6
    assert throughput(round_trip=0.1, loss=0.01, seconds=30.0) == pytest.approx(expected, rel=0.3)
