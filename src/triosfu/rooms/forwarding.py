"""Lets another room see and hear a participant that stays where it is.

In the other room somebody of the same identity, name, metadata and attributes appears, marked by the kind detail
FORWARDED, who has no client there: it receives nothing, does not count towards the room's places, and does not keep the
room open. Its tracks are the original's in another room: their receivers, their dynacast and the table of who listens
are the same objects. It goes when the original leaves its room, when the room ends, or when it is removed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from livekit.protocol import models

from triosfu.rooms.data_tracks import DataTrack, DataTracks
from triosfu.rooms.joining import JoinOptions
from triosfu.rooms.participant import Participant
from triosfu.rooms.publication import Publication, Publications, PublicationState

if TYPE_CHECKING:
    from livekit.protocol import rtc

    from triosfu.peer import PeerConnection, PeerState
    from triosfu.rooms.joining import Services
    from triosfu.rooms.permissions import Permission
    from triosfu.rooms.room import Room

FORWARDED = models.ParticipantInfo.KindDetail.FORWARDED
State = models.ParticipantInfo.State
Reason = models.DisconnectReason


class ForwardedPublication(Publication):
    """A track as the other room has it."""

    def __init__(self, publisher: Participant, original: Publication) -> None:
        self.publisher = publisher
        self.original = original
        self.cid = original.cid
        self.info = original.info
        self.state = PublicationState.PUBLISHED
        self.receivers = original.receivers
        self.sections = original.sections
        self.subscriptions = original.subscriptions
        self.dynacast = original.dynacast
        self.subscribed_told = False


class ForwardedPublications(Publications):
    """The tracks of somebody who is forwarded; only the original decides about them."""

    def follow(self, original: Publication) -> tuple[Publication, bool]:
        """Return the track of this room that stands for `original`, and whether it is new."""
        known = self.published.get(original.sid)
        if known is not None:
            return known, False
        new = self.published[original.sid] = ForwardedPublication(self._owner, original)
        return new, True

    def forget(self, original: Publication) -> Publication | None:
        """Take the track off the list that stands for `original`."""
        known = self.published.pop(original.sid, None)
        if known is not None:
            known.state = PublicationState.CLOSED
        return known

    def tell_quality(self, publication: Publication, message: rtc.SignalResponse | None) -> None:
        """Tell it to the client that publishes the track."""
        if isinstance(publication, ForwardedPublication):
            publication.original.publisher.publications.tell_quality(publication.original, message)

    def tell_subscribed(self, publication: Publication) -> None:
        """Tell it to the client that publishes the track."""
        if isinstance(publication, ForwardedPublication):
            publication.original.publisher.publications.tell_subscribed(publication.original)

    def follow_codecs(self) -> None:
        """The original does."""

    def enforce_permission(self) -> None:
        """The original does."""

    def close(self) -> None:
        """Take every track from those in this room; the original goes on."""
        for publication in self:
            self.forget(publication)
            self._owner.room.track_closed(publication)


class ForwardedDataTracks(DataTracks):
    """The data tracks of somebody who is forwarded."""

    def follow(self, original: DataTrack) -> DataTrack:
        """Return a data track of this room that stands for `original`."""
        track = DataTrack(self._owner, original.info)
        track.readers = original.readers
        self._published[original.info.pub_handle] = track
        return track

    def keep(self, originals: DataTracks) -> None:
        """Forget what is not published any more; whoever read it has been told."""
        for track in self:
            if not originals.has(track.info.sid):
                del self._published[track.info.pub_handle]

    def _drop_readers(self, track: DataTrack) -> None:
        for reader, _ in list(track.readers.values()):
            if reader.room is self._owner.room:  # those of the original's room go on reading
                with reader.guard("data track"):
                    reader.data_tracks.gone(track.info.sid)


class ForwardedParticipant(Participant):
    """What a room sees of a participant of another room."""

    publications: ForwardedPublications
    data_tracks: ForwardedDataTracks

    def __init__(self, source: Participant, room: Room, services: Services) -> None:
        applicant = replace(
            source.applicant,
            kind_details=(*source.applicant.kind_details, FORWARDED),
            permission=_permission(source),
            forwarded=True,
        )
        super().__init__(room, applicant, JoinOptions(client=source.options.client, single=True), None, services)
        self.source = source
        self.publications = ForwardedPublications(self)
        self.data_tracks = ForwardedDataTracks(self)
        self.data_blobs = source.data_blobs
        self._copy_profile()
        for peer in self.shape.peers:
            peer.close("nobody is there")  # who has no client has no transport

    def begin(self) -> None:
        """Appear in the room, with all that is published."""
        self.source.forwards.append(self)
        self.state, self.was_active = State.ACTIVE, True
        self.changed(at_once=True)
        self.room.became_active(self)
        for publication in self.source.publications:
            self.track_published(publication)
        for track in self.source.data_tracks:
            self.data_track_published(track)

    def follow(self, *, at_once: bool) -> None:
        """Something about the original is different now."""
        before = self.permission.hidden
        self._copy_profile()
        self.data_tracks.keep(self.source.data_tracks)
        if self.permission.hidden and not before:
            self.room.hidden(self)
        self.changed(at_once=at_once)
        if before and not self.permission.hidden:
            self.room.shown(self)

    def track_published(self, original: Publication) -> None:
        """The original has one more track, or one in one more codec."""
        publication, first = self.publications.follow(original)
        if first:
            self.changed(at_once=True)
        self.room.track_published(publication, first=first)

    def track_closed(self, original: Publication) -> None:
        """A track of the original's is gone."""
        if publication := self.publications.forget(original):
            self.room.track_closed(publication)
            self.changed(at_once=True)

    def data_track_published(self, original: DataTrack) -> None:
        """The original has one more data track."""
        track = self.data_tracks.follow(original)
        self.changed(at_once=True)
        self.room.data_track_published(track)

    def close(self, reason: Reason, **how: object) -> None:
        """Disappear from the room: synchronous and final. There is no client to be told what to do next."""
        if self in self.source.forwards:
            self.source.forwards.remove(self)
        super().close(reason, tell=False, replaced=bool(how.get("replaced")))

    def peer_state_changed(self, peer: PeerConnection, state: PeerState, reason: str) -> None:
        """There is no transport whose state would mean anything."""

    def _copy_profile(self) -> None:
        source = self.source
        self.name, self.metadata, self.attributes = source.name, source.metadata, dict(source.attributes)
        self.permission = _permission(source)
        self.rules = source.rules


def _permission(source: Participant) -> Permission:
    """What may be said of the original holds, but nothing is received here."""
    return replace(source.permission, can_subscribe=False)
