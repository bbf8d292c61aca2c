"""Which rooms a request may touch: what tokens say that are signed, and bodies where there is no room in a token."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from livekit.protocol.room import CreateRoomRequest, DeleteRoomRequest

from triosfu import tokens
from triosfu.net.http import Headers, Request
from triosfu.server.destinations import CREATE_ROOM, DELETE_ROOM, SERVICE, rooms_of

if TYPE_CHECKING:
    from google.protobuf.message import Message

KEYS = {"devkey": "secret"}
JSON, PROTOBUF = "application/json", "application/protobuf"


def token(*, key: str = "secret", ttl: float = 60, **grants: object) -> str:
    video = tokens.VideoGrant(**{"room_join": True, "room": "home", **grants})  # type: ignore[arg-type]
    return tokens.create_token("devkey", key, now=time.time(), identity="alice", video=video, ttl=ttl)


def asked(path: str, said: str = "", *, body: bytes = b"", content: str = JSON, in_query: bool = False) -> Request:
    fields = [(b"content-type", content.encode())]
    if said and not in_query:
        fields.append((b"authorization", said.encode()))
    query = {"access_token": [said]} if in_query else {}
    return Request("POST", path, path, query, Headers(fields), body, ("192.0.2.1", 1))


async def test_a_token_that_is_signed_names_the_room() -> None:
    for path in ("/rtc", "/rtc/v1", "/rtc/validate", "/whip/v1", "/whep/v1/PA_x", f"{SERVICE}ListParticipants"):
        assert await rooms_of(asked(path, f"Bearer {token()}"), KEYS) == ("home",)
        assert await rooms_of(asked(path, token(), in_query=True), KEYS) == ("home",)
    # One that has expired may end its WHIP session (RFC 9725, section 4.2), where that is.
    assert await rooms_of(asked("/whip/v1/PA_x", f"Bearer {token(ttl=-1000)}"), KEYS) == ("home",)


@pytest.mark.parametrize(
    "said",
    ["", "Basic x", "Bearer ", "Bearer x.y.z", f"Bearer {token(key='another')}", f"Bearer {token(room='')}",
     f"Bearer {token(room='x' * 5000)}", "Bearer " + tokens.create_token("devkey", "secret", identity="a")],
)  # fmt: skip
async def test_all_others_lead_nowhere(said: str) -> None:
    assert await rooms_of(asked("/rtc", said), KEYS) == ()


async def test_who_is_taken_to_another_room_concerns_both() -> None:
    both = f"Bearer {token(room_admin=True, destination_room='away')}"
    for method in ("MoveParticipant", "ForwardParticipant"):
        assert await rooms_of(asked(f"{SERVICE}{method}", both), KEYS) == ("home", "away")
    assert await rooms_of(asked("/rtc", both), KEYS) == ("home",)
    same = f"Bearer {token(room_admin=True, destination_room='home')}"
    assert await rooms_of(asked(f"{SERVICE}MoveParticipant", same), KEYS) == ("home",)


@pytest.mark.parametrize(
    ("path", "message"), [(CREATE_ROOM, CreateRoomRequest(name="new")), (DELETE_ROOM, DeleteRoomRequest(room="new"))]
)
async def test_a_call_without_a_room_in_its_token_has_one_in_its_body(path: str, message: Message) -> None:
    said = f"Bearer {token(room_create=True, room='')}"
    named = {"name": "new"} if path == CREATE_ROOM else {"room": "new"}
    assert await rooms_of(asked(path, said, body=json.dumps(named).encode()), KEYS) == ("new",)
    binary = message.SerializeToString()
    assert await rooms_of(asked(path, said, body=binary, content=PROTOBUF), KEYS) == ("new",)
    for body, content in ((b"{", JSON), (b"\xff", PROTOBUF), (b"{}", JSON), (binary, "text/plain")):
        assert await rooms_of(asked(path, said, body=body, content=content), KEYS) == ()
    assert await rooms_of(asked(path, "", body=json.dumps(named).encode()), KEYS) == ()  # not even looked at
