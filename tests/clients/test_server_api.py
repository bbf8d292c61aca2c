"""The server API as the real `livekit-api` and `livekit-server-sdk` call it, and what real clients see of it."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from livekit import api, rtc
from livekit.protocol.room import PerformRpcRequest, PerformRpcResponse

from tests.clients.python_client import Participant, leaving, until
from tests.clients.server import KEY, SECRET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.clients.server import RunningServer

    Scenario = Callable[[api.LiveKitAPI, Participant, Participant], Awaitable[None]]

# The development key's secret is as short as LiveKit's, and the package that signs with it says so.
pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
BACKEND = Path(__file__).parent / "js" / "backend.mjs"
MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])


@asynccontextmanager
async def backend(server: RunningServer) -> AsyncIterator[api.LiveKitAPI]:
    """An application's backend."""
    async with api.LiveKitAPI(f"http://127.0.0.1:{server.port}", KEY, SECRET) as calls:
        yield calls


def meet(server: RunningServer, scenario: Scenario, *, single: bool) -> None:
    """Run `scenario` with Alice and Bob in a room that the backend made, under the scenario's name."""

    async def run() -> None:
        alice, bob = Participant("alice"), Participant("bob")
        room = f"{scenario.__qualname__}-{single}"
        async with backend(server) as calls, leaving((alice, bob)):
            await calls.room.create_room(api.CreateRoomRequest(name=room, metadata="made"))
            await alice.join(server.url, server.token("alice", room), single=single)
            await bob.join(server.url, server.token("bob", room), single=single)
            await until(lambda: "bob" in alice.room.remote_participants, seconds=2, what="alice sees bob")
            await scenario(calls, alice, bob)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_rooms_are_made_listed_and_deleted(server: RunningServer) -> None:
    async def run() -> None:
        alice = Participant("alice")
        reasons: list[int] = []
        alice.room.on("disconnected", reasons.append)
        async with backend(server) as calls, leaving((alice,)):
            made = await calls.room.create_room(api.CreateRoomRequest(name="deleted", empty_timeout=60, metadata="m"))
            assert (made.name, made.empty_timeout, made.metadata) == ("deleted", 60, "m")
            await alice.join(server.url, server.token("alice", "deleted"), single=True)
            assert (await alice.room.sid, alice.room.metadata) == (made.sid, "m")
            listed = await calls.room.list_rooms(api.ListRoomsRequest(names=["deleted", "nowhere"]))
            assert [(room.sid, room.num_participants) for room in listed.rooms] == [(made.sid, 1)]
            await calls.room.delete_room(api.DeleteRoomRequest(room="deleted"))
            await until(lambda: bool(reasons), seconds=3, what="alice is told")
            assert reasons == [rtc.DisconnectReason.ROOM_DELETED]
            with pytest.raises(api.TwirpError) as missing:
                await calls.room.delete_room(api.DeleteRoomRequest(room="deleted"))
            assert (missing.value.code, missing.value.status) == ("not_found", 404)

    asyncio.run(asyncio.wait_for(run(), 30))


@MODES
def test_a_participant_is_changed_and_everybody_sees_it(server: RunningServer, *, single: bool) -> None:
    async def scenario(calls: api.LiveKitAPI, alice: Participant, bob: Participant) -> None:
        room = alice.room.name
        changed = api.UpdateParticipantRequest(
            room=room, identity="alice", name="Al", metadata="news", attributes={"mood": "good"}
        )
        info = await calls.room.update_participant(changed)
        assert (info.name, info.metadata) == ("Al", "news")

        def told() -> bool:
            return all(
                (who.name, who.metadata, who.attributes) == ("Al", "news", {"mood": "good"})
                for who in (alice.room.local_participant, bob.room.remote_participants["alice"])
            )

        await until(told, seconds=3, what="both know")
        await calls.room.update_room_metadata(api.UpdateRoomMetadataRequest(room=room, metadata="later"))
        await until(lambda: alice.room.metadata == bob.room.metadata == "later", seconds=3, what="room metadata")

    meet(server, scenario, single=single)


