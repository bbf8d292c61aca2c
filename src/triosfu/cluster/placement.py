"""Which worker process has which room: decided in one place, by one table. Sans-IO.

    lease = placement.lease("room", worker)    # somebody's request for the room is on its way to its worker
    placement.held("room", worker)             # the worker says that the room is there,
    placement.free("room", worker)             # and that it is not there any more
    placement.give_back(lease)                 # the worker has dealt with the request

A name stays with its worker while the room is there or a request for it is on its way, so it is never with two. What a
worker says comes in order, and it says what a request has led to before it gives the request's lease back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

ROOM: Final = 0.05  # of a core: what each room is taken for while all of them together cost less
SLACK: Final = 0.02  # of a core: loads that differ by less are the same
FACTOR: Final = 1.25  # and so are those that differ by no more than this factor


@dataclass(eq=False, slots=True)
class Place:
    """Where a room of this name is, or will be if a request that is on its way makes it."""

    name: str
    worker: int
    leases: int = 0
    held: bool = False


@dataclass(slots=True)
class _Seat:
    """What is known of a worker process."""

    load: float = 0.0  # of a core, as it told last
    places: dict[str, Place] = field(default_factory=dict)


class Placement:
    """The table. Workers are known by their numbers, which those that replace them have as well."""

    def __init__(self) -> None:
        self._seats: dict[int, _Seat] = {}
        self._places: dict[str, Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Place]:
        return iter(list(self._places.values()))

    def joined(self, worker: int) -> None:
        """A worker process is there, without rooms."""
        self._seats[worker] = _Seat()

    def gone(self, worker: int) -> int:
        """It is gone, and its rooms are; how many there were."""
        seat = self._seats.pop(worker, _Seat())
        for name in seat.places:
            del self._places[name]
        return sum(place.held for place in seat.places.values())

    def loaded(self, worker: int, load: float) -> None:
        """It tells how much it does, as a part of a core."""
        if worker in self._seats and math.isfinite(load):
            self._seats[worker].load = max(0.0, load)

    def rooms(self, worker: int) -> int:
        """How many names a worker has."""
        seat = self._seats.get(worker)
        return 0 if seat is None else len(seat.places)

    def find(self, name: str) -> int | None:
        """The worker that has this room, or will have it."""
        place = self._places.get(name)
        return None if place is None else place.worker

    def choose(self, name: str, workers: Collection[int]) -> int | None:
        """The worker for a room that is nowhere: of those that do no more than others, the one that its name picks."""
        loads = {one: self._burden(one) for one in workers if one in self._seats}
        if not loads:
            return None
        most = min(loads.values()) * FACTOR + SLACK
        return max((one for one, load in loads.items() if load <= most), key=lambda one: _rank(name, one))

    def lease(self, name: str, worker: int) -> Place:
        """Keep the name with `worker`, where it is or for which it was chosen, until the lease is given back."""
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = self._seats[worker].places[name] = Place(name, worker)
        assert place.worker == worker  # noqa: S101  who asks has asked where it is
        place.leases += 1
        return place

    def give_back(self, place: Place) -> None:
        """The request has been dealt with, or was never sent."""
        place.leases -= 1
        self._tidy(place)

    def held(self, name: str, worker: int) -> bool:
        """The worker has the room now; False if another one has it, which is a bug."""
        place = self._places.get(name)
        if place is None and worker in self._seats:
            place = self._places[name] = self._seats[worker].places[name] = Place(name, worker)
        if place is None or place.worker != worker:
            return False
        place.held = True
        return True

    def free(self, name: str, worker: int) -> None:
        """The worker does not have the room any more."""
        place = self._places.get(name)
        if place is not None and place.worker == worker:
            place.held = False
            self._tidy(place)

    def _tidy(self, place: Place) -> None:
        if place.leases <= 0 and not place.held and self._places.get(place.name) is place:
            del self._places[place.name]
            del self._seats[place.worker].places[place.name]

    def _burden(self, worker: int) -> float:
        seat = self._seats[worker]
        return max(seat.load, ROOM * len(seat.places))


def _rank(name: str, worker: int) -> bytes:
    """Rendezvous hashing: each pair of a room and a worker has a rank that everybody computes alike."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, salt=worker.to_bytes(8, "big")).digest()


@dataclass(slots=True)
class Lease:
    """All names that one request concerns, which are all with one worker."""

    worker: int
    places: list[Place] = field(default_factory=list)
