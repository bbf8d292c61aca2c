"""The first message of a session: everything that a client must know to begin (protocol reference, section 3.3)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from livekit.protocol import models, rtc

from triosfu.rooms.settings import AGENT_PROTOCOL, PROTOCOL, SERVER_VERSION
from triosfu.rooms.track_info import AUDIO, VIDEO, publishable

if TYPE_CHECKING:
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.settings import RoomSettings


def join_response(participant: Participant) -> rtc.SignalResponse:
    """Return the `join` message for somebody who was just admitted."""
    settings, room = participant.settings, participant.room
    return rtc.SignalResponse(
        join=rtc.JoinResponse(
            room=room.info(),
            participant=participant.info(),
            other_participants=room.announcer.others_for_join(participant),
            server_version=SERVER_VERSION,
            server_region=settings.region,
            server_info=server_info(settings),
            ice_servers=settings.ice_servers,
            subscriber_primary=participant.shape.subscriber_primary,
            ping_interval=settings.times.ping_interval,
            ping_timeout=settings.times.ping_timeout,
            client_configuration=participant.configuration,
            sif_trailer=room.sif_trailer,
            enabled_publish_codecs=publish_codecs(participant.enabled_codecs),
            fast_publish=participant.permission.can_publish,
        )
    )


def server_info(settings: RoomSettings) -> models.ServerInfo:
    """Return who we are; JS ends a join that has no version in it (trap 6)."""
    return models.ServerInfo(
        edition=models.ServerInfo.Edition.Standard,
        version=SERVER_VERSION,
        protocol=PROTOCOL,
        agent_protocol=AGENT_PROTOCOL,
        region=settings.region,
        node_id=settings.node_id,
    )


@lru_cache(maxsize=64)  # each join asks twice, and nearly all for the same
def publish_codecs(enabled: tuple[str, ...]) -> tuple[models.Codec, ...]:
    """Return the codecs that may be published, video first, retransmission left out; to be copied, not changed."""
    mimes = [*publishable(VIDEO, enabled), *publishable(AUDIO, enabled)]
    return tuple(models.Codec(mime=mime) for mime in mimes)
