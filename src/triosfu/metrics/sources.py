"""Where the numbers are: the parts of a server that count, and one reading of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from triosfu.histogram import Histogram
from triosfu.webhooks.core import LENGTHS

if TYPE_CHECKING:
    from triosfu.agents.workers import Agents
    from triosfu.api.twirp import Twirp
    from triosfu.media.counts import MediaCounts
    from triosfu.metrics.history import History
    from triosfu.metrics.loop import LoopDelay, Tasks
    from triosfu.net.http import HttpServer
    from triosfu.net.udp import UdpMux
    from triosfu.rooms.directory import Rooms
    from triosfu.rooms.tally import Flow
    from triosfu.signalling.routes import Signalling
    from triosfu.webhooks.delivery import Webhooks
    from triosfu.whip.endpoint import Whip

DATA: Final = "data: "  # before the reason of what a participant's data port dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The parts of a server that count."""

    mux: UdpMux
    http: HttpServer
    signalling: Signalling
    api: Twirp
    rooms: Rooms
    peers: Counter[str]  # of all peer connections
    history: History
    delay: LoopDelay
    webhooks: Webhooks | None = None
    whip: Whip | None = None
    agents: Agents | None = None

    def room_counters(self) -> Counter[str]:
        """What rooms have counted, those that are over, too."""
        counted = Counter(self.rooms.ended)
        for room in self.rooms:
            counted.update(room.counters)
            for one in room.participants.values():
                counted.update({f"{DATA}{why}": count for why, count in one.data.counters.items()})
        return counted

    def webhook_counters(self) -> Counter[str]:
        """What has become of events, all receivers together."""
        counted: Counter[str] = Counter()
        for receiver in self.webhooks.receivers if self.webhooks is not None else ():
            counted.update(receiver.outbox.counters)
        return counted

    def webhook_lengths(self) -> Histogram:
        """How long rooms' queues were when an event came, all receivers together."""
        lengths = Histogram(LENGTHS)
        for receiver in self.webhooks.receivers if self.webhooks is not None else ():
            lengths.add(receiver.outbox.lengths)
        return lengths


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read once for a whole page."""

    sources: Sources
    totals: dict[Flow, MediaCounts]
    tasks: Tasks
