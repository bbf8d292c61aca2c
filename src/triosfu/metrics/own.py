"""Metrics of our own: what would show a server that is about to wedge, or that throws away what it should not."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from triosfu.metrics.sources import DATA
from triosfu.server.task_tree import Bound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from triosfu.metrics.families import Families, Labels
    from triosfu.metrics.loop import LoopDelay, Tasks
    from triosfu.metrics.sources import Reading
    from triosfu.net.http import HttpServer

# What is counted and is no drop.
ARRIVED: Final = frozenset({"datagrams", "batches", "route_failed", "tcp_accepted"})
NO_PEER_DROPS: Final = frozenset({"bugs", "associations_ended", "replaced", "messages_dropped"})
NO_DATA_DROPS: Final = frozenset({"repeated"})
PEER_REASONS: Final = {"malformed": "malformed_rtp", "unbound": "unbound_rtp", "retired": "retired_ssrc"}
HTTP_EVENTS: Final = (
    "requests",
    "requests_refused",
    "connections_refused",
    "connections_lost",
    "websockets",
    "websockets_deflated",
    "websocket_too_slow",
)
WHIP_EVENTS: Final = ("whip", "whep", "refused", "malformed")
HTTP_BUGS: Final = ("handler_errors", "connection_failed", "websocket_failed")


def drops(families: Families, reading: Reading) -> Iterator[Metric]:
    """What was thrown away, and why."""
    sources = reading.sources
    udp = sources.mux.counters
    yield families.counter(
        "triosfu_udp_datagrams_total", "Datagrams received on all sockets.", [({}, udp["datagrams"])]
    )
    yield families.counter(
        "triosfu_udp_batches_total", "Batches that they came in, each with one system call.", [({}, udp["batches"])]
    )
    yield families.counter(
        "triosfu_ice_tcp_connections_total", "Connections to the port for ICE over TCP.", [({}, udp["tcp_accepted"])]
    )
    peers: Counter[str] = Counter()
    for reason, count in sources.peers.items():
        peers[PEER_REASONS.get(reason, reason)] += count
    for room in sources.rooms:
        for one in room.participants.values():
            for peer in one.shape.peers:
                if not peer.closed:  # what a closed one dropped is among the others'
                    peers.update({f"sctp: {why}": count for why, count in peer.sctp_drops.items()})
    useless: Counter[str] = Counter()
    for counts in reading.totals.values():
        useless.update(late=counts.late, duplicate=counts.duplicates, foreign_codec=counts.foreign)
    rows = [
        *_rows("udp", udp, ARRIVED),
        *_rows("peer", peers, NO_PEER_DROPS),
        *_rows("media", useless, frozenset()),
    ]
    yield families.counter("triosfu_packets_dropped_total", "Packets thrown away, by layer and reason.", rows)
    yield families.counter(
        "triosfu_malformed_signals_total",
        "Frames of clients that were no message of the protocol; each ended its connection.",
        [({}, sources.signalling.counters["malformed_signals"])],
    )


def _rows(layer: str, counted: Mapping[str, int], without: frozenset[str]) -> list[tuple[Labels, float]]:
    """The reasons that have come up, in one order. There are as many as the code has words for."""
    return [
        ({"layer": layer, "reason": reason.replace(": ", "_").replace(" ", "_").replace("-", "_")}, count)
        for reason, count in sorted(counted.items())
        if reason not in without
    ]


def bugs(families: Families, reading: Reading) -> Iterator[Metric]:
    """What was caught and should not have been thrown."""
    sources = reading.sources
    media = sum(counts.bugs for counts in reading.totals.values())
    caught = {
        "udp": sources.mux.counters["route_failed"],
        "peer": sources.peers["bugs"],
        "media": media,
        "rooms": sources.rooms.counters["bugs"] + sources.room_counters()["bugs"],
        "http": sum(sources.http.counters[name] for name in HTTP_BUGS),
        "api": sources.api.counters["bugs"],
        "webhooks": sources.webhook_counters()["bugs"],
        "agents": 0 if sources.agents is None else sources.agents.counters["bugs"],
    }
    yield families.counter(
        "triosfu_bugs_total",
        "Exceptions caught where one may cost a peer, a participant, a room or a request, and nothing else.",
        [({"where": where}, count) for where, count in caught.items()],
    )


def data(families: Families, reading: Reading) -> Iterator[Metric]:
    """Data channels."""
    sources = reading.sources
    rows: list[tuple[Labels, float]] = [
        ({"reason": why.removeprefix(DATA)}, count)
        for why, count in sorted(sources.room_counters().items())
        if why.startswith(DATA) and why.removeprefix(DATA) not in NO_DATA_DROPS
    ]
    yield families.counter(
        "triosfu_data_dropped_total",
        "Data messages that did not reach somebody; `dropped` are those to receivers that read too slowly.",
        rows,
    )
    peers = [peer for room in sources.rooms for one in room.participants.values() for peer in one.shape.peers]
    yield families.gauge(
        "triosfu_parked_writers",
        "Tasks that wait until a data channel has room for what they send.",
        [({}, sum(peer.parked for peer in peers))],
    )
    yield families.gauge(
        "triosfu_peer_connections",
        "Peer connections by state.",
        [({"state": state}, count) for state, count in sorted(Counter(peer.state.value for peer in peers).items())],
    )


def http(families: Families, reading: Reading) -> Iterator[Metric]:
    """The port of signalling and of the API."""
    sources = reading.sources
    yield from connections(families, sources.http)
    whip = Counter[str]() if sources.whip is None else sources.whip.counters
    yield families.counter(
        "triosfu_whip_events_total",
        "Sessions begun by HTTP requests, to publish and to watch, and those that were not.",
        [({"event": name}, whip[name]) for name in WHIP_EVENTS],
    )


def connections(families: Families, server: HttpServer) -> Iterator[Metric]:
    """What is connected to a port."""
    yield families.gauge("triosfu_http_connections", "Connections that are open.", [({}, server.connections)])
    yield families.gauge(
        "triosfu_http_connections_of_one_address",
        "The most that one client address has open.",
        [({}, server.connection_shares.largest)],
    )
    yield families.gauge("triosfu_http_buffered_bytes", "Bytes of requests that are kept.", [({}, server.buffered)])
    yield families.counter(
        "triosfu_http_events_total",
        "Requests and connections by what became of them.",
        [({"event": name}, server.counters[name]) for name in HTTP_EVENTS],
    )


def webhook_queues(families: Families, reading: Reading) -> Iterator[Metric]:
    """What waits to be told. Rooms by name are on the page of queues: here they would grow without end."""
    sources = reading.sources
    depths = [
        depth
        for receiver in (sources.webhooks.receivers if sources.webhooks is not None else ())
        for depth in receiver.outbox.depths().values()
    ]
    yield families.gauge("triosfu_webhook_rooms", "Rooms whose events wait for a receiver.", [({}, len(depths))])
    yield families.gauge("triosfu_webhook_events", "Events that wait for a receiver.", [({}, sum(depths))])
    yield families.gauge(
        "triosfu_webhook_deepest_queue", "Events that wait of the room that has most.", [({}, max(depths, default=0))]
    )


def loop(families: Families, reading: Reading) -> Iterator[Metric]:
    """The event loop and its tasks."""
    return keeping_up(families, reading.sources.delay, reading.tasks)


def keeping_up(families: Families, delay: LoopDelay, tasks: Tasks) -> Iterator[Metric]:
    """How an event loop does."""
    yield families.histogram(
        "triosfu_loop_turn_seconds",
        "How long a turn of the event loop took: what becomes ready meanwhile waits for its end.",
        [({}, delay.turns)],
    )
    yield families.gauge(
        "triosfu_tasks", "Tasks by kind.", [({"kind": kind}, count) for kind, count in sorted(tasks.kinds.items())]
    )
    yield families.gauge(
        "triosfu_waits",
        "Tasks by what bounds their wait; `none` is a bug.",
        [({"bound": bound.value}, tasks.bounds[bound]) for bound in Bound],
    )
    yield families.gauge(
        "triosfu_oldest_wait_seconds",
        "The longest wait there is, by what bounds it.",
        [({"bound": bound.value}, tasks.oldest.get(bound, 0.0)) for bound in Bound],
    )
