"""The outbox of one receiver on virtual time: order, pauses, bounds, and a count of what is dropped."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from livekit.protocol.webhook import WebhookEvent

from triosfu.errors import UsageError
from triosfu.webhooks.core import JITTER, OVERHEAD, Delivery, Outbox, Schedule


def outbox(**changes: Any) -> Outbox:  # noqa: ANN401  fields of Schedule
    return Outbox(Schedule(**changes), rng=Random(1))


def event(name: object) -> WebhookEvent:
    return WebhookEvent(id=str(name))


def names(started: list[Delivery]) -> list[str]:
    return [one.event.id for one in started]


def start_one(box: Outbox, now: float) -> Delivery:
    (one,) = box.start(now)
    return one


def test_a_room_is_told_one_event_after_the_other() -> None:
    box = outbox()
    for number in range(3):
        box.push("room", event(number), 0)
    for number in range(3):
        one = start_one(box, 0)
        assert one.event.id == str(number)
        assert box.start(0) == []
        box.succeeded(one)
    assert box.start(0) == []
    assert (len(box), box.counters["delivered"]) == (0, 3)


def test_a_room_that_waits_holds_no_other() -> None:
    box = outbox()
    for number in range(2):
        for room in "ab":
            box.push(room, event(f"{room}{number}"), 0)
    a, b = box.start(0)
    assert box.failed(a, 0)
    box.succeeded(b)
    assert names(box.start(0)) == ["b1"]
    box.push("a", event("a2"), 0)
    assert (box.lengths.count, box.lengths.sum) == (5, 2 * (1 + 2) + 3)


def test_pauses_grow_up_to_a_bound_and_attempts_end() -> None:
    box = outbox(attempts=6, retry_min=1, retry_max=5, total=1000)
    box.push("room", event("first"), 0)
    box.push("room", event("second"), 0)
    now, pauses = 0.0, []
    while True:
        one = start_one(box, now)
        if not box.failed(one, now):
            break
        assert box.start(now) == []  # the second waits for the end of the first
        pauses.append(box.next_timeout() - now)
        now = box.next_timeout()
    assert len(pauses) == 5
    assert all(abs(pause / full - 1) <= JITTER for pause, full in zip(pauses, (1, 2, 4, 5, 5), strict=True))
    second = start_one(box, now)
    assert (second.event.id, second.num_dropped) == ("second", 1)


def test_an_event_that_has_been_tried_for_long_is_given_up() -> None:
    box = outbox(attempts=100, retry_max=5, total=20)
    box.push("room", event("first"), 0)
    now = 0.0
    while box.failed(start_one(box, now), now):
        now = box.next_timeout()
    assert 20 - 5 * (1 + JITTER) <= now <= 20
    assert len(box) == 0


def test_an_event_whose_time_passed_while_it_had_no_place_is_given_up() -> None:
    box = outbox(concurrent=1, total=20)
    box.push("a", event("a"), 0)
    assert box.failed(start_one(box, 0), 0)
    box.push("b", event("b"), 0)
    b = start_one(box, 0)
    assert box.start(30) == []
    box.succeeded(b)
    assert box.start(30) == []
    assert (len(box), box.counters["dropped: given up"], box.untold) == (0, 1, 1)


def test_what_has_waited_for_too_long_is_dropped_at_its_time() -> None:
    box = outbox(max_age=30, attempts=2, retry_min=100, retry_max=100, total=1000)
    box.push("room", event("tried"), 0)
    assert box.failed(start_one(box, 0), 0)
    box.push("room", event("old"), 1)
    box.push("room", event("young"), 2)
    assert box.next_timeout() == 31
    assert box.start(31) == []
    assert box.depths() == {"room": 2}
    assert box.counters["dropped: too old"] == 1


def test_a_full_room_loses_its_oldest_and_the_next_event_says_how_many() -> None:
    box = outbox(depth=2)
    for number in range(5):
        box.push("room", event(number), 0)
    box.push("other", event("other"), 0)
    assert box.depths() == {"room": 2, "other": 1}
    third, other = box.start(0)
    assert (third.event.id, third.num_dropped, other.num_dropped) == ("3", 3, 0)


def test_the_one_that_is_being_tried_is_not_dropped_for_others() -> None:
    box = outbox(depth=1)
    box.push("room", event(0), 0)
    one = start_one(box, 0)
    box.push("room", event(1), 0)
    box.push("room", event(2), 0)
    box.succeeded(one)
    assert names(box.start(0)) == ["2"]


def test_all_rooms_together_have_a_bound_in_bytes() -> None:
    size = event("0").ByteSize() + OVERHEAD
    box = outbox(size=3 * size)
    for number in range(5):
        box.push(f"room {number}", event(number), 0)
    assert names(box.start(0)) == ["2", "3", "4"]


def test_so_many_attempts_at_once_and_no_more() -> None:
    box = outbox(concurrent=2)
    for number in range(3):
        box.push(f"room {number}", event(number), 0)
    first, _ = box.start(0)
    assert box.next_timeout() > 0
    box.succeeded(first)
    assert box.next_timeout() < 0
    assert names(box.start(0)) == ["2"]


def test_a_refused_event_is_not_tried_again_and_not_counted_as_dropped() -> None:
    box = outbox()
    box.push("room", event(0), 0)
    box.refused(start_one(box, 0))
    assert (len(box), box.untold, box.counters["refused"], box.counters["dropped"]) == (0, 0, 1, 0)


def test_an_interrupted_attempt_does_not_count() -> None:
    box = outbox(attempts=1)
    box.push("room", event(0), 0)
    box.interrupted(start_one(box, 0))
    one = start_one(box, 0)
    assert (one.event.id, one.attempts) == ("0", 1)


def test_at_the_end_everything_is_tried_at_once_and_nothing_twice() -> None:
    box = outbox()
    box.push("pausing", event("pausing"), 0)
    assert box.failed(start_one(box, 0), 0)
    for number in range(3):
        box.push("waiting", event(number), 0)
    box.drain()
    waiting, pausing = box.start(0)
    assert not box.failed(pausing, 0)
    assert not box.failed(waiting, 0)
    assert (len(box), box.counters["dropped"]) == (0, 4)


def test_what_is_not_being_sent_cannot_end() -> None:
    box = outbox()
    box.push("room", event(0), 0)
    one = start_one(box, 0)
    box.succeeded(one)
    with pytest.raises(UsageError):
        box.succeeded(one)


class OutboxMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: nothing is lost without being counted, nothing stays for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule(depth=3, size=8 * (OVERHEAD + 10), concurrent=2, attempts=3, max_age=30, total=20)
        self.box = Outbox(self.schedule, rng=Random(1))
        self.now = 0.0
        self.pushed = 0
        self.told = 0  # of events dropped, by those that were seen
        self.running: list[Delivery] = []
        self.last: dict[str, int] = {}  # the last event that each room began to tell
        self.draining = False

    @rule(room=st.sampled_from("abc"))
    def push(self, room: str) -> None:
        self.pushed += 1
        self.box.push(room, event(self.pushed), self.now)

    @rule()
    def start(self) -> None:
        for one in self.box.start(self.now):
            assert one.room not in {other.room for other in self.running}
            assert (
                int(one.event.id) > self.last.get(one.room, 0)
                or one.attempts > 1
                or one.event.id == str(self.last[one.room])
            )
            assert one.attempts <= self.schedule.attempts
            self.last[one.room] = int(one.event.id)
            self.running.append(one)
        assert len(self.running) <= self.schedule.concurrent

    @precondition(lambda self: self.running)
    @rule(how=st.sampled_from(["succeeded", "refused", "failed", "interrupted"]), which=st.integers(0, 1))
    def end(self, how: str, which: int) -> None:
        one = self.running.pop(which % len(self.running))
        if how == "failed":
            self.box.failed(one, self.now)
        else:
            getattr(self.box, how)(one)
            if how != "interrupted":
                self.told += one.num_dropped

    @rule(seconds=st.sampled_from([0.5, 3, 31]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def drain(self) -> None:
        self.box.drain()

    @invariant()
    def every_event_is_somewhere(self) -> None:
        counters = self.box.counters
        ended = counters["delivered"] + counters["refused"] + counters["dropped"]
        assert self.pushed == ended + sum(self.box.depths().values())

    @invariant()
    def what_was_dropped_is_told_once(self) -> None:
        carried = sum(room.current.num_dropped for room in self.box._rooms.values() if room.current)
        assert self.box.counters["dropped"] == self.told + self.box.untold + carried

    @invariant()
    def the_bounds_hold(self) -> None:
        assert all(depth <= self.schedule.depth + 1 for depth in self.box.depths().values())
        waiting = [one for room in self.box._rooms.values() for one in room.waiting]
        tried = [room.current for room in self.box._rooms.values() if room.current]
        assert self.box._size == sum(one.size for one in waiting + tried)
        assert self.box._size <= self.schedule.size or not waiting

    def teardown(self) -> None:
        """With a receiver that is dead from now on, everything is over within the bounds."""
        until = self.now + self.schedule.max_age + self.schedule.total + 1
        while self.running or len(self.box):
            for one in self.running:
                self.box.failed(one, self.now)
            self.running = self.box.start(self.now)
            if not self.running and len(self.box):
                assert self.box.next_timeout() > self.now
                self.now = self.box.next_timeout()
            assert self.now <= until


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
