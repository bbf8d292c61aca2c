"""An unmodified @livekit/agents worker, LiveKit's other one: by itself or when asked for, for rooms or for people."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from livekit import api

from tests.clients.agent_worker import node_worker
from tests.clients.python_client import Participant, leaving, until
from tests.clients.test_agents import AGENT, calls_of, echoed, numbers, registered, seen

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.server import RunningServer

pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")


def test_node_agents_join_by_themselves_and_when_they_are_asked_for(server: RunningServer, artifacts: Path) -> None:
    room = f"node-agents-{next(numbers)}"
    with (
        node_worker(server.url, artifacts / "node-agents-plain.log") as plain,
        node_worker(server.url, artifacts / "node-agents-named.log", AGENT_NAME="helper") as named,
    ):

        async def run() -> None:
            await registered((plain, named))
            alice = Participant("alice")
            async with calls_of(server) as calls, leaving((alice,)):
                await alice.join(server.url, server.token("alice", room), single=False)
                await alice.publish_microphone()
                agent = await echoed(alice)
                (joined,) = plain.events("joined")
                assert (joined["room"], f"agent-{joined['job']}") == (room, agent)
                there = await seen(alice, joined["job"])
                assert (there.kind, there.name, there.attributes["mood"]) == (AGENT, "echo", "attentive")
                made = await calls.agent_dispatch.create_dispatch(
                    api.CreateAgentDispatchRequest(agent_name="helper", room=room, metadata="be nice")
                )
                await until(lambda: bool(named.events("joined")), seconds=20, what="the agent that was asked for")
                (asked,) = named.events("joined")
                assert (asked["room"], asked["metadata"]) == (room, "be nice")
                assert (await seen(alice, asked["job"])).attributes["lk.agent_name"] == "helper"
                await calls.agent_dispatch.delete_dispatch(made.id, room)
                await until(lambda: bool(named.events("over")), seconds=10, what="the end of its job")

        asyncio.run(asyncio.wait_for(run(), 60))
