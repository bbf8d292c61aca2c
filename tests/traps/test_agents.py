"""Traps of agent workers (protocol reference, section 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from livekit.protocol import agent
from trio_websocket import ConnectionClosed

import triosfu
from tests.agents.worker import config, connected, worker
from tests.support.steps import virtual_clock

if TYPE_CHECKING:
    from trio.testing import MockClock

PATIENCE = 7.5  # seconds from its answer in which the Python worker must have the job


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


async def test_trap_52_the_answer_to_register_is_first_and_binary(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, connected(server) as one:
        await server.rooms.create("before")
        for _ in range(3):  # a worker that cannot wait
            await one.say(ping=agent.WorkerPing(timestamp=1))
        await one.say(update_worker=agent.UpdateWorkerStatus(load=0.1))
        await one.say(register=agent.RegisterWorkerRequest())
        await one.say(ping=agent.WorkerPing(timestamp=2))
        await server.rooms.create("after")
        await one.expect("pong")
        await one.expect("availability")
        assert one.heard[0].WhichOneof("message") == "register"
        assert [message.WhichOneof("message") for message in one.heard].count("pong") == 1


async def test_trap_52_text_is_never_answered(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, connected(server) as one:
        await one.socket.send_message('{"register": {}}')
        with pytest.raises(ConnectionClosed):
            await one.socket.get_message()


async def test_trap_53_a_job_is_assigned_as_soon_as_it_is_accepted(clock: MockClock) -> None:
    async with triosfu.serve(config()) as server, worker(server) as one:
        for number in range(50):
            await server.rooms.create(f"room {number}")
        offers = [(await one.expect("availability")).job.id for _ in range(50)]
        await trio.sleep(9)  # as slowly as it may
        began = trio.current_time()
        for job_id in offers:
            await one.say(availability=agent.AvailabilityResponse(job_id=job_id, available=True))
        assigned = [(await one.expect("assignment")).job.id for _ in range(50)]
        assert assigned == offers
        assert trio.current_time() - began < 0.5 < PATIENCE