@MODES
def test_a_track_is_muted_and_a_permission_revoked(server: RunningServer, *, single: bool) -> None:
    async def scenario(calls: api.LiveKitAPI, alice: Participant, bob: Participant) -> None:
        room = alice.room.name
        publication = await alice.publish_microphone()
        await until(lambda: bob.loud_frames["alice"] > 10, seconds=10, what="sound")
        request = api.MuteRoomTrackRequest(room=room, identity="alice", track_sid=publication.sid, muted=True)
        answer = await calls.room.mute_published_track(request)
        assert answer.track.muted
        await until(lambda: bob.when("track_muted", "alice") is not None, seconds=3, what="bob sees it")
        await until(lambda: publication.muted, seconds=3, what="alice's own client is muted")
        request.muted = False
        with pytest.raises(api.TwirpError) as refused:
            await calls.room.mute_published_track(request)
        assert (refused.value.code, refused.value.message) == ("failed_precondition", "remote unmute not enabled")
        permissions: list[bool] = []
        alice.room.on("participant_permissions_changed", lambda _, now: permissions.append(now.can_publish))
        revoked = api.ParticipantPermission(can_subscribe=True, can_publish_data=True)
        await calls.room.update_participant(
            api.UpdateParticipantRequest(room=room, identity="alice", permission=revoked)
        )
        await until(lambda: bob.when("track_unpublished", "alice") is not None, seconds=3, what="the track is gone")
        found = await calls.room.get_participant(api.RoomParticipantIdentity(room=room, identity="alice"))
        assert (found.permission, list(found.tracks)) == (revoked, [])

    meet(server, scenario, single=single)


@MODES
def test_permissions_that_are_taken_can_be_given_back(server: RunningServer, *, single: bool) -> None:
    async def scenario(calls: api.LiveKitAPI, alice: Participant, bob: Participant) -> None:
        async def permit(identity: str, *, publish: bool = True, subscribe: bool = True, hidden: bool = False) -> None:
            permission = api.ParticipantPermission(
                can_publish=publish, can_subscribe=subscribe, can_publish_data=True, hidden=hidden
            )
            request = api.UpdateParticipantRequest(room=alice.room.name, identity=identity, permission=permission)
            await calls.room.update_participant(request)

        async def heard_again() -> None:
            heard = bob.loud_frames["alice"]
            await until(lambda: bob.loud_frames["alice"] > heard + 10, seconds=5, what="sound again")

        await alice.publish_microphone()
        await until(lambda: bob.loud_frames["alice"] > 10, seconds=10, what="sound")
        await permit("alice", hidden=True)
        await until(lambda: not bob.room.remote_participants, seconds=3, what="alice is hidden")
        await permit("alice")
        await until(lambda: "alice" in bob.room.remote_participants, seconds=3, what="alice is shown")
        await heard_again()
        await permit("bob", subscribe=False)
        await asyncio.sleep(0.3)  # what was on its way
        heard = bob.loud_frames["alice"]
        await asyncio.sleep(0.3)
        assert bob.loud_frames["alice"] <= heard + 5
        await permit("bob")
        await heard_again()
        await permit("alice", publish=False)
        await until(lambda: bob.when("track_unpublished", "alice") is not None, seconds=3, what="her track is gone")
        await permit("alice")
        await until(lambda: alice.room.local_participant.permissions.can_publish, seconds=3, what="alice may")
        await alice.publish_microphone()
        await heard_again()

    meet(server, scenario, single=single)


@MODES
def test_data_is_sent_and_a_participant_removed(server: RunningServer, *, single: bool) -> None:
    async def scenario(calls: api.LiveKitAPI, alice: Participant, bob: Participant) -> None:
        room = alice.room.name
        topics: list[str] = []
        bob.room.on("data_received", lambda packet: topics.append(packet.topic))
        to_bob = api.SendDataRequest(room=room, data=b"for bob", destination_identities=["bob"], topic="t")
        await calls.room.send_data(to_bob)
        await calls.room.send_data(api.SendDataRequest(room=room, data=b"for all"))
        await until(lambda: len(bob.data) == 2 and bool(alice.data), seconds=3, what="data")
        assert bob.data == [("", b"for bob", True), ("", b"for all", True)]
        assert (alice.data, topics[0]) == ([("", b"for all", True)], "t")
        reasons: list[int] = []
        alice.room.on("disconnected", reasons.append)
        token = server.token("alice", room)
        out = api.RoomParticipantIdentity(room=room, identity="alice", revoke_token_ts=int(time.time()) + 1)
        await calls.room.remove_participant(out)
        await until(lambda: bool(reasons), seconds=3, what="alice is told")
        with pytest.raises(rtc.ConnectError):
            await alice.join(server.url, token, single=single)
        assert reasons == [rtc.DisconnectReason.PARTICIPANT_REMOVED]
        await until(lambda: not bob.room.remote_participants, seconds=3, what="bob sees her leave")
        listed = await calls.room.list_participants(api.ListParticipantsRequest(room=room))
        assert [one.identity for one in listed.participants] == ["bob"]

    meet(server, scenario, single=single)


