"""What the configuration means for the rooms."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from livekit.protocol import rtc

from triosfu.rooms.settings import Limits, RoomDefaults, RoomSettings, Times
from triosfu.rooms.sids import new_sid

if TYPE_CHECKING:
    from random import Random

    from triosfu.config import Config, RtcConfig


def room_settings(config: Config, rng: Random) -> RoomSettings:
    """The settings that all rooms of a server share."""
    return RoomSettings(
        auto_create=config.room.auto_create,
        defaults=RoomDefaults(
            empty_timeout=config.room.empty_timeout,
            departure_timeout=config.room.departure_timeout,
            max_participants=config.room.max_participants,
        ),
        limits=replace(
            Limits(),
            identity=config.limit.max_participant_identity_length,
            room_name=config.limit.max_room_name_length,
            name=config.limit.max_participant_name_length,
            metadata=config.limit.max_metadata_size,
            attributes=config.limit.max_attributes_size,
        ),
        times=replace(
            Times(),
            speakers=config.audio.update_interval / 1000,
            dynacast_downgrade=config.video.dynacast_pause_delay,
        ),
        enabled_codecs=tuple(config.room.enabled_codecs),
        node_id=new_sid("ND_", rng),
        region=config.region,
        ice_servers=tuple(ice_servers(config.rtc)),
        data_tracks=config.enable_data_tracks,
        remote_unmute=config.room.enable_remote_unmute,
    )


def ice_servers(config: RtcConfig) -> list[rtc.ICEServer]:
    """The STUN and TURN servers that clients are told of."""
    servers = []
    if config.stun_servers:
        servers.append(rtc.ICEServer(urls=[f"stun:{server}" for server in config.stun_servers]))
    for turn in config.turn_servers:
        scheme, transport = ("turns", "tcp") if turn.protocol == "tls" else ("turn", turn.protocol)
        servers.append(
            rtc.ICEServer(
                urls=[f"{scheme}:{turn.host}:{turn.port}?transport={transport}"],
                username=turn.username,
                credential=turn.credential,
            )
        )
    return servers
