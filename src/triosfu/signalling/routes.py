"""The HTTP side of signalling: who may join is decided, and answered in LiveKit's words, before any upgrade.

Protocol reference, sections 1.1 to 1.3 and 3.7; section 17, rows 2 and 3.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio
from livekit.protocol import models

from triosfu.net.http import Request, Response, Upgrade
from triosfu.net.websocket import WebSocketLimits
from triosfu.rooms.joining import JoinRefused
from triosfu.rooms.signals import LeaveAction, leave
from triosfu.signalling.client import applicant, join_options, query_attributes
from triosfu.signalling.link import SocketLink
from triosfu.signalling.session import converse
from triosfu.tokens import Claims, TokenError, check_join, refresh_token, token_of, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from triosfu.net.websocket import WebSocket, WebSocketHandler
    from triosfu.rooms.directory import Rooms
    from triosfu.rooms.joining import Applicant, JoinOptions
    from triosfu.rooms.participant import Participant

PATHS = frozenset({"/rtc", "/rtc/v1", "/rtc/validate", "/rtc/v1/validate"})
MISSING_JOIN_REQUEST = "join_request is required"


@dataclass(frozen=True, slots=True)
class _Wish:
    """A request to join that has been found in order."""

    room: str
    applicant: Applicant
    options: JoinOptions


class Signalling:
    """Answers the requests of clients that want to join, or to come back."""

    def __init__(
        self,
        rooms: Rooms,
        keys: Mapping[str, str],
        *,
        wall_clock: Callable[[], float] = time.time,
        limits: WebSocketLimits | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._rooms = rooms
        self._keys = keys
        self._wall_clock = wall_clock
        self._limits = limits or WebSocketLimits()

    async def respond(self, request: Request) -> Response | Upgrade:
        """Answer `request`; with 404 when its path is none of ours, as LiveKit's clients expect it.

        Cancelled, it has admitted nobody.
        """
        if request.path not in PATHS:
            return Response(404)
        validating = request.path.endswith("/validate")
        if request.method != "GET":
            return Response.text(405, "method not allowed")
        try:
            claims = self._claims(request)
            if not validating and not request.wants_websocket:
                self.counters["no_upgrade"] += 1
                return Response(404)
            wish = self._wish(request, claims, validating=validating)
            if validating:
                self._rooms.check_join(wish.room, wish.applicant)
                return Response.text(200, "success")
            return await self._enter(wish, text=request.get("json") == "1")
        except (JoinRefused, TokenError) as refusal:
            self.counters["refused"] += 1
            return Response.text(refusal.status, refusal.text)

    def _claims(self, request: Request) -> Claims | None:
        token = token_of(request.headers.get("authorization"), request.get("access_token"))
        return None if token is None else verify(token, self._keys, now=self._wall_clock())

    def _wish(self, request: Request, claims: Claims | None, *, validating: bool) -> _Wish:
        """Check everything that does not depend on the room, in the reference's order."""
        if claims is None:
            raise JoinRefused(401, "no permissions to access the room")
        if request.path.startswith("/rtc/v1") and not request.get("join_request"):
            raise JoinRefused(400, MISSING_JOIN_REQUEST)
        grant = check_join(claims)
        options, metadata, attributes = join_options(request)
        if not options.single:
            claimed = query_attributes(request)
            if claimed is None and validating:
                raise JoinRefused(400, "cannot decode attributes")
            attributes = claimed or {}
        who = applicant(claims, settings=self._rooms.settings).claiming(metadata, attributes)
        publish = request.get("publish")
        if publish and not options.single:
            if not who.permission.can_publish:
                raise JoinRefused(401, "permissions denied")
            who = replace(
                who,
                identity=f"{who.identity}#{publish}",
                permission=replace(who.permission, can_subscribe=False),
            )
        who.check(grant.room, self._rooms.settings.limits)
        return _Wish(grant.room, who, options)

    async def _enter(self, wish: _Wish, *, text: bool) -> Response | Upgrade:
        """Admit a participant, or bring it back, and let the socket open.

        `json=1` is ours: a page can have text frames from the first message on, before it has sent one of its own.
        """
        link = SocketLink(self.counters, text=text)
        if wish.options.reconnect:
            self._rooms.check_token(wish.room, wish.applicant)
            participant = self._rooms.resume(wish.room, wish.applicant.identity, wish.options, link)
            if participant is None:
                # Never an HTTP error: clients would only try to resume again (trap 24).
                self.counters["unknown_resumes"] += 1
                return Upgrade(self._start_over)
        else:
            participant = await self._rooms.join(wish.room, wish.applicant, wish.options, link)
        return Upgrade(self._session(participant, link), self._limits)

    def _session(self, participant: Participant, link: SocketLink) -> WebSocketHandler:
        async def session(socket: WebSocket) -> None:
            trio.lowlevel.current_task().name = f"session {participant.sid}"
            self.counters["connected"] += 1
            await converse(socket, link, participant, self.counters)

        return session

    async def _start_over(self, socket: WebSocket) -> None:
        """Tell a client whose session is not known here to begin a new one."""
        link = SocketLink(self.counters)
        link.open(socket)
        link.send(leave(LeaveAction.RECONNECT, models.DisconnectReason.STATE_MISMATCH))
        link.close()


def token_refresher(
    keys: Mapping[str, str], *, wall_clock: Callable[[], float] = time.time
) -> Callable[[Participant], str]:
    """Return what makes a fresh token for a participant as it is now, signed with the first of `keys` (section 2.3)."""
    key, secret = next(iter(keys.items()))

    def refresh(participant: Participant) -> str:
        claims = participant.applicant.claims
        if not isinstance(claims, Claims):
            claims = Claims(expires_at=participant.applicant.token_expires)
        grant = claims.video
        if grant is not None:
            grant = grant.with_permission(participant.permission.serialize())
            grant = replace(grant, room=participant.room.name)  # it may have been moved
        now_said = replace(
            claims,
            identity=participant.identity,
            name=participant.name,
            metadata=participant.metadata,
            attributes=dict(participant.attributes),
            video=grant,
        )
        return refresh_token(now_said, key, secret, now=wall_clock())

    return refresh