def test_subscriptions_are_ended_and_made_by_the_server(server: RunningServer) -> None:
    async def scenario(calls: api.LiveKitAPI, alice: Participant, bob: Participant) -> None:
        publication = await alice.publish_microphone()
        await until(lambda: bob.loud_frames["alice"] > 10, seconds=10, what="sound")

        async def wish(*, subscribe: bool) -> None:
            await calls.room.update_subscriptions(
                api.UpdateSubscriptionsRequest(
                    room=alice.room.name, identity="bob", track_sids=[publication.sid], subscribe=subscribe
                )
            )

        await wish(subscribe=False)
        await asyncio.sleep(0.5)  # what was on its way
        heard = bob.loud_frames["alice"]
        await asyncio.sleep(0.5)
        assert bob.loud_frames["alice"] <= heard + 5
        await wish(subscribe=True)
        await until(lambda: bob.loud_frames["alice"] > heard + 20, seconds=5, what="sound again")

    meet(server, scenario, single=False)


@MODES
def test_a_participant_performs_what_the_server_asks(server: RunningServer, *, single: bool) -> None:
    """The package has no method for this one yet: it is called as its methods call, and in JSON."""

    async def scenario(calls: api.LiveKitAPI, alice: Participant, bob: Participant) -> None:
        room = alice.room.name
        bob.room.local_participant.register_rpc_method("shout", lambda asked: asked.payload.upper())
        grant = api.VideoGrants(room_admin=True, room=room)
        headers = {"Authorization": f"Bearer {api.AccessToken(KEY, SECRET).with_grants(grant).to_jwt()}"}
        url = f"http://127.0.0.1:{server.port}/twirp/livekit.RoomService/PerformRpc"

        async def perform(method: str) -> tuple[int, dict[str, str]]:
            asked = {"room": room, "destinationIdentity": "bob", "method": method, "payload": "hello"}
            async with aiohttp.ClientSession() as session, session.post(url, json=asked, headers=headers) as reply:
                return reply.status, await reply.json()

        await calls.room.send_data(api.SendDataRequest(room=room, data=b"are you there?"))
        await until(lambda: bool(bob.data), seconds=10, what="bob's channels")  # the call's own patience is two seconds
        assert await perform("shout") == (200, {"payload": "HELLO"})
        as_methods_do = partial(calls.room._client.request, "RoomService", "PerformRpc")
        asked = PerformRpcRequest(room=room, destination_identity="bob", method="shout", payload="again")
        answer = await as_methods_do(asked, calls.room._auth_header(grant), PerformRpcResponse)
        assert answer.payload == "AGAIN"
        asked.destination_identity = "nobody"
        with pytest.raises(api.TwirpError) as missing:
            await as_methods_do(asked, calls.room._auth_header(grant), PerformRpcResponse)
        assert (missing.value.code, missing.value.status) == ("not_found", 404)
        unknown = {"code": "invalid_argument", "msg": "RpcError 1400: Method not supported at destination"}
        assert await perform("whisper") == (400, unknown)

    meet(server, scenario, single=single)


