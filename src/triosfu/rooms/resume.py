"""Brings back a session whose signalling was lost (protocol reference, section 3.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from livekit.protocol import rtc

from triosfu.rooms.moving import tell_moved
from triosfu.rooms.welcome import server_info

if TYPE_CHECKING:
    from triosfu.rooms.joining import JoinOptions
    from triosfu.rooms.moving import Departure
    from triosfu.rooms.participant import Participant

log = structlog.get_logger(__name__)


def bring_up_to_date(participant: Participant, *, departed: Departure | None = None) -> None:
    """Send what a resuming client waits for, in the order that clients rely on (trap 25), and then what it missed.

    Whoever missed that it has `departed` to another room is told of that before it is told of anybody there.
    """
    retelling, room = participant.retelling, participant.room
    missed = retelling.missed()
    participant.send(
        rtc.SignalResponse(
            reconnect=rtc.ReconnectResponse(
                ice_servers=participant.settings.ice_servers,
                client_configuration=participant.configuration,
                server_info=server_info(participant.settings),
                last_message_seq=participant.data.gate.last,
            )
        )
    )
    if departed is not None:
        tell_moved(participant, departed)
    # Before it is told of itself: where it is muted and does not know, it would tell us that it is not (trap 21).
    for message in missed:
        if message.HasField("mute"):
            participant.send(message)
    departures = [info for message in missed for info in message.update.participants]
    room.announcer.resumed(participant, departures, retelling.since)
    participant.send(rtc.SignalResponse(room_update=rtc.RoomUpdate(room=room.info())))
    for message in missed:
        if not message.HasField("mute") and not message.HasField("update"):
            participant.send(message)
    room.speakers.resumed(participant)
    room.quality.resumed(participant)


def take_options(participant: Participant, options: JoinOptions) -> None:
    """Handle what a resuming client sent along with its request, like the signals that it stands for."""
    if options.sync_state is not None:
        sync(participant, options.sync_state)
    for request in options.add_tracks:
        participant.publications.add_track(request)
    if options.publisher_offer is not None and not participant.closed:
        participant.negotiator.receive_early_offer(options.publisher_offer)


def sync(participant: Participant, state: rtc.SyncState) -> None:
    """Compare what the client believes with what is so; on a difference that matters it has to start afresh."""
    known = all(participant.publications.find(published.track.sid) for published in state.publish_tracks)
    if not known or not all(participant.data_tracks.has(published.info.sid) for published in state.publish_data_tracks):
        participant.negotiation_failed("the client publishes what is unknown here")
        return
    participant.subscriptions.disable(state.track_sids_disabled)
    if state.HasField("subscription"):
        participant.subscriptions.update(state.subscription)
    if state.HasField("data_subscription"):
        participant.data_tracks.update(state.data_subscription)
    last = {received.publisher_sid: received.last_seq for received in state.datachannel_receive_states}
    if last:
        participant.room.data.replay(participant, last)
