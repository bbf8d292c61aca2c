"""Metrics under LiveKit's names, with its labels, for all of it that exists here."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from triosfu.metrics.families import Families, Labels
    from triosfu.metrics.sources import Reading

KINDS: Final = ("audio", "video")
SUBSCRIBE_ERRORS: Final = ("track not found", "codec not supported")


def rooms(families: Families, reading: Reading) -> Iterator[Metric]:
    """Rooms, participants, tracks."""
    rooms, history, signals = reading.sources.rooms, reading.sources.history, reading.sources.signalling.counters
    people = [one for room in rooms for one in room.participants.values()]
    published = Counter(publication.kind for one in people for publication in one.publications)
    sent = Counter(
        subscription.publication.kind
        for one in people
        for subscription in one.subscriptions
        if subscription.down is not None and subscription.publication is not None
    )
    yield families.gauge("livekit_room_total", "Rooms that there are.", [({}, len(rooms))])
    yield families.histogram(
        "livekit_room_duration_seconds", "How long rooms were there.", [({}, history.room_seconds)]
    )
    yield families.gauge("livekit_participant_total", "Participants that there are.", [({}, len(people))])
    yield families.counter(
        "livekit_participant_join_total",
        "Signalling connections that opened or were refused, participants that were admitted or became active.",
        [
            ({"state": "signal_connected"}, signals["connected"]),
            ({"state": "signal_failed"}, signals["refused"]),
            ({"state": "rtc_init"}, rooms.counters["joined"]),
            ({"state": "rtc_connected"}, history.active),
        ],
    )
    counted = reading.sources.room_counters()
    yield families.gauge(
        "livekit_track_published_total",
        "Published tracks that there are.",
        [({"kind": kind.upper()}, published[kind]) for kind in KINDS],
    )
    yield families.gauge(
        "livekit_track_subscribed_total",
        "Subscriptions to tracks that there are.",
        [({"kind": kind.upper()}, sent[kind]) for kind in KINDS],
    )
    yield families.counter(
        "livekit_track_publish_counter",
        "Tracks that were announced, and those of them that were published.",
        [
            ({"kind": kind.upper(), "state": state}, count)
            for kind in KINDS
            for state, count in (("attempt", counted[f"publish: {kind}"]), ("success", history.published[kind]))
        ],
    )
    yield families.counter(
        "livekit_track_subscribe_counter",
        "Subscriptions that were begun, that media was sent for, and that failed.",
        [
            ({"state": "attempt", "error": ""}, counted["subscribe: attempt"]),
            ({"state": "success", "error": ""}, counted["subscribe: success"]),
            *(({"state": "failure", "error": error}, counted[f"subscribe: {error}"]) for error in SUBSCRIBE_ERRORS),
        ],
    )
    yield families.histogram(
        "livekit_session_start_time_ms",
        "From a participant's admission until its transport was up.",
        [({"protocol_version": version}, one) for version, one in history.start_ms.items()],
    )
    yield families.histogram(
        "livekit_session_duration_ms",
        "How long participants were there.",
        [({"protocol_version": version}, one) for version, one in history.session_ms.items()],
    )
    yield families.histogram(
        "livekit_quality_rating",
        "Connection quality in each window: 0 poor, 1 good, 2 excellent.",
        [({}, history.rating)],
    )
    yield families.histogram(
        "livekit_quality_score", "Connection quality in each window, as a mean opinion score.", [({}, history.score)]
    )
    yield families.counter(
        "livekit_quality_drop",
        "Windows in which the quality of a track was worse than in the one before.",
        [({"direction": way}, counted[f"quality drop: {way}"]) for way in ("up", "down")],
    )


def media(families: Families, reading: Reading) -> Iterator[Metric]:
    """What was received and sent."""
    history = reading.sources.history
    packets: Counter[tuple[str, str]] = Counter()
    octets: Counter[tuple[str, str]] = Counter()
    asked = {name: Counter({"incoming": 0, "outgoing": 0}) for name in ("nack", "pli", "fir")}
    for way in ("incoming", "outgoing"):
        for transmission in ("initial", "retransmit"):
            packets[way, transmission] = octets[way, transmission] = 0
    for flow, counts in reading.totals.items():
        packets[flow.direction, "initial"] += counts.packets
        packets[flow.direction, "retransmit"] += counts.resent_packets
        octets[flow.direction, "initial"] += counts.octets
        octets[flow.direction, "retransmit"] += counts.resent_octets
        asked["nack"][flow.direction] += counts.nacks
        asked["pli"][flow.direction] += counts.plis
        asked["fir"][flow.direction] += counts.firs
    yield families.counter(
        "livekit_packet_total",
        "Media packets received and sent.",
        [({"direction": way, "transmission": what}, count) for (way, what), count in packets.items()],
    )
    yield families.counter(
        "livekit_packet_bytes",
        "Bytes of media: received with RTP headers, sent without.",
        [({"direction": way, "transmission": what}, count) for (way, what), count in octets.items()],
    )
    words = {
        "nack": "Packets asked for again, of tracks received and of tracks sent.",
        "pli": "Keyframes asked for by PLI, of tracks received and of tracks sent.",
        "fir": "Keyframes asked for by FIR, of tracks sent.",
    }
    for name, counter in asked.items():
        rows = [({"direction": way}, count) for way, count in counter.items()]
        yield families.counter(f"livekit_{name}_total", words[name], rows)

    yield families.counter(
        "livekit_packet_loss_total",
        "Packets lost on their way to us and to subscribers.",
        [(_of(flow), count) for flow, count in history.lost.items()],
    )
    yield families.counter(
        "livekit_packet_out_of_order_total",
        "Packets that came to us behind newer ones.",
        [(_of(flow), count) for flow, count in history.out_of_order.items()],
    )
    for name, text, table in (
        (
            "livekit_packet_loss_percent",
            "Packets lost of a track in each window of five seconds.",
            history.loss_percent,
        ),
        (
            "livekit_packet_out_of_order_percent",
            "Packets of a track that came behind newer ones in each window of five seconds.",
            history.out_of_order_percent,
        ),
        ("livekit_jitter_us", "Jitter of a track in each window of five seconds.", history.jitter_us),
        ("livekit_rtt_ms", "Round trip of a track in each window of five seconds.", history.rtt_ms),
    ):
        yield families.histogram(name, text, [(_of(flow), one) for flow, one in table.items()])


def forwarding(families: Families, reading: Reading) -> Iterator[Metric]:
    """How long media is here."""
    forwarding = reading.sources.history.forwarding
    yield families.gauge(
        "livekit_forward_latency",
        "Nanoseconds that media was here, on average, in the last window of five seconds.",
        [({}, forwarding.latency)],
    )
    yield families.gauge(
        "livekit_forward_jitter", "Standard deviation of the same, in nanoseconds.", [({}, forwarding.jitter)]
    )
    yield families.histogram("livekit_forward_latency_ns", "Nanoseconds that media was here.", [({}, forwarding.all)])


def _of(flow: tuple[str, str, str]) -> Labels:
    direction, source, kind = flow
    return {"direction": direction, "source": source, "type": kind.upper()}


def data_streams(families: Families, reading: Reading) -> Iterator[Metric]:
    """Text and byte streams of data channels."""
    streams = reading.sources.rooms.services.tally.streams
    for name, text, table in (
        ("livekit_datapacket_stream_dest_count", "To how many named participants streams went.", streams.destinations),
        ("livekit_datapacket_stream_bytes", "How many bytes streams said that they have.", streams.bytes),
    ):
        rows = [({"type": kind.type, "mime_type": kind.mime_type}, one) for kind, one in table.items()]
        yield families.histogram(name, text, rows)


def signals(families: Families, reading: Reading) -> Iterator[Metric]:
    """Signalling and the server API."""
    sources = reading.sources
    signals = sources.signalling.counters
    yield families.counter(
        "livekit_node_messages",
        "Requests of clients over signalling, those that could not be read, and what they were sent.",
        [
            ({"type": "signal", "status": "success", "direction": "request"}, signals["requests"]),
            ({"type": "signal", "status": "failure", "direction": "request"}, signals["malformed_signals"]),
            ({"type": "signal", "status": "success", "direction": "response"}, signals["responses"]),
            ({"type": "signal", "status": "failure", "direction": "response"}, signals["responses_lost"]),
        ],
    )
    yield families.counter(
        "livekit_node_service_operation",
        "Joins by how they went.",
        [
            ({"type": "participant_join", "status": "success", "error_type": ""}, sources.rooms.counters["joined"]),
            ({"type": "participant_join", "status": "error", "error_type": "refused"}, signals["refused"]),
            ({"type": "signal_ws", "status": "error", "error_type": "reject"}, signals["no_upgrade"]),
        ],
    )
    yield families.counter(
        "livekit_node_twirp_request_status",
        "Calls to the server API by how they were answered; a route that there is not has no service.",
        [
            ({"service": call.service, "method": call.method, "status": call.family, "code": call.code}, count)
            for call, count in sources.api.answered.items()
        ],
    )


def webhooks(families: Families, reading: Reading) -> Iterator[Metric]:
    """What became of events."""
    counted = reading.sources.webhook_counters()
    drops = {
        reason.removeprefix("dropped: "): count for reason, count in counted.items() if reason.startswith("dropped: ")
    }
    rows: list[tuple[Labels, float]] = [
        ({"status": "success", "reason": ""}, counted["delivered"]),
        ({"status": "failure", "reason": ""}, counted["refused"]),
        *(({"status": "drop", "reason": reason}, count) for reason, count in sorted(drops.items())),
    ]
    yield families.counter("livekit_webhook_dispatch_total", "Webhook events by what became of them.", rows)
    yield families.histogram(
        "livekit_webhook_queue_length",
        "How many events of a room there were for a receiver when another came, with that one.",
        [({}, reading.sources.webhook_lengths())],
    )
