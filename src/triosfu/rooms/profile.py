"""A participant's own name, metadata and attributes, and the changes it may make to them (section 7.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from livekit.protocol import rtc

from triosfu.rooms.joining import profile_problem
from triosfu.rooms.signals import RequestReason

if TYPE_CHECKING:
    from triosfu.rooms.participant import Participant

NOT_ALLOWED = "does not have permission to update own metadata"


def request_update(participant: Participant, request: rtc.UpdateParticipantMetadata) -> None:
    """Change what the client asks to change of itself, and answer it by its request id (traps 22 and 23)."""
    if not participant.permission.can_update_metadata:
        _answer(participant, request, RequestReason.NOT_ALLOWED, NOT_ALLOWED)
        return
    problem = update(participant, request.name, request.metadata, dict(request.attributes))
    if problem is not None:
        _answer(participant, request, RequestReason.LIMIT_EXCEEDED, problem)
        return
    _answer(participant, request, RequestReason.OK, "")


def update(participant: Participant, name: str, metadata: str, attributes: dict[str, str]) -> str | None:
    """Change a participant; an empty text leaves things as they are, an empty attribute goes away.

    Returns which limit forbids it; then nothing was changed.
    """
    name = name or participant.name
    metadata = metadata or participant.metadata
    merged = {key: value for key, value in {**participant.attributes, **attributes}.items() if value}
    problem = profile_problem(name, metadata, merged, participant.settings.limits)
    if problem is not None:
        return problem
    if (name, metadata, merged) != (participant.name, participant.metadata, participant.attributes):
        participant.name, participant.metadata, participant.attributes = name, metadata, merged
        participant.changed(at_once=True)
        participant.refresh_token()
    return None


def _answer(
    participant: Participant, request: rtc.UpdateParticipantMetadata, reason: RequestReason, message: str
) -> None:
    response = rtc.RequestResponse(
        request_id=request.request_id, reason=reason, message=message, update_metadata=request
    )
    participant.send(rtc.SignalResponse(request_response=response))
