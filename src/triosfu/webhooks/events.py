"""What happens in rooms as LiveKit's webhook events (protocol reference, section 9)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from livekit.protocol import models
from livekit.protocol.webhook import WebhookEvent

from triosfu.rooms.sids import new_sid

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from random import Random

    from livekit.protocol.agent import Job

    from triosfu.rooms.participant import Participant
    from triosfu.rooms.publication import Publication
    from triosfu.rooms.room import Room

EVENT: Final = "EV_"


class EventWriter:
    """A `RoomListener` and `JobListener` that hands each event, with its room's name, to `send`.

    For one participant the order is always: joined, published, unpublished, left. Tracks that somebody published before
    becoming active are told after the joining; those of one who never became active are not told.
    """

    def __init__(
        self,
        send: Callable[[str, WebhookEvent], None],
        *,
        rng: Random,
        include: Collection[str] = (),
        exclude: Collection[str] = (),
    ) -> None:
        self._send = send
        self._rng = rng
        self._include, self._exclude = frozenset(include), frozenset(exclude)

    def room_started(self, room: Room) -> None:
        """Tell `room_started`."""
        self._tell("room_started", room)

    def room_finished(self, room: Room) -> None:
        """Tell `room_finished`."""
        self._tell("room_finished", room)

    def participant_active(self, participant: Participant) -> None:
        """Tell `participant_joined`, and what is published already."""
        self._tell("participant_joined", participant.room, participant=participant)
        for publication in participant.publications:
            self.track_published(publication)

    def participant_left(self, participant: Participant) -> None:
        """Tell `participant_left`; of one who never became active, also that the connection was aborted."""
        if not participant.was_active:
            self._tell("participant_connection_aborted", participant.room, participant=participant)
        self._tell("participant_left", participant.room, participant=participant)

    def track_published(self, publication: Publication) -> None:
        """Tell `track_published`."""
        self._tell_track("track_published", publication)

    def track_unpublished(self, publication: Publication) -> None:
        """Tell `track_unpublished`."""
        self._tell_track("track_unpublished", publication)

    def job_started(self, room: str, job: Job) -> None:
        """Tell `agent_job_started`."""
        self._tell_job("agent_job_started", room, job)

    def job_ended(self, room: str, job: Job) -> None:
        """Tell `agent_job_ended`."""
        self._tell_job("agent_job_ended", room, job)

    def _tell_job(self, name: str, room: str, job: Job) -> None:
        if self._wanted(name):
            event = self._event(name)
            event.room.CopyFrom(job.room)
            event.job.CopyFrom(job)
            self._send(room, event)

    def _tell_track(self, name: str, publication: Publication) -> None:
        publisher = publication.publisher
        if publisher.was_active and self._wanted(name):
            event = self._event(name)
            event.room.CopyFrom(models.Room(sid=publisher.room.sid, name=publisher.room.name))
            event.participant.CopyFrom(models.ParticipantInfo(sid=publisher.sid, identity=publisher.identity))
            event.track.CopyFrom(publication.info)
            self._send(publisher.room.name, event)

    def _tell(self, name: str, room: Room, *, participant: Participant | None = None) -> None:
        if self._wanted(name):
            event = self._event(name)
            event.room.CopyFrom(room.info())
            if participant is not None:
                event.participant.CopyFrom(participant.info())
            self._send(room.name, event)

    def _wanted(self, name: str) -> bool:
        return (not self._include or name in self._include) and name not in self._exclude

    def _event(self, name: str) -> WebhookEvent:
        return WebhookEvent(event=name, id=new_sid(EVENT, self._rng), created_at=int(time.time()))
