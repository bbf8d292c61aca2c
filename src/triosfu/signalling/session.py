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
from triosfu.rooms.signals import LeaveAction, RequestReason, leave
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
YIELD_EVERY = 16  # requests; one client that sends without pause must not keep the loop from the others
HEAVY, REST = 0.05, 3.0  # seconds of work for one request, after which its client waits for so many times as long


async def converse(socket: WebSocket, link: SocketLink, participant: Participant, counters: Counter[str]) -> None:
    """Serve one signalling connection to its end; the participant is told of that end, and may outlive it.

    Cancelled, it has told the participant that the connection is lost.
    """
    try:
        link.open(socket)
        participant.link_opened(link)
        received = 0
        while not link.closed:
            frame = await socket.receive()
            received, began = received + 1, time.perf_counter()
            link.text = isinstance(frame, str)
            try:
                request = decode(frame)
            except MalformedPacket:
                counters["malformed_signals"] += 1
                socket.close(MALFORMED)
                break
            handle(participant, request)
            counters["requests"] += 1
            if rest := rest_after(time.perf_counter() - began):
                await trio.sleep(rest)
            elif received % YIELD_EVERY == 0:
                await trio.lowlevel.checkpoint()
    except WebSocketClosed as closed:
        log.debug("signalling over", participant=participant.sid, code=closed.code)
    finally:
        participant.link_lost(link)


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


def _simulate(participant: Participant, request: rtc.SignalRequest) -> None:
    """Do what a test of a client asks for (section 3.10)."""
    scenario = request.simulate
    match scenario.WhichOneof("scenario"):
        case "speaker_update":
            participant.room.speakers.simulate(participant, scenario.speaker_update)
        case "node_failure" | "migration":
            participant.close(Reason.STATE_MISMATCH, tell=False)
        case "server_leave":
            participant.close(Reason.SERVER_SHUTDOWN)
        case "disconnect_signal_on_resume" | "disconnect_signal_on_resume_no_messages" | "switch_candidate_protocol":
            participant.send(leave(LeaveAction.RESUME, Reason.CONNECTION_TIMEOUT))
            participant.drop_link()
        case _:
            log.debug("scenario not simulated", participant=participant.sid)


def _data_blob(participant: Participant, request: rtc.SignalRequest) -> None:
    """Data blobs are switched off, as they are by default (section 6.9)."""
    kind = request.WhichOneof("message")
    blob = request.store_data_blob_request if kind == "store_data_blob_request" else request.get_data_blob_request
    response = rtc.RequestResponse(request_id=blob.request_id, reason=RequestReason.NOT_ALLOWED)
    participant.send(rtc.SignalResponse(request_response=response))


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
    "simulate": _simulate,
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
    "store_data_blob_request": _data_blob,
    "get_data_blob_request": _data_blob,
    # `update_layers` is deprecated, and ignored.
}
