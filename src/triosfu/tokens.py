"""LiveKit access tokens: JWTs signed with HS256 that say who may do what, in which room, until when.

`create_token` writes one, `verify` reads one and raises `TokenError` with the HTTP status and the text that LiveKit's
clients know, `check_join` decides whether its bearer may join, and `refresh_token` renews it during a session.
Time is the wall clock in seconds since the epoch, and always passed in.
"""

from __future__ import annotations

import base64
import hmac
import json
import math
import time
from dataclasses import dataclass, field, fields, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

import jwt
from google.protobuf import json_format
from jwt.algorithms import HMACAlgorithm
from livekit.protocol.models import ParticipantInfo, ParticipantPermission, TrackSource
from livekit.protocol.room import RoomConfiguration

from triosfu.errors import TriosfuError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LEEWAY: Final = 60.0  # seconds of clock difference forgiven between the token's maker and us
DEFAULT_TTL: Final = 6 * 3600.0  # seconds; what LiveKit's SDKs choose
MIN_REFRESHED_TTL: Final = 600.0  # seconds that a refreshed token lives at least
MAX_TOKEN_LENGTH: Final = 1 << 20  # characters; metadata of 512 KiB in base64 still fits
LARGE_TOKEN_LENGTH: Final = 1 << 14  # characters
MAX_NAME_LENGTH: Final = 256  # bytes of an identity or a room name, unless configured otherwise
SOURCES: Final[Mapping[str, int]] = {name.lower(): value for name, value in TrackSource.items() if value}
KINDS: Final[Mapping[str, int]] = {name.lower(): value for name, value in ParticipantInfo.Kind.items()}
KIND_DETAILS: Final[Mapping[str, int]] = {name.lower(): value for name, value in ParticipantInfo.KindDetail.items()}


