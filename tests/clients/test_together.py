"""Different clients in one room: each hears and reads the others."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from tests.clients.node_client import node_participant
from tests.clients.python_client import Participant, leaving, until

if TYPE_CHECKING:
    from tests.clients.server import RunningServer


def test_two_node_participants_hear_each_other(server: RunningServer) -> None:
    with (
        node_participant(server.url, server.token("alice", "node")) as alice,
        node_participant(server.url, server.token("bob", "node")) as bob,
    ):
        alice.wait_for(event="hears", who="bob")
        bob.wait_for(event="hears", who="alice")


def test_node_and_python_hear_and_read_each_other(server: RunningServer) -> None:
    async def python(node_done: threading.Event) -> None:
        bob = Participant("bob")
        async with leaving((bob,)):
            await bob.join(server.url, server.token("bob", "mixed"), single=True)
            await bob.publish_microphone()
            await bob.publish_camera()
            await until(lambda: bob.loud_frames["alice"] > 50, seconds=15, what="node's tone")
            await bob.room.local_participant.publish_data(b"hello", reliable=True)
            await until(lambda: ("alice", b"re: hello", True) in bob.data, seconds=5, what="node's answer")
            await until(node_done.is_set, seconds=20, what="node sees and hears")

    with node_participant(server.url, server.token("alice", "mixed")) as alice:
        node_done = threading.Event()
        worker = threading.Thread(target=lambda: asyncio.run(asyncio.wait_for(python(node_done), 60)))
        worker.start()
        try:
            alice.wait_for(event="hears", who="bob")
            alice.wait_for(event="sees", who="bob")
            alice.wait_for(event="data", who="bob", text="hello")
        finally:
            node_done.set()
            worker.join()
