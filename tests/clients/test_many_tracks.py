"""Who joins last gets everybody's tracks, and the sections of tracks that went are used for those that come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.clients.python_client import Participant, leaving, until
from tests.clients.ten import received
from triosfu.config import load_config
from triosfu.server import Server, serve_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PUBLISHERS = 6  # twice as many tracks of a kind as a client has sections for of its own accord


@pytest.fixture(scope="module")
def here(network: None) -> Iterator[Server]:
    """A server whose insides can be looked at."""
    with serve_in_thread(load_config(development=True)) as server:
        yield server


def sections(server: Server, room: str, identity: str) -> int:
    """How many media sections a participant's subscriptions have taken so far."""
    found = server.rooms.find(room)
    assert found is not None
    negotiation = found.participants[identity].shape.subscriber.negotiation
    return sum(section.kind != "application" for section in negotiation.sections)


async def publish(participant: Participant) -> None:
    await participant.publish_microphone()
    await participant.publish_camera(width=160, height=90, rate=5, simulcast=False)


async def unpublish(participant: Participant) -> None:
    local = participant.room.local_participant
    for sid in list(local.track_publications):
        await local.unpublish_track(sid)


async def everything_flows(late: Participant) -> None:
    """Wait until the latecomer has every track, and packets on each."""

    def counts(reports: dict[str, dict[str, int]]) -> Callable[[], bool]:
        flowing = [name for name, report in reports.items() if report["packets"] > 2]
        return lambda: len(flowing) == 2 * PUBLISHERS

    for _ in range(40):
        reports = await received(late)
        if counts(reports)():
            return
        await asyncio.sleep(0.25)
    raise AssertionError(reports)


@pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])
def test_who_joins_last_gets_all_and_sections_are_used_again(here: Server, *, single: bool) -> None:
    async def run() -> None:
        room = f"many-{single}"
        publishers = [Participant(f"p{number}", count=False) for number in range(PUBLISHERS)]
        late = Participant("late", count=False)
        async with leaving([*publishers, late]):
            for one in publishers:
                token = here.create_token(identity=one.identity, room=room)
                await one.join(here.url, token, single=single, watch=False)
                await publish(one)
            await late.join(here.url, here.create_token(identity="late", room=room), single=single)
            await everything_flows(late)
            taken = sections(here, room, "late")
            for _ in range(2):
                for one in publishers[:3]:
                    await unpublish(one)
                await until(
                    lambda: len(known_tracks(late)) == 2 * (PUBLISHERS - 3), seconds=5, what="three are not seen"
                )
                for one in publishers[:3]:
                    await publish(one)
                await everything_flows(late)
            assert sections(here, room, "late") == taken

    asyncio.run(asyncio.wait_for(run(), 120))


def known_tracks(late: Participant) -> list[str]:
    """The sids of the tracks that the latecomer knows of."""
    return [sid for remote in late.room.remote_participants.values() for sid in remote.track_publications]
