"""How many jobs a call makes, in both connection modes: LiveKit's own workers have them, for Python and for Node."""

from __future__ import annotations

import asyncio
from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING

import pytest
from livekit import api

from tests.clients.agent_worker import agent_worker, node_worker
from tests.clients.python_client import leaving, until
from tests.conformance.hooks import figures
from tests.conformance.meeting import Meeting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clients.agent_worker import AgentWorker
    from tests.clients.server import RunningServer

# The development key is as short as LiveKit's, and the package that signs with it says so.
pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
numbers = count(1)  # of rooms: a test that is tried once more finds nothing of its first attempt
NAME = "counted"  # so that rooms of other tests, in which nobody asks for it, have none
KINDS = {"room": api.JobType.JT_ROOM, "publisher": api.JobType.JT_PUBLISHER, "participant": api.JobType.JT_PARTICIPANT}
Jobs = list[tuple[str, str]]  # type and whom it is about


@pytest.fixture(scope="session")
def workers(server: RunningServer, artifacts: Path) -> Iterator[dict[str, AgentWorker]]:
    """One for each type of job: the Python worker has two of them, the Node worker also the third."""
    logs = [artifacts / f"conformance-agents-{kind}.log" for kind in KINDS]
    with (
        agent_worker(server.url, logs[0], AGENT_NAME=NAME) as rooms,
        agent_worker(server.url, logs[1], AGENT_NAME=NAME, WORKER_TYPE="publisher") as publishers,
        node_worker(server.url, logs[2], AGENT_NAME=NAME, WORKER_TYPE="participant", SILENT="1") as participants,
    ):
        made = {"room": rooms, "publisher": publishers, "participant": participants}
        for worker in made.values():
            worker.wait_for("registered", seconds=40)
        yield made


def test_one_job_for_the_room_one_for_each_publisher_and_one_for_each_participant(
    server: RunningServer, workers: dict[str, AgentWorker], single: bool
) -> None:
    room = f"jobs-{next(numbers)}"

    def joined() -> Jobs:
        """The agents that are there, by what their workers have told."""
        return sorted(
            (kind, event["participant"])
            for kind, worker in workers.items()
            for event in worker.events("joined")
            if event["room"] == room
        )

    async def become(*expected: tuple[str, str]) -> None:
        await until(lambda: joined() == sorted(expected), seconds=20, what=f"{expected}")

    async def scenario() -> None:
        alice, bob = meeting.alice, meeting.bob
        before = await asyncio.to_thread(figures)
        async with meeting.backend() as calls, leaving((alice, bob)):
            wish = api.CreateRoomRequest(name=room, agents=[api.RoomAgentDispatch(agent_name=NAME)])
            await calls.room.create_room(wish)
            await become(("room", ""))
            await meeting.join(alice)
            about_alice = ("participant", "alice")
            await become(("room", ""), about_alice)
            await alice.publish_microphone()
            await become(("room", ""), about_alice, ("publisher", "alice"))
            await alice.publish_camera(width=160, height=90, rate=8, simulcast=False)
            await meeting.join(bob)
            await until(lambda: bob.video_frames["alice"] > 2, seconds=10, what="a second track, and no second job")
            people = [about_alice, ("participant", "bob")]
            await become(("room", ""), *people, ("publisher", "alice"))
            publication = await bob.publish_microphone()
            everybody = [("room", ""), *people, ("publisher", "alice"), ("publisher", "bob")]
            await become(*everybody)
            # Who publishes anew has an agent already; those of the agents that publish have none.
            await bob.room.local_participant.unpublish_track(publication.sid)
            await bob.publish_microphone()
            await until(lambda: len(bob.room.remote_participants) == 6, seconds=5, what="alice and five agents")
            (dispatch,) = await calls.agent_dispatch.list_dispatch(room)
            jobs = dispatch.state.jobs
            expected = sorted((KINDS[kind], who) for kind, who in everybody)
            assert sorted((job.type, job.participant.identity) for job in jobs) == expected
            assert {job.state.status for job in jobs} == {api.JobStatus.JS_RUNNING}
            assert sum(event["room"] == room for one in workers.values() for event in one.events("asked")) == 5
            identities = {f"agent-{job.id}" for job in jobs}
            assert identities < bob.room.remote_participants.keys()
            assert joined() == sorted(everybody)
            await calls.room.delete_room(api.DeleteRoomRequest(room=room))

        def over() -> set[str]:
            return {event["job"] for one in workers.values() for event in one.events("over")}

        await until(lambda: over() >= {job.id for job in jobs}, seconds=10, what="the end of all jobs")
        after = await asyncio.to_thread(figures)

        def grew(name: str, **labels: str) -> float:
            return after.value(name, **labels) - before.value(name, **labels)

        for kind, jobs_of_it in (("room", 1), ("publisher", 2), ("participant", 2)):
            assert after.value("triosfu_agent_workers", type=kind, state="available") == 1
            assert grew("triosfu_agent_jobs_started_total", type=kind) == jobs_of_it
        assert grew("triosfu_agent_jobs_ended_total", status="cancelled") == grew("triosfu_agent_jobs_ended_total") == 5
        assert after.value("triosfu_agent_jobs") == grew("triosfu_agent_dispatch_failures_total") == 0

    with closing(Meeting(server, room, single=single)) as meeting:
        meeting.run(scenario())
