"""Moves a participant to another room of this server, with its session: transports, channels and tracks stay.

For those in either room it is as if somebody had left the one and joined the other: the participant gets a new sid.
Its tracks keep theirs, by which its client knows them. LiveKit's open source does not do this; what the client is told
follows what livekit-client and LiveKit's Rust core do with `room_moved`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from livekit.protocol import models, rtc

from triosfu.rooms.sids import PARTICIPANT, new_sid
from triosfu.rooms.updates import chunks

if TYPE_CHECKING:
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.room import Room

log = structlog.get_logger(__name__)

State = models.ParticipantInfo.State
Reason = models.DisconnectReason


@dataclass(frozen=True, slots=True)
class Departure:
    """Where a participant was before it was moved."""

    room: str
    sid: str
    strangers: tuple[models.ParticipantInfo, ...]  # those whom its client knew there, as gone


def move(participant: Participant, to: Room) -> None:
    """Take `participant` to the room `to`, which has a place for it: synchronous, as a whole.

    The tasks of the participant go over to the new room. A bug on the way ends the participant.
    """
    origin = participant.room
    departure = Departure(origin.name, participant.sid, _strangers(participant))
    with participant.guard("move"):
        _leave(participant)
        participant.departures.append(departure)
        participant.room = to
        participant.sid = new_sid(PARTICIPANT, participant.rng)
        participant.joined_ns = time.time_ns()
        participant.known_versions.clear()
        participant.hand_over()
        to.seat(participant)
        tell_moved(participant, departure)
        _arrive(participant)
    log.info("moved", room=origin.name, participant=departure.sid, to=to.name, now=participant.sid)


def _leave(participant: Participant) -> None:
    """Have the room see the participant go, as it does when one disconnects."""
    origin, state = participant.room, participant.state
    origin.forget(participant)
    participant.end_forwards(Reason.MIGRATION)
    participant.subscriptions.leave_room()
    participant.publications.leave_room()
    participant.data_tracks.leave_room()
    participant.data.leave_room()
    participant.state, participant.disconnect_reason = State.DISCONNECTED, Reason.MIGRATION
    participant.version += 1
    origin.left(participant, replaced=False)
    participant.state, participant.disconnect_reason = state, Reason.UNKNOWN_REASON


def _arrive(participant: Participant) -> None:
    """Have the room see the participant come, with all that it publishes."""
    room = participant.room
    participant.changed(at_once=True)
    room.became_active(participant)
    for publication in participant.publications:
        room.track_published(publication, first=False)
    for track in participant.data_tracks:
        room.data_track_published(track)
    participant.subscriptions.auto_subscribe(room.publications())
    participant.data_tracks.catch_up()
    participant.refresh_token()


def tell_moved(participant: Participant, departure: Departure) -> None:
    """Tell a client that it is in another room now, and who else is.

    JS forgets the others of the old room by itself, the Rust core only those that are said to be gone.
    """
    for infos in chunks(departure.strangers):
        participant.send(rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=infos)))
    participant.version += 1
    moved = rtc.RoomMovedResponse(
        room=participant.room.info(),
        token=participant.new_token(),
        participant=participant.info(),
        other_participants=participant.room.announcer.others_for_join(participant),
    )
    participant.send(rtc.SignalResponse(room_moved=moved))


def _strangers(participant: Participant) -> tuple[models.ParticipantInfo, ...]:
    known = participant.known_versions
    return tuple(
        models.ParticipantInfo(
            sid=other.sid,
            identity=other.identity,
            state=State.DISCONNECTED,
            version=other.version + 1,
            disconnect_reason=Reason.MIGRATION,
        )
        for other in participant.room.others(participant)
        if other.sid in known
    )
