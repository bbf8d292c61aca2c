"""A worker's connection ends at any step of the server's: its job goes to another one, and nothing is left of it."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
from livekit.protocol import agent, models
from livekit.protocol.agent_dispatch import RoomAgentDispatch
from structlog.testing import capture_logs

from tests.agents.worker import connected, worker
from tests.support.steps import (
    back_to,
    eventually,
    inventory,
    plainly,
    race,
    running,
    settled,
    stopping,
    virtual_clock,
)
from triosfu.rooms.settings import RoomDefaults

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from tests.agents.worker import Worker
    from triosfu.net.websocket import WebSocket
    from triosfu.server import Server

HELPER = RoomDefaults(agents=(RoomAgentDispatch(agent_name="helper"),))


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


def closed(socket: WebSocket) -> None:
    socket.close(1001)


def broken(socket: WebSocket) -> None:
    socket._wire._break()


async def has_room(other: Worker, status: agent.WorkerStatus) -> None:
    await other.say(update_worker=agent.UpdateWorkerStatus(status=status))
    await other.nothing_of("availability")


async def life(server: Server) -> None:
    """A worker comes and takes a job."""
    async with connected(server) as first:
        await first.register(agent_name="helper")
        await has_room(first, agent.WorkerStatus.WS_AVAILABLE)
        await server.rooms.create("own", HELPER)
        job = (await first.take()).job
        await first.say(update_job=agent.UpdateJobStatus(job_id=job.id, status=agent.JobStatus.JS_RUNNING))
        await first.nothing_of("termination")


@pytest.mark.parametrize("end", [closed, broken])
async def test_a_worker_that_ends_at_any_step_leaves_its_job_to_another(
    end: Callable[[WebSocket], None], clock: MockClock
) -> None:
    at_step = inherited = 0
    with plainly(lambda: f"at step {at_step}"), capture_logs() as logs:
        async with running() as run, worker(server := await run.up(), agent_name="helper") as other:
            await has_room(other, agent.WorkerStatus.WS_FULL)
            before = await settled(lambda: inventory(run))
            for number in count(1):
                had: list[str] = []

                def target(had: list[str] = had) -> Callable[[], object] | None:
                    sockets = server.agents._sockets
                    first = next((one for one in sockets if one.id != other.id), None)
                    if first is None:
                        return None

                    def stop() -> None:
                        had.extend([*first.offers, *first.jobs])
                        end(sockets[first])

                    return stop

                async def scenario() -> None:
                    try:
                        await life(server)
                    except Exception:  # it has been stopped, and nothing need work any more
                        if not at.done:
                            raise

                with stopping(run, number, target) as at:
                    await race(at.fired.wait, scenario)
                at_step = at.steps
                await eventually(lambda: list(server.agents.board.workers) == [other.id])
                if at.done and had:
                    inherited += 1
                    await other.say(update_worker=agent.UpdateWorkerStatus(status=agent.WorkerStatus.WS_AVAILABLE))
                    taken = (await other.take()).job
                    assert [taken.id] == had
                    await has_room(other, agent.WorkerStatus.WS_FULL)
                for room in server.rooms:
                    room.close(models.DisconnectReason.ROOM_DELETED)
                if at.done and had:
                    assert (await other.expect("termination")).job_id == had[0]
                await back_to(before, lambda: inventory(run), tasks=run.tasks)
                assert not server.agents.board.jobs
                if not at.done:
                    break
    assert at_step > 10
    assert inherited > 3
    assert not [entry for entry in logs if entry["log_level"] in {"error", "critical"}]
