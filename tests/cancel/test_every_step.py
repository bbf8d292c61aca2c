"""A join is stopped at every step: what is stopped ends within a second, with nothing left, and disturbs nobody.

A further scenario is one more line in `STOPS`, or one more function of a client that has joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio
from livekit.protocol import models, rtc
from structlog.testing import capture_logs

from tests.support.client import Client, join
from tests.support.side import LIMIT
from tests.support.steps import SECOND, Running, back_to, inventory, race, running, stopping

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from triosfu.rooms.participant import Participant
    from triosfu.rooms.room import Room
    from triosfu.server import Server

Reason = models.DisconnectReason
OTHERS = "room"  # where the others are
messages = count(1)


@dataclass(frozen=True, kw_only=True)
class Stop:
    """What is stopped, in which kind of session."""

    name: str
    find: Callable[[Server], Callable[[], object] | None]  # what stops it; None while there is nothing to stop
    room: str = OTHERS
    single: bool = False
    scenario: Callable[[Client], Awaitable[object]] = Client.ready
    every: int = 1


def alice_in(server: Server) -> Participant | None:
    return next((one for room in server.rooms for one in room.participants.values() if one.identity == "alice"), None)


def own_room(server: Server) -> Room | None:
    return next((room for room in server.rooms if room.name != OTHERS), None)


def participant_closed(server: Server) -> Callable[[], object] | None:
    alice = alice_in(server)
    return None if alice is None else lambda: alice.close(Reason.PARTICIPANT_REMOVED)


def participant_cancelled(server: Server) -> Callable[[], object] | None:
    alice = alice_in(server)
    return None if alice is None else alice._scope.cancel


def publisher_closed(server: Server) -> Callable[[], object] | None:
    alice = alice_in(server)
    return None if alice is None else lambda: alice.shape.publisher.close("stopped")


def subscriber_closed(server: Server) -> Callable[[], object] | None:
    alice = alice_in(server)
    return None if alice is None else lambda: alice.shape.subscriber.close("stopped")


def room_closed(server: Server) -> Callable[[], object] | None:
    room = own_room(server)
    return None if room is None else lambda: room.close(Reason.ROOM_DELETED)


def room_cancelled(server: Server) -> Callable[[], object] | None:
    room = own_room(server)
    return None if room is None or room._nursery is None else room._nursery.cancel_scope.cancel


async def leaves(alice: Client) -> None:
    """Joins, and leaves at once."""
    await alice.ready()
    await alice.signal(rtc.SignalRequest(leave=rtc.LeaveRequest()))
    await alice.until(lambda: alice.gone)


STOPS = [
    Stop(name="participant closed", find=participant_closed),
    Stop(name="participant cancelled", find=participant_cancelled, every=2),
    Stop(name="publisher connection closed", find=publisher_closed),
    Stop(name="subscriber connection closed", find=subscriber_closed),
    Stop(name="room closed", find=room_closed, room="own"),
    Stop(name="room cancelled", find=room_cancelled, room="own", every=2),
    Stop(name="participant closed, single", find=participant_closed, single=True),
    Stop(name="connection closed, single", find=publisher_closed, single=True),
    Stop(name="participant cancelled while leaving", find=participant_cancelled, single=True, scenario=leaves, every=3),
]


async def undisturbed(bob: Client, carol: Client, *, within: float) -> None:
    """The two of them can hear each other."""
    number = next(messages)
    await bob.say(b"data %d" % number, to=carol, within=within)
    await carol.say(b"data %d" % number, to=bob, within=within)
    await bob.play(b"sound %d" % number, to=carol, within=within)


def end_sessions(server: Server) -> None:
    """End what a connection's end alone does not end at once: the client may still come back."""
    if (room := own_room(server)) is not None:
        room.close(Reason.ROOM_DELETED)
    elif (alice := alice_in(server)) is not None:
        alice.close(Reason.PARTICIPANT_REMOVED)


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
async def test_a_join_stopped_at_every_step_leaves_nothing(stop: Stop) -> None:
    with capture_logs() as logs:
        async with running() as run:
            server = await run.up()
            async with join(server, "bob") as bob, join(server, "carol") as carol:
                await bob.ready()
                await carol.ready()
                await undisturbed(bob, carol, within=LIMIT)
                before = inventory(server)
                number, stopped = 0, True
                while stopped:
                    number += stop.every
                    async with join(server, "alice", room=stop.room, single=stop.single) as alice:
                        with stopping(run, number, lambda: stop.find(server)) as at:
                            with trio.fail_after(LIMIT):
                                await race(at.fired.wait, lambda: stop.scenario(alice))
                            stopped = at.done
                    end_sessions(server)
                    await back_to(before, server)
                    await undisturbed(bob, carol, within=SECOND)
                assert number > 20
                assert not bob.gone
                assert not carol.gone
                assert not server.mux.counters["route_failed"]
                assert not any(room.counters["bugs"] for room in server.rooms)
    assert not [entry for entry in logs if entry["log_level"] in {"error", "critical"}]


def server_cancelled(run: Running) -> Callable[[], object] | None:
    return run.scope.cancel


def server_left(run: Running) -> Callable[[], object] | None:
    return run.leave.set if run.started.is_set() else None


@pytest.mark.parametrize("single", [False, True], ids=["dual", "single"])
@pytest.mark.parametrize("stop", [server_cancelled, server_left], ids=lambda stop: stop.__name__)
async def test_a_server_stopped_at_every_step_of_its_life_leaves_nothing(
    stop: Callable[[Running], Callable[[], object] | None], single: bool
) -> None:
    before = inventory(None)
    number, stopped = 0, True
    with capture_logs() as logs:
        while stopped:
            number += 1 + single
            async with running() as run:
                with stopping(run, number, lambda: stop(run)) as at:

                    async def life() -> None:
                        async with join(await run.up(), "alice", single=single) as alice:
                            await alice.ready()

                    with trio.fail_after(LIMIT):
                        await race(at.fired.wait, life)
                    stopped = at.done
                run.leave.set()
                with trio.fail_after(SECOND):
                    await run.ended.wait()
                if run.server is not None:
                    left = inventory(run.server)
                    assert not left["routes"] + left["ufrags"] + left["prefixes"] + left["tuples"]
                    assert not left["rooms"] + left["participants"]
            await back_to(before, None)
    assert number > 20
    assert not [entry for entry in logs if entry["log_level"] in {"error", "critical"}]