def test_a_backend_in_javascript(server: RunningServer) -> None:
    """`livekit-server-sdk`, which speaks JSON."""

    async def run() -> None:
        bob = Participant("bob")
        reasons: list[int] = []
        bob.room.on("disconnected", reasons.append)
        async with leaving((bob,)):
            await bob.join(server.url, server.token("bob", "node"), single=True)
            early = server.token("bob", "node 2")
            publication = await bob.publish_microphone()
            command = ["node", str(BACKEND), server.url, KEY, SECRET, "node", "bob"]
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            output, _ = await process.communicate()
            assert process.returncode == 0
            assert json.loads(output) == {
                "room": ["node", "", "RM_", True],
                "listed": [["node", 1]],
                "participants": [["bob", api.ParticipantInfo.ACTIVE]],
                "changed": ["from node", {"mood": "good"}, True],
                "metadata": "news",
                "muted": True,
                "forwarded": [api.ParticipantInfo.KindDetail.FORWARDED],
                "moved": [[], [["bob", []]]],
                "refused": [412, "failed_precondition", "remote unmute not enabled"],
                "missing": [404, "not_found", "requested room does not exist"],
                "errors": [[400, "invalid_argument"], [404, "not_found"], [400, "invalid_argument"], [401, ""]],
                "absent": [
                    [500, "egress not connected (redis required)"],
                    [503, "no response from servers"],
                    [500, "ingress not connected (redis required)"],
                    [500, "sip not connected (redis required)"],
                    [500, "sip not connected (redis required)"],
                ],
            }
            await until(lambda: bool(reasons), seconds=3, what="bob is told")
            assert reasons == [rtc.DisconnectReason.PARTICIPANT_REMOVED]
            assert bob.data == [("", b"data", True)]
            assert publication.muted
            with pytest.raises(rtc.ConnectError):
                await bob.join(server.url, early, single=True)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_services_whose_workers_are_absent_say_so(server: RunningServer) -> None:
    """Every method of livekit-api, with the grants that it makes for itself."""
    lists = api.ListUpdate()
    inbound, outbound = api.SIPInboundTrunkInfo(name="n"), api.SIPOutboundTrunkInfo(name="n", address="sip.example.com")
    rule, nobody = api.SIPDispatchRuleInfo(name="n"), "no response from servers"

    async def run() -> None:
        async with backend(server) as calls:
            egress, ingress, sip = calls.egress, calls.ingress, calls.sip
            call = api.CreateSIPParticipantRequest(room_name="r", sip_trunk_id="t", sip_call_to="1")
            transfer = api.TransferSIPParticipantRequest(room_name="r", participant_identity="p", transfer_to="tel:1")
            answers = {
                "egress": (
                    egress.list_egress(api.ListEgressRequest()),
                    egress.stop_egress(api.StopEgressRequest(egress_id="EG_x")),
                    egress.update_layout(api.UpdateLayoutRequest(egress_id="EG_x")),
                    egress.update_stream(api.UpdateStreamRequest(egress_id="EG_x")),
                ),
                "ingress": (
                    ingress.create_ingress(api.CreateIngressRequest(name="n")),
                    ingress.update_ingress(api.UpdateIngressRequest(ingress_id="IN_x")),
                    ingress.list_ingress(api.ListIngressRequest()),
                    ingress.delete_ingress(api.DeleteIngressRequest(ingress_id="IN_x")),
                ),
                "sip": (
                    sip.create_inbound_trunk(api.CreateSIPInboundTrunkRequest(trunk=inbound)),
                    sip.create_outbound_trunk(api.CreateSIPOutboundTrunkRequest(trunk=outbound)),
                    sip.update_inbound_trunk("ST_x", inbound),
                    sip.update_inbound_trunk_fields("ST_x", numbers=lists),
                    sip.update_outbound_trunk("ST_x", outbound),
                    sip.update_outbound_trunk_fields("ST_x", numbers=lists),
                    sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest()),
                    sip.list_outbound_trunk(api.ListSIPOutboundTrunkRequest()),
                    sip.delete_trunk(api.DeleteSIPTrunkRequest(sip_trunk_id="ST_x")),
                    sip.create_dispatch_rule(api.CreateSIPDispatchRuleRequest(dispatch_rule=rule)),
                    sip.update_dispatch_rule("SDR_x", rule),
                    sip.update_dispatch_rule_fields("SDR_x", trunk_ids=lists),
                    sip.list_dispatch_rule(api.ListSIPDispatchRuleRequest()),
                    sip.delete_dispatch_rule(api.DeleteSIPDispatchRuleRequest(sip_dispatch_rule_id="SDR_x")),
                    sip.create_sip_participant(call),
                    sip.transfer_sip_participant(transfer),
                ),
                "": (
                    egress.start_room_composite_egress(api.RoomCompositeEgressRequest(room_name="r")),
                    egress.start_web_egress(api.WebEgressRequest(url="https://example.com")),
                    egress.start_participant_egress(api.ParticipantEgressRequest(room_name="r", identity="p")),
                    egress.start_track_composite_egress(api.TrackCompositeEgressRequest(room_name="r")),
                    egress.start_track_egress(api.TrackEgressRequest(room_name="r", track_id="TR_x")),
                    egress.start_egress(api.StartEgressRequest(room_name="r")),
                ),
            }
            for service, callings in answers.items():
                said = ("internal", 500, f"{service} not connected (redis required)")
                for calling in callings:
                    with pytest.raises(api.TwirpError) as refused:
                        await calling
                    told = (refused.value.code, refused.value.status, refused.value.message)
                    assert told == (said if service else ("unavailable", 503, nobody))

    asyncio.run(asyncio.wait_for(run(), 20))


