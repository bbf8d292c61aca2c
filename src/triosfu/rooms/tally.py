"""How much media a server has received and sent since it began: every track counts, also when it is long gone."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import trio
from livekit.protocol import models

from triosfu.media import counts
from triosfu.media.counts import MediaCounts
from triosfu.rooms.stream_sizes import StreamSizes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from triosfu.media.receiver import TrackReceiver
    from triosfu.rooms.publication import Publication
    from triosfu.rooms.room import Room
    from triosfu.rooms.subscription import Subscription

EVERY: Final = 2.0  # seconds between two looks at how much has passed
WINDOW: Final = 10.0  # seconds that a rate is taken over
_SOURCES: Final = {number: name for name, number in models.TrackSource.items()}


class Flow(NamedTuple):
    """Which tracks a count is of. There are two dozen at most, whatever clients say."""

    direction: Literal["incoming", "outgoing"]
    source: str
    kind: str


def source_name(publication: Publication) -> str:
    """What a track shows; a source that this protocol does not know is UNKNOWN."""
    return _SOURCES.get(publication.info.source, "UNKNOWN")


def incoming(publication: Publication) -> Flow:
    """Where what comes of a track is counted."""
    return Flow("incoming", source_name(publication), publication.kind)


def outgoing(publication: Publication) -> Flow:
    """Where what goes to a track's subscribers is counted."""
    return Flow("outgoing", source_name(publication), publication.kind)


class Tally:
    """The counts of all tracks, and of all data streams, of one server."""

    def __init__(self) -> None:
        self.streams = StreamSizes()
        self._ended: dict[Flow, MediaCounts] = {}

    def receiver_ended(self, publication: Publication, receiver: TrackReceiver) -> None:
        """A track is not received any more, in one of its codecs."""
        self._ended.setdefault(incoming(publication), MediaCounts()).add(counts.received(receiver))

    def subscription_ended(self, subscription: Subscription) -> None:
        """A track is not sent to one subscriber any more; call it before its `down` is forgotten."""
        if subscription.down is not None and subscription.publication is not None:
            flow = outgoing(subscription.publication)
            self._ended.setdefault(flow, MediaCounts()).add(counts.sent(subscription.down.stats))

    def totals(self, rooms: Iterable[Room]) -> dict[Flow, MediaCounts]:
        """What has passed until now: what has ended, and what there is in `rooms`. Takes a step for each track."""
        totals: dict[Flow, MediaCounts] = {}
        for flow, ended in self._ended.items():
            totals.setdefault(flow, MediaCounts()).add(ended)
        for room in rooms:
            for participant in room.participants.values():
                for publication in participant.publications:
                    into = totals.setdefault(incoming(publication), MediaCounts())
                    for receiver in publication.receivers.values():
                        into.add(counts.received(receiver))
                for subscription in participant.subscriptions:
                    if subscription.down is not None and subscription.publication is not None:
                        flow = outgoing(subscription.publication)
                        totals.setdefault(flow, MediaCounts()).add(counts.sent(subscription.down.stats))
        return totals


class Throughput:
    """Bytes of media per second, both ways together, over the last ten seconds; 0 until `run` has measured."""

    def __init__(self) -> None:
        self.rate = 0.0

    async def run(self, tally: Tally, rooms: Iterable[Room]) -> None:
        """Measure every two seconds, until cancelled; the rate stays as it was measured last."""
        seen: deque[tuple[float, int]] = deque(maxlen=int(WINDOW / EVERY) + 1)
        while True:
            now = trio.current_time()
            total = sum(one.bytes for one in tally.totals(rooms).values())
            seen.append((now, total))
            began, before = seen[0]
            self.rate = (total - before) / (now - began) if now > began else 0.0
            await trio.sleep(EVERY)
