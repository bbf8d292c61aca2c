"""Alice and Bob, `livekit` wheels in a room of their own, and an event loop that outlives one test."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, TypeVar

from livekit import api

from tests.clients.python_client import Participant, leaving, until
from tests.clients.server import KEY, SECRET
from triosfu.tokens import VideoGrant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from livekit import rtc

    from tests.clients.server import RunningServer

T = TypeVar("T")
LIMIT = 60.0  # seconds for one scenario


def all_rights(room: str) -> VideoGrant:
    """May do everything that a participant can."""
    return VideoGrant(room_join=True, room=room, can_update_own_metadata=True)


class Meeting:
    """A room, and those who come to it: as a context manager it has Alice and Bob in it."""

    def __init__(self, server: RunningServer, room: str, *, single: bool) -> None:
        self.server, self.room, self.single = server, room, single
        self._runner = asyncio.Runner()
        self.alice, self.bob = self._runner.run(self._people())

    async def _people(self) -> tuple[Participant, Participant]:
        # Made where their event loop runs: events reach the wheel's objects through it.
        return Participant("alice"), Participant("bob")

    def __enter__(self) -> Self:
        self.run(self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._end())
        self.close()

    def close(self) -> None:
        """End the event loop."""
        self._runner.close()

    async def _begin(self) -> None:
        for one in (self.alice, self.bob):
            await self.join(one)
        await until(lambda: bool(self.alice.room.remote_participants), seconds=2, what="alice sees bob")

    async def _end(self) -> None:
        for one in (self.alice, self.bob):
            await one.leave()

    def run(self, scenario: Coroutine[object, object, T]) -> T:
        """Let a scenario happen."""
        return self._runner.run(asyncio.wait_for(scenario, LIMIT))

    async def join(
        self,
        one: Participant,
        *,
        grant: VideoGrant | None = None,
        watch: bool = True,
        encryption: rtc.E2EEOptions | None = None,
    ) -> None:
        """Let somebody come in."""
        token = self.server.token(one.identity, self.room, grant or all_rights(self.room))
        await one.join(self.server.url, token, single=self.single, watch=watch, encryption=encryption)

    @asynccontextmanager
    async def guest(
        self, identity: str, *, grant: VideoGrant | None = None, watch: bool = True
    ) -> AsyncIterator[Participant]:
        """Somebody who is there for the length of the block."""
        one = Participant(identity)
        async with leaving((one,)):
            await self.join(one, grant=grant, watch=watch)
            yield one

    @asynccontextmanager
    async def both(self) -> AsyncIterator[tuple[Participant, Participant]]:
        """Alice and Bob, for a scenario in a room that nobody else needs."""
        async with leaving((self.alice, self.bob)):
            await self._begin()
            yield self.alice, self.bob

    def modes(self) -> set[str]:
        """In which modes those of this room have joined, as the server saw it."""
        said = self.server.log.read_text(encoding="utf-8")
        room = re.escape(self.room)
        return set(re.findall(rf"\] joined .* room=(?:'{room}'|{room}) single=(True|False)$", said, re.MULTILINE))

    @asynccontextmanager
    async def backend(self) -> AsyncIterator[api.LiveKitAPI]:
        """The application's backend."""
        async with api.LiveKitAPI(f"http://127.0.0.1:{self.server.port}", KEY, SECRET) as calls:
            yield calls
