from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from triosfu.media.nack import MAX_MISSING, MAX_TRIES, NackGenerator


def asked_for(nacks: NackGenerator, until: float, rtt: float) -> list[tuple[float, list[int]]]:
    asked = []
    while (at := nacks.next_timeout()) <= until:
        if numbers := nacks.due(at, rtt):
            asked.append((at, numbers))
        assert nacks.next_timeout() > at
    return asked


def test_a_missing_packet_is_asked_for_after_20_ms_then_ever_more_rarely_and_given_up_after_five_times() -> None:
    nacks = NackGenerator()
    nacks.lost(5, 5, now=1.0)
    times = [at for at, _ in asked_for(nacks, 100.0, rtt=0.1)]
    waits = [later - earlier for earlier, later in pairwise([1.0, *times])]
    assert waits == pytest.approx([0.02, 0.1, 0.125, 0.15625, 0.1953125])
    assert (len(nacks), nacks.given_up) == (0, 1)


@pytest.mark.parametrize(("rtt", "wait"), [(0.001, 0.02), (5.0, 0.4)])
def test_waits_stay_between_20_and_400_ms(rtt: float, wait: float) -> None:
    nacks = NackGenerator()
    nacks.lost(5, 5, now=0.0)
    times = [at for at, _ in asked_for(nacks, 100.0, rtt)]
    assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx([wait] * 4)


def test_reordering_within_20_ms_is_not_asked_for() -> None:
    nacks = NackGenerator()
    nacks.lost(5, 6, now=0.0)
    assert nacks.received(5)
    assert nacks.received(6)
    assert nacks.due(0.02, 0.07) == []
    assert nacks.next_timeout() == math.inf


def test_of_a_long_gap_the_newest_hundred_are_asked_for() -> None:
    nacks = NackGenerator()
    nacks.lost(1, 250, now=0.0)
    assert nacks.due(0.02, 0.07) == list(range(151, 251))
    assert nacks.given_up == 150


def test_nothing_is_asked_for_after_two_minutes() -> None:
    nacks = NackGenerator()
    nacks.lost(1, 1, now=0.0)
    assert nacks.due(121.0, 0.07) == []
    assert nacks.given_up == 1


class NackMachine(RuleBasedStateMachine):
    """Any order of losses, arrivals and waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.nacks = NackGenerator()
        self.now = 0.0
        self.highest = 0
        self.lost: set[int] = set()
        self.skipped = self.came_late = 0
        self.asked: dict[int, list[float]] = {}

    @rule(size=st.integers(1, 130))
    def packets_are_skipped(self, size: int) -> None:
        first, self.highest = self.highest + 1, self.highest + size + 1
        self.nacks.lost(first, first + size - 1, self.now)
        self.lost |= set(range(first, first + size))
        self.skipped += size

    @rule(choice=st.randoms(use_true_random=False))
    def one_of_them_comes_late(self, choice: Random) -> None:
        if self.lost:
            number = choice.choice(sorted(self.lost))
            self.lost.discard(number)
            self.came_late += self.nacks.received(number)

    @rule(milliseconds=st.integers(0, 500))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds / 1000
        for number in self.nacks.due(self.now, 0.05):
            self.asked.setdefault(number, []).append(self.now)
            assert number in self.lost

    @invariant()
    def bounded_in_number_tries_and_pace(self) -> None:
        assert len(self.nacks) <= MAX_MISSING
        # Each skipped number came, is waited for, or was given up: exactly one of these.
        assert self.came_late + len(self.nacks) + self.nacks.given_up == self.skipped
        for times in self.asked.values():
            assert len(times) <= MAX_TRIES
            assert all(later - earlier >= 0.02 for earlier, later in pairwise(times))


TestNackMachine = NackMachine.TestCase


@given(st.integers(0, 2**32), st.floats(0.0, 0.3), st.integers(1, 400))
def test_over_a_lossy_path_every_packet_comes_or_is_given_up(seed: int, loss: float, count: int) -> None:
    rng, nacks, rtt = Random(seed), NackGenerator(), 0.05
    got: set[int] = set()
    newest, now = -1, 0.0
    resends: list[tuple[float, int]] = []
    for number in range(count):
        now = number / 100
        for at, resent in [pair for pair in resends if pair[0] <= now]:
            resends.remove((at, resent))
            got.add(resent)
            nacks.received(resent)
        if rng.random() >= loss or number == count - 1:
            if number > newest + 1:
                nacks.lost(newest + 1, number - 1, now)
            newest = number
            got.add(number)
        resends += [(now + rtt, missing) for missing in nacks.due(now, rtt) if rng.random() >= loss]
    for number in range(count):
        assert number in got or nacks.given_up or nacks.received(number)