def test_what_goes_wrong_is_told_by_code_and_status(server: RunningServer) -> None:
    """Every call that livekit-api has, about a room and people that are not there, and more that may not be."""
    nobody = api.RoomParticipantIdentity(room="empty", identity="nobody")
    elsewhere = {"room": "empty", "identity": "nobody", "destination_room": "other"}
    mute = api.MuteRoomTrackRequest(room="empty", identity="nobody", track_sid="TR_x", muted=True)
    dispatch = api.CreateAgentDispatchRequest(room="x" * 257, agent_name="a")

    async def run() -> None:
        async with backend(server) as calls:
            room, agents = calls.room, calls.agent_dispatch
            await room.create_room(api.CreateRoomRequest(name="empty"))
            assert not (await room.list_participants(api.ListParticipantsRequest(room="nowhere"))).participants
            missing, wrong = ("not_found", 404), ("invalid_argument", 400)
            for call, *given, expected in (
                (room.create_room, api.CreateRoomRequest(name="x" * 257), wrong),
                (room.create_room, api.CreateRoomRequest(name="x", room_preset="none"), wrong),
                (room.create_room, api.CreateRoomRequest(name="x", metadata="x" * 600_000), wrong),
                (room.delete_room, api.DeleteRoomRequest(room="nowhere"), missing),
                (room.update_room_metadata, api.UpdateRoomMetadataRequest(room="nowhere", metadata="m"), missing),
                (room.get_participant, nobody, missing),
                (room.remove_participant, nobody, missing),
                (room.mute_published_track, mute, missing),
                (room.update_participant, api.UpdateParticipantRequest(room="empty", identity="nobody"), missing),
                (room.update_subscriptions, api.UpdateSubscriptionsRequest(room="empty", identity="nobody"), missing),
                (room.send_data, api.SendDataRequest(room="nowhere", data=b"x"), missing),
                (room.forward_participant, api.ForwardParticipantRequest(**elsewhere), missing),
                (room.move_participant, api.MoveParticipantRequest(**elsewhere), missing),
                (
                    room.move_participant,
                    api.MoveParticipantRequest(**{**elsewhere, "destination_room": "empty"}),
                    wrong,
                ),
                (agents.create_dispatch, dispatch, wrong),
                (agents.list_dispatch, "nowhere", missing),
                (agents.get_dispatch, "AD_x", "nowhere", missing),
                (agents.delete_dispatch, "AD_x", "empty", missing),
            ):
                with pytest.raises(api.TwirpError) as refused:
                    await call(*given)
                assert (refused.value.code, refused.value.status) == expected, (call, refused.value.message)
            await room.delete_room(api.DeleteRoomRequest(room="empty"))
        join = (
            api.AccessToken(KEY, SECRET)
            .with_identity("alice")
            .with_grants(api.VideoGrants(room_join=True, room="empty"))
        )
        async with api.LiveKitAPI(f"http://127.0.0.1:{server.port}", token=join.to_jwt()) as calls:
            with pytest.raises(api.TwirpError) as denied:
                await calls.room.list_rooms(api.ListRoomsRequest())
            assert (denied.value.code, denied.value.status) == ("unauthenticated", 401)

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_wrong_secret_is_refused(server: RunningServer) -> None:
    async def run() -> None:
        async with api.LiveKitAPI(f"http://127.0.0.1:{server.port}", KEY, "wrong" * 8) as calls:
            with pytest.raises(api.TwirpError) as refused:
                await calls.room.list_rooms(api.ListRoomsRequest())
            assert refused.value.status == 401

    asyncio.run(asyncio.wait_for(run(), 10))
