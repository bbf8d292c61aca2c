"""Who is told what happens in rooms, besides the people in them: webhooks, agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.publication import Publication
    from triosfu.rooms.room import Room


class RoomListener(Protocol):
    """Is told at once and in order. What it does is synchronous and short: it may enqueue, never wait.

    Objects are lent for the call: they go on changing.
    """

    def room_started(self, room: Room) -> None:
        """A room has begun."""

    def room_finished(self, room: Room) -> None:
        """A room that had begun is over; everybody has left."""

    def participant_active(self, participant: Participant) -> None:
        """Somebody's transport has come up, for the first and only time."""

    def participant_left(self, participant: Participant) -> None:
        """Somebody is gone, who may never have been active."""

    def track_published(self, publication: Publication) -> None:
        """A track is there; its publisher may not be active yet."""

    def track_unpublished(self, publication: Publication) -> None:
        """A track that had been published is gone."""
