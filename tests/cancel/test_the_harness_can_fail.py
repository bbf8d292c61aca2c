"""What leaves something behind, or lets somebody wait, is found by one of the harness's checks, each in its turn."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio

from tests.cancel.harness import check_within_a_server
from tests.cancel.scenarios import SCENARIOS
from tests.cancel.stops import STOPS
from tests.support.steps import virtual_clock
from triosfu.errors import PeerGone
from triosfu.net.udp import UdpMux
from triosfu.peer import PeerConnection
from triosfu.peer.waiting import WaitingPlace
from triosfu.rooms.deadlines import Deadlines
from triosfu.rooms.participant import Participant
from triosfu.rooms.room import Room
from triosfu.rooms.server_calls import ServerCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from triosfu.net.udp import Route

    Patch = Callable[[pytest.MonkeyPatch], None]

LATE = 30.0  # seconds; the leak ends then, and so does the test


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


def a_leaked_tuple(patch: pytest.MonkeyPatch) -> None:
    """The mux forgets a peer, but for its addresses."""
    remove = UdpMux.remove

    def leaks(self: UdpMux, route: Route) -> None:
        tuples = [key for key, owner in self._by_tuple.items() if owner is route]
        remove(self, route)
        self._by_tuple |= dict.fromkeys(tuples, route)

    patch.setattr(UdpMux, "remove", leaks)


def a_task_that_outlives_its_scope(patch: pytest.MonkeyPatch) -> None:
    """A participant starts something in its room's nursery."""
    begin = Participant.begin

    def starts(self: Participant) -> None:
        begin(self)
        assert self.room._nursery is not None
        if self.identity == "alice":
            self.room._nursery.start_soon(trio.sleep, LATE)

    patch.setattr(Participant, "begin", starts)


def a_shield_without_a_deadline(patch: pytest.MonkeyPatch) -> None:
    """A peer connection waits for something at its end, and cannot be cancelled."""
    run = PeerConnection.run

    async def waits(self: PeerConnection, turn: int = 0) -> None:
        try:
            await run(self, turn)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(LATE)

    patch.setattr(PeerConnection, "run", waits)


def a_writer_that_nobody_wakes(patch: pytest.MonkeyPatch) -> None:
    """The end of a connection is no news to who waits to send on it."""
    patch.setattr(WaitingPlace, "end", lambda self, reason: setattr(self, "_ended", reason))


def a_connection_that_stays_when_cancelled(patch: pytest.MonkeyPatch) -> None:
    """Its task ends, and its routes do not."""

    async def run(self: PeerConnection, turn: int = 0) -> None:
        with self._scope:
            await self._alarm.wait()

    patch.setattr(PeerConnection, "run", run)


def a_deadline_that_stays_armed(patch: pytest.MonkeyPatch) -> None:
    """A participant's end leaves its table of deadlines as it is."""
    patch.setattr(Deadlines, "clear", lambda _: None)


def a_room_that_ends_with_one_of_its_members(patch: pytest.MonkeyPatch) -> None:
    """Who leaves takes the others along."""
    left = Room.left

    def ends(self: Room, participant: Participant, *, replaced: bool) -> None:
        left(self, participant, replaced=replaced)
        for other in self.others(participant):
            other.drop_link()
            other.shape.publisher.close("the other one left")

    patch.setattr(Room, "left", ends)


def a_call_to_one_who_is_gone(patch: pytest.MonkeyPatch) -> None:
    """The server waits for the answer of a participant that has left."""
    patch.setattr(ServerCalls, "left", lambda *_: None)


def a_session_that_is_not_replaced(patch: pytest.MonkeyPatch) -> None:
    """Who starts over leaves her former session behind."""
    close = Participant.close

    def closes(self: Participant, *arguments: object, **options: object) -> None:
        if not options.get("replaced"):
            close(self, *arguments, **options)  # type: ignore[arg-type]

    patch.setattr(Participant, "close", closes)


# Every third step is enough for most; a call waits for its answer at a few steps only.
STRIDES: dict[Patch, int] = {a_call_to_one_who_is_gone: 1}


@pytest.mark.parametrize(
    ("mutant", "pair", "found"),
    [
        (a_leaked_tuple, ("join", "participant closed"), "tuples"),
        (a_task_that_outlives_its_scope, ("leave", "participant cancelled"), "server's tasks"),
        (a_shield_without_a_deadline, ("leave", "participant cancelled"), "server's tasks"),
        (a_writer_that_nobody_wakes, ("data", "participant cancelled"), ""),
        (a_connection_that_stays_when_cancelled, ("join", "publisher cancelled"), ""),
        (a_deadline_that_stays_armed, ("leave", "participant closed"), ""),
        (a_room_that_ends_with_one_of_its_members, ("join", "participant closed"), ""),
        (a_call_to_one_who_is_gone, ("calls", "participant closed"), ""),
        (a_session_that_is_not_replaced, ("reconnect", "participant closed"), "server's tasks"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
async def test_the_harness_finds(
    mutant: Patch, pair: tuple[str, str], found: str, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = next(one for one in SCENARIOS if one.name == pair[0])
    stop = next(one for one in STOPS if one.name == pair[1])
    mutant(monkeypatch)
    with pytest.raises((AssertionError, trio.TooSlowError, PeerGone)) as caught:
        await check_within_a_server(scenario, stop, count(1, STRIDES.get(mutant, 3)))
    (step,) = caught.value.__notes__
    assert step.startswith(f"{stop.name} at step")
    assert found in str(caught.value)
