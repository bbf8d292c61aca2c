"""The rooms of one server by name: made when asked for, gone when they end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog
import trio
from livekit.protocol import models

from triosfu.errors import UsageError
from triosfu.rooms.joining import JoinRefused
from triosfu.rooms.revocations import Revocations
from triosfu.rooms.room import Room
from triosfu.rooms.tally import Throughput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triosfu.rooms.joining import Applicant, JoinOptions, Services
    from triosfu.rooms.moving import Departure
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.settings import RoomDefaults
    from triosfu.rooms.signals import SignalLink

log = structlog.get_logger(__name__)

Reason = models.DisconnectReason
NO_SUCH_ROOM = "requested room does not exist"  # JS looks for exactly this
REVOKED = "invalid authorization token: token is revoked"
FULL = "node has exceeded its configured limit"  # LiveKit's word
PATIENCE: Final = 10.0  # seconds for one to be admitted; it takes a step, and another where a room is made
TOO_LONG = f"joining took longer than {PATIENCE:g} s: nobody was let in"


class Rooms:
    """Every room of this server. `run` owns their tasks."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.settings = services.settings
        self.counters: Counter[str] = Counter()
        self.revocations = Revocations()
        self.ended: Counter[str] = Counter()  # what was counted in rooms that are over
        self.throughput = Throughput()
        self._rooms: dict[str, Room] = {}
        self._nursery: trio.Nursery | None = None
        self._draining = False
        self._creating = trio.Lock()
        self._emptied = trio.lowlevel.ParkingLot()  # who waits for the end of the last room

    def __iter__(self) -> Iterator[Room]:
        return iter(list(self._rooms.values()))

    def __len__(self) -> int:
        return len(self._rooms)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold all rooms until cancelled; they have ended then."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self.settings.limits.bytes_per_second:
                    nursery.start_soon(self.throughput.run, self.services.tally, self, name="throughput")
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._draining = True  # before the last room has ended: from then on the nursery takes nobody
        finally:
            self.close()
            self._nursery = None

    def close(self, reason: Reason = Reason.SERVER_SHUTDOWN) -> None:
        """Take no one in any more, and end everybody's session; synchronous. Cancel `run` after the goodbyes."""
        self._draining = True
        for room in self:
            room.close(reason)

    async def wait_empty(self) -> None:
        """Wait until there is no room. After `close` that is soon; before it, give the wait a deadline.

        Cancelled, it has changed nothing.
        """
        await trio.lowlevel.checkpoint()
        while self._rooms:
            await self._emptied.park()

    def find(self, name: str) -> Room | None:
        """Return the room of this name."""
        room = self._rooms.get(name)
        return None if room is None or room.closed else room

    async def create(self, name: str, settings: RoomDefaults | None = None) -> Room:
        """Return the room of this name, made with `settings` if there was none (section 17, row 1).

        Cancelled, it has made none.

        Raises:
            JoinRefused: This server is closing, or has as many rooms as it may have.
        """
        return (await self.find_or_make(name, settings))[0]

    async def find_or_make(self, name: str, settings: RoomDefaults | None = None) -> tuple[Room, bool]:
        """As `create`; tells, too, whether the room was made, of which then nobody but the caller knows yet.

        Cancelled, it has made none.
        """
        async with self._creating:  # the start of a room takes a step; nobody may start it twice
            if room := self.find(name):
                return room, False
            if self._nursery is None:
                raise UsageError("rooms: not running")
            if self._draining or (self.settings.max_rooms and len(self._rooms) >= self.settings.max_rooms):
                raise JoinRefused(503, "server is at its limits")
            self.check_limits()
            room = Room(name, settings or self.settings.defaults, self.services)
            await self._nursery.start(self._run, room, name=f"room {name}")
            if self._draining or room.closed:  # `close` came during that step, and did not know of this room
                room.close(Reason.SERVER_SHUTDOWN)
                raise JoinRefused(503, "server is at its limits")
            self._rooms[name] = room
            room.begin()
            return room, True

    def check_limits(self) -> None:
        """Raise JoinRefused while the server has as many tracks, or as many bytes per second, as it may have.

        Who is here already stays, publishes and subscribes, as with LiveKit; nobody else is let in.
        """
        limits = self.settings.limits
        if limits.server_tracks and self._tracks() >= limits.server_tracks:
            raise JoinRefused(503, FULL)
        if limits.bytes_per_second and self.throughput.rate >= limits.bytes_per_second:
            raise JoinRefused(503, FULL)

    def _tracks(self) -> int:
        """How many tracks are received and sent, all rooms together."""
        people = [participant for room in self for participant in room.participants.values()]
        sent = sum(subscription.down is not None for one in people for subscription in one.subscriptions)
        return sent + sum(len(one.publications) for one in people if not one.applicant.forwarded)

    async def _run(self, room: Room, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await room.run(task_status=task_status)
        except Exception:  # a bug in one room ends that room only
            log.exception("bug", room=room.name)
            self.counters["bugs"] += 1
            room.close(Reason.UNKNOWN_REASON)
        finally:
            if self._rooms.get(room.name) is room:
                del self._rooms[room.name]
                self._emptied.unpark_all()
            self.ended.update(room.counters)

    def check_token(self, name: str, applicant: Applicant) -> None:
        """Raise JoinRefused when the token of `applicant` for the room `name` was revoked."""
        said = getattr(applicant.claims, "identity", applicant.identity)  # clients of old may add something to it
        if any(self.revocations.refuses(name, one, applicant.token_not_before) for one in {applicant.identity, said}):
            raise JoinRefused(401, REVOKED)

    async def for_join(self, name: str, applicant: Applicant) -> Room:
        """Return the room that `applicant` may join, made if need be and allowed. Cancelled, it has made none.

        Raises:
            JoinRefused: Names are bad, the room does not exist, or there is no place.
        """
        room = self._found_for_join(name, applicant)
        if room is None:
            if not self.settings.auto_create and not applicant.room_create:
                raise JoinRefused(404, NO_SUCH_ROOM)
            room = await self.create(name, applicant.room)
            room.check_place(applicant)
        return room

    def _found_for_join(self, name: str, applicant: Applicant) -> Room | None:
        """The room that `applicant` may join, if there is one already. Errors as `for_join`."""
        applicant.check(name, self.settings.limits)
        self.check_token(name, applicant)
        room = self.find(name)
        if room is not None:
            self.check_limits()
            room.check_place(applicant)
        return room

    async def join(self, name: str, applicant: Applicant, options: JoinOptions, link: SignalLink) -> Participant:
        """Admit `applicant` to the room `name`, within ten seconds. Cancelled, it has admitted nobody.

        Raises:
            JoinRefused: As `for_join`; or the room could not be made in time, and nobody was let in.
        """
        room = self._found_for_join(name, applicant)
        if room is None:
            with trio.move_on_after(PATIENCE):
                room = await self.for_join(name, applicant)
            if room is None:
                raise JoinRefused(503, TOO_LONG)
        participant = room.join(applicant, options, link)
        self.counters["joined"] += 1
        return participant

    def check_join(self, name: str, applicant: Applicant) -> None:
        """Raise what `for_join` would raise, without making the room."""
        applicant.check(name, self.settings.limits)
        self.check_token(name, applicant)
        if self.find(name) is None and not self.settings.auto_create and not applicant.room_create:
            raise JoinRefused(404, NO_SUCH_ROOM)
        self.check_limits()

    def resume(self, name: str, identity: str, options: JoinOptions, link: SignalLink) -> Participant | None:
        """Give a participant its new signalling connection; None when it is not here (any more)."""
        participant, missed = self._session(name, identity, options.participant_sid)
        if participant is None or participant.closed or participant.shape.single != options.single:
            return None
        if participant.applicant.forwarded:
            return None
        with participant.guard("resume"):
            participant.resume(link, options, missed=missed)
        return participant

    def _session(self, name: str, identity: str, sid: str) -> tuple[Participant | None, Departure | None]:
        """Return whose session it is, and what its client does not know yet if it thinks to be in another room."""
        room = self.find(name)
        here = None if room is None else room.participants.get(identity)
        if here is not None and (sid in {"", here.sid} or any(sid == past.sid for past in here.departures)):
            return here, None  # some clients go on calling themselves by the sid that they joined with
        # An older session of this identity, which a newer one has replaced, or one that was moved meanwhile.
        for other in self if sid else ():
            moved = other.participants.get(identity)
            for past in () if moved is None else moved.departures:
                if (past.room, past.sid) == (name, sid):
                    return moved, past
        return None, None
