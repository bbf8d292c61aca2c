"""What the configuration means for the rooms."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from livekit.protocol import rtc
from livekit.protocol.agent_dispatch import RoomAgentDispatch
from livekit.protocol.room import RoomConfiguration

from triosfu.agents.core import BoardSettings
from triosfu.agents.workers import Agents
from triosfu.errors import ConfigError
from triosfu.media.levels import LevelSettings
from triosfu.media.receiver import ReceiveSettings
from triosfu.rooms.configuration import LONGEST_DELAY, overlaid
from triosfu.rooms.settings import Limits, RoomDefaults, RoomSettings, Times
from triosfu.rooms.sids import NODE, new_sid
from triosfu.sdp.directions import Setup
from triosfu.sdp.policy import MediaPolicy
from triosfu.webhooks.core import Schedule
from triosfu.webhooks.events import EventWriter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager
    from random import Random

    from triosfu.config import Config, LimitConfig, PlayoutDelay, RoomPreset, RtcConfig, WebhookConfig
    from triosfu.metrics.monitoring import Monitoring
    from triosfu.webhooks.delivery import Webhooks

RTX = "video/rtx"


def room_settings(config: Config, rng: Random, *, node_id: str = "") -> RoomSettings:
    """The settings that all rooms of a server share; without a `node_id` it is one that nobody has."""
    usual = RoomDefaults(
        empty_timeout=config.room.empty_timeout,
        departure_timeout=config.room.departure_timeout,
        max_participants=config.room.max_participants,
        sync_streams=config.room.sync_streams,
        playout_delay=playout_bounds(config.room.playout_delay),
    )
    return RoomSettings(
        auto_create=config.room.auto_create,
        defaults=usual,
        presets={name: overlaid(usual, preset_message(one)) for name, one in config.room.room_configurations.items()},
        limits=limits(config.limit),
        times=replace(
            Times(),
            speakers=config.audio.update_interval / 1000,
            dynacast_downgrade=config.video.dynacast_pause_delay,
        ),
        enabled_codecs=tuple(config.room.enabled_codecs),
        node_id=node_id or new_sid(NODE, rng),
        region=config.region,
        ice_servers=tuple(ice_servers(config.rtc)),
        data_tracks=config.enable_data_tracks,
        data_blobs=config.enable_participant_data_blob,
        data_slow_threshold=config.rtc.datachannel_slow_threshold,
        remote_unmute=config.room.enable_remote_unmute,
        codec_regression_threshold=max(0, config.video.codec_regression_threshold),
        reception=reception(config),
    )


def preset_message(config: RoomPreset) -> RoomConfiguration:
    """A named configuration in the form that tokens and calls have it in, too."""
    return RoomConfiguration(
        empty_timeout=config.empty_timeout,
        departure_timeout=config.departure_timeout,
        max_participants=config.max_participants,
        metadata=config.metadata,
        min_playout_delay=config.min_playout_delay,
        max_playout_delay=config.max_playout_delay,
        sync_streams=config.sync_streams,
        agents=[RoomAgentDispatch(agent_name=one.agent_name, metadata=one.metadata) for one in config.agents],
    )


def limits(config: LimitConfig) -> Limits:
    """What clients may not exceed."""
    return replace(
        Limits(),
        identity=config.max_participant_identity_length or sys.maxsize,
        room_name=config.max_room_name_length or sys.maxsize,
        name=config.max_participant_name_length or sys.maxsize,
        metadata=config.max_metadata_size or sys.maxsize,
        attributes=config.max_attributes_size or sys.maxsize,
        blobs=config.max_data_blobs_size,
        blob_key=config.max_data_blob_key_length,
        subscribed_video=config.subscription_limit_video,
        subscribed_audio=config.subscription_limit_audio,
        server_tracks=max(0, config.num_tracks),
        bytes_per_second=max(0.0, config.bytes_per_sec),
    )


def reception(config: Config) -> ReceiveSettings:
    """How published tracks are received."""
    throttle = config.rtc.pli_throttle
    return ReceiveSettings(
        buffer_video=config.rtc.packet_buffer_size_video,
        buffer_audio=config.rtc.packet_buffer_size_audio,
        keyframe_distance=(throttle.low_quality, throttle.mid_quality, throttle.high_quality),
        levels=LevelSettings(
            active_level=config.audio.active_level,
            min_percentile=config.audio.min_percentile,
            interval=config.audio.update_interval / 1000,
            smooth_intervals=max(1, config.audio.smooth_intervals),
        ),
    )


def playout_bounds(config: PlayoutDelay) -> tuple[int, int] | None:
    """The milliseconds, least and most, that receivers are asked to delay video; None if they are not."""
    if not config.enabled:
        return None
    return config.min, config.max or max(config.min, LONGEST_DELAY)


def media_policy(config: Config) -> MediaPolicy:
    """What peer connections may negotiate."""
    codecs = tuple(config.room.enabled_codecs)
    return MediaPolicy(
        receive=codecs,
        send=codecs,
        rtx=RTX in codecs,
        transport_cc=config.rtc.congestion_control.use_send_side_bwe,
        # The DTLS server chooses how media is protected; libwebrtc as one takes AES-CM with SHA-1 (docs/interop.md).
        answers=Setup.PASSIVE,
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


def configured_webhooks(config: Config, rng: Random) -> AbstractAsyncContextManager[Webhooks]:
    """Webhooks to the configured URLs; ConfigError if nobody can sign them."""
    if config.webhook.api_key not in config.keys:
        raise ConfigError("webhook.api_key: is not one of keys")
    from triosfu.webhooks.delivery import open_webhooks  # noqa: PLC0415  httpx takes its time, and few need it

    queue = config.webhook.resource_url_notifier
    return open_webhooks(
        config.webhook.urls,
        config.webhook.api_key,
        config.keys[config.webhook.api_key],
        rng=rng,
        schedule=Schedule(depth=queue.max_depth, max_age=queue.max_age or Schedule().max_age),
    )


def configured_metrics(config: Config, *, port: bool) -> AbstractAsyncContextManager[Monitoring]:
    """Metrics, on the configured `port` or for somebody else to serve."""
    from triosfu.metrics.monitoring import open_monitoring  # noqa: PLC0415  as above

    return open_monitoring(config, port=port)


def webhook_events(config: WebhookConfig, webhooks: Webhooks, rng: Random) -> EventWriter:
    """The listener that writes the wanted events."""
    events = config.filter_params
    return EventWriter(webhooks.send, rng=rng, include=events.include_events, exclude=events.exclude_events)


def agent_workers(
    config: Config, keys: Mapping[str, str], settings: RoomSettings, rng: Random, *, listener: EventWriter | None
) -> Agents:
    """The agent workers of a server; `listener` is told of their jobs."""
    return Agents(
        keys,
        settings,
        rng=rng,
        board=BoardSettings(target_load=config.agents.target_load),
        message_size=config.limit.agent_signal_message_size_limit,
        listener=listener,
        enable_recording=config.agents.enable_user_data_recording,
        enable_redaction=config.agents.enable_user_data_redaction,
    )
