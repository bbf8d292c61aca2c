"""Takes participants to other rooms: moved, or forwarded. All that can be refused is, before anything is done."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from livekit.protocol import models

from triosfu.rooms.directory import NO_SUCH_ROOM
from triosfu.rooms.forwarding import ForwardedParticipant
from triosfu.rooms.joining import JoinRefused
from triosfu.rooms.moving import move

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.rooms.directory import Rooms
    from triosfu.rooms.joining import Services
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.room import Room

Reason = models.DisconnectReason
MOVING_SINCE: Final = 16  # signalling protocol; a client that signals by HTTP requests need not know where it is
NO_SUCH_PARTICIPANT: Final = "participant does not exist"
TAKEN: Final = "participant already exists in the destination room"
FORWARDED: Final = "participant is forwarded from another room"


async def move_to(rooms: Rooms, participant: Participant, name: str, *, create: bool) -> None:
    """Move `participant` to the room `name`, which is made if need be and `create` allows it.

    Cancelled, it has moved nobody. Errors as `_enter`, then nobody was moved.
    """
    if participant.options.client.protocol < MOVING_SINCE and not participant.options.fixed:
        raise JoinRefused(412, "participant does not support moving")
    await _enter(rooms, participant, name, _move, create=create)


async def forward_to(rooms: Rooms, participant: Participant, name: str, *, create: bool) -> None:
    """Let the room `name` see and hear `participant`; one that does already goes on doing so.

    Cancelled, it has forwarded nobody. Errors as `_enter`, then nobody was forwarded.
    """
    await _enter(rooms, participant, name, partial(_forward, rooms.services), create=create)


async def _enter(
    rooms: Rooms, participant: Participant, name: str, how: Callable[[Participant, Room], None], *, create: bool
) -> None:
    """Have the room, and enter it in the step in which it was found.

    Raises:
        JoinRefused: With the status 400, 404, 409, 412, 429 or 503.
    """
    origin = participant.room
    _check(rooms, participant, name, create=create)
    room, made = await rooms.find_or_make(name)
    try:
        _check_still(participant, origin)
        _check(rooms, participant, name, create=create)
        how(participant, room)
    except JoinRefused:
        if made:
            room.close(Reason.ROOM_CLOSED)  # in the step in which it came to be: nobody has seen it
        raise


def _move(participant: Participant, room: Room) -> None:
    room.check_place(participant.applicant)
    own = room.participants.get(participant.identity)
    if own is not None:
        own.close(Reason.DUPLICATE_IDENTITY, replaced=True)  # who was forwarded comes in person now
    move(participant, room)


def _forward(services: Services, participant: Participant, room: Room) -> None:
    if any(one.room is room for one in participant.forwards):
        return
    if len(participant.forwards) >= participant.settings.limits.forwards:
        raise JoinRefused(429, "participant is forwarded to too many rooms")
    forward = ForwardedParticipant(participant, room, services)
    room.check_place(forward.applicant)
    room.seat(forward)
    with forward.guard("forward"):
        forward.begin()


def _check_still(participant: Participant, origin: Room) -> None:
    if participant.room is not origin:
        raise JoinRefused(404, NO_SUCH_PARTICIPANT)


def _check(rooms: Rooms, participant: Participant, name: str, *, create: bool) -> None:
    """Raise what is in the way of `participant` entering the room `name`."""
    if not name:
        raise JoinRefused(400, "no room name")
    if len(name) > (limit := rooms.settings.limits.room_name):
        raise JoinRefused(400, f"room name length exceeds limits: max length {limit}")
    if participant.applicant.forwarded:
        raise JoinRefused(412, FORWARDED)
    if participant.closed:
        raise JoinRefused(404, NO_SUCH_PARTICIPANT)
    if not participant.active:
        raise JoinRefused(412, "participant is not connected yet")
    room = rooms.find(name)
    if room is None:
        if not create:
            raise JoinRefused(404, NO_SUCH_ROOM)
    elif _is_taken(room, participant):
        raise JoinRefused(409, TAKEN)


def _is_taken(room: Room, participant: Participant) -> bool:
    other = room.participants.get(participant.identity)
    return other is not None and not (isinstance(other, ForwardedParticipant) and other.source is participant)
