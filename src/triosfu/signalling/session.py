"""The session loop: reads a client's requests and gives each to the part of its participant that it concerns."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
import trio
from livekit.protocol import models, rtc

from triosfu.errors import MalformedPacket
from triosfu.net.websocket import WebSocketClosed
from triosfu.rooms import profile
from triosfu.rooms.resume import sync
from triosfu.signalling.codec import decode

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping

    from triosfu.net.websocket import WebSocket
    from triosfu.rooms.participant import Participant
    from triosfu.signalling.link import SocketLink

log = structlog.get_logger(__name__)

Reason = models.DisconnectReason
CLIENT_REASONS = frozenset({Reason.CLIENT_INITIATED, Reason.USER_UNAVAILABLE, Reason.USER_REJECTED, Reason.AGENT_ERROR})
MALFORMED = 1007  # WebSocket close code: a message is not what its type promises
RATE, BURST = 500.0, 2000.0  # requests a second, and how many at once; who sends more is read more slowly
HEAVY, REST = 0.05, 3.0  # seconds of work for one request, after which its client waits for so many times as long


async def converse(socket: WebSocket, link: SocketLink, participant: Participant, counters: Counter[str]) -> None:
    """Serve one signalling connection to its end; the participant is told of that end, and may outlive it.

    Cancelled, it has told the participant that the connection is lost.
    """
    received, pace = 0, Pace(trio.current_time())

    def take(frame: str | bytes) -> float:
        nonlocal received
        received, began = received + 1, time.thread_time()  # what other processes take is not its client's doing
        link.text = isinstance(frame, str)
        try:
            request = decode(frame)
        except MalformedPacket:
            counters["malformed_signals"] += 1
            socket.close(MALFORMED)
            return 0.0
        if received == 1:
            participant.link_used(link)
        handle(participant, request)
        counters["requests"] += 1
        return max(rest_after(time.thread_time() - began), pace.rest(trio.current_time()))

    try:
        link.open(socket)
        participant.link_opened(link)
        await socket.listen(take)
    except WebSocketClosed as closed:
        log.debug("signalling over", participant=participant.sid, code=closed.code)
    finally:
        participant.link_lost(link)


class Pace:
    """How fast one client may ask: the rest waits in its socket, so that its own sending slows down."""

    def __init__(self, now: float) -> None:
        self._paid = now - BURST / RATE  # until when its requests are paid for

    def rest(self, now: float) -> float:
        """Count one request; return the seconds before the next may be read."""
        self._paid = max(self._paid, now - BURST / RATE) + 1 / RATE
        return max(0.0, self._paid - now)


def rest_after(spent: float) -> float:
    """How long a client has to wait whose request took `spent` seconds, such as an offer of two megabytes."""
    return REST * spent if spent > HEAVY else 0.0


def handle(participant: Participant, request: rtc.SignalRequest) -> None:
    """Do what one request asks for; what goes wrong ends this participant only."""
    kind = request.WhichOneof("message")
    if kind is None or participant.closed:
        return
    with participant.guard(kind):
        handler = HANDLERS.get(kind)
        if handler is not None:
            handler(participant, request)


def _ping(participant: Participant, request: rtc.SignalRequest) -> None:
    del request
    participant.send(rtc.SignalResponse(pong=_now_ms()))  # milliseconds (trap 29)


def _ping_req(participant: Participant, request: rtc.SignalRequest) -> None:
    pong = rtc.Pong(last_ping_timestamp=request.ping_req.timestamp, timestamp=_now_ms())
    participant.send(rtc.SignalResponse(pong_resp=pong))


def _leave(participant: Participant, request: rtc.SignalRequest) -> None:
    reason = request.leave.reason
    participant.close(reason if reason in CLIENT_REASONS else Reason.CLIENT_INITIATED)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


HANDLERS: Mapping[str, Callable[[Participant, rtc.SignalRequest], None]] = {
    "offer": lambda one, request: one.negotiator.receive_offer(request.offer),
    "answer": lambda one, request: one.negotiator.receive_answer(request.answer),
    "trickle": lambda one, request: one.negotiator.receive_trickle(request.trickle),
    "add_track": lambda one, request: one.publications.add_track(request.add_track),
    "mute": lambda one, request: one.publications.mute(request.mute),
    "subscription": lambda one, request: one.subscriptions.update(request.subscription),
    "track_setting": lambda one, request: one.subscriptions.set_settings(request.track_setting),
    "leave": _leave,
    "subscription_permission": lambda one, request: one.set_rules(request.subscription_permission),
    "sync_state": lambda one, request: sync(one, request.sync_state),
    "simulate": lambda one, request: one.simulation.request(request.simulate),
    "ping": _ping,
    "ping_req": _ping_req,
    "update_metadata": lambda one, request: profile.request_update(one, request.update_metadata),
    "update_audio_track": lambda one, request: one.publications.update_audio(request.update_audio_track),
    "update_video_track": lambda one, request: one.publications.update_video(request.update_video_track),
    "publish_data_track_request": lambda one, request: one.data_tracks.publish(request.publish_data_track_request),
    "unpublish_data_track_request": lambda one, request: one.data_tracks.unpublish(
        request.unpublish_data_track_request
    ),
    "update_data_subscription": lambda one, request: one.data_tracks.update(request.update_data_subscription),
    "store_data_blob_request": lambda one, request: one.data_blobs.store(request.store_data_blob_request),
    "get_data_blob_request": lambda one, request: one.data_blobs.fetch(request.get_data_blob_request),
    # `update_layers` is deprecated, and ignored.
}
