"""What a worker says of itself when it registers, checked, and the token that its agents join with.

Protocol reference, sections 10.2 to 10.4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from livekit.protocol import agent, models

from triosfu.errors import TriosfuError
from triosfu.tokens import Claims, VideoGrant, sign

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_NAME: Final = 256  # characters of an agent's name or a namespace
MAX_DEPLOYMENT: Final = 64
AGENT_NAME: Final = "lk.agent_name"  # attribute of an agent's participant
TOKEN_TTL: Final = 3600.0  # seconds
USUAL: Final = models.ParticipantPermission(
    can_subscribe=True, can_publish=True, can_publish_data=True, can_update_metadata=True
)
TYPES: Final = frozenset({agent.JobType.JT_ROOM, agent.JobType.JT_PUBLISHER, agent.JobType.JT_PARTICIPANT})
SOURCES: Final = frozenset(models.TrackSource.values())


class Unfit(TriosfuError):
    """A worker cannot be registered as it says."""


@dataclass(frozen=True, slots=True)
class Key:
    """Which jobs a worker gets: those whose key is the same in every part."""

    agent_name: str
    namespace: str
    type: agent.JobType
    deployment: str


@dataclass(frozen=True, slots=True)
class Registration:
    """A worker that may have jobs."""

    key: Key
    grant: VideoGrant  # of its agents, in whatever room


def check_registration(request: agent.RegisterWorkerRequest) -> Registration:
    """Return what `request` registers.

    Raises:
        Unfit: A part of it is not what its type promises, or too long.
    """
    if request.type not in TYPES:
        raise Unfit("type: unknown")
    if len(request.agent_name) > MAX_NAME:
        raise Unfit(f"agent_name: longer than {MAX_NAME} characters")
    if len(request.namespace) > MAX_NAME:
        raise Unfit(f"namespace: longer than {MAX_NAME} characters")
    if problem := deployment_problem(request.deployment):
        raise Unfit(f"deployment: {problem}")
    allowed = request.allowed_permissions if request.HasField("allowed_permissions") else USUAL
    if not SOURCES.issuperset(allowed.can_publish_sources):
        raise Unfit("allowed_permissions: an unknown source")
    # What the worker says of itself does not decide these three: an agent is one, and it is no recorder.
    grant = replace(VideoGrant().with_permission(allowed), room_join=True, agent=True, recorder=False)
    key = Key(request.agent_name, request.namespace, request.type, request.deployment)
    return Registration(key, replace(grant, can_manage_agent_session=None))


def deployment_problem(text: str) -> str | None:
    """What is wrong with the name of a deployment, if anything."""
    if len(text) > MAX_DEPLOYMENT:
        return f"longer than {MAX_DEPLOYMENT} characters"
    if any(char == "_" or char.isspace() for char in text):
        return "must have no underscore and no white space"
    return None


def agent_token(
    registration: Registration,
    answer: agent.AvailabilityResponse,
    *,
    identity: str,
    room: str,
    key: str,
    secret: str,
    now: float,
) -> str:
    """The token with which an agent joins `room`, as the worker described it in `answer`; `now` since the epoch."""
    attributes: Mapping[str, str] = dict(answer.participant_attributes)
    if name := registration.key.agent_name:
        attributes = {**attributes, AGENT_NAME: name}
    claims = Claims(
        identity=identity,
        name=answer.participant_name,
        kind="agent",
        metadata=answer.participant_metadata,
        attributes=attributes,
        video=replace(registration.grant, room=room),
    )
    return sign(claims, key, secret, now=now, ttl=TOKEN_TTL)
