"""Workers on real sockets, rooms with real people: who is asked to do what, and what ends it."""

from __future__ import annotations

import base64
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from livekit.protocol import agent, models, room
from livekit.protocol.agent_dispatch import CreateAgentDispatchRequest, RoomAgentDispatch
from wsproto.frame_protocol import FrameProtocol, Opcode

import triosfu
from tests.agents.worker import at, config, connected, join_as_agent, vanish, worker, worker_token
from tests.support.client import join
from tests.support.steps import eventually, running, virtual_clock
from tests.webhooks.backend import backend
from triosfu import tokens
from triosfu.agents.dispatches import errand
from triosfu.agents.jobs import Stage
from triosfu.rooms.settings import RoomDefaults
from triosfu.server.declared_waits import DECLARED
from triosfu.server.task_tree import Bound, look, watching

if TYPE_CHECKING:
    from trio.testing import MockClock

    from triosfu.server import Server

Type, Reason, Status = agent.JobType, models.DisconnectReason, agent.JobStatus
UPGRADE = ("Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
WEBSOCKET_KEY = "Sec-WebSocket-Key: " + base64.b64encode(bytes(16)).decode()


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


async def ask(server: Server, token: str | None, *headers: str) -> tuple[int, str]:
    """Status and text of the answer to a request for `/agent`."""
    lines = ["GET /agent?protocol=1 HTTP/1.1", "Host: x", *(headers or ("Connection: close",))]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    async with await trio.open_tcp_stream(*at(server)) as stream:
        await stream.send_all("\r\n".join([*lines, "", ""]).encode())
        data = b""
        while more := await stream.receive_some(65536):
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


async def test_only_workers_may_connect(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server:
        refusal = partial(ask, server)
        assert await refusal(worker_token()) == (404, "")
        assert await refusal(None, *UPGRADE, WEBSOCKET_KEY) == (401, "permissions denied")
        assert await refusal(worker_token(room_admin=True), *UPGRADE, WEBSOCKET_KEY) == (401, "permissions denied")
        assert await refusal("nonsense", *UPGRADE, WEBSOCKET_KEY) == (401, "invalid authorization token")
        assert server.agents.counters["refused"] == 3
        assert not server.agents.board.workers


async def test_there_are_only_so_many_workers(clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with triosfu.serve(config()) as server, AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(worker(server))
        settings = server.agents.board.settings
        monkeypatch.setattr(server.agents.board, "settings", type(settings)(workers=3))
        assert await ask(server, worker_token(), *UPGRADE, WEBSOCKET_KEY) == (503, "too many agent workers")


async def test_a_worker_registers_in_ten_seconds_and_is_answered_in_binary(clock: MockClock) -> None:
    async with triosfu.serve(config(region="north")) as server, connected(server) as one, connected(server) as late:
        began = trio.current_time()
        await one.register(version="1.0")
        assert one.id.startswith("AW_")
        info = one.heard[0].register.server_info
        assert (info.region, info.agent_protocol, info.protocol) == ("north", 1, 17)
        await one.say(ping=agent.WorkerPing(timestamp=77))
        pong = await one.expect("pong")
        assert pong.last_timestamp == 77
        assert abs(pong.timestamp - time.time() * 1000) < 60_000  # milliseconds
        assert await late.closed() == (1008, "not registered in time")
        assert trio.current_time() - began == pytest.approx(10, abs=0.5)
        await eventually(lambda: list(server.agents.board.workers) == [one.id])


@pytest.mark.parametrize(
    ("frame", "code"), [("{}", 1003), (b"\xff", 1007), (bytes(3000), 1009)], ids=["text", "malformed", "large"]
)
async def test_a_frame_that_is_no_message_ends_the_worker(frame: str | bytes, code: int, clock: MockClock) -> None:
    limit = {"agent_signal_message_size_limit": 2000}
    async with triosfu.serve(config(limit=limit)) as server, worker(server) as one:
        await one.socket.send_message(frame)
        assert (await one.closed())[0] == code
        await eventually(lambda: not server.agents.board.workers)


async def test_a_worker_is_cut_off_for_what_it_registers_as(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, connected(server) as one:
        await one.say(register=agent.RegisterWorkerRequest(deployment="a b"))
        assert await one.closed() == (1008, "deployment: must have no underscore and no white space")


async def test_a_room_has_its_agent(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, connected(server, key="other") as one:
        allowed = models.ParticipantPermission(can_publish=True, can_subscribe=True, hidden=True, recorder=True)
        await one.register(allowed_permissions=allowed)
        async with join(server, "alice") as alice:
            offer = await one.expect("availability")
            (there,) = server.rooms
            assert (offer.job.room.sid, offer.job.room.name, offer.job.type) == (there.sid, "room", Type.JT_ROOM)
            assert (offer.job.id[:3], offer.job.dispatch_id[:3]) == ("AJ_", "AD_")
            assert offer.job.state.worker_id == one.id
            answer = agent.AvailabilityResponse(
                job_id=offer.job.id, available=True, participant_identity="bot", participant_name="Bot",
                participant_metadata="meta", participant_attributes={"mood": "good"},
            )  # fmt: skip
            await one.say(availability=answer)
            assignment = await one.expect("assignment")
            claims = tokens.verify(assignment.token, {"other": "secret-of-thirty-two-characters-"}, now=time.time())
            assert (claims.identity, claims.name, claims.kind, claims.metadata) == ("bot", "Bot", "agent", "meta")
            assert claims.attributes == {"mood": "good"}
            assert claims.expires_at - time.time() == pytest.approx(3600, abs=60)
            assert claims.video == tokens.VideoGrant(
                room_join=True, room="room", agent=True, can_publish=True, can_subscribe=True, can_publish_data=False,
                can_update_own_metadata=False, can_subscribe_metrics=False, hidden=True,
            )  # fmt: skip
            await alice.ready()
            async with join_as_agent(server, assignment) as bot:
                await bot.ready()
                found = there.participants["bot"]
                assert (found.applicant.kind, found.is_agent) == (models.ParticipantInfo.Kind.AGENT, True)
                await alice.play(b"do you hear me?", to=bot)
                await one.nothing_of("availability")  # an agent needs no agent
                await one.say(update_job=agent.UpdateJobStatus(job_id=offer.job.id, status=Status.JS_RUNNING))
                await bot.leave()
            assert (await one.expect("termination")).job_id == offer.job.id
            await eventually(lambda: not server.agents.board.jobs)


async def test_a_named_agent_says_so_in_its_attributes(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, worker(server, agent_name="helper") as one:
        await server.rooms.create("room", wanting(RoomAgentDispatch(agent_name="helper", metadata="m")))
        assignment = await one.take()
        claims = tokens.verify(assignment.token, dict(server._keys), now=time.time())
        assert claims.attributes == {"lk.agent_name": "helper"}
        assert claims.identity == f"agent-{assignment.job.id}"
        assert (assignment.job.agent_name, assignment.job.metadata) == ("helper", "m")
        assert claims.video is not None
        # What a worker that says nothing of permissions gets.
        assert (claims.video.can_publish, claims.video.can_update_own_metadata, claims.video.hidden) == (
            True,
            True,
            False,
        )


def wanting(*agents: RoomAgentDispatch) -> RoomDefaults:
    return RoomDefaults(agents=agents)


async def test_one_job_for_the_room_one_for_each_participant_and_one_for_each_publisher(clock: MockClock) -> None:
    async with (
        triosfu.serve(config()) as server,
        worker(server) as rooms,
        worker(server, type=Type.JT_PUBLISHER) as publishers,
        worker(server, type=Type.JT_PARTICIPANT) as participants,
        join(server, "alice") as alice,
        join(server, "bob") as bob,
    ):
        await alice.ready()
        await bob.ready()
        await alice.publish("video", "video/VP8")
        first = await rooms.take()
        about = [(await one.take()).job for one in (publishers, publishers, participants, participants)]
        assert sorted(job.participant.identity for job in about[:2]) == ["alice", "bob"]
        assert sorted(job.participant.identity for job in about[2:]) == ["alice", "bob"]
        assert [job.type for job in about] == [Type.JT_PUBLISHER] * 2 + [Type.JT_PARTICIPANT] * 2
        assert all(job.participant.sid.startswith("PA_") for job in about)
        async with join_as_agent(server, first) as bot:
            await bot.ready()
            for one in (rooms, publishers, participants):
                assert not server.agents.board.workers[one.id].offers
                await one.nothing_of("availability")
            assert len(server.agents.board.jobs) == 5


async def test_a_dispatch_that_comes_late_is_for_those_who_are_there(clock: MockClock) -> None:
    async with (
        triosfu.serve(config()) as server,
        worker(server, agent_name="late", type=Type.JT_PUBLISHER) as publishers,
        worker(server, agent_name="late", type=Type.JT_PARTICIPANT) as participants,
        worker(server) as plain,
        join(server, "alice") as alice,
    ):
        await alice.ready()
        async with join(server, "bob", single=True) as bob, join_as_agent(server, await plain.take()) as agent_of_all:
            await bob.ready()
            await agent_of_all.ready()
            (there,) = server.rooms
            wish = CreateAgentDispatchRequest(agent_name="late", room="room")
            dispatch = server.agents.dispatches.create(there, wish, dispatch_id="")
            for one in (publishers, participants):
                about = [(await one.take()).job.participant.identity for _ in range(2)]
                assert sorted(about) == ["alice", "bob"]
                await one.nothing_of("availability")  # about the agent
            await bob.leave()
        # Those jobs go on, and keep nothing of him but his name.
        jobs = list(dispatch.jobs.values())
        assert [job.stage for job in jobs] == [Stage.ASSIGNED] * 4
        assert sorted(errand(job).participant is None for job in jobs) == [False, False, True, True]
        assert sorted(job.participant.identity for job in dispatch.message().state.jobs) == ["alice"] * 2 + ["bob"] * 2


async def test_a_job_about_somebody_who_has_left_is_not_begun_anew(clock: MockClock) -> None:
    async with (
        triosfu.serve(config()) as server,
        worker(server, type=Type.JT_PARTICIPANT) as one,
        join(server, "alice") as alice,
    ):
        await alice.ready()
        job = (await one.take()).job
        await alice.leave()
        await one.vanish()
        async with worker(server, type=Type.JT_PARTICIPANT) as other:
            await other.nothing_of("availability")
            await eventually(lambda: job.id not in server.agents.board.jobs)


async def test_each_namespace_has_its_job_and_names_are_for_those_who_ask(clock: MockClock) -> None:
    async with (
        triosfu.serve(config()) as server,
        worker(server) as plain,
        worker(server, namespace="space") as spaced,
        worker(server, agent_name="named") as named,
        worker(server, agent_name="named", deployment="blue") as blue,
    ):
        await server.rooms.create("room")
        assert [(await one.expect("availability")).job.namespace for one in (plain, spaced)] == ["", "space"]
        await named.nothing_of("availability")
        wanted = [RoomAgentDispatch(agent_name="named", deployment=deployment) for deployment in ("", "blue")]
        await server.rooms.create("other", wanting(*wanted))
        jobs = [(await one.expect("availability")).job for one in (named, blue)]
        assert [(job.agent_name, job.deployment, job.room.name) for job in jobs] == [
            ("named", "", "other"),
            ("named", "blue", "other"),
        ]
        await plain.nothing_of("availability")  # with agents that are named, nobody else comes


async def test_agents_are_wanted_by_the_token_that_makes_a_room(clock: MockClock) -> None:
    wish = room.RoomConfiguration(agents=[RoomAgentDispatch(agent_name="helper", attributes={"a": "b"})])
    async with triosfu.serve(config()) as server, worker(server, agent_name="helper") as one:
        token = tokens.create_token(
            "devkey", "secret-of-thirty-two-characters-", now=time.time(), identity="alice", room="room",
            room_config=wish,
        )  # fmt: skip
        assignment = agent.JobAssignment(token=token, job=agent.Job(room=models.Room(name="room")))
        async with join_as_agent(server, assignment):
            job = (await one.expect("availability")).job
            assert dict(job.attributes) == {"a": "b"}


async def test_a_room_that_ends_ends_its_jobs(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, worker(server) as one:
        there = await server.rooms.create("room")
        assignment = await one.take()
        taken = assignment.job.id
        (job,) = server.agents.board.jobs.values()
        async with join_as_agent(server, assignment) as bot:
            await bot.ready()
            there.close(Reason.ROOM_DELETED)
            assert (await one.expect("termination")).job_id == taken
        assert (job.state.status, job.state.reason) == (Status.JS_CANCELLED, agent.JobStateReason.JSR_ROOM_CLOSED)
        await eventually(lambda: not server.agents.board.jobs)
        assert not server.agents.dispatches._jobs
        assert not server.agents.dispatches._agents
        assert not server.agents.dispatches._places


async def test_the_jobs_of_a_worker_that_closes_its_socket_go_to_another(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server:
        async with worker(server) as first:
            await server.rooms.create("room")
            job = (await first.take(participant_identity="bot")).job
            await server.rooms.create("second")
            asked = (await first.expect("availability")).job
        async with worker(server) as second:
            taken = [await second.take(participant_identity="bot") for _ in range(2)]
            assert sorted(one.job.id for one in taken) == sorted([job.id, asked.id])
            assert {one.job.state.worker_id for one in taken} == {second.id}


async def test_an_agent_whose_worker_is_gone_is_replaced_once_it_is_gone_too(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, worker(server) as first:
        there = await server.rooms.create("room")
        assignment = await first.take(participant_identity="bot")
        async with join_as_agent(server, assignment) as bot, worker(server) as second:
            await bot.ready()
            await first.vanish()
            await trio.sleep(20)
            await second.nothing_of("availability")  # it would be the bot's double
            ghost = there.participants["bot"]
            await vanish(bot._socket)
            began = trio.current_time()
            again = await second.take(participant_identity="bot")
            assert trio.current_time() - began < 1.5
            assert again.job.id == assignment.job.id
            assert there.participants["bot"] is ghost  # it may yet resume, for all that the room knows
            async with join_as_agent(server, again) as successor:
                await successor.ready()
                assert there.participants["bot"] is not ghost
                assert ghost.closed
                await second.nothing_of("termination")
                await successor.leave()
                assert (await second.expect("termination")).job_id == again.job.id


async def test_a_ghost_that_goes_while_its_successor_is_on_its_way_ends_nothing(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, worker(server) as first:
        there = await server.rooms.create("room")
        assignment = await first.take(participant_identity="bot")
        async with join_as_agent(server, assignment) as bot, worker(server) as second:
            await bot.ready()
            await first.vanish()
            await vanish(bot._socket)
            again = await second.take(participant_identity="bot")
            there.participants["bot"].close(Reason.CONNECTION_TIMEOUT)
            await second.nothing_of("termination")
            assert server.agents.board.jobs[again.job.id].worker is not None


async def test_a_worker_that_hangs_is_found_out_by_its_pings(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, await trio.open_tcp_stream(*at(server)) as stream:
        head = ["GET /agent HTTP/1.1", "Host: x", f"Authorization: Bearer {worker_token()}", *UPGRADE, WEBSOCKET_KEY]
        await stream.send_all("\r\n".join([*head, "", ""]).encode())
        message = agent.WorkerMessage(register=agent.RegisterWorkerRequest())
        frame = FrameProtocol(client=True, extensions=[])._serialize_frame(Opcode.BINARY, message.SerializeToString())
        await stream.send_all(bytes(frame))
        await eventually(lambda: any(one.registration for one in server.agents.board.workers.values()))
        await server.rooms.create("room")
        began = trio.current_time()
        async with worker(server) as other:
            await trio.sleep(9)
            job = (await other.expect("availability")).job  # the first one does not answer
            assert trio.current_time() - began == pytest.approx(10, abs=0.5)
            await other.say(availability=agent.AvailabilityResponse(job_id=job.id, available=True))
            await other.expect("assignment")
            await trio.sleep(11)
            assert list(server.agents.board.workers) == [other.id]


async def test_a_simulated_job_is_for_the_worker_that_asks(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, worker(server, agent_name="tester") as one:
        await one.say(simulate_job=agent.SimulateJobRequest(room=models.Room(name="nowhere")))
        assignment = await one.take()
        assert (assignment.job.room.name, assignment.job.type) == ("nowhere", Type.JT_ROOM)
        async with join_as_agent(server, assignment) as bot:
            await bot.ready()
            (there,) = server.rooms
            who = models.ParticipantInfo(identity=assignment.job.state.participant_identity)
            await one.say(simulate_job=agent.SimulateJobRequest(room=models.Room(name="nowhere"), participant=who))
            second = (await one.take(participant_identity="second")).job
            assert (second.room.sid, second.type) == (there.sid, Type.JT_PUBLISHER)
            assert second.participant.sid == there.participants[who.identity].sid
            await bot.leave()
            assert (await one.expect("termination")).job_id == assignment.job.id
            there.close(Reason.ROOM_DELETED)
            assert (await one.expect("termination")).job_id == second.id
        await one.say(simulate_job=agent.SimulateJobRequest())
        await one.say(simulate_job=agent.SimulateJobRequest(room=models.Room(name="r", metadata="m" * 20_000)))
        await one.nothing_of("availability")
        assert server.agents.counters["simulations_refused"] == 2


class Clumsy:
    """One who is told of jobs, and has a bug."""

    def job_started(self, room: str, job: agent.Job) -> None:
        raise RuntimeError("a bug")

    job_ended = job_started


async def test_a_bug_of_one_who_is_told_of_jobs_is_nothing_to_them(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, worker(server) as one:
        server.agents.dispatches._listener = Clumsy()
        there = await server.rooms.create("room")
        job = (await one.take()).job
        there.close(Reason.ROOM_DELETED)
        assert (await one.expect("termination")).job_id == job.id
        assert server.agents.counters["bugs"] == 2
        assert not server.agents.board.jobs


async def test_a_backend_is_told_of_jobs(clock: MockClock) -> None:
    async with backend() as here:
        hooks = {"api_key": "devkey", "urls": [here.url], "filter_params": {"exclude_events": ["room_started"]}}
        async with triosfu.serve(config(webhook=hooks)) as server, worker(server) as one:
            there = await server.rooms.create("room")
            job = (await one.take()).job
            await here.until(lambda: here.names == ["agent_job_started"])
            there.close(Reason.ROOM_DELETED)
            await here.until(lambda: here.names == ["agent_job_started", "agent_job_ended", "room_finished"])
        started, ended, _ = here.events
        assert (started.job.id, started.job.dispatch_id, started.room.name) == (job.id, job.dispatch_id, "room")
        assert (started.job.state.status, started.job.state.worker_id) == (Status.JS_RUNNING, one.id)
        assert (ended.job.id, ended.job.state.status) == (job.id, Status.JS_CANCELLED)
        assert ended.job.state.ended_at >= ended.job.state.started_at > 1_700_000_000 * 10**9


async def test_what_recordings_are_for_is_told_with_the_job(clock: MockClock) -> None:
    agents = {"enable_user_data_recording": True, "enable_user_data_redaction": True, "target_load": 0.5}
    async with triosfu.serve(config(agents=agents)) as server, worker(server) as one:
        assert server.agents.board.settings.target_load == 0.5
        await server.rooms.create("room")
        job = (await one.expect("availability")).job
        assert (job.enable_recording, job.enable_redaction) == (True, True)


async def test_a_server_that_ends_ends_its_workers_jobs_first(clock: MockClock) -> None:
    async with running(config()) as run, worker(server := await run.up()) as one:
        await server.rooms.create("room")
        job = (await one.take()).job
        run.leave.set()
        assert (await one.expect("termination")).job_id == job.id
        assert (await one.closed())[0] == 1001
        await run.ended.wait()


async def test_an_idle_worker_is_waited_for_as_declared(clock: MockClock) -> None:
    with watching() as watch:
        async with triosfu.serve(config()) as server, worker(server) as one:
            await trio.testing.wait_all_tasks_blocked()
            tasks = {task.name: task for task in look(watch).walk()}
            for name in ("agents", f"worker {one.id}"):
                assert (tasks[name].bound, tasks[name].where in DECLARED) == (Bound.DECLARED, True)
