"""AgentDispatchService, in both of its forms: who may call it, and what it does."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from livekit.protocol import agent, agent_dispatch

from tests.api.caller import Caller, Refused, caller, read, token
from triosfu.agents.dispatches import MAX_DISPATCHES, MAX_ENDED
from triosfu.agents.workers import Agents
from triosfu.api.agent_dispatch import AgentDispatchService
from triosfu.net.http import Headers, Request
from triosfu.rooms.directory import Rooms
from triosfu.rooms.joining import Services
from triosfu.rooms.settings import RoomDefaults, RoomSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from triosfu.agents.jobs import Worker
    from triosfu.peer import PeerConnection

SERVICE = "AgentDispatchService"
Status = agent.JobStatus


def nobody_makes_peers(**_: object) -> PeerConnection:
    raise AssertionError


@dataclass
class World:
    rooms: Rooms
    agents: Agents
    api: Caller

    async def json(self, method: str, /, *, request_id: str = "", **fields: Any) -> Any:  # noqa: ANN401  JSON
        body = json.dumps({"room": "room", **fields}).encode()
        headers = [(b"Content-Type", b"application/json"), (b"Authorization", f"Bearer {token()}".encode())]
        if request_id:
            headers.append((b"X-Livekit-Request-Id", request_id.encode()))
        path = f"/twirp/livekit.{SERVICE}/{method}"
        return read(await self.api.twirp.respond(Request("POST", path, path, {}, Headers(headers), body, ("::1", 1))))

    def worker(self, **registration: Any) -> Worker:  # noqa: ANN401  protobuf fields
        """A worker without a socket, which takes every job as long as the test says so."""
        board, now = self.agents.board, trio.current_time()
        worker = board.connect("devkey", now)
        assert worker is not None
        request = agent.RegisterWorkerRequest(**registration)
        board.receive(worker, agent.WorkerMessage(register=request), now)
        self.agents._pump()
        return worker

    def take(self, worker: Worker) -> list[str]:
        """Accept what is offered; the ids of those jobs."""
        taken = list(worker.offers)
        for job_id in taken:
            answer = agent.AvailabilityResponse(job_id=job_id, available=True)
            self.agents.board.receive(worker, agent.WorkerMessage(availability=answer), trio.current_time())
        self.agents._pump()
        return taken


@asynccontextmanager
async def world(settings: RoomSettings | None = None) -> AsyncIterator[World]:
    settings = settings or RoomSettings()
    agents = Agents({"devkey": "secret"}, settings, rng=Random(1))
    rooms = Rooms(Services(peers=nobody_makes_peers, rng=Random(2), settings=settings, listeners=(agents.dispatches,)))
    async with trio.open_nursery() as nursery:
        await nursery.start(rooms.run)
        nursery.start_soon(agents.run)
        yield World(rooms, agents, caller(rooms, more=[AgentDispatchService(rooms, agents.dispatches).service()]))
        assert agents.counters["bugs"] == rooms.counters["bugs"] == sum(room.counters["bugs"] for room in rooms) == 0
        nursery.cancel_scope.cancel()


async def refused(world: World, method: str, **fields: Any) -> tuple[int, str, str]:  # noqa: ANN401  JSON
    with pytest.raises(Refused) as caught:
        await world.json(method, **fields)
    return caught.value.status, caught.value.code, caught.value.text


async def test_an_agent_is_asked_for_listed_and_sent_away() -> None:
    async with world() as here:
        worker = here.worker(agent_name="helper")
        made = await here.json("CreateDispatch", agent_name="helper", metadata="m", attributes={"a": "b"})
        assert made["id"].startswith("AD_")
        assert (made["agent_name"], made["room"], made["metadata"], made["attributes"]) == (
            "helper", "room", "m", {"a": "b"},
        )  # fmt: skip
        assert int(made["state"]["created_at"]) > 1_700_000_000 * 10**9  # nanoseconds
        assert made["state"]["jobs"] == []  # nobody has taken it yet
        (job_id,) = here.take(worker)
        implicit, ours = (await here.json("ListDispatch"))["agent_dispatches"]
        assert (implicit["agent_name"], implicit["state"]["jobs"]) == ("", [])
        (job,) = ours["state"]["jobs"]
        assert (job["id"], job["dispatch_id"], job["type"], job["agent_name"], job["metadata"]) == (
            job_id, made["id"], "JT_ROOM", "helper", "m",
        )  # fmt: skip
        assert (job["state"]["status"], job["state"]["worker_id"]) == ("JS_RUNNING", worker.id)
        assert job["state"]["participant_identity"] == f"agent-{job_id}"
        assert int(job["state"]["started_at"]) > 1_700_000_000 * 10**9
        one = await here.json("ListDispatch", dispatch_id=made["id"])
        assert [found["id"] for found in one["agent_dispatches"]] == [made["id"]]
        assert (await here.json("ListDispatch", dispatch_id="AD_none")) == {"agent_dispatches": []}
        gone = await here.json("DeleteDispatch", dispatch_id=made["id"])
        assert (gone["id"], int(gone["state"]["deleted_at"]) > 0) == (made["id"], True)
        (job,) = gone["state"]["jobs"]
        assert (job["state"]["status"], job["state"]["reason"]) == ("JS_CANCELLED", "JSR_DISPATCH_DELETED")
        assert not worker.jobs
        assert [one["id"] for one in (await here.json("ListDispatch"))["agent_dispatches"]] == [implicit["id"]]
        missing = await refused(here, "DeleteDispatch", dispatch_id=made["id"])
        assert missing == (404, "not_found", "dispatch ID not found")


async def test_the_same_in_protobuf() -> None:
    async with world() as here:

        async def call(method: str, request: Any, kind: Any) -> Any:  # noqa: ANN401  messages
            content = "application/protobuf"
            body = request.SerializeToString()
            response = await here.api.post(method, body, content=content, service=SERVICE)
            assert (response.status, dict(response.headers)["Content-Type"]) == (200, content)
            return kind.FromString(response.body)

        never = agent_dispatch.JobRestartPolicy.JRP_NEVER
        asked = agent_dispatch.CreateAgentDispatchRequest(
            agent_name="helper",
            room="room",
            restart_policy=never,
            deployment="blue",
        )
        made = await call("CreateDispatch", asked, agent_dispatch.AgentDispatch)
        assert (made.restart_policy, made.deployment) == (never, "blue")
        listed = agent_dispatch.ListAgentDispatchRequest(room="room", dispatch_id=made.id)
        found = await call("ListDispatch", listed, agent_dispatch.ListAgentDispatchResponse)
        assert list(found.agent_dispatches) == [made]


async def test_a_request_that_is_sent_again_asks_for_the_same_agent() -> None:
    async with world() as here:
        first = await here.json("CreateDispatch", agent_name="helper", request_id="one")
        again = await here.json("CreateDispatch", agent_name="helper", request_id="one")
        other = await here.json("CreateDispatch", agent_name="helper", request_id="two")
        third = await here.json("CreateDispatch", agent_name="helper")
        assert first == again
        assert len({first["id"], other["id"], third["id"]}) == 3
        assert len((await here.json("ListDispatch"))["agent_dispatches"]) == 4


@pytest.mark.parametrize("method", ["CreateDispatch", "ListDispatch", "DeleteDispatch"])
async def test_only_the_rooms_administrator_may_ask(method: str) -> None:
    async with world() as here:
        for grants in ({"room_admin": True, "room": "other"}, {"room_create": True, "room": "room"}, {"agent": True}):
            response = await here.api.post(
                method, b'{"room": "room"}', service=SERVICE, authorization=f"Bearer {token(**grants)}"
            )
            with pytest.raises(Refused) as caught:
                read(response)
            assert (caught.value.status, caught.value.text) == (401, "permissions denied")
        assert len(here.rooms) == 0


async def test_what_cannot_be_asked_for() -> None:
    async with world() as here:
        long, wide = {"agent_name": "n" * 257}, {"attributes": {"a": "v" * (64 << 10)}}
        for fields, text in (
            (long, "agent_name is longer than 256 characters"),
            ({"deployment": "a_b"}, "deployment must have no underscore and no white space"),
            ({"deployment": "d" * 65}, "deployment is longer than 64 characters"),
            ({"metadata": "m" * (513 << 10)}, "exceeds metadata size limit"),
            (wide, "exceeds attributes size limit"),
        ):
            assert await refused(here, "CreateDispatch", **fields) == (400, "invalid_argument", text)
        for method in ("ListDispatch", "DeleteDispatch"):
            assert await refused(here, method) == (404, "not_found", "requested room does not exist")
        assert len(here.rooms) == 0
        for _ in range(MAX_DISPATCHES - 1):
            await here.json("CreateDispatch")
        full = (429, "resource_exhausted", f"a room has at most {MAX_DISPATCHES} dispatches")
        assert await refused(here, "CreateDispatch") == full


async def test_a_room_is_made_only_where_joining_makes_one() -> None:
    async with world(RoomSettings(auto_create=False)) as here:
        assert await refused(here, "CreateDispatch") == (404, "not_found", "requested room does not exist")
        await here.rooms.create("room")
        await here.json("CreateDispatch")


async def test_a_room_that_names_agents_lists_only_those() -> None:
    async with world() as here:
        made = await here.api.json(
            "CreateRoom", name="room", agents=[{"agentName": "one", "metadata": "m"}, {"agentName": "two"}]
        )
        assert made["name"] == "room"
        listed = (await here.json("ListDispatch"))["agent_dispatches"]
        assert [(one["agent_name"], one["metadata"]) for one in listed] == [("one", "m"), ("two", "")]


async def test_of_a_room_that_asks_for_too_many_the_first_are_wanted() -> None:
    async with world() as here:
        wanted = [agent_dispatch.RoomAgentDispatch(agent_name=f"{number}") for number in range(MAX_DISPATCHES + 5)]
        wanted[3].deployment = "a b"
        await here.rooms.create("room", RoomDefaults(agents=tuple(wanted)))
        listed = (await here.json("ListDispatch"))["agent_dispatches"]
        assert len(listed) == MAX_DISPATCHES
        assert "3" not in {one["agent_name"] for one in listed}
        assert here.agents.counters["dispatches_refused"] == 1


async def test_a_policy_of_never_is_kept() -> None:
    async with world() as here:
        first = here.worker()
        await here.json("CreateDispatch", restart_policy="JRP_NEVER")
        assert len(here.take(first)) == 2  # the one of the room, and this one
        second = here.worker()
        here.agents.board.lost(first, trio.current_time())
        here.agents._pump()
        assert len(here.take(second)) == 1
        states = [one["state"]["jobs"][0]["state"] for one in (await here.json("ListDispatch"))["agent_dispatches"]]
        assert [(one["status"], one["error"]) for one in states] == [
            ("JS_RUNNING", ""),
            ("JS_FAILED", "the worker is gone"),
        ]


async def test_jobs_that_are_over_are_listed_for_a_while_and_those_that_nobody_took_never() -> None:
    async with world() as here:
        room = await here.rooms.create("room")
        worker = here.worker()
        (dispatch,) = here.agents.dispatches.of_room(room)
        for number in range(MAX_ENDED + 7):
            here.agents.dispatches._launch(dispatch, agent.JobType.JT_ROOM, room)
            if number < 3:
                refusal = agent.AvailabilityResponse(job_id=next(iter(worker.offers)))
                here.agents.board.receive(worker, agent.WorkerMessage(availability=refusal), trio.current_time())
                here.agents._pump()
                assert len(dispatch.jobs) == 0
                continue
            (job_id,) = here.take(worker)
            over = agent.UpdateJobStatus(job_id=job_id, status=Status.JS_SUCCESS)
            here.agents.board.receive(worker, agent.WorkerMessage(update_job=over), trio.current_time())
            here.agents._pump()
        assert len(dispatch.jobs) == MAX_ENDED
        assert len((await here.json("ListDispatch"))["agent_dispatches"][0]["state"]["jobs"]) == MAX_ENDED
        assert not here.agents.dispatches._jobs
