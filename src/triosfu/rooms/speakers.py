"""Who is speaking: one look at all levels every 400 ms, and only the differences told (section 7.4)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio
from livekit.protocol import models, rtc

from triosfu.rooms.slices import Slices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triosfu.rooms.participant import Participant
    from triosfu.rooms.room import Room

STEPS = 8  # levels are told in eighths, rounded up


def quantised(level: float) -> float:
    """Return `level`, between 0 and 1, rounded up to an eighth: small movements are not worth a message."""
    return min(1.0, math.ceil(max(0.0, level) * STEPS) / STEPS)


class Speakers:
    """The speakers of one room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._levels: dict[str, float] = {}  # participant sid -> level that was told
        self._forced: dict[str, tuple[float, float]] = {}  # sid -> level, until: a simulated speaker
        self._slices = Slices(room.deadlines, "speakers, further")

    def tick(self) -> None:
        """Look at everybody's level and tell what changed; unless not everybody has been told the last change."""
        if self._slices.busy:
            return
        now = trio.current_time()
        levels: dict[str, float] = {}
        for one in list(self._room.participants.values()):
            if not one.publications and one.sid not in self._forced:
                continue  # most in a large room only listen
            with one.guard("speakers"):
                if (level := self._level(one, now)) > 0:
                    levels[one.sid] = level
        changed = [sid for sid, level in levels.items() if self._levels.get(sid) != level]
        stopped = [sid for sid in self._levels if sid not in levels]
        self._levels = levels
        if not changed and not stopped:
            return
        infos = [models.SpeakerInfo(sid=sid, level=levels[sid], active=True) for sid in changed]
        infos.sort(key=lambda info: -info.level)
        infos += [models.SpeakerInfo(sid=sid, level=0.0, active=False) for sid in stopped]
        self._slices.start(self._tell_all(infos))

    def _tell_all(self, infos: list[models.SpeakerInfo]) -> Iterator[None]:
        for receiver in list(self._room.participants.values()):
            self._tell(receiver, [info for info in infos if _concerns(info.sid, receiver)])
            yield

    def _level(self, participant: Participant, now: float) -> float:
        forced = self._forced.get(participant.sid)
        if forced is not None:
            if forced[1] > now:
                return forced[0]
            del self._forced[participant.sid]
        levels = (
            receiver.audio_level(now)
            for publication in participant.publications
            if publication.info.source == models.TrackSource.MICROPHONE and not publication.info.muted
            for receiver in publication.receivers.values()
        )
        return quantised(max(levels, default=0.0))

    def simulate(self, participant: Participant, seconds: float) -> None:
        """Let `participant` appear to speak for a while."""
        self._forced[participant.sid] = 0.9, trio.current_time() + min(seconds, 60.0)

    def introduce(self, publisher: Participant, to: Participant) -> None:
        """Tell a new subscriber that `publisher` is speaking, if so."""
        if level := self._levels.get(publisher.sid):
            self._tell(to, [models.SpeakerInfo(sid=publisher.sid, level=level, active=True)])

    def forget(self, publisher: Participant, by: Participant) -> None:
        """Tell one who no longer receives anything of `publisher` that it is silent."""
        if publisher.sid in self._levels:
            self._tell(by, [models.SpeakerInfo(sid=publisher.sid, level=0.0, active=False)])

    def resumed(self, participant: Participant) -> None:
        """Tell one who may have missed it who speaks, and who does not, of those that it is told of."""
        sids = [participant.sid, *participant.subscriptions.publishers]
        levels = [(sid, self._levels.get(sid, 0.0)) for sid in sids]
        self._tell(participant, [models.SpeakerInfo(sid=sid, level=level, active=level > 0) for sid, level in levels])

    def left(self, participant: Participant) -> None:
        """Forget a participant; the update that it left says enough."""
        self._levels.pop(participant.sid, None)
        self._forced.pop(participant.sid, None)

    def _tell(self, receiver: Participant, infos: list[models.SpeakerInfo]) -> None:
        if infos:
            receiver.send(rtc.SignalResponse(speakers_changed=rtc.SpeakersChanged(speakers=infos)))


def _concerns(sid: str, receiver: Participant) -> bool:
    return sid == receiver.sid or receiver.subscriptions.receives_from(sid)
