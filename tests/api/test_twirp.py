"""Twirp itself: where calls go, what they are written in, who may make them, and for how long (section 8.1)."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from livekit.protocol import egress, ingress, models, room, sip

from tests.api.caller import JSON, KEYS, PROTOBUF, Caller, Refused, caller, read, token
from tests.docs.test_cancelled_calls import cancelled_at_every_step
from triosfu.api.errors import STATUS, TwirpError
from triosfu.api.messages import as_json, parse, serialize
from triosfu.api.rooms import RoomService
from triosfu.api.twirp import LARGE, Answered, Method, Service, Twirp
from triosfu.rooms.directory import Rooms
from triosfu.rooms.joining import Services
from triosfu.tokens import SipGrant, create_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message
    from trio.testing import MockClock

    from triosfu.peer import PeerConnection
    from triosfu.tokens import Claims

ROOMS = room.DESCRIPTOR.services_by_name["RoomService"]
EGRESS = egress.DESCRIPTOR.services_by_name["Egress"]
INGRESSES = ingress.DESCRIPTOR.services_by_name["Ingress"]
SIP = sip.DESCRIPTOR.services_by_name["SIP"]


def nobody_makes_peers(**_: object) -> PeerConnection:
    raise AssertionError


@pytest.fixture
async def backend() -> AsyncIterator[Caller]:
    """Who calls a server without anybody on it."""
    rooms = Rooms(Services(peers=nobody_makes_peers, rng=Random(1)))
    async with trio.open_nursery() as nursery:
        await nursery.start(rooms.run)
        yield caller(rooms)
        nursery.cancel_scope.cancel()


def serving(call: Any, *, deadline: float = 10.0, undone: str = "nothing was done") -> Caller:  # noqa: ANN401
    """An API whose ListRooms does this."""
    return Caller(Twirp(KEYS, [Service(ROOMS, {"ListRooms": Method(call=call, undone=undone)})], deadline=deadline))


async def test_both_forms_say_the_same(backend: Caller) -> None:
    made = await backend.json("CreateRoom", name="room", emptyTimeout=30, max_participants=5, metadata="né", newer=[1])
    assert (made["empty_timeout"], made["departure_timeout"], made["max_participants"]) == (30, 20, 5)
    found = await backend.call("ListRooms", room.ListRoomsRequest(), room.ListRoomsResponse)
    assert [one.sid for one in found.rooms] == [made["sid"]]
    assert found.rooms[0].metadata == "né"
    assert (await backend.json("ListRooms", names=["other"])) == {"rooms": []}


async def test_trap_50_json_has_snake_case_defaults_and_nulls(backend: Caller) -> None:
    made = await backend.json("CreateRoom", name="room")
    assert made["num_participants"] == 0
    assert made["metadata"] == ""
    assert made["version"] is None
    assert made["active_recording"] is False
    assert made["creation_time"] == str(int(made["creation_time_ms"]) // 1000)  # 64 bits travel as text
    assert made["enabled_codecs"][0].keys() == {"mime", "fmtp_line"}
    participant = models.ParticipantInfo(tracks=[models.TrackInfo(sid="TR_1", codecs=[models.SimulcastCodecInfo()])])
    written = as_json(participant)
    assert written["state"] == "JOINING"
    assert written["permission"] is None
    assert (written["attributes"], written["data_tracks"]) == ({}, [])
    assert written["tracks"][0]["version"] is None
    assert written["tracks"][0]["codecs"][0]["mid"] == ""
    muted = as_json(room.MuteRoomTrackResponse(track=models.TrackInfo(sid="TR_1")))
    assert muted["track"]["version"] is None


WRONG_ROUTES = [
    ("ListRooms", "GET", JSON, 'unsupported method "GET" (only POST is allowed)'),
    ("Rooms", "POST", JSON, 'no handler for path "/twirp/livekit.RoomService/Rooms"'),
    ("ListRooms/", "POST", JSON, 'no handler for path "/twirp/livekit.RoomService/ListRooms/"'),
    ("ListRooms", "POST", "text/plain", 'unexpected Content-Type: "text/plain"'),
    ("ListRooms", "POST", "", 'unexpected Content-Type: ""'),
]


@pytest.mark.parametrize(("method", "verb", "content", "text"), WRONG_ROUTES)
async def test_a_wrong_route_is_told(backend: Caller, method: str, verb: str, content: str, text: str) -> None:
    with pytest.raises(Refused) as refused:
        read(await backend.post(method, b"{}", content=content, verb=verb))
    meta = {"twirp_invalid_route": f"{verb} /twirp/livekit.RoomService/{method}"}
    assert refused.value == Refused(404, "bad_route", text, meta)


async def test_a_content_type_may_have_parameters(backend: Caller) -> None:
    assert read(await backend.post("ListRooms", b"{}", content="Application/JSON; charset=utf-8")) == {"rooms": []}


HOSTILE_JSON = [
    b"", b"{", b"[]", b"3", b"null", b'"x"', b"\xff", b'{"names": 3}', b'{"names": [{}]}', b'{"names": "x"}',
    b'{"names": ["\\ud800"]}', b"[" * 50_000, b'{"a":' * 50_000, b'{"names": [' + b"9" * 10_000 + b"]}",
    b'{"names": ["a"], "names": ["b"]}', b"{} {}", b"NaN",
]  # fmt: skip
HOSTILE_PROTOBUF = [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05a", b"\x0b" * 5000, b"\x0a\x01\xff"]


@pytest.mark.parametrize("body", HOSTILE_JSON, ids=lambda body: body[:12])
async def test_json_that_is_none_is_malformed(backend: Caller, body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read(await backend.post("ListRooms", body))
    assert refused.value == Refused(400, "malformed", "the json request could not be decoded", {})


@pytest.mark.parametrize("body", HOSTILE_PROTOBUF, ids=lambda body: body[:12])
async def test_protobuf_that_is_none_is_malformed(backend: Caller, body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read(await backend.post("ListRooms", body, content=PROTOBUF))
    assert refused.value == Refused(400, "malformed", "the protobuf request could not be decoded", {})


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([JSON, PROTOBUF]))
def test_any_body_is_read_or_malformed(body: bytes, content: str) -> None:
    try:
        message = parse(room.UpdateParticipantRequest, body, content)
    except TwirpError as error:
        assert error.code == "malformed"  # noqa: PT017  the other outcome is a message
        return
    assert parse(room.UpdateParticipantRequest, serialize(message, content), content) == message


TOKENS = [
    ("Basic x", "invalid authorization header. Must start with Bearer "),
    ("Bearer x", "invalid authorization token"),
    ("Bearer " + create_token("other", "secret", video=None), "invalid API key"),
    ("Bearer " + create_token("devkey", "wrong", video=None), "invalid authorization token: signature does not match"),
]


@pytest.mark.parametrize(("authorization", "text"), TOKENS)
async def test_a_token_that_is_no_good_is_refused_before_anything_is_read(
    backend: Caller, authorization: str, text: str
) -> None:
    response = await backend.post("ListRooms", b"{", authorization=authorization)
    assert (response.status, response.body.decode()) == (401, text)


async def test_without_a_token_nothing_is_read(backend: Caller) -> None:
    with pytest.raises(Refused) as refused:
        read(await backend.post("ListRooms", b"{", authorization=None))
    assert refused.value == Refused(401, "unauthenticated", "permissions denied", {})


async def test_a_call_that_takes_too_long_ends_and_says_what_was_done(autojump_clock: MockClock) -> None:
    async def forever(claims: Claims, request: Message) -> Message:
        await trio.sleep_forever()
        raise AssertionError

    api = serving(forever, deadline=3, undone="no room was made")
    started = trio.current_time()
    with pytest.raises(Refused) as refused:
        await api.json("ListRooms")
    assert trio.current_time() - started == 3
    assert refused.value == Refused(408, "deadline_exceeded", "ListRooms took longer than 3 s: no room was made", {})


async def test_a_bug_in_a_call_is_answered_and_counted() -> None:
    def broken(claims: Claims, request: Message) -> Message:
        raise KeyError(request)

    api = serving(broken)
    with pytest.raises(Refused) as refused:
        await api.json("ListRooms")
    assert refused.value == Refused(500, "internal", "internal error", {})
    assert api.twirp.counters["bugs"] == 1


async def test_large_messages_are_handled_beside_everything_else() -> None:
    """Reading and writing a megabyte takes long: the loop goes on meanwhile."""
    threads = 0
    run_sync = trio.to_thread.run_sync

    async def counted(*args: Any, **options: Any) -> Any:  # noqa: ANN401  as trio has it
        nonlocal threads
        threads += 1
        return await run_sync(*args, **options)

    def echo(claims: Claims, request: room.ListRoomsRequest) -> room.ListRoomsResponse:
        return room.ListRoomsResponse(rooms=[models.Room(name=name) for name in request.names])

    api = serving(echo)
    names = ["x" * 1000] * (2 * LARGE // 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", counted)
        answer = await api.json("ListRooms", names=names)
        assert threads == 2
        await api.json("ListRooms", names=names[:3])
        assert threads == 2
    assert [one["name"] for one in answer["rooms"]] == names


async def test_a_cancelled_call_has_made_no_room() -> None:
    rooms = Rooms(Services(peers=nobody_makes_peers, rng=Random(1)))
    bearer = f"Bearer {token(room_create=True)}"

    def look(cancelled: bool) -> None:
        assert len(rooms) == (0 if cancelled else 1)

    async with trio.open_nursery() as nursery:
        await nursery.start(rooms.run)
        backend = caller(rooms)
        steps = await cancelled_at_every_step(
            lambda: backend.post("CreateRoom", b'{"name": "room"}', authorization=bearer), look
        )
        assert steps > 1
        nursery.cancel_scope.cancel()


async def test_each_code_has_its_status() -> None:
    assert all(TwirpError(code, "text").response().status == status for code, status in STATUS.items())
    body = json.loads(TwirpError("not_found", "text", {"a": "b"}).response().body)
    assert body == {"code": "not_found", "msg": "text", "meta": {"a": "b"}}


RECORD, INGRESS = {"room_record": True}, {"ingress_admin": True}
TRUNKS, CALL = {"sip": SipGrant(admin=True), "room": "room"}, {"sip": SipGrant(call=True), "room": "room"}
TRANSFER = {"sip": SipGrant(call=True), "room_admin": True, "room": "room"}
ELSEWHERE = TRANSFER | {"room": "another"}
ALL_GRANTS: list[dict[str, Any]] = [RECORD, INGRESS, TRUNKS, CALL, TRANSFER, ELSEWHERE, {"room_list": True}]
INTERNAL = {
    service: (500, "internal", f"{service.lower()} not connected (redis required)")
    for service in ("Egress", "Ingress", "SIP")
}
NOBODY = (503, "unavailable", "no response from servers")
ABSENT: dict[str, dict[str, list[Any]]] = {  # section 8.5: who may call what
    "Egress": {
        name: [RECORD]
        for name in [
            "StartEgress",
            "UpdateLayout",
            "UpdateStream",
            "ListEgress",
            "StopEgress",
            "StartRoomCompositeEgress",
            "StartWebEgress",
            "StartParticipantEgress",
            "StartTrackCompositeEgress",
            "StartTrackEgress",
        ]
    },
    "Ingress": {name: [INGRESS] for name in ("CreateIngress", "UpdateIngress", "ListIngress", "DeleteIngress")},
    "SIP": {
        **{
            name: [TRUNKS]
            for name in [
                "ListSIPTrunk",
                "CreateSIPInboundTrunk",
                "UpdateSIPInboundTrunk",
                "GetSIPInboundTrunk",
                "ListSIPInboundTrunk",
                "CreateSIPOutboundTrunk",
                "UpdateSIPOutboundTrunk",
                "GetSIPOutboundTrunk",
                "ListSIPOutboundTrunk",
                "DeleteSIPTrunk",
                "CreateSIPDispatchRule",
                "UpdateSIPDispatchRule",
                "ListSIPDispatchRule",
                "DeleteSIPDispatchRule",
            ]
        },
        "CreateSIPParticipant": [CALL, TRANSFER, ELSEWHERE],
        "TransferSIPParticipant": [TRANSFER],
    },
}


@pytest.mark.parametrize("service", ABSENT)
async def test_services_whose_workers_are_absent(backend: Caller, service: str) -> None:
    """Every method of section 8.5 with every grant: the one that it needs, and those that are not enough."""
    descriptor = {one.name: one for one in (EGRESS, INGRESSES, SIP)}[service]
    assert {one.name for one in descriptor.methods} == ABSENT[service].keys()
    for method, enough in ABSENT[service].items():
        for grants in ALL_GRANTS:
            bearer = f"Bearer {token(**grants)}"
            with pytest.raises(Refused) as refused:
                read(await backend.post(method, b'{"room_name": "room"}', service=service, authorization=bearer))
            said = (refused.value.status, refused.value.code, refused.value.text)
            if grants not in enough:
                assert said == (401, "unauthenticated", "permissions denied"), (method, grants)
            else:
                assert said == (NOBODY if method.startswith("Start") else INTERNAL[service]), method


async def test_every_call_has_a_deadline_and_says_what_was_done(autojump_clock: MockClock) -> None:
    async def forever(claims: Claims, request: Message) -> Message:
        await trio.sleep_forever()
        raise AssertionError

    rooms = Rooms(Services(peers=nobody_makes_peers, rng=Random(1)))
    methods = RoomService(rooms).service().methods
    assert methods.keys() == {one.name for one in ROOMS.methods}
    slow = {name: replace(method, call=forever) for name, method in methods.items()}
    calls = Caller(Twirp(KEYS, [Service(ROOMS, slow)]))
    for name, method in methods.items():
        began, patience = trio.current_time(), method.deadline or 10
        with pytest.raises(Refused) as refused:
            await calls.json(name)
        assert trio.current_time() - began == pytest.approx(patience)
        assert refused.value.text == f"{name} took longer than {patience:g} s: {method.undone}"
        assert patience <= 64
    assert calls.twirp.answered == {Answered("RoomService", name, "4xx", "deadline_exceeded"): 1 for name in methods}


async def test_calls_are_counted_by_how_they_were_answered(backend: Caller) -> None:
    await backend.json("ListRooms")
    await backend.json("ListRooms")
    for body, authorization in ((b"{", ""), (b"{}", None), (b"{}", "Bearer x")):
        await backend.post("ListRooms", body, authorization=authorization)
    await backend.post("Anything", b"{}")
    await backend.post("x" * 1000, b"{}", verb="GET")
    assert backend.twirp.answered == {
        Answered("RoomService", "ListRooms", "2xx", "ok"): 2,
        Answered("RoomService", "ListRooms", "4xx", "malformed"): 1,
        Answered("RoomService", "ListRooms", "4xx", "unauthenticated"): 2,
        Answered("", "", "4xx", "bad_route"): 2,
    }
