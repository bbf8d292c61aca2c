"""What is stopped, and how: a peer connection, a participant, a room, the server; closed from outside, or cancelled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from livekit.protocol import models

if TYPE_CHECKING:
    from tests.support.steps import Running
    from triosfu.peer import PeerConnection
    from triosfu.rooms.participant import Participant

Reason = models.DisconnectReason
Action = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Stop:
    """What is stopped, in which kind of session."""

    name: str
    find: Callable[[Running, Participant | None], Action | None]  # what stops it; None while there is nothing to stop
    level: Literal["connection", "participant", "room", "server"]
    peer: Callable[[Participant], PeerConnection] | None = None  # the connection that is stopped
    single: bool = False  # in a session of one peer connection, if the scenario is content with that


def publisher(alice: Participant) -> PeerConnection:
    return alice.shape.publisher


def subscriber(alice: Participant) -> PeerConnection:
    return alice.shape.subscriber


def connection(
    name: str, peer: Callable[[Participant], PeerConnection], *, cancelled: bool, single: bool = False
) -> Stop:
    """One peer connection of Alice's; closed by its owner, or its scope is cancelled."""

    def find(running: Running, alice: Participant | None) -> Action | None:
        if alice is None:
            return None
        return peer(alice)._scope.cancel if cancelled else lambda: peer(alice).close("stopped")

    return Stop(name=name, find=find, level="connection", peer=peer, single=single)


def participant_closed(running: Running, alice: Participant | None) -> Action | None:
    return None if alice is None else lambda: alice.close(Reason.PARTICIPANT_REMOVED)


def participant_cancelled(running: Running, alice: Participant | None) -> Action | None:
    return None if alice is None else alice._scope.cancel


def room_closed(running: Running, alice: Participant | None) -> Action | None:
    return None if alice is None else lambda: alice.room.close(Reason.ROOM_DELETED)


def room_cancelled(running: Running, alice: Participant | None) -> Action | None:
    if alice is None or alice.room._nursery is None:
        return None
    return alice.room._nursery.cancel_scope.cancel


def server_left(running: Running, alice: Participant | None) -> Action | None:
    return running.leave.set if running.started.is_set() else None


def server_cancelled(running: Running, alice: Participant | None) -> Action | None:
    return running.scope.cancel


STOPS = [
    connection("publisher closed", publisher, cancelled=False),
    connection("publisher cancelled", publisher, cancelled=True),
    connection("subscriber closed", subscriber, cancelled=False),
    connection("subscriber cancelled", subscriber, cancelled=True),
    connection("connection closed", publisher, cancelled=False, single=True),
    connection("connection cancelled", publisher, cancelled=True, single=True),
    Stop(name="participant closed", find=participant_closed, level="participant"),
    Stop(name="participant cancelled", find=participant_cancelled, level="participant", single=True),
    Stop(name="room closed", find=room_closed, level="room"),
    Stop(name="room cancelled", find=room_cancelled, level="room", single=True),
    Stop(name="server left", find=server_left, level="server"),
    Stop(name="server cancelled", find=server_cancelled, level="server", single=True),
]
