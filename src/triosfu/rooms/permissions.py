"""What a participant may do by its token, and who may receive what a participant publishes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from livekit.protocol import models

if TYPE_CHECKING:
    from collections.abc import Callable

    from livekit.protocol import rtc

MAX_RULES: Final = 32_768  # people, and tracks of theirs, that one publisher names; a message may have many more


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """The grants of one participant (protocol reference, section 2.2), as they stand now."""

    can_subscribe: bool = True
    can_publish: bool = True
    can_publish_data: bool = True
    can_publish_sources: tuple[models.TrackSource, ...] = ()  # empty allows all
    can_update_metadata: bool = False
    can_subscribe_metrics: bool = False
    can_manage_agent_session: bool = False
    hidden: bool = False
    recorder: bool = False
    agent: bool = False

    @classmethod
    def parse(cls, message: models.ParticipantPermission) -> Permission:
        """Take over the grants of a protobuf message, as the server API sends them."""
        return cls(
            can_subscribe=message.can_subscribe,
            can_publish=message.can_publish,
            can_publish_data=message.can_publish_data,
            can_publish_sources=tuple(message.can_publish_sources),
            can_update_metadata=message.can_update_metadata,
            can_subscribe_metrics=message.can_subscribe_metrics,
            can_manage_agent_session=message.can_manage_agent_session,
            hidden=message.hidden,
            recorder=message.recorder,
            agent=message.agent,
        )

    def serialize(self) -> models.ParticipantPermission:
        """Return the grants as the message that clients read; to be copied, not changed."""
        return _serialized(self)

    def may_publish(self, source: models.TrackSource) -> bool:
        """Tell whether a track from `source` may be published; a list of sources restricts, it never grants."""
        return self.can_publish and (not self.can_publish_sources or source in self.can_publish_sources)


@lru_cache(maxsize=256)  # most people may do the same, and are described again and again
def _serialized(permission: Permission) -> models.ParticipantPermission:
    return models.ParticipantPermission(
        can_subscribe=permission.can_subscribe,
        can_publish=permission.can_publish,
        can_publish_data=permission.can_publish_data,
        can_publish_sources=permission.can_publish_sources,
        can_update_metadata=permission.can_update_metadata,
        can_subscribe_metrics=permission.can_subscribe_metrics,
        can_manage_agent_session=permission.can_manage_agent_session,
        hidden=permission.hidden,
        recorder=permission.recorder,
        agent=permission.agent,
    )


class SubscriptionRules:
    """Who may subscribe to what one publisher publishes (protocol reference, section 5.2)."""

    def __init__(self) -> None:
        self._everybody = True
        self._all_tracks: frozenset[str] = frozenset()  # identities
        self._tracks: dict[str, frozenset[str]] = {}  # identity -> track sids

    def replace(self, request: rtc.SubscriptionPermission, identity_of: Callable[[str], str | None]) -> bool:
        """Replace all rules by those of `request`; return False, and change nothing, when one names nobody.

        `identity_of` resolves a participant sid. An entry whose sid is not in the room (any more) is skipped. Beyond
        `MAX_RULES` people and tracks no more are let in: whoever is not named there receives nothing.
        """
        if request.all_participants:
            self._everybody, self._all_tracks, self._tracks = True, frozenset(), {}
            return True
        if any(not entry.participant_identity and not entry.participant_sid for entry in request.track_permissions):
            return False
        everything: set[str] = set()
        tracks: dict[str, set[str]] = {}
        room = MAX_RULES
        for entry in request.track_permissions:
            identity = entry.participant_identity or identity_of(entry.participant_sid)
            if identity is None:
                continue
            room -= identity not in tracks
            if room < 0:
                break
            if entry.all_tracks:
                everything.add(identity)
            tracks.setdefault(identity, set()).update(entry.track_sids[:room])
            room -= min(room, len(entry.track_sids))
        self._everybody, self._all_tracks = False, frozenset(everything)
        self._tracks = {identity: frozenset(sids) for identity, sids in tracks.items()}
        return True

    def allows(self, identity: str, track_sid: str, *, recorder: bool) -> bool:
        """Tell whether `identity` may receive the track; recorders always may."""
        return (
            self._everybody
            or recorder
            or identity in self._all_tracks
            or track_sid in self._tracks.get(identity, frozenset())
        )
