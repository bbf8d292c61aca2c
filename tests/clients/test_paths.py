"""Real clients on each way that the packet path can take; all other tests take the one that this system offers."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.clients.python_client import Participant, leaving, until
from tests.clients.server import running_server
from triosfu.kernel import SWITCH as KERNEL
from triosfu.kernel import installed
from triosfu.net.batch import SWITCH as DATAGRAMS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.server import RunningServer

PATHS = {  # what the operator lets us use, and what the server says that it takes
    ("single", "off"): "calls='one for each datagram' control='with media' kernel=python runs=none srtp=libsrtp",
    ("single", "on"): "calls='one for each datagram' control='with media' kernel=compiled runs=none srtp=compiled",
    ("batches", "off"): "calls='recvmmsg, sendmmsg' control=apart kernel=python runs=none srtp=libsrtp",
    ("runs", "off"): "calls='recvmmsg, sendmmsg' control=apart kernel=python runs='in and out' srtp=libsrtp",
}


async def exchange(server: RunningServer) -> None:
    alice, bob = Participant("alice"), Participant("bob")
    async with leaving((alice, bob)):
        for client, single in ((alice, True), (bob, False)):
            await client.join(server.url, server.token(client.identity, "path"), single=single)
            await client.publish_microphone()
            await client.publish_camera()
            await client.room.local_participant.publish_data(bytes(10_000), reliable=True)
        for client, other in ((alice, "bob"), (bob, "alice")):
            await until(lambda: client.loud_frames[other] > 20, seconds=15, what=f"{other}'s sound")  # noqa: B023
            await until(lambda: client.video_frames[other] > 10, seconds=15, what=f"{other}'s picture")  # noqa: B023
        await until(lambda: ("bob", bytes(10_000), True) in alice.data, seconds=5, what="bob's message")


@pytest.mark.parametrize(("datagrams", "kernel"), PATHS)
@pytest.mark.usefixtures("network")
def test_two_wheels_hear_see_and_read_each_other(
    datagrams: str, kernel: str, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "on" and installed() is None:
        pytest.skip("the kernel is not installed")
    monkeypatch.setenv(DATAGRAMS, datagrams)
    monkeypatch.setenv(KERNEL, kernel)
    log = artifacts / f"path-{datagrams}-{kernel}.log"
    with running_server(log, "--config-body", "logging: {level: debug}") as server:
        asyncio.run(asyncio.wait_for(exchange(server), 60))
        told = server.log.read_text()
    assert PATHS[datagrams, kernel] in told
    # One connection of alice's, two of bob's; the client is the one who would choose otherwise.
    assert Counter(re.findall(r"srtp=(\w+) +state=connected", told)) == {"AEAD_AES_128_GCM": 3}
