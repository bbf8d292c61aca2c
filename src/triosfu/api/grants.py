"""Which token may make which call (protocol reference, sections 2.2 and 8.2)."""

from __future__ import annotations

from triosfu.api.errors import TwirpError
from triosfu.tokens import Claims, VideoGrant

DENIED = "permissions denied"
NOTHING = VideoGrant()


def video(claims: Claims) -> VideoGrant:
    """What the token grants about rooms."""
    return claims.video or NOTHING


def require(*, allowed: bool) -> None:
    """Refuse the call unless the token allows it."""
    if not allowed:
        raise TwirpError("unauthenticated", DENIED)


def require_admin(claims: Claims, room: str) -> VideoGrant:
    """The token must be one to administer this very room."""
    grant = video(claims)
    require(allowed=grant.room_admin and grant.room == room)
    return grant
