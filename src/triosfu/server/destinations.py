"""Which rooms a request is about: the front looks, to know where it goes. The worker finds out whether it may."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from livekit.protocol import room

from triosfu.api.errors import JSON, TwirpError
from triosfu.api.messages import PROTOBUF, content_type, parse
from triosfu.api.twirp import PREFIX, at_leisure
from triosfu.config.workers import LONGEST_ROOM_NAME
from triosfu.tokens import TokenError, signed, token_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from triosfu.net.http import Request

SERVICE: Final = f"{PREFIX}livekit.RoomService/"
LIST_ROOMS: Final = f"{SERVICE}ListRooms"
CREATE_ROOM: Final = f"{SERVICE}CreateRoom"
DELETE_ROOM: Final = f"{SERVICE}DeleteRoom"
BETWEEN_ROOMS: Final = frozenset({f"{SERVICE}MoveParticipant", f"{SERVICE}ForwardParticipant"})


async def rooms_of(request: Request, keys: Mapping[str, str]) -> tuple[str, ...]:
    """The rooms that `request` may touch, the one that it is about first; none if it can touch no room.

    Tokens name them, but for the two calls that need no token for one room. Only those that are signed with one of
    `keys` count: others let nobody do anything, wherever they go. Cancelled, it has done nothing.
    """
    try:
        token = token_of(request.headers.get("authorization"), request.get("access_token"))
    except TokenError:
        return ()
    claims = None if token is None else signed(token, keys)
    if claims is None or claims.video is None:
        return ()
    if request.path in {CREATE_ROOM, DELETE_ROOM}:
        names = [await _named(request)]
    else:
        names = [claims.video.room]
        if request.path in BETWEEN_ROOMS:
            names.append(claims.video.destination_room)
    # Nobody gets into a room with a longer name.
    return tuple(dict.fromkeys(name for name in names if 0 < len(name) <= LONGEST_ROOM_NAME))


async def _named(request: Request) -> str:
    """The room in the body of a call; "" where there is none to be read, which the worker will find out as well."""
    content = content_type(request.headers.get("content-type", ""))
    if content not in {JSON, PROTOBUF}:
        return ""
    kind: type[Message] = room.CreateRoomRequest if request.path == CREATE_ROOM else room.DeleteRoomRequest
    try:
        message = await at_leisure(len(request.body), partial(parse, kind, request.body, content))
    except TwirpError:
        return ""
    return str(message.name if request.path == CREATE_ROOM else message.room)
