"""The configuration as values: one frozen dataclass per section, defaults visible.

Names are LiveKit's YAML keys. Times are seconds unless the name or LiveKit's own unit says otherwise (commented).
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  pydantic evaluates the annotations
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from triosfu.config.values import (
    CODECS,
    BindAddress,
    CodecName,
    Count,
    Duration,
    Network,
    NodeIp,
    Port,
    PortRange,
    Ports,
    WebhookEventName,
    WebhookUrl,
    Workers,
    parse_level,
)

_STRICT = ConfigDict(extra="forbid")  # an unknown key is a mistake
_PacketCount = Annotated[int, Field(ge=1, le=16_384)]  # half of what a sequence number can tell apart
_PlayoutDelay = Annotated[int, Field(ge=0, le=40_950)]  # what its header extension has room for
_Size = Annotated[int, Field(ge=1)]
_MEDIA_PORT = PortRange(7882, 7882)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which names to use: all of `includes` (empty: everything) that are not among `excludes`."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFilter:
    """Which addresses to use: those in `includes` (empty: all) and in none of `excludes`."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    includes: tuple[Network, ...] = ()
    excludes: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PliThrottle:
    """The least time between two keyframe requests to one publisher's layer."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    low_quality: Duration = 0.5
    mid_quality: Duration = 1.0
    high_quality: Duration = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnServer:
    """A TURN server that clients are told about."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    host: str
    port: Port
    protocol: Literal["udp", "tcp", "tls"] = "udp"
    username: str = ""
    credential: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CongestionControl:
    """Section `rtc.congestion_control`: how the way to a subscriber is measured; nothing is lowered or paused by it."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    use_send_side_bwe: bool = False  # by transport-wide feedback, not by the subscriber's own estimate (REMB)


@dataclass(frozen=True, slots=True, kw_only=True)
class RtcConfig:
    """Section `rtc`: how media reaches us."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    udp_port: Ports = _MEDIA_PORT  # of a range, the first free port carries all media
    tcp_port: Port = 0  # for clients that UDP does not reach; 0 is none
    force_tcp: bool = False  # tell clients of that port only
    node_ip: NodeIp = ()  # the addresses that others reach us at, if our own are not
    use_ice_lite: bool = False
    enable_loopback_candidate: bool = False
    interfaces: Filter = Filter()
    ips: NetworkFilter = NetworkFilter()
    stun_servers: tuple[str, ...] = ()  # host:port, told to clients
    turn_servers: tuple[TurnServer, ...] = ()
    datachannel_slow_threshold: Count = 0  # bits a second; senders of data wait for readers that take more, 0 for none
    packet_buffer_size_video: _PacketCount = 500  # packets kept for retransmission, for a second at most
    packet_buffer_size_audio: _PacketCount = 200
    pli_throttle: PliThrottle = PliThrottle()
    congestion_control: CongestionControl = CongestionControl()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayoutDelay:
    """How long receivers are asked to delay video, in milliseconds."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    enabled: bool = False
    min: _PlayoutDelay = 0
    max: _PlayoutDelay = 0  # 0 is ten seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetAgent:
    """An agent that is sent to every room of a named configuration."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    agent_name: str
    metadata: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomPreset:
    """One of `room.room_configurations`, which tokens and CreateRoom name; 0 and empty leave what `room` says."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    empty_timeout: Count = 0
    departure_timeout: Count = 0
    max_participants: Count = 0
    metadata: str = ""
    min_playout_delay: _PlayoutDelay = 0  # milliseconds; so is the next
    max_playout_delay: _PlayoutDelay = 0
    sync_streams: bool = False
    agents: tuple[PresetAgent, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomConfig:
    """Section `room`: what a room starts with unless its creator says otherwise."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    auto_create: bool = True
    enabled_codecs: tuple[CodecName, ...] = CODECS
    max_participants: Count = 0  # 0 is no limit
    empty_timeout: Count = 300  # for somebody to come
    departure_timeout: Count = 20  # after the last one left
    enable_remote_unmute: bool = False  # whether the server API may unmute what it muted, or its publisher did
    sync_streams: bool = False  # one media stream for tracks that their publisher says belong together
    playout_delay: PlayoutDelay = PlayoutDelay()
    room_configurations: Mapping[str, RoomPreset] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioConfig:
    """Section `audio`: who counts as speaking."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    active_level: Annotated[int, Field(ge=0, le=127)] = 35  # -dBov: smaller is louder
    min_percentile: Annotated[int, Field(ge=0, le=100)] = 40  # % of an interval's frames that must be as loud
    update_interval: Annotated[int, Field(ge=20)] = 400  # milliseconds
    smooth_intervals: Count = 2  # 0 does not smooth


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoConfig:
    """Section `video`."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    dynacast_pause_delay: Duration = 5.0  # before a layer that nobody watches is paused
    codec_regression_threshold: int = 5  # people in a room, from which on a backup codec is sent besides; 0 for never


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitConfig:
    """Section `limit`: 0 is no limit, where it is allowed."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    num_tracks: int = 0  # received and sent by the whole server, above which nobody is let in
    bytes_per_sec: float = 0.0  # of media, both ways together over ten seconds; above it nobody is let in
    subscription_limit_video: Count = 0  # tracks that one participant receives at once; so is the next
    subscription_limit_audio: Count = 0
    max_metadata_size: Count = 512 * 1024
    max_attributes_size: Count = 64 * 1024
    max_room_name_length: Count = 256
    max_participant_identity_length: Count = 256
    max_participant_name_length: Count = 256
    max_data_blob_key_length: _Size = 256
    max_data_blobs_size: _Size = 64_000  # of one participant
    signal_message_size_limit: _Size = 2 << 20
    agent_signal_message_size_limit: _Size = 2 << 20
    max_api_request_body_size: _Size = 10 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events to send: all of `include_events` (empty: everything) that are not among `exclude_events`."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    include_events: tuple[WebhookEventName, ...] = ()
    exclude_events: tuple[WebhookEventName, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookQueueConfig:
    """Section `webhook.resource_url_notifier`: what may wait for a receiver."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    max_age: Duration = 30.0  # before an event is tried for the first time
    max_depth: _Size = 200  # events of one room


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookConfig:
    """Section `webhook`: who is told what happens in rooms (docs/webhooks.md)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    api_key: str = ""  # one of `keys`, which signs
    urls: tuple[WebhookUrl, ...] = field(default=(), repr=False)
    filter_params: EventFilter = EventFilter()
    resource_url_notifier: WebhookQueueConfig = WebhookQueueConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentsConfig:
    """Section `agents`: the workers on `/agent` (docs/agents.md)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    target_load: Annotated[float, Field(ge=0, le=1)] = 0.7  # above which a worker is asked only when all others are
    enable_user_data_recording: bool = False  # told to agents with their job; so is the next
    enable_user_data_redaction: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusConfig:
    """Section `prometheus`: where metrics are served (docs/metrics.md)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    port: Port = 0  # 0 serves none
    username: str = ""  # both, or neither: then everybody may read
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    """Section `logging`."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(parse_level)] = "info"
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of it. `load_config` makes one and has checked it; so is one made by `dataclasses.replace` by its maker."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    port: Port = 7880  # HTTP and WebSocket; 0 is any free port
    bind_addresses: tuple[BindAddress, ...] = ("0.0.0.0", "::")  # noqa: S104  a server is there to be reached
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)  # secrets by API key; the first signs refreshes
    workers: Workers = 1  # processes that rooms are spread over; 1 is this one, and no other (docs/workers.md)
    region: str = ""
    development: bool = False
    enable_data_tracks: bool = True
    enable_participant_data_blob: bool = False  # whether participants may store blobs for each other
    rtc: RtcConfig = RtcConfig()
    room: RoomConfig = RoomConfig()
    audio: AudioConfig = AudioConfig()
    video: VideoConfig = VideoConfig()
    limit: LimitConfig = LimitConfig()
    webhook: WebhookConfig = WebhookConfig()
    agents: AgentsConfig = AgentsConfig()
    prometheus: PrometheusConfig = PrometheusConfig()
    logging: LoggingConfig = LoggingConfig()
