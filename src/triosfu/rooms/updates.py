"""Tells participants about each other: versions, batches, chunks, and announce-before-media.

Protocol reference, sections 5.3 and 7.1; section 17, row 7: everyone is told within 100 ms, publishers at once.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio
from livekit.protocol import models, rtc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from triosfu.rooms.participant import Participant
    from triosfu.rooms.room import Room

CHUNK = 128 * 1024  # bytes of one update message
MAX_RECENTLY_LEFT = 1000
FLUSH = "announce"
HASTE = 20  # updates of one participant that are told at once; after those, as many as fit the usual pace


class Announcer:
    """The participant updates of one room.

    Infos are built when they are sent, so that nothing older than what a receiver knows can be sent after it.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._changed: dict[str, Participant] = {}  # by identity: a newer session replaces an older one
        self._paced: dict[str, float] = {}  # by sid: by when the usual pace would have told it all
        self._left: deque[tuple[float, models.ParticipantInfo]] = deque(maxlen=MAX_RECENTLY_LEFT)

    def changed(self, participant: Participant, *, at_once: bool) -> None:
        """Tell the room that `participant` changed: now, or together with others within 100 ms."""
        if at_once and self._may_hurry(participant.sid):
            self._changed.pop(participant.identity, None)
            self._send([participant])
            return
        self._changed[participant.identity] = participant
        if FLUSH not in self._room.deadlines:
            self._room.deadlines.arm(FLUSH, trio.current_time() + self._room.settings.times.announce, self.flush)

    def _may_hurry(self, sid: str) -> bool:
        """Whether one more update may go out at once: each costs everybody, and the client that causes it little."""
        now, pace = trio.current_time(), self._room.settings.times.announce
        at = max(now, self._paced.get(sid, now)) + pace
        if at > now + HASTE * pace:
            return False
        self._paced[sid] = at
        return True

    def flush(self) -> None:
        """Tell what has been collected."""
        self._room.deadlines.disarm(FLUSH)
        changed, self._changed = list(self._changed.values()), {}
        self._send(changed)

    def left(self, participant: Participant, *, replaced: bool) -> None:
        """Tell that a session is over, unless the same identity comes back at once.

        Who knows sids, and every client of today does, takes the new sid for the end of the old one; a DISCONNECTED
        that arrives late would remove the new session (trap 26).
        """
        if self._changed.get(participant.identity) is participant:
            del self._changed[participant.identity]
        self._paced.pop(participant.sid, None)
        info, brief, now = participant.info(), models.ParticipantInfo(), trio.current_time()
        brief.CopyFrom(info)
        # Whoever resumes needs to know that, not what, it was; that might be a megabyte.
        for large in ("metadata", "attributes", "tracks", "data_tracks"):
            brief.ClearField(large)
        message, later = (rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=[one])) for one in (info, brief))
        for other in self._room.others(participant):
            known = other.known_versions.pop(participant.sid, None)
            if known is not None and not replaced:
                other.send(message)
                other.retelling.note_departure(later, now)
        if not participant.permission.hidden and not replaced:
            while self._left and self._left[0][0] < now - self._room.settings.times.ping_timeout:
                self._left.popleft()
            self._left.append((now, brief))

    def hidden(self, participant: Participant) -> None:
        """Tell those who know a participant that they know it no more; it stays, and nobody is to see that."""
        participant.version += 1
        info = participant.info()
        info.state = models.ParticipantInfo.State.DISCONNECTED
        for other in self._room.others(participant):
            if other.known_versions.pop(participant.sid, None) is not None:
                other.send(rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=[info])))

    def introduce(self, publisher: Participant, to: Participant) -> None:
        """Make sure that `to` knows the present state of `publisher`; call it before media of theirs is signalled."""
        if publisher is not to and to.known_versions.get(publisher.sid, -1) < publisher.version:
            to.known_versions[publisher.sid] = publisher.version
            to.send(rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=[publisher.info()])))

    def others_for_join(self, newcomer: Participant) -> list[models.ParticipantInfo]:
        """Return whom a join response lists: everyone else who is not hidden, in any state."""
        infos: list[models.ParticipantInfo] = []
        for other in self._room.others(newcomer):
            if not other.permission.hidden:
                newcomer.known_versions[other.sid] = other.version
                infos.append(other.info())
        return infos

    def resumed(self, participant: Participant, missed: Iterable[models.ParticipantInfo], since: float) -> None:
        """Bring a participant up to date; it `missed` some departures, and may have missed more `since` a time."""
        present = {other.identity for other in self._room.participants.values()}
        departed = {info.sid: info for info in [*(info for at, info in self._left if at >= since), *missed]}
        gone = [info for info in departed.values() if info.identity not in present]
        for infos in chunks(gone):
            participant.send(rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=infos)))
        everyone = [*self.others_for_join(participant), participant.info()]
        for infos in chunks(everyone):
            participant.send(rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=infos)))

    def _send(self, subjects: list[Participant]) -> None:
        public = [subject for subject in subjects if not subject.permission.hidden]
        infos = [(subject, subject.info()) for subject in subjects]
        messages = [
            rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=some))
            for some in chunks(info for subject, info in infos if not subject.permission.hidden)
        ]
        for receiver in list(self._room.participants.values()):
            for subject in public:
                if subject is not receiver:
                    receiver.known_versions[subject.sid] = subject.version
            for message in messages:
                receiver.send(message)
        for subject, info in infos:
            if subject.permission.hidden:  # announced to nobody but itself
                subject.send(rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=[info])))


def chunks(infos: Iterable[models.ParticipantInfo], limit: int = CHUNK) -> Iterator[list[models.ParticipantInfo]]:
    """Split infos into groups of at most `limit` serialized bytes; one that is larger goes alone."""
    group: list[models.ParticipantInfo] = []
    size = 0
    for info in infos:
        length = info.ByteSize()
        if group and size + length > limit:
            yield group
            group, size = [], 0
        group.append(info)
        size += length
    if group:
        yield group
