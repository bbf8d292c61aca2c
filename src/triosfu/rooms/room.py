"""One room: who is in it, what they share, and when it ends."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import structlog
import trio
from livekit.protocol import models, rtc

from triosfu.errors import UsageError
from triosfu.rooms.data import DataRouter
from triosfu.rooms.deadlines import Deadlines
from triosfu.rooms.joining import JoinRefused
from triosfu.rooms.participant import Participant
from triosfu.rooms.publication import timed_version
from triosfu.rooms.quality import Quality
from triosfu.rooms.sids import ROOM, new_sid, random_text
from triosfu.rooms.simulation import TcpWishes
from triosfu.rooms.speakers import Speakers
from triosfu.rooms.updates import Announcer
from triosfu.rooms.welcome import publish_codecs

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.rooms.data_tracks import DataTrack
    from triosfu.rooms.joining import Applicant, JoinOptions, Services
    from triosfu.rooms.listener import RoomListener
    from triosfu.rooms.publication import Publication
    from triosfu.rooms.settings import RoomDefaults
    from triosfu.rooms.signals import SignalLink

log = structlog.get_logger(__name__)

Reason = models.DisconnectReason
EMPTY, UPDATE, SPEAKERS, QUALITY, CODECS = "empty", "room update", "speakers", "quality", "codecs"
SIF_TRAILER_LENGTH = 44


class Room:
    """A room and its members. `run` owns every task of theirs."""

    def __init__(self, name: str, settings: RoomDefaults, services: Services) -> None:
        self.name = name
        self.sid = new_sid(ROOM, services.rng)
        self.own = settings
        self.metadata = settings.metadata
        self.settings = services.settings
        self.created_ns = time.time_ns()
        self.participants: dict[str, Participant] = {}  # by identity
        self.counters: Counter[str] = Counter()
        self.deadlines = Deadlines()
        # Marks frames that the server makes on encrypted tracks; the same for everybody (section 11).
        self.sif_trailer = random_text(SIF_TRAILER_LENGTH, services.rng).encode()
        self.announcer = Announcer(self)
        self.data = DataRouter(self)
        self.speakers = Speakers(self)
        self.quality = Quality(self)
        self.tcp_wishes = TcpWishes()
        self.closed = False
        self._services = services
        self._begun = False  # listeners know of it
        self._nursery: trio.Nursery | None = None
        self._version = models.TimedVersion()
        self._told = (0, 0, False)

    def __repr__(self) -> str:
        return f"<Room {self.name!r} {self.sid} of {len(self.participants)}>"

    # --- life ------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the room open until it is closed, by its timeouts or by `close`; all its members have ended then.

        Cancelled, it has closed the room.
        """
        now, times = trio.current_time(), self.settings.times
        self.deadlines.arm(EMPTY, now + self.own.empty_timeout, self._empty_timeout)
        self._every(SPEAKERS, times.speakers, self.speakers.tick)
        self._every(QUALITY, times.quality, self.quality.tick)
        self._every(CODECS, times.codecs, self._follow_codecs)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self.closed:
                    nursery.cancel_scope.cancel()
                task_status.started()
                try:
                    await self._keep_time()
                finally:
                    self._nursery = None  # before the last member has ended: from then on it takes nobody
        finally:
            self.close(Reason.ROOM_CLOSED)

    def begin(self) -> None:
        """The room is there to be found."""
        self._begun = True
        self.tell(lambda listener: listener.room_started(self))

    def tell(self, what: Callable[[RoomListener], None]) -> None:
        """Tell everybody who listens; whatever goes wrong with one of them is nothing to the room."""
        for listener in self._services.listeners if self._begun else ():
            try:
                what(listener)
            except Exception:
                log.exception("bug", room=self.name, doing="listener")
                self.counters["bugs"] += 1

    def close(self, reason: Reason) -> None:
        """End the room and everybody's session in it; synchronous, and closing again does nothing."""
        if self.closed:
            return
        self.closed = True
        for participant in list(self.participants.values()):
            with participant.guard("room close"):
                participant.close(reason)
        self.tell(lambda listener: listener.room_finished(self))
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _keep_time(self) -> None:
        while True:
            try:
                await self.deadlines.run()
            except Exception:  # an update that went wrong is not worth a room; the next one may do better
                log.exception("bug", room=self.name, doing="deadlines")
                self.counters["bugs"] += 1

    def _every(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        def tick() -> None:
            # From now, not from the deadline that passed: a loop that was late does not have to catch up.
            self.deadlines.arm(name, trio.current_time() + seconds, tick)
            action()

        self.deadlines.arm(name, trio.current_time() + seconds, tick)

    # --- members ---------------------------------------------------------------------------------------------------

    def check_place(self, applicant: Applicant) -> None:
        """Raise JoinRefused when the room is closed or full for `applicant` (section 1.2)."""
        if self.closed or self._nursery is None:
            raise JoinRefused(500, "connection closed by media")
        others = [one for one in self._counted() if one.identity != applicant.identity]
        limit = self.own.max_participants
        if limit and not applicant.dependent and len(others) >= limit:
            raise JoinRefused(500, "connection closed by media")

    def join(self, applicant: Applicant, options: JoinOptions, link: SignalLink) -> Participant:
        """Admit `applicant`, whose client is told by `link`; an older session of the same identity leaves first.

        Raises:
            JoinRefused: The room is closed or full.
        """
        self.check_place(applicant)
        older = self.participants.get(applicant.identity)
        if older is not None:
            with older.guard("replaced"):
                older.close(Reason.DUPLICATE_IDENTITY, replaced=True)
        participant = Participant(self, applicant, options, link, self._services)
        self.seat(participant)
        with participant.guard("join"):
            participant.begin()
        if older is not None:
            # The others were told nothing of the older session's end: they learn of it by the new sid (trap 26).
            participant.changed(at_once=True)
        self.counts_changed()
        log.info("joined", room=self.name, participant=participant.sid, single=options.single)
        return participant

    def seat(self, participant: Participant) -> None:
        """Put `participant` on the list, and run it from now on."""
        if self._nursery is None:
            raise UsageError("room: not running")
        self.participants[participant.identity] = participant
        if not participant.applicant.dependent:
            self.deadlines.disarm(EMPTY)
        self._nursery.start_soon(participant.run, participant.turn, name=f"participant {participant.identity}")

    def forget(self, participant: Participant) -> None:
        """Take a leaving participant off the list, before anything of it is torn down."""
        if self.participants.get(participant.identity) is participant:
            del self.participants[participant.identity]

    def left(self, participant: Participant, *, replaced: bool) -> None:
        """A participant is gone."""
        reason = Reason.Name(participant.disconnect_reason)
        log.info("left", room=self.name, participant=participant.sid, reason=reason)
        self.counters.update({f"data: {why}": count for why, count in participant.data.counters.items()})
        self.speakers.left(participant)
        self.data.calls.left(participant)
        self.announcer.left(participant, replaced=replaced)
        self.tell(lambda listener: listener.participant_left(participant))
        self.counts_changed()
        if not self.closed and not replaced and not self._counted() and EMPTY not in self.deadlines:
            at = trio.current_time() + self.own.departure_timeout
            self.deadlines.arm(EMPTY, at, self._empty_timeout)

    def became_active(self, participant: Participant) -> None:
        """A participant's transport came up."""
        if participant.permission.recorder:
            self.update()
        self.tell(lambda listener: listener.participant_active(participant))

    def hidden(self, participant: Participant) -> None:
        """Somebody is to be seen by nobody from now on: to the others it is as if it had left."""
        participant.publications.hide()
        participant.data_tracks.hide()
        self.announcer.hidden(participant)

    def shown(self, participant: Participant) -> None:
        """Somebody was hidden, and is announced now."""
        for publication in participant.publications:
            self.track_published(publication, first=False)
        for track in participant.data_tracks:
            self.data_track_published(track)

    def others(self, participant: Participant) -> list[Participant]:
        """Return everybody but `participant`."""
        return [one for one in self.participants.values() if one is not participant]

    def by_sid(self, sid: str) -> Participant | None:
        """Return the member with this sid."""
        return next((one for one in self.participants.values() if one.sid == sid), None)

    def _counted(self) -> list[Participant]:
        return [one for one in self.participants.values() if not one.applicant.dependent]

    def _empty_timeout(self) -> None:
        if not self._counted():
            self.close(Reason.ROOM_CLOSED)

    # --- tracks ----------------------------------------------------------------------------------------------------

    def publications(self) -> list[Publication]:
        """Return every published track."""
        return [publication for one in self.participants.values() for publication in one.publications]

    def find_track(self, sid: str) -> Publication | None:
        """Return the published track `sid`."""
        for participant in self.participants.values():
            if publication := participant.publications.published.get(sid):
                return publication
        return None

    def track_published(self, publication: Publication, *, first: bool) -> None:
        """Tell everybody else that a track is there to be subscribed to, for the `first` time or in one more codec."""
        for other in self.others(publication.publisher):
            with other.guard("track published"):
                other.subscriptions.track_published(publication)
        if first:
            self.tell(lambda listener: listener.track_published(publication))
        for forward in list(publication.publisher.forwards):
            with forward.guard("forward"):
                forward.track_published(publication)

    def track_closed(self, publication: Publication) -> None:
        """Tell everybody else that a track is gone."""
        for other in self.others(publication.publisher):
            with other.guard("track closed"):
                other.subscriptions.track_closed(publication)
        self.tell(lambda listener: listener.track_unpublished(publication))
        for forward in list(publication.publisher.forwards):
            with forward.guard("forward"):
                forward.track_closed(publication)

    def data_track_published(self, track: DataTrack) -> None:
        """Tell everybody else that a data track is there to be subscribed to."""
        for other in self.others(track.publisher):
            with other.guard("data track"):
                other.data_tracks.appeared(track)
        for forward in list(track.publisher.forwards):
            with forward.guard("forward"):
                forward.data_track_published(track)

    def _follow_codecs(self) -> None:
        for participant in [one for one in self.participants.values() if one.publications]:
            with participant.guard("codec change"):
                participant.publications.follow_codecs()

    def timed_version(self) -> models.TimedVersion:
        """Return a version that is later than every one before it."""
        self._version = timed_version(self._version)
        return self._version

    # --- description -----------------------------------------------------------------------------------------------

    def info(self) -> models.Room:
        """Return the description of the room that clients know."""
        participants, publishers, recording = self._counts()
        return models.Room(
            sid=self.sid,
            name=self.name,
            empty_timeout=int(self.own.empty_timeout),
            departure_timeout=int(self.own.departure_timeout),
            max_participants=self.own.max_participants,
            creation_time=self.created_ns // 1_000_000_000,
            creation_time_ms=self.created_ns // 1_000_000,
            enabled_codecs=publish_codecs(self.settings.enabled_codecs),
            metadata=self.metadata,
            num_participants=participants,
            num_publishers=publishers,
            active_recording=recording,
        )

    def set_metadata(self, metadata: str) -> None:
        """Change the room's metadata and tell everybody."""
        self.metadata = metadata
        self.update()

    def counts_changed(self) -> None:
        """Tell everybody within five seconds, if there is anything to tell."""
        if UPDATE not in self.deadlines and self._counts() != self._told:
            self.deadlines.arm(UPDATE, trio.current_time() + self.settings.times.room_update, self.update)

    def update(self) -> None:
        """Tell everybody how the room is now."""
        self.deadlines.disarm(UPDATE)
        self._told = self._counts()
        message = rtc.SignalResponse(room_update=rtc.RoomUpdate(room=self.info()))
        for participant in list(self.participants.values()):
            participant.send(message)

    def _counts(self) -> tuple[int, int, bool]:
        counted = [one for one in self._counted() if not one.permission.hidden]
        recording = any(one.permission.recorder for one in self.participants.values())
        return len(counted), sum(one.is_publisher for one in counted), recording
