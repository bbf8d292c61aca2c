"""An unmodified livekit-agents worker: its agents join by themselves or when asked for, and echo what they hear."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from livekit import api, rtc

from tests.clients.agent_worker import agent_worker
from tests.clients.python_client import Participant, leaving, until
from tests.clients.server import KEY, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.clients.agent_worker import AgentWorker
    from tests.clients.server import RunningServer

# `triosfu run --dev` has LiveKit's key and secret, which is shorter than PyJWT likes.
pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
numbers = count(1)  # of rooms: a test that is tried once more finds nothing of its first attempt
JS = Path(__file__).parent / "js"
DISPATCHES = """
import { AgentDispatchClient } from 'livekit-server-sdk';
const [url, room] = process.argv.slice(1);
const client = new AgentDispatchClient(url, 'devkey', 'secret');
const made = await client.createDispatch(room, 'helper', { metadata: 'm' });
const listed = await client.listDispatch(room);
const one = await client.getDispatch(made.id, room);
await client.deleteDispatch(made.id, room);
const left = await client.listDispatch(room);
const missing = await client.deleteDispatch(made.id, room).then(() => null, (error) => error);
console.log(JSON.stringify({
  made: [made.id.slice(0, 3), made.agentName, made.room, made.metadata],
  agents: listed.map((dispatch) => dispatch.agentName),
  one: [Number(one.state.createdAt > 0n), one.agentName, one.state.jobs.length],
  left: left.map((dispatch) => dispatch.agentName),
  missing: [missing.status, missing.code, missing.message],
}));
"""
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
        await asyncio.to_thread(worker.wait_for, "registered", seconds=40)


def test_agents_join_when_a_room_begins_and_when_they_are_asked_for(server: RunningServer, artifacts: Path) -> None:
    """Automatic and explicit dispatch beside each other, and the end of both."""
    room = f"agents-{next(numbers)}"
    with ExitStack() as stack:
        plain, named = (
            stack.enter_context(agent_worker(server.url, artifacts / f"agents-{name}.log", **environment))
            for name, environment in (("plain", {}), ("named", {"AGENT_NAME": "helper", "EXECUTOR": "process"}))
        )

        async def run() -> None:
            await registered((plain, named))
            alice, bob = Participant("alice"), Participant("bob")
            async with calls_of(server) as calls, leaving((alice, bob)):
                await alice.join(server.url, server.token("alice", room), single=True)
                await bob.join(server.url, server.token("bob", room), single=False, watch=False)
                await alice.publish_microphone()
                identity = await echoed(alice)
                await until(lambda: bool(plain.events("joined")), seconds=10, what="the room's agent")
                (joined,) = plain.events("joined")
                assert (joined["room"], joined["participant"]) == (room, "")
                assert identity == f"agent-{joined['job']}"
                agent = await seen(alice, joined["job"])
                assert (agent.kind, agent.name) == (AGENT, "echo")
                assert agent.attributes["mood"] == "attentive"

                made = await calls.agent_dispatch.create_dispatch(
                    api.CreateAgentDispatchRequest(agent_name="helper", room=room, metadata="be nice")
                )
                await until(lambda: bool(named.events("joined")), seconds=40, what="the agent that was asked for")
                (asked,) = named.events("joined")
                assert (asked["room"], asked["metadata"]) == (room, "be nice")
                helper = await seen(alice, asked["job"])
                assert helper.attributes["lk.agent_name"] == "helper"
                found = await calls.agent_dispatch.get_dispatch(made.id, room)
                assert found is not None
                assert [job.id for job in found.state.jobs] == [asked["job"]]
                listed = await calls.agent_dispatch.list_dispatch(room)
                counts = {one.agent_name: [job.type for job in one.state.jobs] for one in listed}
                assert counts == {"": [api.JobType.JT_ROOM], "helper": [api.JobType.JT_ROOM]}

                await calls.agent_dispatch.delete_dispatch(made.id, room)
                await until(lambda: bool(named.events("over")), seconds=10, what="the end of its job")
                gone = f"agent-{asked['job']}"
                left = partial(alice.when, "participant_disconnected", gone)
                await until(lambda: left() is not None, seconds=5, what="its leaving")
                await calls.room.delete_room(api.DeleteRoomRequest(room=room))
                await until(lambda: bool(plain.events("over")), seconds=10, what="the end of the room's job")

        asyncio.run(asyncio.wait_for(run(), 90))


def test_the_job_of_a_worker_that_is_killed_goes_to_another(server: RunningServer, artifacts: Path) -> None:
    room = f"survivors-{next(numbers)}"
    with ExitStack() as stack:
        workers = [
            stack.enter_context(agent_worker(server.url, artifacts / f"agents-{name}.log", AGENT_NAME="survivor"))
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
                first.end()
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
        agent_worker(server.url, artifacts / "agents-refuses.log", AGENT_NAME="picky", REFUSE="1") as refuses,
        agent_worker(server.url, artifacts / "agents-takes.log", AGENT_NAME="picky") as takes,
    ):

        async def run() -> None:
            await registered((refuses, takes))
            async with calls_of(server) as calls:
                rooms: list[str] = []
                joined = partial(takes.events, "joined")
                while len(rooms) < 2 or not refuses.events("asked"):  # each time it is one of them by chance
                    assert len(rooms) < 20
                    rooms.append(f"{room}-{len(rooms)}")
                    wish = api.CreateAgentDispatchRequest(agent_name="picky", room=rooms[-1])
                    await calls.agent_dispatch.create_dispatch(wish)
                    await until(lambda: len(joined()) == len(rooms), seconds=20, what="an agent")
                    await calls.room.delete_room(api.DeleteRoomRequest(room=rooms[-1]))
                assert [event["room"] for event in joined()] == rooms

        asyncio.run(asyncio.wait_for(run(), 60))


class Relay:
    """What stands between a worker and the server; its connections can be cut, the first one first."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._pairs: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._connected, "127.0.0.1", port)

    def cut(self) -> None:
        """Reset the oldest connection."""
        self._pairs.pop(0).transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._pairs.append(writer)
        there, to_there = await asyncio.open_connection("127.0.0.1", self._server.port)
        for source, sink in ((reader, to_there), (there, writer)):
            task = asyncio.ensure_future(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()


def test_a_worker_that_lost_its_connection_has_its_job_again(server: RunningServer, artifacts: Path) -> None:
    room = f"again-{next(numbers)}"

    async def run() -> None:
        relay, alice = Relay(server), Participant("alice")
        async with await relay.listen(7885), calls_of(server) as calls, leaving((alice,)):
            log = artifacts / "agents-returns.log"
            with agent_worker("ws://127.0.0.1:7885", log, AGENT_NAME="returns") as worker:
                await registered((worker,))
                await alice.join(server.url, server.token("alice", room), single=True)
                await alice.publish_microphone()
                wish = api.CreateAgentDispatchRequest(agent_name="returns", room=room)
                made = await calls.agent_dispatch.create_dispatch(wish)
                agent = await echoed(alice)
                relay.cut()
                await until(lambda: len(worker.registrations()) == 2, seconds=10, what="its return")
                heard = alice.loud_frames[agent]
                await until(lambda: alice.loud_frames[agent] > heard + 200, seconds=10, what="two more seconds of echo")
                assert len(worker.events("joined")) == 1  # nobody has taken the agent's place
                assert alice.when("participant_disconnected", agent) is None
                await calls.agent_dispatch.delete_dispatch(made.id, room)
                await until(lambda: bool(worker.events("over")), seconds=10, what="the end of the job")

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_job_goes_with_its_agent_and_who_is_moved_gets_another_agent(server: RunningServer, artifacts: Path) -> None:
    """First she is moved, and has an agent in the other room as well; then her first agent is, and hears her again."""
    first, second = (f"moved-{name}-{next(numbers)}" for name in ("from", "to"))

    async def move(calls: api.LiveKitAPI, identity: str) -> None:
        request = api.MoveParticipantRequest(room=first, identity=identity, destination_room=second)
        await calls.room.move_participant(request)

    async def run() -> None:
        alice = Participant("alice")
        async with calls_of(server) as calls, leaving((alice,)):
            await registered((worker,))
            for room in (first, second):
                wish = api.CreateRoomRequest(name=room, agents=[api.RoomAgentDispatch(agent_name="mover")])
                await calls.room.create_room(wish)
            await alice.join(server.url, server.token("alice", first), single=True)
            await alice.publish_microphone()
            older = await echoed(alice)
            await move(calls, "alice")
            await until(lambda: len(worker.events("joined")) == 2, seconds=20, what="an agent in the other room")
            old, new = worker.events("joined")
            assert (old["room"], new["room"], new["participant"]) == (first, second, "alice")
            newer = f"agent-{new['job']}"
            await until(lambda: alice.loud_frames[newer] > 10, seconds=10, what="its echo")
            assert older not in alice.room.remote_participants
            assert not worker.events("over")

            heard = alice.loud_frames[older]
            await move(calls, older)
            await until(lambda: bool(worker.events("moved")), seconds=5, what="the older agent knows")
            (told,) = worker.events("moved")
            assert (told["job"], told["room"]) == (old["job"], second)
            await until(lambda: alice.loud_frames[older] > heard + 10, seconds=10, what="her first agent's echo")
            (dispatch,) = await calls.agent_dispatch.list_dispatch(first)
            (job,) = dispatch.state.jobs
            assert (job.id, job.room.name, job.state.status) == (old["job"], second, api.JobStatus.JS_RUNNING)
            await calls.room.delete_room(api.DeleteRoomRequest(room=first))
            heard = alice.loud_frames[older]
            await until(lambda: alice.loud_frames[older] > heard + 30, seconds=10, what="its echo goes on")
            assert (len(worker.events("joined")), worker.events("over")) == (2, [])
            await calls.room.delete_room(api.DeleteRoomRequest(room=second))
            await until(lambda: len(worker.events("over")) == 2, seconds=10, what="the end of both jobs")

    log = artifacts / "agents-mover.log"
    with agent_worker(server.url, log, AGENT_NAME="mover", WORKER_TYPE="publisher") as worker:
        asyncio.run(asyncio.wait_for(run(), 60))


def test_dispatches_by_the_node_sdk(server: RunningServer) -> None:
    """`livekit-server-sdk`, which speaks JSON."""
    room = f"node-{next(numbers)}"
    done = subprocess.run(
        ["node", "--input-type=module", "-e", DISPATCHES, f"http://127.0.0.1:{server.port}", room],
        cwd=JS, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == {
        "made": ["AD_", "helper", room, "m"],
        "agents": ["", "helper"],
        "one": [1, "helper", 0],
        "left": [""],
        "missing": [404, "not_found", "dispatch ID not found"],
    }
