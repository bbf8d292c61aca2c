"""A worker process's end: connections come in, and what the front has to know goes out.

post = Post(control, node_id=node_id)
async with serve(config, post=post):  # runs `run`, and has `presence` among its rooms' listeners
    post.ready(ports)
    told = await post.until_told()
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog
import trio

from triosfu.cluster.control import ControlClosed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triosfu.cluster.control import Control, Letter
    from triosfu.net.http import HandOver, HttpServer, Request, Response, Upgrade
    from triosfu.rooms.directory import Rooms
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.publication import Publication
    from triosfu.rooms.room import Room

log = structlog.get_logger(__name__)

PUBLIC: Final = "public"  # the door of clients
OWN: Final = "own"  # the door of the front
LONGEST_IDENTITY: Final = 4096  # characters; nobody with a longer one can join


class Post:
    """The end of the control socket, for the server around it."""

    def __init__(self, control: Control, *, node_id: str) -> None:
        self.control = control
        self.node_id = node_id
        self.presence = Presence(control)
        self._told = trio.Event()
        self._lost = False
        self._load = 0.0
        self._looked = (time.monotonic(), time.process_time())

    def ready(self, ports: Sequence[int]) -> None:
        """Connections may come; media comes to these UDP ports."""
        self._looked = (time.monotonic(), time.process_time())  # the start is not what it has to do
        self.control.tell({"kind": "ready", "ports": list(ports)})

    async def until_told(self) -> bool:
        """Wait until the front asks for an end; False when it is gone. Cancelled, it has done nothing."""
        await self._told.wait()
        return not self._lost

    async def run(
        self,
        rooms: Rooms,
        doors: dict[str, HttpServer],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take what comes, until cancelled; connections are closed then. `doors` serve them by who has made them."""
        self.presence.rooms = rooms
        rooms.revocations.tell = self._revoked
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.control.run, name="control")
                for door in doors.values():
                    nursery.start_soon(door.clock.run, name="clock of websockets")
                task_status.started()
                while True:
                    letter = await self.control.receive()
                    try:
                        self._receive(letter, rooms, doors, nursery)
                    finally:
                        letter.close()
        except* ControlClosed as closed:
            log.warning("the front is gone", reason=str(closed.exceptions[0]))
            self._lost = True
            self._told.set()

    def _receive(self, letter: Letter, rooms: Rooms, doors: dict[str, HttpServer], nursery: trio.Nursery) -> None:
        match letter.said.get("kind"):
            case "take" if letter.sock is not None:
                nursery.start_soon(self._serve, doors[letter.text("door")], _taken(letter), name="connection")
            case "ping":
                self.control.tell({"kind": "beat", "load": round(self._measure(), 4)})
            case "revoked":
                rooms.revocations.learn(letter.text("room"), letter.text("identity"), letter.number("before"))
            case "stop":
                self._told.set()
            case kind:
                raise ControlClosed(f"an unknown message: {str(kind)[:32]}")

    async def _serve(self, door: HttpServer, letter: Letter) -> None:
        """Serve a connection; the front is told when its request has had its effect, or will have none."""
        lease = letter.number("lease")
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self.control.tell({"kind": "done", "lease": lease})

        async def respond(request: Request) -> Response | Upgrade | HandOver:
            try:
                return await door.handler(request)
            finally:
                give_back()

        sock, letter.sock = letter.sock, None
        assert sock is not None  # noqa: S101  `_receive` has looked
        try:
            host, port = letter.said["peer"]
            await door.serve_handed_over(sock, (str(host), int(port)), letter.data, respond)
        finally:
            sock.close()
            give_back()

    def _measure(self) -> float:
        """How much of a core this process takes, of late."""
        now, spent = time.monotonic(), time.process_time()
        then, before = self._looked
        self._looked = (now, spent)
        self._load += ((spent - before) / max(now - then, 1e-3) - self._load) / 2
        return self._load

    def _revoked(self, room: str, identity: str, before: float) -> None:
        if len(identity) <= LONGEST_IDENTITY:
            self.control.tell({"kind": "revoked", "room": room, "identity": identity, "before": before})


class Presence:
    """Tells the front which rooms are here; a `RoomListener`.

    A room's name stays here, too, while somebody is who was in it and was moved: their client may not know that yet,
    and comes back by the old name.
    """

    def __init__(self, control: Control) -> None:
        self.rooms: Rooms | None = None
        self._control = control
        self._left: set[str] = set()  # names of rooms that are over, and are still known

    def room_started(self, room: Room) -> None:
        """It is here."""
        self._left.discard(room.name)
        self._control.tell({"kind": "held", "room": room.name})

    def room_finished(self, room: Room) -> None:
        """It is not, but perhaps somebody who was in it."""
        self._left.add(room.name)
        self._look()

    def participant_active(self, participant: Participant) -> None:
        """Rooms are here already; so for tracks."""

    def participant_left(self, participant: Participant) -> None:
        """They may have been the last who was in a room that is over."""
        if self._left and participant.departures:
            self._look()

    def track_published(self, publication: Publication) -> None:
        """Nothing."""

    def track_unpublished(self, publication: Publication) -> None:
        """Nothing."""

    def _look(self) -> None:
        known = {
            past.room
            for room in self.rooms or ()
            if not room.closed
            for one in room.participants.values()
            for past in one.departures
        }
        for name in sorted(self._left - known):
            self._left.discard(name)
            self._control.tell({"kind": "free", "room": name})


def _taken(letter: Letter) -> Letter:
    """The same, whose socket its new owner closes."""
    taken = type(letter)(letter.said, letter.sock, letter.data)
    letter.sock = None
    return taken
