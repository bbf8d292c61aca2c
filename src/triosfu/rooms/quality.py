"""Connection quality as clients show it: looked at every five seconds, told when it changed (section 7.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from livekit.protocol import models, rtc

from triosfu.peer import PeerState

if TYPE_CHECKING:
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.room import Room

BEST, LOST = 100.0, 20.0  # scores
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


class Quality:
    """The connection quality of everybody in one room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._scores: dict[str, float] = {}  # participant sid -> score that was told

    def tick(self) -> None:
        """Look at every transport and tell what changed."""
        scores = {one.sid: score_of(one) for one in self._room.participants.values() if one.active}
        changed = {sid for sid, score in scores.items() if label(score) != self._label_told(sid)}
        self._scores = scores
        if not changed:
            return
        for receiver in list(self._room.participants.values()):
            if receiver.active:
                concerned = {receiver.sid, *receiver.subscriptions.publishers}
                self._tell(receiver, sorted(changed & concerned))

    def introduce(self, publisher: Participant, to: Participant) -> None:
        """Tell a new subscriber how well `publisher` is connected."""
        if publisher.sid in self._scores and to.active:
            self._tell(to, [publisher.sid])

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


def score_of(participant: Participant) -> float:
    """Return how well a participant is connected, by its transports: a silent one counts as lost."""
    silent = any(peer.state in {PeerState.DISCONNECTED, PeerState.FAILED} for peer in participant.shape.peers)
    return LOST if silent else BEST