class TokenError(TriosfuError):
    """This request may not proceed: answer it with `status` and the plain text `text`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoGrant:
    """What the bearer may do with rooms. `None` is "not said", whose meaning the `allows_*` properties know."""

    room_create: bool = False
    room_list: bool = False
    room_record: bool = False
    room_admin: bool = False
    room_join: bool = False
    room: str = ""
    destination_room: str = ""
    can_publish: bool | None = None
    can_subscribe: bool | None = None
    can_publish_data: bool | None = None
    can_publish_sources: tuple[str, ...] = ()
    can_update_own_metadata: bool | None = None
    can_subscribe_metrics: bool | None = None
    can_manage_agent_session: bool | None = None
    ingress_admin: bool = False
    hidden: bool = False
    recorder: bool = False
    agent: bool = False

    @property
    def allows_publish(self) -> bool:
        """May publish tracks: true unless denied."""
        return self.can_publish is not False

    @property
    def allows_subscribe(self) -> bool:
        """May subscribe to tracks: true unless denied."""
        return self.can_subscribe is not False

    @property
    def allows_publish_data(self) -> bool:
        """May send data packets: as publishing tracks, where nothing is said."""
        return self.allows_publish if self.can_publish_data is None else self.can_publish_data

    @property
    def allows_update_own_metadata(self) -> bool:
        """May change its own name, metadata and attributes: false unless granted."""
        return self.can_update_own_metadata is True

    def allows_source(self, source: int) -> bool:
        """May publish a track of this `TrackSource`: all of them, unless a list was given."""
        named = {SOURCES.get(name) for name in self.can_publish_sources}
        return self.allows_publish and (not named or source in named)

    def permission(self) -> ParticipantPermission:
        """The same permissions in the form that clients are told in `ParticipantInfo.permission`."""
        return ParticipantPermission(
            can_subscribe=self.allows_subscribe,
            can_publish=self.allows_publish,
            can_publish_data=self.allows_publish_data,
            # An unknown name stays in the list: dropping the only one would turn "nothing we know" into "all".
            can_publish_sources=[
                cast("TrackSource", SOURCES.get(name, TrackSource.UNKNOWN)) for name in self.can_publish_sources
            ],
            hidden=self.hidden,
            recorder=self.recorder,
            can_update_metadata=self.allows_update_own_metadata,
            agent=self.agent,
            can_subscribe_metrics=self.can_subscribe_metrics is True,
            can_manage_agent_session=self.can_manage_agent_session is True,
        )

    def with_permission(self, permission: ParticipantPermission) -> VideoGrant:
        """This grant after an administrator changed the participant's permissions."""
        return replace(
            self,
            can_subscribe=permission.can_subscribe,
            can_publish=permission.can_publish,
            can_publish_data=permission.can_publish_data,
            can_publish_sources=tuple(TrackSource.Name(source).lower() for source in permission.can_publish_sources),
            can_update_own_metadata=permission.can_update_metadata,
            can_subscribe_metrics=permission.can_subscribe_metrics,
            can_manage_agent_session=permission.can_manage_agent_session,
            hidden=permission.hidden,
            recorder=permission.recorder,
            agent=permission.agent,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SipGrant:
    """What the bearer may do with the SIP API."""

    admin: bool = False
    call: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentGrant:
    """What the bearer may do with hosted agents; carried, not used by a server of one's own."""

    admin: bool = False
    simulation_admin: bool = False
    database_admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceGrant:
    """Whether the bearer may use hosted inference; carried only."""

    perform: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservabilityGrant:
    """Whether the bearer may write observability data; carried only."""

    write: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """All that a token says."""

    identity: str = ""
    name: str = ""
    kind: str = "standard"
    kind_details: tuple[str, ...] = ()
    metadata: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""
    room_preset: str = ""
    room_config: RoomConfiguration | None = None
    video: VideoGrant | None = None
    sip: SipGrant | None = None
    agent: AgentGrant | None = None
    inference: InferenceGrant | None = None
    observability: ObservabilityGrant | None = None
    issuer: str = ""  # the API key it was signed with
    expires_at: float = 0.0
    not_before: float = 0.0

    @property
    def participant_kind(self) -> int:
        """`kind` as a `ParticipantInfo.Kind`; an unknown name is an ordinary participant."""
        return KINDS.get(self.kind, ParticipantInfo.STANDARD)

    @property
    def participant_kind_details(self) -> list[int]:
        """`kind_details` as `ParticipantInfo.KindDetail`s, without unknown names."""
        return [KIND_DETAILS[name] for name in self.kind_details if name in KIND_DETAILS]

    @property
    def is_dependent(self) -> bool:
        """Whether this participant neither fills a room nor keeps it alive: an agent, an egress, a recorder."""
        if self.participant_kind in (ParticipantInfo.AGENT, ParticipantInfo.EGRESS):
            return True
        return self.video is not None and (self.video.agent or self.video.recorder)


def create_token(
    key: str,
    secret: str,
    *,
    identity: str = "",
    room: str = "",
    ttl: float = DEFAULT_TTL,
    video: VideoGrant | None = None,
    name: str = "",
    kind: str = "standard",
    metadata: str = "",
    attributes: Mapping[str, str] | None = None,
    room_config: RoomConfiguration | None = None,
    room_preset: str = "",
    sip: SipGrant | None = None,
    agent: AgentGrant | None = None,
    sha256: str = "",
    now: float | None = None,
) -> str:
    """A token valid for `ttl` seconds from `now` (by default by the wall clock).

    With a `room` and no `video` grant it is one to join that room.
    """
    if video is None and room:
        video = VideoGrant(room_join=True, room=room)
    claims = Claims(
        identity=identity,
        name=name,
        kind=kind,
        metadata=metadata,
        attributes=attributes or {},
        sha256=sha256,
        room_preset=room_preset,
        room_config=room_config,
        video=video,
        sip=sip,
        agent=agent,
    )
    return sign(claims, key, secret, now=time.time() if now is None else now, ttl=ttl)


def refresh_token(claims: Claims, key: str, secret: str, *, now: float) -> str:
    """`claims` signed anew, for what is left of their life and at least ten minutes."""
    return sign(claims, key, secret, now=now, ttl=max(MIN_REFRESHED_TTL, claims.expires_at - now))


def sign(claims: Claims, key: str, secret: str, *, now: float, ttl: float) -> str:
    """`claims` as a token, valid from `now` for `ttl` seconds; their own issuer and times are not used."""
    body: dict[str, Any] = {"iss": key, "sub": claims.identity, "nbf": int(now), "iat": int(now), "exp": int(now + ttl)}
    said = {
        "identity": claims.identity,
        "name": claims.name,
        "kind": claims.kind,
        "kindDetails": list(claims.kind_details),
        "metadata": claims.metadata,
        "attributes": dict(claims.attributes),
        "sha256": claims.sha256,
        "roomPreset": claims.room_preset,
    }
    body |= {name: value for name, value in said.items() if value}
    if claims.room_config is not None:
        body["roomConfig"] = json_format.MessageToDict(claims.room_config)
    for name in _GRANTS:
        grant = getattr(claims, name)
        if grant is not None:
            body[name] = _write_grant(grant)
    return _JWS.encode(json.dumps(body, separators=(",", ":")).encode(), secret, algorithm="HS256")


def verify(token: str, keys: Mapping[str, str], *, now: float) -> Claims:
    """What `token` says, once its signature and its times are found good.

    Raises:
        TokenError: With LiveKit's status and text (protocol reference, table 1.2).
    """
    large = LARGE_TOKEN_LENGTH < len(token) <= MAX_TOKEN_LENGTH  # a stranger's is not worth a look inside
    if large and not any(_signed(token, secret) for secret in keys.values()):
        raise _invalid("signature does not match")
    body = _unverified(token)
    issuer = body.get("iss")
    if not isinstance(issuer, str) or issuer not in keys:
        raise TokenError(401, "invalid API key")
    if not _signed(token, keys[issuer]):
        raise _invalid("signature does not match")
    not_before, expires_at = _check_times(body, now)
    return _claims(body, issuer, not_before, expires_at)


def signed(token: str, keys: Mapping[str, str]) -> Claims | None:
    """What `token` says if its signature is good, whatever its times; for finding the way, and never for letting in."""
    try:
        body = _unverified(token)
        issuer = body.get("iss")
        if not isinstance(issuer, str) or issuer not in keys or not _signed(token, keys[issuer]):
            return None
        return _claims(body, issuer, 0.0, 0.0)
    except TokenError:
        return None


def token_of(authorization: str | None, access_token: str | None) -> str | None:
    """The token of a request: from its Authorization header if it has one, else from its query; None without either.

    Raises:
        TokenError: The header is there and is no bearer token.
    """
    if authorization is None:
        return access_token or None
    if not authorization.startswith("Bearer "):
        raise TokenError(401, "invalid authorization header. Must start with Bearer ")
    return authorization.removeprefix("Bearer ")


def check_join(
    claims: Claims | None, *, max_identity: int = MAX_NAME_LENGTH, max_room: int = MAX_NAME_LENGTH
) -> VideoGrant:
    """The grant with which the bearer joins its room; None stands for a request without a token.

    Raises:
        TokenError: It may not join, or its names are unfit (protocol reference, table 1.2 and section 17).
    """
    if claims is None or claims.video is None:
        raise TokenError(401, "no permissions to access the room")
    if not claims.video.room_join:
        raise TokenError(401, "permissions denied")
    if not claims.identity:
        raise TokenError(400, "identity cannot be empty")
    if len(claims.identity.encode()) > max_identity:
        raise TokenError(400, f"participant identity length exceeds limits: max length {max_identity}")
    if not claims.video.room:
        raise TokenError(400, "no room name")
    if len(claims.video.room.encode()) > max_room:
        raise TokenError(400, f"room name length exceeds limits: max length {max_room}")
    return claims.video


class _Hs256(HMACAlgorithm):
    """HS256 that takes `secret` as a secret: short ones are warned about once, when the configuration is read."""

    def check_key_length(self, key: bytes) -> str | None:
        del key
        return None

    def prepare_key(self, key: str | bytes) -> bytes:
        """As PyJWT does, once for each secret: it looks through them for what is no secret."""
        return _prepared(key)


@lru_cache(maxsize=64)
def _prepared(secret: str | bytes) -> bytes:
    return HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)


