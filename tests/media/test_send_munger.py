"""The munger against the plainest possible model: a dictionary of who got which number."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from triosfu.media.munger import Munger

HISTORY = 16


class MungerMachine(RuleBasedStateMachine):
    """The first number is the start; numbers are given out one by one; what was given once is found again."""

    def __init__(self) -> None:
        super().__init__()
        self.munger = Munger(rng=Random(1), history=HISTORY)
        self.next_out = self.munger.start
        self.source = 0
        self.index = 0
        self.given: dict[tuple[int, int], int] = {}  # (source, index) -> out, of the present source
        self.taken_out: set[int] = set()  # indexes of the present source
        self.timestamp: dict[int, int] = {}  # out -> timestamp shift

    @rule(index=st.integers(0, 70000), shift=st.integers(0, 2**32 - 1))
    def another_source(self, index: int, shift: int) -> None:
        self.source += 1
        self.index = index
        self.given.clear()
        self.taken_out.clear()
        shifts = self.munger.switch(self.source, index, shift)
        assert index + shifts.sequence == self.next_out

    @precondition(lambda self: self.source)
    @rule(missing=st.integers(0, 3))
    def a_packet_goes_out(self, missing: int) -> None:
        munger = self.munger
        for _ in range(missing + 1):
            self.given[self.source, self.index] = self.next_out
            self.timestamp[self.next_out] = munger.current.timestamp
            self.index += 1
            self.next_out += 1
        assert self.index - 1 + munger.current.sequence == self.next_out - 1
        munger.next_index = self.index

    @precondition(lambda self: self.source)
    @rule(missing=st.integers(0, 2))
    def a_packet_is_taken_out(self, missing: int) -> None:
        for _ in range(missing):
            self.given[self.source, self.index] = self.next_out
            self.timestamp[self.next_out] = self.munger.current.timestamp
            self.index += 1
            self.next_out += 1
        self.taken_out.add(self.index)
        self.munger.skip(self.index)
        self.index += 1

    @rule()
    def one_of_our_own_goes_out(self) -> None:
        assert self.munger.insert() == self.next_out
        self.next_out += 1

    @precondition(lambda self: self.source)
    @rule(temporal=st.integers(0, 3))
    def a_limit_begins(self, temporal: int) -> None:
        self.munger.limit(self.index, temporal)

    @invariant()
    def the_next_number_is_known(self) -> None:
        assert self.munger.next_out == self.next_out

    @invariant()
    def late_packets_get_the_number_they_always_had(self) -> None:
        for (source, index), out in self.given.items():
            shifts = self.munger.late(source, index)
            if out >= self.next_out - HISTORY:
                assert shifts is not None
                assert index + shifts.sequence == out
            else:
                assert shifts is None
        for index in self.taken_out:
            assert self.munger.late(self.source, index) is None

    @invariant()
    def what_was_sent_is_found_with_its_shifts(self) -> None:
        for out, shift in self.timestamp.items():
            shifts = self.munger.sent(out)
            if out >= self.next_out - HISTORY:
                assert shifts is not None
                assert shifts.timestamp == shift
                assert self.munger.unwrap(out & 0xFFFF) == out
            else:
                assert shifts is None
        assert self.munger.sent(self.next_out) is None


TestMunger = MungerMachine.TestCase


@given(st.integers(0, 0xFFFF))
def test_numbers_from_the_wire_unwrap_to_ones_already_given_out(sequence: int) -> None:
    munger = Munger(rng=Random(2), history=HISTORY)
    munger.switch(1, 100, 0)
    munger.next_index = 200_000
    out = munger.unwrap(sequence)
    assert out & 0xFFFF == sequence
    assert munger.next_out - 0x10000 <= out < munger.next_out
