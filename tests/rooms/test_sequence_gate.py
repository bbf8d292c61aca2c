"""Numbered messages of one sender: each once and in order, whatever a resume repeats or brings late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from triosfu.rooms.sequence_gate import MAX_BYTES, MAX_HELD, SequenceGate

numbers = st.lists(st.integers(0, 20))


def passed(gate: SequenceGate[int], *sequences: int) -> list[int]:
    return [one for number in sequences for one in gate.take(number, number, 1)]


@given(numbers)
def test_trap_31_each_number_goes_through_once_and_nothing_waits(sequences: list[int]) -> None:
    gate: SequenceGate[int] = SequenceGate()
    accepted = passed(gate, *sequences)
    numbered = [number for number in accepted if number]
    assert numbered == sorted(set(numbered))
    assert accepted.count(0) == sequences.count(0)
    assert gate.last == max(sequences, default=0)
    assert not gate.holds


@given(numbers, numbers, numbers)
def test_whatever_comes_it_goes_on_once_in_order_and_all_of_it_is_out_in_the_end(
    before: list[int], during: list[int], after: list[int]
) -> None:
    gate: SequenceGate[int] = SequenceGate()
    out = passed(gate, *before)
    gate.patient = True
    out += passed(gate, *during) + gate.settle() + passed(gate, *after)
    numbered = [number for number in out if number]
    assert numbered == sorted(set(numbered))
    assert out.count(0) == [*before, *during, *after].count(0)
    assert not gate.holds
    assert gate.last == max([*before, *during, *after], default=0)


@given(st.data())
def test_what_a_client_held_back_between_two_attempts_to_resume_is_not_lost(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 60))
    deferred = data.draw(st.sets(st.integers(2, total))) if total > 1 else set()
    never = data.draw(st.sets(st.integers(2, total), max_size=3)) - deferred if total > 1 else set()  # never were any
    gate: SequenceGate[int] = SequenceGate()
    out = passed(gate, 1)
    gate.patient = True
    direct = [number for number in range(2, total + 1) if number not in deferred | never]
    out += passed(gate, *direct)
    told = gate.last  # what the client is told that we have: it sends all the rest again
    again = [number for number in range(told + 1, total + 1) if number not in never]
    out += passed(gate, *again) + gate.settle()
    assert out == [number for number in range(1, total + 1) if number not in never]


def test_a_copy_shows_that_what_is_missing_below_it_never_was() -> None:
    gate: SequenceGate[int] = SequenceGate()
    assert passed(gate, 1, 2) == [1, 2]
    gate.patient = True
    assert passed(gate, 4, 5, 7) == []
    assert passed(gate, 4) == [4, 5]
    assert passed(gate, 6) == [6, 7]
    assert not gate.holds


def test_what_waits_is_bounded() -> None:
    gate: SequenceGate[int] = SequenceGate()
    passed(gate, 1)
    gate.patient = True
    held = range(3, 3 + MAX_HELD)
    assert passed(gate, *held) == []
    assert passed(gate, held[-1] + 1) == [*held, held[-1] + 1]
    assert gate.take(5000, 5000, MAX_BYTES) == []
    assert gate.take(5002, 5002, 1) == [5000, 5002]
