"""Calls to the server API in-process: a request as the HTTP server makes it, the answer as it would be sent."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from triosfu import tokens
from triosfu.api.absent import absent_services
from triosfu.api.rooms import RoomService
from triosfu.api.twirp import Service, Twirp
from triosfu.net.http import Headers, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from triosfu.net.http import Response
    from triosfu.rooms.directory import Rooms

KEYS = {"devkey": "secret"}
ADMIN = {"room_create": True, "room_list": True, "room_admin": True, "room": "room"}
JSON, PROTOBUF = "application/json", "application/protobuf"


def token(**grants: Any) -> str:  # noqa: ANN401  grants
    """A backend's token; without grants one that may do everything in the room `room`."""
    sip = grants.pop("sip", None)
    video = tokens.VideoGrant(**(grants or ADMIN))
    return tokens.create_token("devkey", "secret", now=time.time(), video=video, sip=sip)


@dataclass(frozen=True, slots=True)
class Refused(Exception):
    """An answer that is an error."""

    status: int
    code: str
    text: str
    meta: dict[str, str]


class Caller:
    """Calls with one token, and with another where a test says so."""

    def __init__(self, twirp: Twirp) -> None:
        self.twirp = twirp

    async def post(
        self,
        method: str,
        body: bytes,
        *,
        content: str = JSON,
        authorization: str | None = "",
        verb: str = "POST",
        service: str = "RoomService",
    ) -> Response:
        """The answer to any bytes; an empty `authorization` stands for the usual token, None for none."""
        headers = [(b"Content-Type", content.encode())] if content else []
        if authorization is not None:
            headers.append((b"Authorization", (authorization or f"Bearer {token()}").encode()))
        path = f"/twirp/livekit.{service}/{method}"
        return await self.twirp.respond(Request(verb, path, path, {}, Headers(headers), body, ("127.0.0.1", 1)))

    async def json(self, method: str, /, *, grants: Any = None, **fields: Any) -> Any:  # noqa: ANN401  JSON
        """The answer to a call in JSON, read.

        Raises:
            Refused: It is an error.
        """
        body = json.dumps(fields).encode()
        return read(await self.post(method, body, authorization=f"Bearer {token(**(grants or {}))}"))

    async def call(self, method: str, request: Message, kind: type[Message]) -> Any:  # noqa: ANN401  a `kind`
        """The answer to a call in protobuf, read; errors as `json`."""
        response = await self.post(method, request.SerializeToString(), content=PROTOBUF)
        if response.status != 200:
            read(response)
        assert dict(response.headers)["Content-Type"] == PROTOBUF
        return kind.FromString(response.body)


def caller(rooms: Rooms, *, more: Sequence[Service] = (), deadline: float = 10.0) -> Caller:
    """Who calls the API of a server with these rooms."""
    services = [RoomService(rooms).service(), *absent_services(), *more]
    return Caller(Twirp(KEYS, services, deadline=deadline))


def read(response: Response) -> Any:  # noqa: ANN401  what JSON holds
    """What a JSON answer says; Refused if it is an error."""
    assert dict(response.headers)["Content-Type"] == JSON
    said = json.loads(response.body)
    if response.status != 200:
        assert set(said) <= {"code", "msg", "meta"}
        raise Refused(response.status, said["code"], said["msg"], said.get("meta", {}))
    return said
