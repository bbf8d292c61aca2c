"""What an operator may choose about rooms, and the protocol's own times, in one frozen value each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from triosfu.media.receiver import ReceiveSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from livekit.protocol import rtc
    from livekit.protocol.agent_dispatch import RoomAgentDispatch

PROTOCOL = 17  # the signalling protocol that we announce (section 15)
AGENT_PROTOCOL = 1
SERVER_VERSION = "1.13.5"  # the reference server whose behaviour we promise; JS refuses an empty one (trap 6)

DEFAULT_CODECS = (
    "audio/PCMU",
    "audio/PCMA",
    "audio/opus",
    "audio/red",
    "video/VP8",
    "video/H264",
    "video/VP9",
    "video/AV1",
    "video/rtx",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomDefaults:
    """The values that a room starts with unless its creator says otherwise."""

    empty_timeout: float = 300.0  # seconds from creation in which somebody must come
    departure_timeout: float = 20.0  # seconds after the last one left
    max_participants: int = 0  # 0 is no limit
    metadata: str = ""
    agents: tuple[RoomAgentDispatch, ...] = ()  # empty for whoever serves rooms without being asked
    sync_streams: bool = False  # one media stream for all tracks of a publisher that belong together
    playout_delay: tuple[int, int] | None = None  # milliseconds, least and most, that receivers delay cameras


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes that clients may not exceed (protocol reference, section 14)."""

    identity: int = 256
    room_name: int = 256
    name: int = 256
    metadata: int = 512 * 1024
    attributes: int = 64 * 1024
    pending_tracks: int = 20
    queued_tracks: int = 3
    published_tracks: int = 200  # of one participant
    subscriptions: int = 4096  # wishes of one participant, found or not
    subscribed_video: int = 0  # tracks that one participant receives at once; 0 is no limit, and so for the next
    subscribed_audio: int = 0
    server_tracks: int = 0  # received and sent by all, above which nobody is let in; 0 is no limit, and so for the next
    bytes_per_second: float = 0.0  # of media, both ways together
    stored_settings: int = 4096
    candidates: int = 128  # of one transport, waiting for its description
    data_tracks: int = 256
    blobs: int = 64_000  # bytes that one participant stores
    blob_key: int = 256  # characters
    forwards: int = 16  # rooms, besides its own, that see one participant
    sections: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds. The names follow protocol reference sections 3, 5, 7 and 14."""

    ping_interval: int = 5
    ping_timeout: int = 15
    join: float = 60.0
    attach: float = 10.0  # from the admission to the open WebSocket
    resume: float = 5.0
    gap: float = 30.0  # that messages behind a gap wait, while a resume may fill it
    disconnected: float = 5.0  # after the transport went silent, before the client is asked to resume
    negotiation: float = 15.0
    early_offer: float = 1.0  # that the answer to an offer in the request waits for a client to have applied the offer
    debounce_fast: float = 0.010
    debounce_slow: float = 0.150
    announce: float = 0.100
    room_update: float = 5.0
    speakers: float = 0.400
    quality: float = 5.0
    codecs: float = 0.400  # until a track that comes in another codec than expected is looked at
    refresh_token: float = 300.0
    track_not_found: float = 60.0
    backup_codec: float = 15.0  # until a publisher sends the codec that it was asked for
    dynacast_downgrade: float = 5.0
    dynacast_first_off: float = 10.0
    settings_debounce: float = 0.100


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomSettings:
    """Everything that the rooms of one server share."""

    auto_create: bool = True
    defaults: RoomDefaults = RoomDefaults()
    presets: Mapping[str, RoomDefaults] = field(default_factory=dict)  # by the names that creators of rooms know
    limits: Limits = Limits()
    times: Times = Times()
    enabled_codecs: tuple[str, ...] = DEFAULT_CODECS
    max_rooms: int = 0  # 0 is no limit
    node_id: str = "ND_triosfu"
    region: str = ""
    ice_servers: tuple[rtc.ICEServer, ...] = ()
    data_tracks: bool = True
    data_blobs: bool = False
    data_slow_threshold: int = 0  # bits a second; senders of reliable data wait for readers that take more, 0 for none
    remote_unmute: bool = False
    codec_regression_threshold: int = 5  # people in a room, from which on both codecs are sent; 0 for never
    reception: ReceiveSettings = field(default_factory=ReceiveSettings)
