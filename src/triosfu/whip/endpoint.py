"""`/whip/v1` and `/whep/v1`: the HTTP requests of a client that publishes or watches, and their answers.

RFC 9725; draft-ietf-wish-whep; protocol reference, section 16. Everything but the making of a room is done in one
synchronous step, so a request that is cancelled has done all of it, or nothing.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from google.protobuf import json_format
from livekit.protocol import models, rtc

from triosfu.errors import MalformedPacket
from triosfu.net.http import Response
from triosfu.rooms.joining import JoinOptions, JoinRefused, Selection
from triosfu.signalling.client import MAX_CLIENT, applicant, client_address
from triosfu.tokens import TokenError, check_join, token_of, verify
from triosfu.whip.fragment import MAX_BYTES, MEDIA_TYPE, Fragment
from triosfu.whip.offers import read_offer
from triosfu.whip.session import RESTART, HttpLink, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from triosfu.net.http import Request
    from triosfu.rooms.directory import Rooms
    from triosfu.rooms.joining import Applicant
    from triosfu.sdp.policy import MediaPolicy
    from triosfu.tokens import Claims
    from triosfu.whip.offers import Offer
    from triosfu.whip.session import Sessions

SDP: Final = "application/sdp"
PROBLEM: Final = "application/problem+json"  # RFC 9457
PUBLISH, WATCH = "/whip/v1", "/whep/v1"
ON_ENDPOINT: Final = "GET, HEAD, POST, OPTIONS"
ON_SESSION: Final = "GET, HEAD, PATCH, DELETE, OPTIONS"
BUSY: Final = "5"  # seconds after which a client may try again that found no place
DENIED: Final = "permissions denied"
MAX_SELECTOR: Final = 256  # characters


class Whip:
    """Answers the requests of WHIP and WHEP clients."""

    def __init__(
        self,
        rooms: Rooms,
        sessions: Sessions,
        keys: Mapping[str, str],
        policy: MediaPolicy,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Serve `rooms`; `sessions` must be among their listeners."""
        self.counters: Counter[str] = Counter()
        self._rooms = rooms
        self._sessions = sessions
        self._keys = keys
        self._policy = policy
        self._wall_clock = wall_clock

    async def respond(self, request: Request) -> Response | None:
        """Answer `request`; None when its path is none of ours.

        Cancelled, it has admitted nobody.
        """
        base, sid = _route(request.path)
        if not base:
            return None
        try:
            if sid:
                return self._on_session(request, sid)
            return await self._on_endpoint(request, publishes=base == PUBLISH)
        except (JoinRefused, TokenError) as refusal:
            self.counters["refused"] += 1
            return _problem(refusal.status, refusal.text)
        except MalformedPacket as error:
            self.counters["malformed"] += 1
            return _problem(400, str(error))

    # --- the endpoint ----------------------------------------------------------------------------------------------

    async def _on_endpoint(self, request: Request, *, publishes: bool) -> Response:
        match request.method:
            case "POST":
                return await self._begin(request, publishes=publishes)
            case "GET" | "HEAD":  # RFC 9725, section 4.1: there is nothing to show
                return Response(204)
            case "OPTIONS":
                return Response(200, headers=[("Allow", ON_ENDPOINT), ("Accept-Post", SDP)])
        return _wrong_method(ON_ENDPOINT)

    async def _begin(self, request: Request, *, publishes: bool) -> Response:
        """Let a client in: everything is checked first, then a participant joins with its offer, and is answered."""
        token = _token(request)
        claims = self._claims(token)
        grant = check_join(claims)
        who = applicant(claims, defaults=self._rooms.settings.defaults)
        if not (who.permission.can_publish if publishes else who.permission.can_subscribe):
            raise JoinRefused(401, DENIED)
        who.check(grant.room, self._rooms.settings.limits)
        _require(request, SDP)
        offer = read_offer(request.body, self._policy, self._rooms.services.rng, sends=publishes)
        _check_sources(offer, who)
        link = HttpLink()
        participant = await self._rooms.join(grant.room, who, _join_options(request, offer, publishes=publishes), link)
        if not link.answer or participant.closed:
            participant.close(models.DisconnectReason.JOIN_FAILURE, tell=False)
            raise JoinRefused(422, "the offer could not be answered")
        session = Session(participant, link, token)
        self._sessions.add(session)
        self.counters["whip" if publishes else "whep"] += 1
        location = f"{PUBLISH if publishes else WATCH}/{participant.sid}"
        if "authorization" not in request.headers:  # whoever has it in a URL has no other place for it
            location += f"?access_token={quote(token, safe='')}"
        return Response(
            201,
            link.answer.encode(),
            [
                ("Content-Type", SDP),
                ("Location", location),
                ("ETag", session.etag),
                ("Accept-Patch", MEDIA_TYPE),
                *(("Link", value) for value in _links(self._rooms.settings.ice_servers)),
            ],
        )

    # --- a session -------------------------------------------------------------------------------------------------

    def _on_session(self, request: Request, sid: str) -> Response:
        if request.method == "OPTIONS":
            return Response(200, headers=[("Allow", ON_SESSION), ("Accept-Patch", MEDIA_TYPE)])
        session = self._authorized(request, sid)
        match request.method:
            case "PATCH":
                return self._patch(request, session)
            case "DELETE":
                session.end()
                return Response(200)
            case "GET" | "HEAD":
                return Response(204)
        return _wrong_method(ON_SESSION)

    def _authorized(self, request: Request, sid: str) -> Session:
        """The session, for those that may touch it: the token that opened it, or one for the same participant.

        Who may not is told the same whether there is such a session or not: sids are known to all of a room.
        """
        token = _token(request)
        session = self._sessions.find(sid)
        if session is not None and session.opened_by(token):
            return session
        claims = self._claims(token)
        grant = check_join(claims)
        if session is None or (grant.room, claims.identity) != session.owner:
            raise JoinRefused(404, "no such session")
        return session

    def _patch(self, request: Request, session: Session) -> Response:
        """Take candidates, or restart ICE (RFC 9725, section 4.3)."""
        _require(request, MEDIA_TYPE)
        condition = request.headers.get("if-match")
        if condition is None:
            raise JoinRefused(428, "If-Match is required")
        if not _matches(condition, session.etag):
            raise JoinRefused(412, "that ICE session is over")
        if len(request.body) > MAX_BYTES:
            raise JoinRefused(413, "the fragment is too large")
        fragment = Fragment.parse(request.body)
        restarts = session.is_restart(fragment)
        session.pay(RESTART if restarts else 1)
        if not restarts:
            session.trickle(fragment)
            return Response(204)
        body = session.restart(fragment)
        return Response(200, body.encode(), [("Content-Type", MEDIA_TYPE), ("ETag", session.etag)])

    def _claims(self, token: str) -> Claims:
        return verify(token, self._keys, now=self._wall_clock())


