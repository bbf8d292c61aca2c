"""Joining: refusals before the upgrade, then the first messages."""

from __future__ import annotations

import base64
import json
import time

import pytest
from livekit.protocol import models, rtc

from tests.signalling.world import join_request, offer_of, running
from triosfu import tokens
from triosfu.rooms.settings import RoomDefaults, RoomSettings


async def test_trap_05_06_07_08_the_first_message_is_a_complete_join() -> None:
    async with running() as world, world.connect("alice", metadata="m", name="Alice") as client:
        first = await client.receive()
        assert first.WhichOneof("message") == "join"
        join = first.join
        assert join.room.sid.startswith("RM_")
        assert join.room.name == "room"
        assert join.participant.sid.startswith("PA_")
        assert (join.participant.identity, join.participant.name, join.participant.metadata) == ("alice", "Alice", "m")
        assert join.participant.state == models.ParticipantInfo.JOINING
        assert join.participant.permission.can_publish
        assert join.participant.permission.can_publish_data  # trap 55
        assert join.participant.joined_at_ms // 1000 == join.participant.joined_at > 0
        assert (join.server_info.protocol, join.server_info.agent_protocol) == (17, 1)
        assert join.server_info.version
        assert (join.ping_interval, join.ping_timeout) == (5, 15)
        assert len(join.sif_trailer) > 20
        assert [codec.mime for codec in join.enabled_publish_codecs][:2] == ["video/VP8", "video/H264"]
        assert join.fast_publish
        assert join.subscriber_primary


@pytest.mark.parametrize("protocol", [15, 16, 17])
async def test_trap_33_a_dual_session_gets_an_offer_with_the_data_section(protocol: int) -> None:
    async with running() as world, world.connect(query=f"protocol={protocol}&sdk=js") as client:
        offer = await client.expect("offer")
        assert (offer.type, "m=application" in offer.sdp) == ("offer", True)
        assert 2 <= offer.id <= 257


async def test_trap_01_the_parameter_makes_the_shape_and_not_the_path() -> None:
    async with running() as world:
        for path in ("/rtc", "/rtc/v1"):
            async with world.connect(path=path, query=join_request()) as client:
                assert not (await client.expect("join")).subscriber_primary
                await client.nothing_of("offer")  # trap 11


async def test_trap_02_an_offer_travels_in_the_url() -> None:
    offer = rtc.SessionDescription(type="offer", sdp=offer_of("chromium_single_join"), id=1)
    async with running() as world:
        query = join_request(publisher_offer=offer, compressed=False)
        assert len(query) > 20_000
        async with world.connect(path="/rtc/v1", query=query) as client:
            assert (await client.receive()).HasField("join")
            answer = await client.expect("answer")
            assert (answer.id, answer.type) == (1, "answer")


@pytest.mark.parametrize(("asked", "got"), [({}, False), ({"auto_subscribe": True}, True)])
async def test_trap_04_one_peer_connection_subscribes_only_if_asked_to(asked: dict[str, bool], got: bool) -> None:
    async with running() as world:
        query = join_request(connection_settings=rtc.ConnectionSettings(**asked))
        async with world.connect(path="/rtc/v1", query=query) as client:
            await client.expect("join")
            assert world.participant().options.auto_subscribe is got
        async with world.connect("bob") as client:
            await client.expect("join")
            assert world.participant("bob").options.auto_subscribe is True


async def test_trap_15_candidates_have_all_their_keys() -> None:
    async with running() as world, world.connect() as client:
        trickle = await client.expect("trickle", lambda one: one.final)
        init = json.loads(trickle.candidateInit)
        assert init["candidate"].startswith("candidate:")
        assert (init["sdpMid"], init["sdpMLineIndex"]) == ("0", 0)
        assert trickle.target == rtc.SignalTarget.SUBSCRIBER


async def test_trap_49_a_fresh_token_comes_at_once_and_lets_one_in() -> None:
    async with running() as world, world.connect(attributes={"a": "b"}) as client:
        fresh = await client.expect("refresh_token")
        claims = tokens.verify(fresh, {"devkey": "secret"}, now=time.time())
        assert (claims.identity, claims.attributes) == ("alice", {"a": "b"})
        assert claims.expires_at - time.time() > 590
        async with world.connect(token=fresh) as again:
            await again.expect("join")


REFUSALS = [
    ("/rtc", None, 401, "no permissions to access the room"),
    ("/rtc", "junk", 401, "invalid authorization token"),
    ("/rtc", {"room_join": False}, 401, "permissions denied"),
    ("/rtc", {"key": "other"}, 401, "invalid API key"),
    ("/rtc", {"identity": ""}, 400, "identity cannot be empty"),
    ("/rtc", {"identity": "i" * 257}, 400, "participant identity length exceeds limits: max length 256"),
    ("/rtc", {"room": ""}, 400, "no room name"),
    ("/rtc", {"room": "r" * 257}, 400, "room name length exceeds limits: max length 256"),
    ("/rtc/v1", {}, 400, "join_request is required"),
    ("/rtc/v1?join_request=%2A", {}, 400, "cannot base64 decode wrapped join request"),
    ("/rtc", {"metadata": "m" * 600_000}, 400, "exceeds metadata size limit"),
]


