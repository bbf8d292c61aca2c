"""A foreign implementation as the peer: aioice, over real sockets on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import math
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import aioice
import aioice.ice
import pytest

from triosfu.ice import Candidate, Credentials, IceAgent, IceState
from triosfu.stun import peek

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LOOPBACK = "127.0.0.1"
PATIENCE = 10.0  # seconds; all of it takes a fraction of one


class Socket(asyncio.DatagramProtocol):
    """One UDP socket that runs one agent."""

    def __init__(self, agent: IceAgent) -> None:
        self.agent = agent
        self.received: list[bytes] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.local: tuple[str, int] = ("", 0)

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401
        self._transport = transport
        self.local = transport.get_extra_info("sockname")
        self.agent.add_local_candidate(Candidate.host(self.local))

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if data[0] < 4:
            assert peek(data) is not None
            self.agent.receive_datagram(data, addr, self.local, self.now())
        else:
            self.received.append(data)
        self.drain()

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time()

    def drain(self) -> None:
        assert self._transport is not None
        for transmit in self.agent.datagrams_to_send():
            self._transport.sendto(transmit.data, transmit.destination)
        self.agent.events()
        for condition, happened in self._watchers:
            if condition() and not happened.done():
                happened.set_result(None)
        if self._alarm is not None:
            self._alarm.cancel()
        at = self.agent.next_timeout()
        self._alarm = None if at == math.inf else asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        self.agent.handle_timeout(self.now())
        self.drain()

    async def until(self, condition: Callable[[], bool]) -> None:
        happened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append((condition, happened))
        self.drain()
        await asyncio.wait_for(happened, PATIENCE)

    def send(self, data: bytes) -> None:
        assert self.agent.selected is not None
        assert self._transport is not None
        self._transport.sendto(data, self.agent.selected[1])

    def close(self) -> None:
        self.agent.close()
        self.drain()
        if self._transport is not None:
            self._transport.close()


@contextlib.asynccontextmanager
async def running(agent: IceAgent) -> AsyncIterator[Socket]:
    _, socket = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Socket(agent), local_addr=(LOOPBACK, 0)
    )
    try:
        yield socket
    finally:
        socket.close()


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda **_: [LOOPBACK])
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.1)


async def scenario(*, theirs_controls: bool, ours_controls: bool, lite: bool, trickled: bool) -> None:
    rng = SystemRandom()
    now = asyncio.get_running_loop().time()
    agent = IceAgent(
        local=Credentials.generate(rng), controlling=ours_controls, lite=lite, now=now, rng=rng, keepalive=0.1
    )
    theirs = aioice.Connection(ice_controlling=theirs_controls)
    theirs.remote_is_lite = lite
    async with running(agent) as socket:
        await theirs.gather_candidates()
        theirs.remote_username, theirs.remote_password = agent.local.ufrag, agent.local.pwd
        for ours in agent.local_candidates:
            line = str(ours).removeprefix("candidate:")
            await theirs.add_remote_candidate(aioice.Candidate.from_sdp(line))
        await theirs.add_remote_candidate(None)
        agent.set_remote_credentials(Credentials(theirs.local_username, theirs.local_password), socket.now())
        if trickled:
            for candidate in theirs.local_candidates:
                agent.add_remote_candidate(Candidate.parse(candidate.to_sdp()), socket.now())
        socket.drain()
        try:
            await asyncio.wait_for(theirs.connect(), PATIENCE)
            await socket.until(lambda: agent.state is IceState.CONNECTED)
            assert agent.controlling is not theirs.ice_controlling
            await theirs.send(b"\xffto us")
            await socket.until(lambda: socket.received == [b"\xffto us"])
            socket.send(b"\xffto them")
            assert await asyncio.wait_for(theirs.recv(), PATIENCE) == b"\xffto them"
            if not lite:
                first = agent.rtt
                await socket.until(lambda: agent.rtt != first)  # keepalives are answered
        finally:
            await theirs.close()


@pytest.mark.parametrize(
    "case",
    [
        {"theirs_controls": True, "ours_controls": False, "lite": False, "trickled": True},
        {"theirs_controls": False, "ours_controls": True, "lite": False, "trickled": True},
        {"theirs_controls": True, "ours_controls": False, "lite": False, "trickled": False},
        {"theirs_controls": True, "ours_controls": False, "lite": True, "trickled": True},
        {"theirs_controls": True, "ours_controls": True, "lite": False, "trickled": True},
        {"theirs_controls": False, "ours_controls": False, "lite": False, "trickled": True},
    ],
    ids=["they control", "we control", "peer reflexive", "we are lite", "both control", "none controls"],
)
def test_aioice_connects_and_talks(case: dict[str, bool]) -> None:
    asyncio.run(scenario(**case))
