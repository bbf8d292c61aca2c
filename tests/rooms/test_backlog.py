"""Who is slow, and who is too slow to be waited for."""

from __future__ import annotations

from triosfu.rooms.backlog import CROWDED, LOOK, MEASURED, Drain

THRESHOLD = 1_000_000  # bits a second
STEPS = round(MEASURED / LOOK)


def watch(drain: Drain, *, rate: float, seconds: float) -> list[bool]:
    """What is said of a reader for whom enough waits, and who takes `rate` bits a second."""
    said = []
    for step in range(round(seconds / LOOK)):
        taken = int(rate / 8 * step * LOOK)
        said.append(drain.holds_up(sent=taken + CROWDED + 1, buffered=CROWDED + 1, now=step * LOOK))
    return said


def test_a_reader_above_the_threshold_always_holds_up_who_sends() -> None:
    assert all(watch(Drain(THRESHOLD), rate=1.01 * THRESHOLD, seconds=5 * MEASURED))


def test_a_reader_below_it_does_for_the_time_of_one_measurement() -> None:
    said = watch(Drain(THRESHOLD), rate=0.99 * THRESHOLD, seconds=3 * MEASURED)
    assert all(said[:STEPS])
    assert not any(said[STEPS + 1 :])


def test_a_reader_with_little_to_take_holds_up_nobody_and_is_measured_anew() -> None:
    drain = Drain(THRESHOLD)
    watch(drain, rate=0, seconds=2 * MEASURED)
    assert not drain.holds_up(sent=CROWDED, buffered=CROWDED, now=9.0)
    assert drain.holds_up(sent=2 * CROWDED, buffered=CROWDED + 1, now=9.0)
