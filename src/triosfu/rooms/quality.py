"""Connection quality as clients show it: looked at every five seconds, told when it changed (section 7.5).

A participant is as well connected as the worst of the tracks that it sends and receives; one whose transport has
fallen silent is lost. Looking and telling go by slices: in a large room there are thousands of tracks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from livekit.protocol import models, rtc

from triosfu.media.down_track import Hold
from triosfu.media.quality import BEST, LOST, WINDOW, Observation, TrackQuality, received, sent, worst
from triosfu.peer import PeerState
from triosfu.rooms import track_info
from triosfu.rooms.dynacast import OFF, bare
from triosfu.rooms.slices import Slices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triosfu.media.receiver import TrackReceiver
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.publication import Publication
    from triosfu.rooms.room import Room

RANKS = (  # the worst first; their numbers are in another order
    models.ConnectionQuality.LOST,
    models.ConnectionQuality.POOR,
    models.ConnectionQuality.GOOD,
    models.ConnectionQuality.EXCELLENT,
)
EXCELLENT_ABOVE, GOOD_ABOVE, POOR_ABOVE = 80.0, 40.0, 20.0


def label(score: float) -> models.ConnectionQuality:
    """Return the word for a score between 0 and 100."""
    if score > EXCELLENT_ABOVE:
        return models.ConnectionQuality.EXCELLENT
    if score > GOOD_ABOVE:
        return models.ConnectionQuality.GOOD
    return models.ConnectionQuality.POOR if score > POOR_ABOVE else models.ConnectionQuality.LOST


def mean_opinion(score: float) -> float:
    """Return the mean opinion score, 1 to 4.5, of a score between 0 and 100 (ITU-T G.107, annex B)."""
    if score >= BEST:
        return 4.5
    return 1.0 + 0.035 * score + 7e-6 * score * (score - 60.0) * (100.0 - score)


class Watch:
    """The quality of one track in one direction, looked at once a window: sent tracks are those with reports."""

    def __init__(self, *, mime: str, needs_reports: bool, now: float) -> None:
        self._quality = TrackQuality(mime=mime, now=now, needs_reports=needs_reports)
        self.direction = "down" if needs_reports else "up"
        self._label = models.ConnectionQuality.EXCELLENT
        self.dropped = False  # whether the last window's word is worse than that of the one before
        self._was_quiet = False

    def look(self, seen: Observation, *, quiet: bool, paused: bool = False, now: float) -> float:
        """Return the score after the window that ends; `quiet` is a track on which nothing is meant to flow now."""
        quality = self._quality
        quality.observe(seen)
        quality.set_paused(paused)
        if quiet or self._was_quiet:  # for an unknown part of the window, which therefore tells nothing
            quality.set_muted(True, now - WINDOW)
        quality.handle_timeout(now)
        quality.set_muted(False, now)
        self._was_quiet = quiet
        before, self._label = self._label, label(quality.score)
        self.dropped = RANKS.index(self._label) < RANKS.index(before)
        return quality.score


class Quality:
    """The connection quality of everybody in one room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._scores: dict[str, float] = {}  # participant sid -> score that was told
        self._watches: dict[tuple[str, str], Watch] = {}
        self._slices = Slices(room.deadlines, "quality, further")

    def tick(self) -> None:
        """Look at every transport and track, and tell what changed; unless the last look is not over yet."""
        self._slices.start(self._look_and_tell())

    def _look_and_tell(self) -> Iterator[None]:
        scores: dict[str, float] = {}
        known, self._watches = self._watches, {}  # of tracks that are gone nothing is kept
        for one in list(self._room.participants.values()):
            tracks: list[float] = []
            for score in self._look(one, known):
                tracks.append(score)
                yield
            if one.active:
                scores[one.sid] = LOST if is_silent(one) else worst(tracks)
            yield
        self._room.counters.update(f"quality drop: {one.direction}" for one in self._watches.values() if one.dropped)
        changed = {sid for sid, score in scores.items() if label(score) != self._label_told(sid)}
        self._scores = scores
        for receiver in list(self._room.participants.values()) if changed else ():
            if receiver.active:
                concerned = {receiver.sid, *receiver.subscriptions.publishers}
                self._tell(receiver, sorted(changed & concerned))
                yield

    def scores(self) -> list[float]:
        """Everybody's score, 0 to 100, when it was last looked at."""
        return list(self._scores.values())

    def introduce(self, publisher: Participant, to: Participant) -> None:
        """Tell a new subscriber how well `publisher` is connected."""
        if publisher.sid in self._scores and to.active:
            self._tell(to, [publisher.sid])

    def resumed(self, participant: Participant) -> None:
        """Tell one who may have missed it how well it, and those of whom it receives, are connected."""
        if participant.active:
            concerned = [participant.sid, *participant.subscriptions.publishers]
            self._tell(participant, [sid for sid in concerned if sid in self._scores])

    # --- scores ----------------------------------------------------------------------------------------------------

    def _look(self, one: Participant, known: dict[tuple[str, str], Watch]) -> Iterator[float]:
        """Give the score of each track of a participant, looked at when it is asked for."""
        if not one.active:
            return
        for publication in list(one.publications):
            for receiver in list(publication.receivers.values()):
                watch = self._watch((publication.sid, receiver.mime), known, receiver.mime, reports=False)
                yield watch.look(
                    received(receiver, _expected_layer(publication, receiver)),
                    quiet=_is_off(publication, receiver),
                    now=trio.current_time(),
                )
        for subscription in one.subscriptions:
            down, source = subscription.down, subscription.receiver
            if down is not None and source is not None:
                watch = self._watch((one.sid, subscription.track_sid), known, down.mime, reports=True)
                yield watch.look(
                    sent(down),
                    # What does not come from the publisher is no fault of the subscriber's.
                    quiet=not down.holds <= {Hold.PAUSED} or not source.available,
                    paused=Hold.PAUSED in down.holds,
                    now=trio.current_time(),
                )

    def _watch(self, track: tuple[str, str], known: dict[tuple[str, str], Watch], mime: str, *, reports: bool) -> Watch:
        watch = known.get(track) or Watch(mime=mime, needs_reports=reports, now=trio.current_time())
        self._watches[track] = watch
        return watch

    # --- telling ---------------------------------------------------------------------------------------------------

    def _label_told(self, sid: str) -> models.ConnectionQuality | None:
        score = self._scores.get(sid)
        return None if score is None else label(score)

    def _tell(self, receiver: Participant, sids: list[str]) -> None:
        updates = [
            rtc.ConnectionQualityInfo(
                participant_sid=sid, quality=label(self._scores[sid]), score=mean_opinion(self._scores[sid])
            )
            for sid in sids
        ]
        if updates:
            message = rtc.ConnectionQualityUpdate(updates=updates)
            receiver.send(rtc.SignalResponse(connection_quality=message))


def is_silent(participant: Participant) -> bool:
    """Tell whether nothing is heard on one of a participant's transports."""
    return any(peer.state in {PeerState.DISCONNECTED, PeerState.FAILED} for peer in participant.shape.peers)


def _is_off(publication: Publication, receiver: TrackReceiver) -> bool:
    """Whether the publisher is not to send the track now: it is muted, or nobody wants it."""
    if publication.kind == "video" and publication.dynacast.expected(bare(receiver.mime)) == OFF:
        return True
    return publication.info.muted


def _expected_layer(publication: Publication, receiver: TrackReceiver) -> int:
    """The highest spatial layer that the publisher was told to send."""
    if publication.kind == "audio":
        return 0
    quality = publication.dynacast.expected(bare(receiver.mime))
    return track_info.spatial_for_quality(publication.layers(receiver.mime), quality)
