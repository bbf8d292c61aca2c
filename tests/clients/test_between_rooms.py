"""Participants are taken to other rooms through the server API, and real clients go on there."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from livekit import api

from tests.clients.python_client import Participant, leaving, until
from tests.clients.server import KEY, SECRET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.clients.server import RunningServer

pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])


@asynccontextmanager
async def three(server: RunningServer, names: tuple[str, str], *, single: bool) -> AsyncIterator[list[Participant]]:
    """Alice and Bob in the first room, Carol in the second; all have microphones."""
    people = [Participant(name) for name in ("alice", "bob", "carol")]
    async with leaving(people):
        for one, room in zip(people, (names[0], names[0], names[1]), strict=True):
            await one.join(server.url, server.token(one.identity, room), single=single)
            await one.publish_microphone()
        yield people


@MODES
def test_a_participant_is_moved_and_goes_on_in_the_other_room(server: RunningServer, *, single: bool) -> None:
    async def run() -> None:
        first, second = f"first-{single}", f"second-{single}"
        async with (
            api.LiveKitAPI(f"http://127.0.0.1:{server.port}", KEY, SECRET) as calls,
            three(server, (first, second), single=single) as (alice, bob, carol),
        ):
            await until(lambda: alice.loud_frames["bob"] > 5 and bob.loud_frames["alice"] > 5, seconds=10)
            moved: list[str] = []
            alice.room.on("moved", lambda: moved.append(alice.room.name))
            before = alice.room.local_participant.sid
            request = api.MoveParticipantRequest(room=first, identity="alice", destination_room=second)
            await calls.room.move_participant(request)
            await until(lambda: bool(moved), seconds=3, what="alice's client knows")
            print("MOVED", moved, alice.room.name, await alice.room.sid, before, alice.room.local_participant.sid, list(alice.room.remote_participants), alice.room.connection_state)
            await until(lambda: carol.loud_frames["alice"] > 5, seconds=10, what="carol hears alice")
            await until(lambda: alice.loud_frames["carol"] > 5, seconds=10, what="alice hears carol")
            await until(lambda: "alice" not in bob.room.remote_participants, seconds=3, what="bob sees her go")
            print("NOW", list(alice.room.remote_participants))
            await alice.room.local_participant.publish_data(b"from alice")
            await carol.room.local_participant.publish_data(b"from carol")
            await until(lambda: any(d[:2] == ("alice", b"from alice") for d in carol.data), seconds=3)
            await until(lambda: any(d[:2] == ("carol", b"from carol") for d in alice.data), seconds=3)
            assert not bob.data

    asyncio.run(asyncio.wait_for(run(), 40))
