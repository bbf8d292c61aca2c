"""An unmodified livekit-agents worker: its agents join by themselves or when asked for, and echo what they hear."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import pytest
from livekit import api, rtc

from tests.clients.agent_worker import agent_worker
from tests.clients.python_client import Participant, leaving, until
from tests.clients.server import KEY, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.clients.agent_worker import AgentWorker
    from tests.clients.server import RunningServer

# `triosfu run --dev` has LiveKit's key and secret, which is shorter than PyJWT likes.
pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
numbers = count(1)  # of rooms: a test that is tried once more finds nothing of its first attempt
AGENT = rtc.ParticipantKind.PARTICIPANT_KIND_AGENT


def calls_of(server: RunningServer) -> api.LiveKitAPI:
    return api.LiveKitAPI(f"http://127.0.0.1:{server.port}", KEY, SECRET)


async def echoed(alice: Participant, *, seconds: float = 15) -> str:
    """Wait for her own voice; the identity of who played it back."""
    await until(lambda: any(heard > 10 for heard in alice.loud_frames.values()), seconds=seconds, what="an echo")
    return next(name for name, heard in alice.loud_frames.items() if heard > 10)


async def seen(alice: Participant, job: str) -> rtc.RemoteParticipant:
    """The agent of a job, once she knows of it."""
    people = alice.room.remote_participants
    await until(lambda: f"agent-{job}" in people, seconds=5, what="an agent")
    return people[f"agent-{job}"]


async def registered(workers: Iterable[AgentWorker]) -> None:
    for worker in workers:
        await asyncio.to_thread(worker.wait_registered)


def test_agents_join_when_a_room_begins_and_when_they_are_asked_for(server: RunningServer, artifacts: Path) -> None:
    """Automatic and explicit dispatch beside each other, the end of both, and how many jobs there were."""
    room = f"agents-{next(numbers)}"
    with ExitStack() as stack:
        plain, named, publishers = (
            stack.enter_context(agent_worker(server, artifacts / f"agents-{name}.log", **environment))
            for name, environment in (
                ("plain", {}),
                ("named", {"AGENT_NAME": "helper", "EXECUTOR": "process"}),
                ("publishers", {"WORKER_TYPE": "publisher"}),
            )
        )

        async def run() -> None:
            await registered((plain, named, publishers))
            alice, bob = Participant("alice"), Participant("bob")
            async with calls_of(server) as calls, leaving((alice, bob)):
                await alice.join(server.url, server.token("alice", room), single=True)
                await bob.join(server.url, server.token("bob", room), single=False, watch=False)
                publication = await alice.publish_microphone()
                identity = await echoed(alice)
                (joined,) = plain.events("joined")
                assert (joined["room"], joined["participant"]) == (room, "")
                voices = {f"agent-{one['job']}" for worker in (plain, publishers) for one in worker.events("joined")}
                assert identity in voices
                agent = await seen(alice, joined["job"])
                assert (agent.kind, agent.name) == (AGENT, "echo")
                assert agent.attributes["mood"] == "attentive"
                await until(lambda: len(publishers.events("joined")) == 1, seconds=10, what="the publisher's agent")
                assert publishers.events("joined")[0]["participant"] == "alice"

                made = await calls.agent_dispatch.create_dispatch(
                    api.CreateAgentDispatchRequest(agent_name="helper", room=room, metadata="be nice")
                )
                await until(lambda: bool(named.events("joined")), seconds=20, what="the agent that was asked for")
                (asked,) = named.events("joined")
                assert (asked["room"], asked["metadata"]) == (room, "be nice")
                helper = await seen(alice, asked["job"])
                assert helper.attributes["lk.agent_name"] == "helper"
                found = await calls.agent_dispatch.get_dispatch(made.id, room)
                assert found is not None
                assert [job.id for job in found.state.jobs] == [asked["job"]]
                listed = await calls.agent_dispatch.list_dispatch(room)
                counts = {one.agent_name: [job.type for job in one.state.jobs] for one in listed}
                # One for the room, one for her who publishes; none for him, and none for the agents, who do as well.
                assert sorted(counts[""]) == [api.JobType.JT_ROOM, api.JobType.JT_PUBLISHER]
                assert counts["helper"] == [api.JobType.JT_ROOM]

                await calls.agent_dispatch.delete_dispatch(made.id, room)
                await until(lambda: bool(named.events("over")), seconds=10, what="the end of its job")
                gone = f"agent-{asked['job']}"
                left = partial(alice.when, "participant_disconnected", gone)
                await until(lambda: left() is not None, seconds=5, what="its leaving")
                await alice.room.local_participant.unpublish_track(publication.sid)
                await alice.publish_microphone()
                await asyncio.sleep(0.5)
                assert len(publishers.events("asked")) == 1  # whoever publishes again has an agent
                await calls.room.delete_room(api.DeleteRoomRequest(room=room))
                await until(lambda: bool(plain.events("over")), seconds=10, what="the end of the room's job")

        asyncio.run(asyncio.wait_for(run(), 90))


def test_the_job_of_a_worker_that_is_killed_goes_to_another(server: RunningServer, artifacts: Path) -> None:
    room = f"survivors-{next(numbers)}"
    with ExitStack() as stack:
        workers = [
            stack.enter_context(agent_worker(server, artifacts / f"agents-{name}.log", AGENT_NAME="survivor"))
            for name in ("first", "second")
        ]

        async def run() -> None:
            await registered(workers)
            alice = Participant("alice")
            async with calls_of(server) as calls, leaving((alice,)):
                wish = api.CreateRoomRequest(name=room, agents=[api.RoomAgentDispatch(agent_name="survivor")])
                await calls.room.create_room(wish)
                await alice.join(server.url, server.token("alice", room), single=True)
                await alice.publish_microphone()
                agent = await echoed(alice)
                first = next(worker for worker in workers if worker.events("joined"))
                (second,) = (worker for worker in workers if worker is not first)
                began = time.monotonic()
                first.kill()
                await until(lambda: bool(second.events("joined")), seconds=15, what="the other worker's agent")
                assert second.events("joined")[0]["job"] == first.events("joined")[0]["job"]
                assert f"agent-{second.events('joined')[0]['job']}" == agent
                heard = alice.loud_frames[agent]
                await until(lambda: alice.loud_frames[agent] > heard + 20, seconds=10, what="the echo again")
                assert time.monotonic() - began < 15
                (dispatch,) = await calls.agent_dispatch.list_dispatch(room)
                assert [job.state.status for job in dispatch.state.jobs] == [api.JobStatus.JS_RUNNING]

        asyncio.run(asyncio.wait_for(run(), 90))


def test_what_one_worker_refuses_another_takes(server: RunningServer, artifacts: Path) -> None:
    room = f"picky-{next(numbers)}"
    with (
        agent_worker(server, artifacts / "agents-refuses.log", AGENT_NAME="picky", REFUSE="1") as refuses,
        agent_worker(server, artifacts / "agents-takes.log", AGENT_NAME="picky") as takes,
    ):

        async def run() -> None:
            await registered((refuses, takes))
            async with calls_of(server) as calls:
                for number in range(6):
                    await calls.agent_dispatch.create_dispatch(
                        api.CreateAgentDispatchRequest(agent_name="picky", room=f"{room}-{number}")
                    )
                await until(lambda: len(takes.events("joined")) == 6, seconds=20, what="six agents")
                rooms = {f"{room}-{number}" for number in range(6)}
                assert {event["room"] for event in takes.events("joined")} == rooms
                for number in range(6):
                    await calls.room.delete_room(api.DeleteRoomRequest(room=f"{room}-{number}"))

        asyncio.run(asyncio.wait_for(run(), 60))
