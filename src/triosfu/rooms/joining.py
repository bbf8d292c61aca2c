"""What somebody brings along who wants to join: who they are by their token, and what their client asks for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from livekit.protocol import models, rtc

from triosfu.errors import TriosfuError
from triosfu.rooms.permissions import Permission
from triosfu.rooms.settings import RoomSettings
from triosfu.rooms.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from triosfu.rooms.listener import RoomListener
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.publication import Publication
    from triosfu.rooms.session_shape import PeerFactory
    from triosfu.rooms.settings import Limits, RoomDefaults

DEPENDENT_KINDS = frozenset({models.ParticipantInfo.Kind.AGENT, models.ParticipantInfo.Kind.EGRESS})
SUBSCRIBER_PRIMARY_SINCE = 3  # signalling protocol


class JoinRefused(TriosfuError):
    """Somebody may not join; `status` and the text are what the HTTP request for it is answered with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """Who wants to join, as a verified token says."""

    identity: str
    name: str = ""
    kind: models.ParticipantInfo.Kind = models.ParticipantInfo.Kind.STANDARD
    kind_details: tuple[models.ParticipantInfo.KindDetail, ...] = ()
    metadata: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    permission: Permission = field(default_factory=Permission)
    room_create: bool = False
    room: RoomDefaults | None = None  # how to set the room up if this join creates it
    token_expires: float = 0.0  # seconds since the epoch
    claims: object = None  # what the token said, for those who renew it

    @property
    def dependent(self) -> bool:
        """Whether this is a helper of others, which neither counts nor keeps a room open (trap 54)."""
        return self.kind in DEPENDENT_KINDS or self.permission.agent or self.permission.recorder

    def claiming(self, metadata: str, attributes: Mapping[str, str]) -> Applicant:
        """Return the applicant with what the client itself says of it, which it must be allowed to.

        Raises:
            JoinRefused: It says something without `canUpdateOwnMetadata`.
        """
        given = {key: value for key, value in attributes.items() if value}
        if not metadata and not given:
            return self
        if not self.permission.can_update_metadata:
            raise JoinRefused(401, "permissions denied")
        return replace(self, metadata=metadata or self.metadata, attributes={**self.attributes, **given})

    def check(self, room: str, limits: Limits) -> None:
        """Raise JoinRefused when a name is missing or anything is too long (section 1.2)."""
        if not self.identity:
            raise JoinRefused(400, "identity cannot be empty")
        if len(self.identity) > limits.identity:
            raise JoinRefused(400, f"participant identity length exceeds limits: max length {limits.identity}")
        if not room:
            raise JoinRefused(400, "no room name")
        if len(room) > limits.room_name:
            raise JoinRefused(400, f"room name length exceeds limits: max length {limits.room_name}")
        if problem := profile_problem(self.name, self.metadata, self.attributes, limits):
            raise JoinRefused(400, problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which of a room's tracks a client takes that takes what comes; what is empty selects nothing away."""

    participant: str = ""  # the publisher's identity
    track: str = ""  # a sid or a name

    def takes(self, publication: Publication) -> bool:
        """Whether the track is one of those."""
        return self.participant in {"", publication.publisher.identity} and (
            self.track in {"", publication.sid, publication.info.name}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions:
    """What a client asks for when it joins, or comes back."""

    client: models.ClientInfo = field(default_factory=models.ClientInfo)
    single: bool = False  # one peer connection
    fixed: bool = False  # with the sections of its first offer, for ever; the client's signalling is HTTP requests
    sends: bool = True  # what it may send there is taken
    auto_subscribe: bool = True
    selection: Selection = Selection()
    auto_subscribe_data_tracks: bool = False
    adaptive_stream: bool = False
    add_tracks: tuple[rtc.AddTrackRequest, ...] = ()
    publisher_offer: rtc.SessionDescription | None = None
    reconnect: bool = False
    participant_sid: str = ""
    sync_state: rtc.SyncState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What rooms are given by the server around them."""

    peers: PeerFactory
    rng: Random
    settings: RoomSettings = field(default_factory=RoomSettings)
    refresh_token: Callable[[Participant], str] | None = None
    listeners: tuple[RoomListener, ...] = ()
    tally: Tally = field(default_factory=Tally)


def profile_problem(name: str, metadata: str, attributes: Mapping[str, str], limits: Limits) -> str | None:
    """Return which limit a participant's name, metadata or attributes exceed, in the words that clients know."""
    if len(name) > limits.name:
        return "exceeds name length limit"
    if len(metadata.encode()) > limits.metadata:
        return "exceeds metadata size limit"
    if sum(len(key.encode()) + len(value.encode()) for key, value in attributes.items()) > limits.attributes:
        return "exceeds attributes size limit"
    return None
