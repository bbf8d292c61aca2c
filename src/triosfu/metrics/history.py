"""What no counter of the code keeps, because nobody else asks: durations, and how tracks were in each window.

A `History` is told of rooms as a listener, and looks at every track each five seconds, as often as quality does. It
costs a packet nothing.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

import structlog
import trio

from triosfu.histogram import Histogram, exponential
from triosfu.media.send_reports import DEFAULT_RTT
from triosfu.metrics.forwarding import ForwardDelay
from triosfu.rooms.quality import label, mean_opinion
from triosfu.rooms.tally import Flow, incoming, outgoing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from triosfu.rooms.participant import Participant
    from triosfu.rooms.publication import Publication
    from triosfu.rooms.room import Room

log = structlog.get_logger(__name__)

EVERY: Final = 5.0  # seconds
# The bounds are LiveKit's, so that its dashboards fit.
ROOM_SECONDS: Final = (5, 10, 60, 300, 600, 1800, 3600, 7200, 18_000, 36_000)
START_MS: Final = exponential(100, 10_000, 15)
SESSION_MS: Final = exponential(100, 14_400_000, 15)
LOSS_PERCENT: Final = (0, 0.1, 0.3, 0.5, 0.7, 1, 5, 10, 40, 100)
JITTER_US: Final = (1000, 10_000, 30_000, 50_000, 70_000, 100_000, 300_000, 600_000, 1_000_000)
RTT_MS: Final = (50, 100, 150, 200, 250, 500, 750, 1000, 5000, 10_000)
RATING: Final = (0, 1, 2)
SCORE: Final = (1.0, 2.0, 2.5, 3.0, 3.25, 3.5, 3.75, 4.0, 4.25, 4.5)
NEWEST_PROTOCOL: Final = 20


class History:
    """Counts and histograms since the server began; a `RoomListener`."""

    def __init__(self) -> None:
        self.room_seconds = Histogram(ROOM_SECONDS)
        self.start_ms: dict[str, Histogram] = {}  # by signalling protocol
        self.session_ms: dict[str, Histogram] = {}
        self.published: Counter[str] = Counter()  # tracks by kind
        self.forwarding = ForwardDelay()
        self.active = 0  # participants whose transport has come up
        self.loss_percent: defaultdict[Flow, Histogram] = defaultdict(lambda: Histogram(LOSS_PERCENT))
        self.out_of_order_percent: defaultdict[Flow, Histogram] = defaultdict(lambda: Histogram(LOSS_PERCENT))
        self.out_of_order: Counter[Flow] = Counter()  # packets, in windows that are over
        self.jitter_us: defaultdict[Flow, Histogram] = defaultdict(lambda: Histogram(JITTER_US))
        self.rtt_ms: defaultdict[Flow, Histogram] = defaultdict(lambda: Histogram(RTT_MS))
        self.lost: Counter[Flow] = Counter()  # packets, in windows that are over
        self.rating = Histogram(RATING)
        self.score = Histogram(SCORE)
        # Packets that came, were lost, and came behind newer ones, of each stream that is still there.
        self._seen: dict[object, tuple[int, int, int]] = {}

    # --- what rooms tell -------------------------------------------------------------------------------------------

    def room_started(self, room: Room) -> None:
        """Nothing is known of it yet."""

    def room_finished(self, room: Room) -> None:
        """Count how long it was there."""
        self.room_seconds.observe(_since(room.created_ns))

    def participant_active(self, participant: Participant) -> None:
        """Count how long it took."""
        self.active += 1
        by_protocol = self.start_ms.setdefault(_protocol(participant), Histogram(START_MS))
        by_protocol.observe(1000 * _since(participant.joined_ns))

    def participant_left(self, participant: Participant) -> None:
        """Count how long it was there."""
        by_protocol = self.session_ms.setdefault(_protocol(participant), Histogram(SESSION_MS))
        by_protocol.observe(1000 * _since(participant.joined_ns))

    def track_published(self, publication: Publication) -> None:
        """Count it."""
        self.published[publication.kind] += 1

    def track_unpublished(self, publication: Publication) -> None:
        """Its numbers are in the rooms' tally."""

    # --- what tracks are like --------------------------------------------------------------------------------------

    async def run(self, rooms: Iterable[Room]) -> None:
        """Look at every track each five seconds, until cancelled."""
        while True:
            await trio.sleep(EVERY)
            try:
                self.look(rooms)
            except Exception:  # a figure that is missing is not worth a server
                log.exception("bug", doing="metrics")

    def look(self, rooms: Iterable[Room]) -> None:
        """Take the window that ends now."""
        self.forwarding.end_window()
        seen, self._seen = self._seen, {}
        for room in rooms:
            for participant in room.participants.values():
                for publication in participant.publications:
                    self._look_at_received(publication, seen)
                self._look_at_sent(participant, seen)
            for score in room.quality.scores():
                self.rating.observe(label(score))
                self.score.observe(mean_opinion(score))

    def _look_at_received(self, publication: Publication, seen: dict[object, tuple[int, int, int]]) -> None:
        flow = incoming(publication)
        for receiver in publication.receivers.values():
            for stream in receiver.streams.values():
                reception = stream.reception
                if self._window(stream, flow, reception.received, reception.lost, seen, reordered=stream.reordered):
                    self.jitter_us[flow].observe(1e6 * reception.jitter / receiver.clock_rate)
                    if (feedback := receiver.feedback) is not None and feedback.rtt != DEFAULT_RTT:
                        self.rtt_ms[flow].observe(1000 * feedback.rtt)

    def _look_at_sent(self, participant: Participant, seen: dict[object, tuple[int, int, int]]) -> None:
        for subscription in participant.subscriptions:
            down, publication = subscription.down, subscription.publication
            if down is None or publication is None or down.stats.reported_at is None:
                continue
            flow, stats = outgoing(publication), down.stats
            lost = max(0, stats.lost - stats.left_out)  # what never came to us is no loss on this way
            if self._window(down, flow, stats.packets - lost, lost, seen):
                self.jitter_us[flow].observe(1e6 * stats.jitter)
                if stats.rtt != DEFAULT_RTT:
                    self.rtt_ms[flow].observe(1000 * stats.rtt)

    def _window(
        self,
        stream: object,
        flow: Flow,
        received: int,
        lost: int,
        seen: dict[object, tuple[int, int, int]],
        *,
        reordered: int | None = None,
    ) -> bool:
        """Count what was lost or late of a stream since it was last looked at; whether anything flowed."""
        self._seen[stream] = received, lost, reordered or 0
        before = seen.get(stream)
        if before is None:
            return False
        # A stream may have begun anew, and late packets mend what was lost: neither undoes what was counted.
        came, went = max(0, received - before[0]), max(0, lost - before[1])
        if not came + went:
            return False
        self.lost[flow] += went
        self.loss_percent[flow].observe(100 * went / (came + went))
        if reordered is not None:  # which is known of what comes to us
            late = max(0, reordered - before[2])
            self.out_of_order[flow] += late
            self.out_of_order_percent[flow].observe(min(100, 100 * late / (came + went)))
        return True


def _since(wall_clock_ns: int) -> float:
    return max(0.0, (time.time_ns() - wall_clock_ns) / 1e9)


def _protocol(participant: Participant) -> str:
    """A client's signalling protocol as a label. Clients may say any number, so few of them are told apart."""
    said = participant.options.client.protocol
    return str(said) if 0 <= said <= NEWEST_PROTOCOL else "other"