_JWS: Final = jwt.PyJWS(algorithms=[])
_JWS.register_algorithm("HS256", _Hs256(HMACAlgorithm.SHA256))


def _invalid(detail: str) -> TokenError:
    return TokenError(401, f"invalid authorization token: {detail}")


def _signed(token: str, secret: str) -> bool:
    """Whether `token` is signed with `secret`."""
    signed, _, signature = token.rpartition(".")
    expected = base64.urlsafe_b64encode(hmac.digest(secret.encode(), signed.encode("ascii", "replace"), "sha256"))
    if not hmac.compare_digest(expected.rstrip(b"="), signature.rstrip("=").encode("ascii", "replace")):
        return False
    try:
        # It is strict about the rest. As it looks at each character by itself, it is asked last.
        _JWS.decode(token, secret, algorithms=["HS256"])
    except jwt.PyJWTError:
        return False
    return True


def _unverified(token: str) -> dict[str, Any]:
    """The token's body, before anything in it is believed."""
    if len(token) > MAX_TOKEN_LENGTH:
        raise TokenError(401, "invalid authorization token")
    try:
        head, payload, _ = token.split(".", 3)
        header, body = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in (head, payload))
    except (ValueError, RecursionError):
        raise TokenError(401, "invalid authorization token") from None
    if not isinstance(header, dict) or header.get("alg") != "HS256" or not isinstance(body, dict):
        raise TokenError(401, "invalid authorization token")
    return body