def _token(request: Request) -> str:
    token = token_of(request.headers.get("authorization"), request.get("access_token"))
    if token is None:
        raise JoinRefused(401, "no permissions to access the room")
    return token


def _route(path: str) -> tuple[str, str]:
    """The endpoint that a path belongs to, "" for none, and the session's sid, "" for the endpoint itself."""
    for base in (PUBLISH, WATCH):
        if path.rstrip("/") == base:
            return base, ""
        if path.startswith(f"{base}/"):
            return base, path.removeprefix(f"{base}/")
    return "", ""


def _join_options(request: Request, offer: Offer, *, publishes: bool) -> JoinOptions:
    """A join as other clients ask for it, with everything in one request."""
    return JoinOptions(
        client=_client(request),
        single=True,
        fixed=True,
        sends=publishes,
        auto_subscribe=offer.receives,
        selection=Selection(participant=_selector(request, "participant"), track=_selector(request, "track")),
        add_tracks=offer.tracks,
        publisher_offer=rtc.SessionDescription(type="offer", sdp=offer.sdp),
    )


def _client(request: Request) -> models.ClientInfo:
    """What the client says of itself, if it does as the reference server's ingress does; and where it is."""
    said = request.headers.get("x-livekit-clientinfo", "")
    client = models.ClientInfo()
    if len(said) > MAX_CLIENT:
        raise JoinRefused(400, "client info too large")
    if said:
        try:
            json_format.Parse(said, client, ignore_unknown_fields=True, max_recursion_depth=8)
        except (json_format.ParseError, ValueError, RecursionError):
            raise JoinRefused(400, "cannot read the client info") from None
    client.address = client_address(request)
    return client


def _selector(request: Request, name: str) -> str:
    value = request.get(name) or ""
    if len(value) > MAX_SELECTOR:
        raise JoinRefused(400, f"{name}: too long")
    return value


def _check_sources(offer: Offer, who: Applicant) -> None:
    if not all(who.permission.may_publish(track.source) for track in offer.tracks):
        raise JoinRefused(401, DENIED)


def _require(request: Request, media_type: str) -> None:
    """Refuse a body of another type; with 400, as the reference server does."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != media_type:
        raise JoinRefused(400, f"the Content-Type must be {media_type}")


def _matches(condition: str, etag: str) -> bool:
    """RFC 9110, section 13.1.1, with strong comparison; RFC 9725's own example has the asterisk in quotes."""
    tags = [tag.strip() for tag in condition.split(",")]
    return any(tag in {"*", '"*"', etag, etag.strip('"')} for tag in tags)


def _links(servers: Iterable[rtc.ICEServer]) -> Iterator[str]:
    """One value per URL (RFC 9725, section 4.6)."""
    for server in servers:
        secret = ""
        if server.username or server.credential:
            secret = f"; username={_quoted(server.username)}; credential={_quoted(server.credential)}"
        for url in server.urls:
            yield f'<{url}>; rel="ice-server"{secret}'


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _wrong_method(allowed: str) -> Response:
    response = _problem(405, "method not allowed")
    return Response(405, response.body, [*response.headers, ("Allow", allowed)])


def _problem(status: int, text: str) -> Response:
    """An error as the reference server words it, and as RFC 9457 does."""
    body = {"error": text, "title": HTTPStatus(status).phrase, "status": status, "detail": text}
    headers = [("Content-Type", PROBLEM)]
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", "Bearer"))
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        headers.append(("Retry-After", BUSY if status == HTTPStatus.SERVICE_UNAVAILABLE else "1"))
    return Response(status, json.dumps(body).encode(), headers)
