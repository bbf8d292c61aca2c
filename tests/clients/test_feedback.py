"""Transport-wide feedback from subscribers, which the operator may choose instead of their own estimates."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.clients.python_client import Participant, leaving, until
from triosfu.config import load_config
from triosfu.server.threaded import serve_in_thread

if TYPE_CHECKING:
    from triosfu.media.estimate import Estimate
    from triosfu.server import Server


def estimate(server: Server, room: str, identity: str) -> Estimate:
    """What the server knows of the way to a subscriber; read while it serves."""
    found = server.rooms.find(room)
    assert found is not None
    return found.participants[identity].shape.subscriber.sender.estimate


@pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])
def test_subscribers_are_asked_for_transport_wide_feedback(network: None, *, single: bool) -> None:
    async def run(server: Server) -> None:
        alice, bob = Participant("alice", count=False), Participant("bob")
        async with leaving((alice, bob)):
            for client in (alice, bob):
                token = server.create_token(identity=client.identity, room="told")
                await client.join(server.url, token, single=single, watch=client is bob)
            await alice.publish_camera(width=640, height=360, rate=15)
            told = estimate(server, "told", "bob")
            await until(lambda: bool(told.arrival_rate), seconds=20, what="feedback")
            assert told.loss < 0.5
            assert told.remb is None

    config = load_config(
        "rtc: {udp_port: 0, congestion_control: {use_send_side_bwe: true}}", development=True, overrides={"port": 0}
    )
    with serve_in_thread(config, grace=1.0) as server:
        asyncio.run(asyncio.wait_for(run(server), 60))