def _check_times(body: Mapping[str, Any], now: float) -> tuple[float, float]:
    times: dict[str, float] = {}
    for name in ("exp", "nbf", "iat"):
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1e15 < value < 1e15:  # also NaN
            raise _invalid(f"{name} is not a time")
        times[name] = float(value)
    if "exp" not in times:
        raise _invalid("token never expires (exp)")
    if now > times["exp"] + LEEWAY:
        raise _invalid("token is expired (exp)")
    if now < times.get("nbf", -math.inf) - LEEWAY:
        raise _invalid("token is not valid yet (nbf)")
    if now < times.get("iat", -math.inf) - LEEWAY:
        raise _invalid("token was issued in the future (iat)")
    return times.get("nbf", 0.0), times["exp"]


def _claims(body: Mapping[str, Any], issuer: str, not_before: float, expires_at: float) -> Claims:
    grants = {
        name: None if body.get(name) is None else _read_grant(grant, name, body[name])
        for name, grant in _GRANTS.items()
    }
    return Claims(
        identity=_string("sub", body.get("sub")) or _string("jti", body.get("jti")),
        name=_string("name", body.get("name")),
        kind=_string("kind", body.get("kind")).lower() or "standard",
        kind_details=_strings("kindDetails", body.get("kindDetails")),
        metadata=_string("metadata", body.get("metadata")),
        attributes=_string_map("attributes", body.get("attributes")),
        sha256=_string("sha256", body.get("sha256")),
        room_preset=_string("roomPreset", body.get("roomPreset")),
        room_config=_room_config(body.get("roomConfig")),
        issuer=issuer,
        expires_at=expires_at,
        not_before=not_before,
        **grants,
    )


def _string(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _invalid(f"{name} is not a string")
    # JSON can spell half a surrogate pair, which no protobuf string may hold.
    return value.encode("utf-8", "replace").decode() if any("\ud800" <= char <= "\udfff" for char in value) else value


def _strings(name: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _invalid(f"{name} is not a list")
    return tuple(_string(name, item).lower() for item in value)


def _string_map(name: str, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _invalid(f"{name} is not an object")
    return {_string(name, key): _string(name, item) for key, item in value.items()}


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _invalid(f"{name} is not true or false")
    return value


def _room_config(value: object) -> RoomConfiguration | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _invalid("roomConfig is not an object")
    try:
        return json_format.ParseDict(value, RoomConfiguration(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, TypeError, RecursionError):
        raise _invalid("roomConfig is not a room configuration") from None


_GRANTS: Final[Mapping[str, type]] = {
    "video": VideoGrant,
    "sip": SipGrant,
    "agent": AgentGrant,
    "inference": InferenceGrant,
    "observability": ObservabilityGrant,
}
_READERS: Final[Mapping[str, Callable[[str, object], object]]] = {  # by a field's annotation
    "bool": _flag,
    "bool | None": _flag,
    "str": _string,
    "tuple[str, ...]": _strings,
}


@cache
def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _read_grant(grant: type, name: str, value: object) -> Any:  # noqa: ANN401  one of the grants above
    """A grant from its JSON object: known fields in lowerCamelCase, null as if absent, unknown ones ignored."""
    if not isinstance(value, dict):
        raise _invalid(f"{name} is not an object")
    said = {
        field.name: _READERS[str(field.type)](f"{name}.{_camel(field.name)}", value[_camel(field.name)])
        for field in fields(grant)
        if value.get(_camel(field.name)) is not None
    }
    return grant(**said)


def _write_grant(grant: Any) -> dict[str, Any]:  # noqa: ANN401  one of the grants above
    """A grant as its JSON object, without what says nothing: a permission that is denied says something."""
    values = {field.name: (getattr(grant, field.name), field.default) for field in fields(grant)}
    return {_camel(name): value for name, (value, default) in values.items() if value != default}