@pytest.mark.parametrize(("path", "grants", "status", "text"), REFUSALS)
async def test_trap_47_refusals_are_http_in_livekits_words(
    path: str, grants: dict[str, str] | str | None, status: int, text: str
) -> None:
    async with running() as world:
        token = grants if isinstance(grants, str) or grants is None else world.token(**grants)  # type: ignore[arg-type]
        route, _, query = path.partition("?")
        answer = await world.get(f"{route}/validate?{query}", token)
        assert (answer[0], answer[2].strip()) == (status, text)
        assert answer[1]["access-control-allow-origin"] == "*"  # trap 46
        assert await world.refusal(path, token) == (status, text)
        assert len(world.rooms) == 0


async def test_trap_48_a_token_that_has_expired() -> None:
    async with running() as world:
        status, _, text = await world.get("/rtc/validate", world.token(ttl=-61))
        assert (status, text) == (401, "invalid authorization token: token is expired (exp)")
        assert (await world.get("/rtc/validate", world.token(ttl=-50)))[0] == 200


async def test_validate_says_success_and_plain_gets_are_not_found() -> None:
    async with running() as world:
        assert (await world.get("/rtc/validate", world.token()))[::2] == (200, "success")
        assert (await world.get(f"/rtc/v1/validate?{join_request()}", world.token()))[::2] == (200, "success")
        for path in ("/rtc", "/rtc/v1", "/rtc/v2", "/settings/regions", "//rtc"):
            assert (await world.get(path, world.token()))[0] == 404  # trap 3
        assert len(world.rooms) == 0


async def test_a_double_slash_is_one() -> None:
    async with running() as world, world.connect(path="//rtc") as client:
        await client.expect("join")


async def test_a_room_that_does_not_exist() -> None:
    async with running(RoomSettings(auto_create=False)) as world:
        assert (await world.get("/rtc/validate", world.token()))[::2] == (404, "requested room does not exist")
        assert await world.refusal("/rtc", world.token()) == (404, "requested room does not exist")
        async with world.connect(room_create=True) as client:
            await client.expect("join")


async def test_a_full_room() -> None:
    settings = RoomSettings(defaults=RoomDefaults(max_participants=1))
    async with running(settings) as world, world.connect("alice") as alice:
        await alice.expect("join")
        assert await world.refusal("/rtc", world.token("bob")) == (500, "connection closed by media")
        async with world.connect("agent", kind="agent") as agent:  # trap 54
            join = await agent.expect("join")
            assert join.room.num_participants == 1
        async with world.connect("alice") as again:  # takes its own place
            await again.expect("join")


async def test_claims_of_the_client_need_a_grant() -> None:
    async with running() as world:
        query = join_request(metadata="mine", participant_attributes={"k": "v", "empty": ""})
        assert await world.refusal(f"/rtc/v1?{query}", world.token()) == (401, "permissions denied")
        async with world.connect(
            path="/rtc/v1", query=query, can_update_own_metadata=True, metadata="theirs", attributes={"x": "y"}
        ) as client:
            join = await client.expect("join")
            assert join.participant.metadata == "mine"
            assert dict(join.participant.attributes) == {"x": "y", "k": "v"}
        attributes = base64.urlsafe_b64encode(json.dumps({"k": "w", "empty": ""}).encode()).decode()
        query = f"protocol=17&attributes={attributes}"
        assert await world.refusal(f"/rtc?{query}", world.token("bob")) == (401, "permissions denied")
        async with world.connect(
            "bob", query=query, can_update_own_metadata=True, metadata="theirs", attributes={"x": "y"}
        ) as client:
            join = await client.expect("join")
            assert join.participant.metadata == "theirs"
            assert dict(join.participant.attributes) == {"x": "y", "k": "w"}


@pytest.mark.parametrize("single", [True, False])
async def test_what_clients_can_do_is_told_to_the_others(single: bool) -> None:
    deflates = models.ClientInfo.Capability.CAP_COMPRESSION_DEFLATE_RAW
    if single:
        query = join_request(client_info=models.ClientInfo(client_protocol=2, capabilities=[deflates]))
    else:
        query = "protocol=17&client_protocol=2&capabilities=CAP_COMPRESSION_DEFLATE_RAW,CAP_NEWER"
    async with running() as world, world.connect("alice", query=query) as alice:
        own = (await alice.expect("join")).participant
        async with world.connect("bob") as bob:
            (seen,) = (await bob.expect("join")).other_participants
        for one in (own, seen):
            assert (one.identity, one.client_protocol, one.capabilities[0]) == ("alice", 2, deflates)


async def test_a_client_that_never_connects_its_transport_goes_with_its_socket() -> None:
    async with running() as world, world.connect("alice") as alice:
        await alice.expect("join")
        async with world.connect("bob") as bob:
            join = await bob.expect("join")
            assert [one.identity for one in join.other_participants] == ["alice"]
        await world.gone("bob")
