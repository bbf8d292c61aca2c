"""A room is never with two worker processes, in whatever order news and requests come; loads decide about new ones."""

from __future__ import annotations

from collections import Counter, deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from triosfu.cluster.placement import Place, Placement

WORKERS = (0, 1, 2)
NAMES = ("lobby", "kitchen")


def test_rooms_that_begin_together_are_spread() -> None:
    placement = placed(WORKERS)
    for number in range(30):
        name = f"room {number}"
        worker = placement.choose(name, WORKERS)
        assert worker is not None
        placement.lease(name, worker)
    counts = Counter(place.worker for place in placement)
    assert max(counts.values()) - min(counts.values()) <= 3


def test_a_busy_worker_loses_its_turn() -> None:
    placement = placed(WORKERS)
    usual = {name: placement.choose(name, WORKERS) for name in map(str, range(50))}
    assert set(usual.values()) == set(WORKERS)  # their ranks decide
    placement.loaded(1, 0.5)
    busy = {name: placement.choose(name, WORKERS) for name in usual}
    assert 1 not in busy.values()
    assert all(busy[name] == worker for name, worker in usual.items() if worker != 1)  # nobody else's place changes
    placement.loaded(0, 0.45)
    placement.loaded(2, 0.45)
    assert {name: placement.choose(name, WORKERS) for name in usual} == usual  # all are about as busy


def test_what_a_worker_tells_of_its_load_may_be_nonsense() -> None:
    placement = placed((0,))
    for load in (float("nan"), float("inf"), -1.0):
        placement.loaded(0, load)
        assert placement.choose("room", (0,)) == 0
    placement.loaded(7, 1.0)  # nobody has this number
    assert placement.choose("room", ()) is None
    assert placement.choose("room", (7,)) is None


def test_a_name_stays_while_a_request_for_it_is_on_its_way() -> None:
    placement = placed((0, 1))
    first, second = placement.lease("room", 1), placement.lease("room", 1)
    placement.held("room", 1)
    placement.give_back(first)
    placement.free("room", 1)  # it ended while the second request was on its way to it
    assert placement.find("room") == 1
    placement.give_back(second)
    assert placement.find("room") is None
    assert len(placement) == placement.rooms(1) == 0


def test_the_rooms_of_a_worker_that_is_gone_are_nowhere() -> None:
    placement = placed((0, 1))
    late = placement.lease("room", 1)
    placement.held("there", 1)
    placement.lease("other", 0)
    assert placement.gone(1) == 1  # room; the other one was only on its way
    assert placement.find("there") is None
    assert placement.find("room") is None
    placement.joined(1)
    placement.lease("room", 0)
    placement.give_back(late)  # of the one that is gone: it is nothing to the new one
    placement.free("room", 1)
    assert placement.find("room") == 0
    assert not placement.held("room", 1)
    assert len(placement) == 2


def placed(workers: tuple[int, ...]) -> Placement:
    placement = Placement()
    for worker in workers:
        placement.joined(worker)
    return placement


class Crossing(RuleBasedStateMachine):
    """Requests on their way to workers, and their news on the way back, each in order, with any delay."""

    def __init__(self) -> None:
        super().__init__()
        self.placement = placed(WORKERS)
        self.there: dict[int, deque[tuple[str, Place]]] = {worker: deque() for worker in WORKERS}
        self.back: dict[int, deque[tuple[str, str, Place | None]]] = {worker: deque() for worker in WORKERS}
        self.rooms: dict[int, set[str]] = {worker: set() for worker in WORKERS}

    @rule(name=st.sampled_from(NAMES))
    def a_client_asks(self, name: str) -> None:
        found = self.placement.find(name)
        worker = self.placement.choose(name, WORKERS) if found is None else found
        assert worker is not None
        self.there[worker].append((name, self.placement.lease(name, worker)))

    @rule(worker=st.sampled_from(WORKERS), joins=st.booleans())
    def a_worker_takes_a_request(self, worker: int, joins: bool) -> None:
        if self.there[worker]:
            name, lease = self.there[worker].popleft()
            if joins and name not in self.rooms[worker]:
                self.rooms[worker].add(name)
                self.back[worker].append(("held", name, None))
            self.back[worker].append(("done", name, lease))

    @rule(worker=st.sampled_from(WORKERS), name=st.sampled_from(NAMES))
    def a_room_ends(self, worker: int, name: str) -> None:
        if name in self.rooms[worker]:
            self.rooms[worker].discard(name)
            self.back[worker].append(("free", name, None))

    @rule(worker=st.sampled_from(WORKERS))
    def news_comes(self, worker: int) -> None:
        if self.back[worker]:
            kind, name, lease = self.back[worker].popleft()
            if kind == "held":
                assert self.placement.held(name, worker)
            elif kind == "free":
                self.placement.free(name, worker)
            elif lease is not None:
                self.placement.give_back(lease)

    @rule(worker=st.sampled_from(WORKERS), load=st.floats(0, 1))
    def a_load_is_told(self, worker: int, load: float) -> None:
        self.placement.loaded(worker, load)

    @rule(worker=st.sampled_from(WORKERS))
    def a_worker_dies_and_another_comes(self, worker: int) -> None:
        self.there[worker].clear()
        self.back[worker].clear()
        self.rooms[worker].clear()
        self.placement.gone(worker)
        self.placement.joined(worker)

    @invariant()
    def no_room_is_in_two_places(self) -> None:
        for name in NAMES:
            assert sum(name in rooms for rooms in self.rooms.values()) <= 1

    @invariant()
    def who_has_a_room_is_known(self) -> None:
        for worker, rooms in self.rooms.items():
            for name in rooms:
                assert self.placement.find(name) == worker

    @precondition(lambda self: not any(self.there.values()) and not any(self.back.values()))
    @invariant()
    def nothing_is_kept_of_what_is_over(self) -> None:
        assert {place.name for place in self.placement} == set().union(*self.rooms.values())


TestCrossing = Crossing.TestCase
TestCrossing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
