"""What a client says of itself: the software that it is, and what it asks for, from either form of the request."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, cast

from livekit.protocol import models, rtc

from triosfu.rooms.configuration import overlaid, preset
from triosfu.rooms.joining import Applicant, JoinOptions, JoinRefused
from triosfu.rooms.permissions import Permission
from triosfu.signalling.join_request import decode_join_request
from triosfu.signalling.user_agent import fill_in

if TYPE_CHECKING:
    from triosfu.net.http import Request
    from triosfu.rooms.settings import RoomDefaults, RoomSettings
    from triosfu.tokens import Claims

UNKNOWN = models.ClientInfo.SDK.UNKNOWN
SDKS = {
    "js": models.ClientInfo.SDK.JS,
    "ios": models.ClientInfo.SDK.SWIFT,
    "swift": models.ClientInfo.SDK.SWIFT,
    "android": models.ClientInfo.SDK.ANDROID,
    "flutter": models.ClientInfo.SDK.FLUTTER,
    "go": models.ClientInfo.SDK.GO,
    "unity": models.ClientInfo.SDK.UNITY,
    "reactnative": models.ClientInfo.SDK.REACT_NATIVE,
    "rust": models.ClientInfo.SDK.RUST,
    "python": models.ClientInfo.SDK.PYTHON,
    "cpp": models.ClientInfo.SDK.CPP,
    "unityweb": models.ClientInfo.SDK.UNITY_WEB,
    "node": models.ClientInfo.SDK.NODE,
    "unreal": models.ClientInfo.SDK.UNREAL,
    "esp32": models.ClientInfo.SDK.ESP32,
    "dotnet": models.ClientInfo.SDK.DOTNET,
}
CAPABILITIES = cast("dict[str, models.ClientInfo.Capability]", dict(models.ClientInfo.Capability.items()))
FORWARDED_BY = ("cf-connecting-ip", "x-forwarded-for", "x-real-ip")
MAX_TEXT = 256  # characters of one thing that a client says of itself
MAX_CLIENT = 16 * 1024  # bytes of all of it; a part is told to everybody


def join_options(request: Request) -> tuple[JoinOptions, str, dict[str, str]]:
    """Return what a request to `/rtc` or `/rtc/v1` asks for, and the metadata and attributes that it claims.

    The parameter decides about the shape of the session, and not the path (trap 1).

    Raises:
        JoinRefused: The parameters cannot be read.
    """
    wrapped = request.get("join_request")
    if wrapped:
        return _from_join_request(decode_join_request(wrapped), request)
    return _from_query(request), "", {}


def query_attributes(request: Request) -> dict[str, str] | None:
    """Return the attributes in the query of a session with two peer connections; None when they cannot be read."""
    text = request.get("attributes")
    if not text:
        return {}
    try:
        value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        json.dumps(value, ensure_ascii=False).encode()  # JSON can spell half a surrogate pair; protobuf cannot
    except (binascii.Error, ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not all(isinstance(part, str) for item in value.items() for part in item):
        return None
    return value


def applicant(claims: Claims, *, settings: RoomSettings) -> Applicant:
    """Return who wants to join, as the verified `claims` say; they have a video grant.

    Raises:
        JoinRefused: They have none, or name a room configuration that there is not.
    """
    grant = claims.video
    if grant is None:
        raise JoinRefused(401, "no permissions to access the room")
    return Applicant(
        identity=claims.identity,
        name=claims.name,
        kind=cast("models.ParticipantInfo.Kind", claims.participant_kind),
        kind_details=tuple(cast("list[models.ParticipantInfo.KindDetail]", claims.participant_kind_details)),
        metadata=claims.metadata,
        attributes=dict(claims.attributes),
        permission=Permission.parse(grant.permission()),
        room_create=grant.room_create,
        room=_room_settings(claims, settings),
        token_expires=claims.expires_at,
        token_not_before=claims.not_before,
        claims=claims,
    )


def _room_settings(claims: Claims, settings: RoomSettings) -> RoomDefaults:
    """How to set up a room that this token creates; JoinRefused if it names a configuration that there is not."""
    base = preset(settings, claims.room_preset)
    if claims.room_config is None:
        return base
    if len(claims.room_config.metadata.encode()) > settings.limits.metadata:
        raise JoinRefused(400, f"metadata size exceeds limits {settings.limits.metadata}")
    return overlaid(base, claims.room_config)


def _from_join_request(join: rtc.JoinRequest, request: Request) -> tuple[JoinOptions, str, dict[str, str]]:
    if join.client_info.ByteSize() > MAX_CLIENT:
        raise JoinRefused(400, "client info too large")
    settings = join.connection_settings
    client = models.ClientInfo()
    client.CopyFrom(join.client_info)
    client.address = client_address(request)
    fill_in(client, request.headers.get("user-agent", ""))
    options = JoinOptions(
        client=client,
        single=True,
        auto_subscribe=settings.auto_subscribe,  # false unless said (trap 4)
        auto_subscribe_data_tracks=settings.auto_subscribe_data_track,
        adaptive_stream=settings.adaptive_stream,
        add_tracks=tuple(join.add_track_requests),
        publisher_offer=join.publisher_offer if join.HasField("publisher_offer") else None,
        reconnect=join.reconnect,
        participant_sid=join.participant_sid,
        sync_state=join.sync_state if join.HasField("sync_state") else None,
    )
    return options, join.metadata, dict(join.participant_attributes)


def _from_query(request: Request) -> JoinOptions:
    def text(name: str) -> str:
        return (request.get(name) or "")[:MAX_TEXT]

    names = text("capabilities").split(",")
    client = models.ClientInfo(
        sdk=SDKS.get(text("sdk").lower(), UNKNOWN),
        version=text("version"),
        protocol=_number(text("protocol")),
        os=text("os"),
        os_version=text("os_version"),
        device_model=text("device_model"),
        browser=text("browser"),
        browser_version=text("browser_version"),
        network=text("network"),
        address=client_address(request),
        client_protocol=_number(text("client_protocol")),
        capabilities=[CAPABILITIES[name] for name in names if name in CAPABILITIES],
    )
    fill_in(client, request.headers.get("user-agent", ""))
    return JoinOptions(
        client=client,
        single=False,
        auto_subscribe=_flag(request, "auto_subscribe", absent=True),
        auto_subscribe_data_tracks=_flag(request, "auto_subscribe_data_track"),
        adaptive_stream=_flag(request, "adaptive_stream"),
        reconnect=_flag(request, "reconnect"),
        participant_sid=text("sid"),
    )


def _flag(request: Request, name: str, *, absent: bool = False) -> bool:
    value = request.get(name)
    return absent if value is None else value in {"1", "true"}


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def client_address(request: Request) -> str:
    """The client's address as the first proxy saw it."""
    for header in FORWARDED_BY:
        if value := request.headers.get(header):
            return value.partition(",")[0].strip()[:MAX_TEXT]
    return request.peer[0]
