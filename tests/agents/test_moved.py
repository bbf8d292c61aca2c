"""MoveParticipant and jobs: a job goes with its agent, and whoever is moved is new where it comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from livekit.protocol import agent, models
from livekit.protocol.agent_dispatch import CreateAgentDispatchRequest

import triosfu
from tests.agents.worker import config, join_as_agent, worker
from tests.support.client import join
from tests.support.steps import eventually, virtual_clock
from triosfu.agents.dispatches import errand
from triosfu.agents.jobs import Stage
from triosfu.rooms.transfer import move_to

if TYPE_CHECKING:
    from trio.testing import MockClock

    from triosfu.rooms.room import Room
    from triosfu.server import Server

Type, Reason, Status = agent.JobType, models.DisconnectReason, agent.JobStatus


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


async def moved(server: Server, identity: str, here: Room, to: str) -> Room:
    """Move somebody, to a room that may not be there yet."""
    await move_to(server.rooms, here.participants[identity], to, create=True)
    there = server.rooms.find(to)
    assert there is not None
    return there


async def test_a_job_goes_with_its_agent_and_outlives_its_first_room(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, worker(server) as one:
        first = await server.rooms.create("room")
        assignment = await one.take(participant_identity="bot")
        job = server.agents.board.jobs[assignment.job.id]
        async with join_as_agent(server, assignment) as bot:
            await bot.ready()
            second = await moved(server, "bot", first, "other")
            assert (await one.expect("availability")).job.room.name == "other"  # which wants an agent, too
            await one.nothing_of("termination")
            (listed,) = next(server.agents.dispatches.of_room(first)).message().state.jobs
            assert (listed.id, listed.room.name, listed.state.status) == (job.id, "other", Status.JS_RUNNING)
            third = await moved(server, "bot", second, "third")
            first.close(Reason.ROOM_DELETED)
            second.close(Reason.ROOM_DELETED)
            await one.nothing_of("termination")
            assert list(server.agents.dispatches._agents) == [("third", "bot")]
            await bot.leave()
            assert (await one.expect("termination")).job_id == job.id
        assert job.stage is Stage.ENDED
        third.close(Reason.ROOM_DELETED)
        await eventually(lambda: not server.agents.board.jobs)
        assert not server.agents.dispatches._jobs
        assert not server.agents.dispatches._agents


@pytest.mark.parametrize("how", ["its new room ends", "its dispatch is deleted"])
async def test_the_job_of_a_moved_agent_ends_with(clock: MockClock, how: str) -> None:
    async with triosfu.serve(config()) as server, worker(server) as one:
        first = await server.rooms.create("room")
        assignment = await one.take(participant_identity="bot")
        (dispatch,) = server.agents.dispatches.of_room(first)
        async with join_as_agent(server, assignment) as bot:
            await bot.ready()
            second = await moved(server, "bot", first, "other")
            if how == "its new room ends":
                second.close(Reason.ROOM_DELETED)
            else:
                server.agents.dispatches.delete(first, dispatch)
            assert (await one.expect("termination")).job_id == assignment.job.id
            second.close(Reason.ROOM_DELETED)
            await eventually(lambda: not server.agents.dispatches._jobs)


async def test_the_job_of_a_moved_agent_is_begun_anew_where_it_was(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server:
        async with worker(server, agent_name="named") as one:
            first = await server.rooms.create("room")
            wish = CreateAgentDispatchRequest(agent_name="named", room="room")
            server.agents.dispatches.create(first, wish, dispatch_id="")
            assignment = await one.take(participant_identity="bot")
            async with join_as_agent(server, assignment) as bot:
                await bot.ready()
                await moved(server, "bot", first, "other")
                await one.vanish()
                await eventually(lambda: server.agents.board.jobs[assignment.job.id].stage is Stage.ADRIFT)
                await bot.leave()
        async with worker(server, agent_name="named") as second:
            again = await second.take(participant_identity="bot")
            assert (again.job.id, again.job.room.name) == (assignment.job.id, "other")
            async with join_as_agent(server, again) as bot:
                await bot.ready()
                there = server.rooms.find("other")
                assert there is not None
                assert list(there.participants) == ["bot"]


async def test_an_agent_that_is_moved_to_where_another_of_its_name_is_expected_ends_its_job(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, worker(server) as one:
        first = await server.rooms.create("room")
        assignment = await one.take(participant_identity="bot")
        async with join_as_agent(server, assignment) as bot:
            await bot.ready()
            await server.rooms.create("other")
            expected = await one.take(participant_identity="bot")
            await moved(server, "bot", first, "other")
            assert (await one.expect("termination")).job_id == assignment.job.id
            async with join_as_agent(server, expected) as newer:
                await newer.ready()
                await newer.leave()
            assert (await one.expect("termination")).job_id == expected.job.id


async def test_who_has_the_identity_of_an_agent_that_will_replace_it_takes_no_job_along(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, join(server, "bot") as double:
        await double.ready()
        (first,) = server.rooms
        async with worker(server) as one:
            wish = CreateAgentDispatchRequest(room="room")
            server.agents.dispatches.create(first, wish, dispatch_id="")
            assignment = await one.take(participant_identity="bot")
            await moved(server, "bot", first, "other")
            assert errand(server.agents.board.jobs[assignment.job.id]).room is first
            async with join_as_agent(server, assignment) as bot:
                await bot.ready()
                await bot.leave()
            assert (await one.expect("termination")).job_id == assignment.job.id


async def test_who_is_moved_gets_jobs_in_the_other_room_and_leaves_its_own_behind(clock: MockClock) -> None:
    async with (
        triosfu.serve(config()) as server,
        worker(server, type=Type.JT_PUBLISHER) as publishers,
        worker(server, type=Type.JT_PARTICIPANT) as participants,
        join(server, "alice") as alice,
        join(server, "bob") as bob,
    ):
        await alice.ready()
        await bob.ready()
        (first,) = server.rooms
        before = [await one.take() for one in (participants, participants, publishers, publishers)]
        assert sorted(one.job.participant.identity for one in before) == ["alice"] * 2 + ["bob"] * 2
        await moved(server, "alice", first, "other")
        for one, kind in ((publishers, Type.JT_PUBLISHER), (participants, Type.JT_PARTICIPANT)):
            job = (await one.take()).job
            assert (job.type, job.room.name, job.participant.identity) == (kind, "other", "alice")
            await one.nothing_of("termination")
        await alice.publish("video", "video/VP8")
        await publishers.nothing_of("availability")
        jobs = server.agents.board.jobs
        assert all(one.job.id in jobs for one in before)
        mine = [jobs[one.job.id] for one in before if one.job.participant.identity == "alice"]
        assert [errand(job).participant for job in mine] == [None, None]


async def test_an_agent_that_is_moved_is_not_replaced_for_those_whom_it_was_about(clock: MockClock) -> None:
    async with (
        triosfu.serve(config()) as server,
        worker(server, type=Type.JT_PARTICIPANT) as one,
        join(server, "alice") as alice,
    ):
        await alice.ready()
        (first,) = server.rooms
        assignment = await one.take(participant_identity="bot")
        async with join_as_agent(server, assignment) as bot:
            await bot.ready()
            await moved(server, "bot", first, "other")
            await alice.leave()
            assert errand(server.agents.board.jobs[assignment.job.id]).participant is None
            await bot.leave()
            await one.expect("termination")
