"""What agent workers and their jobs look like in the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from livekit.protocol import agent, models
from livekit.protocol.agent_dispatch import CreateAgentDispatchRequest

import triosfu
from tests.agents.worker import connected, join_as_agent, worker
from tests.metrics.scrape import free_port, monitored, scrape
from tests.support.steps import eventually

if TYPE_CHECKING:
    from tests.metrics.scrape import Page

Type, Status, Reason = agent.JobType, agent.WorkerStatus, models.DisconnectReason


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page is read anew: nobody waits a second for it."""
    monkeypatch.setattr("triosfu.metrics.page.FRESH", 0.0)


def workers(page: Page) -> dict[str, float]:
    states = ("available", "full", "silent")
    return {state: count for state in states if (count := page.value("triosfu_agent_workers", state=state))}


def jobs(page: Page) -> dict[str, float]:
    states = ("waiting", "offered", "assigned", "adrift")
    return {state: count for state in states if (count := page.value("triosfu_agent_jobs", state=state))}


async def test_workers_and_jobs_show_while_they_are_there_and_in_the_totals() -> None:
    port = free_port()
    async with (
        triosfu.serve(monitored(port), grace=0) as server,
        worker(server) as one,
        worker(server, type=Type.JT_PUBLISHER) as other,
        connected(server),  # which has not registered
    ):
        await one.say(update_worker=agent.UpdateWorkerStatus(load=0.25))
        await other.say(update_worker=agent.UpdateWorkerStatus(status=Status.WS_FULL, load=1.0))
        await one.nothing_of("termination")
        await other.nothing_of("termination")
        page = await scrape(port)
        assert workers(page) == {"available": 1, "full": 1}
        loads = [page.value("triosfu_agent_workers_load", type=kind) for kind in ("room", "publisher", "participant")]
        assert loads == [0.25, 1, 0]

        room = await server.rooms.create("den")
        asked = await one.expect("availability")
        assert jobs(await scrape(port)) == {"offered": 1}
        await one.say(availability=agent.AvailabilityResponse(job_id=asked.job.id, available=True))
        assignment = await one.expect("assignment")
        async with join_as_agent(server, assignment) as bot:
            await bot.ready()
            page = await scrape(port)
            assert jobs(page) == {"assigned": 1}
            assert page.value("triosfu_agent_jobs", type="room") == 1
            assert page.value("triosfu_agent_jobs_started_total", type="room") == 1
            assert page.value("triosfu_agent_job_wait_seconds_count", type="room") == 1
            assert page.value("triosfu_agent_jobs_ended_total") == 0
            await one.vanish()
            await eventually(lambda: one.id not in server.agents.board.workers)
            assert jobs(await scrape(port)) == {"adrift": 1}
            await trio.sleep(0.05)
            room.close(Reason.ROOM_DELETED)
        page = await scrape(port)
        assert jobs(page) == {}
        assert page.value("triosfu_agent_jobs_ended_total", type="room", status="cancelled") == 1
        assert page.value("triosfu_agent_jobs_ended_total") == 1
        assert page.value("triosfu_agent_job_seconds_count", type="room") == 1
        assert page.value("triosfu_agent_job_seconds_sum", type="room") >= 0.05
        assert page.value("triosfu_agent_dispatch_failures_total") == page.value("triosfu_agent_events_total") == 0
        assert page.value("triosfu_bugs_total", where="agents") == 0
        for name, labels, _ in page.samples:
            assert not {"den", "devkey"} & set(labels.values()), name


async def test_what_comes_to_nothing_shows_with_its_reason() -> None:
    port = free_port()
    async with triosfu.serve(monitored(port), grace=0) as server, worker(server) as one:
        room = await server.rooms.create("den")
        asked = await one.expect("availability")
        await one.say(availability=agent.AvailabilityResponse(job_id=asked.job.id, available=False))
        await one.nothing_of("availability")
        wish = CreateAgentDispatchRequest(agent_name="nobody", room="den")
        server.agents.dispatches.create(room, wish, dispatch_id="")
        server.agents.counters["bugs"] += 1
        page = await scrape(port)
        failures = {
            reason: page.value("triosfu_agent_dispatch_failures_total", reason=reason)
            for reason in ("no_worker", "not_registered", "too_many_jobs", "unfit_dispatch")
        }
        assert failures == {"no_worker": 1, "not_registered": 1, "too_many_jobs": 0, "unfit_dispatch": 0}
        assert page.value("triosfu_agent_events_total", event="offer_refused") == 1
        assert page.value("triosfu_agent_events_total") == 1
        assert page.value("triosfu_agent_jobs_ended_total", status="failed") == 1
        assert page.value("triosfu_agent_job_seconds_count") == page.value("triosfu_agent_jobs_started_total") == 0
        assert page.value("triosfu_bugs_total", where="agents") == page.value("triosfu_bugs_total") == 1
