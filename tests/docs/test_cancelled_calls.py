"""What docs/cancellation.md says of calls that were cancelled, for those that no other test cancels at every step.

`tests/cancel/` does the server and all that it runs; `tests/net/` requests and WebSockets; P9 `send`.
"""

from __future__ import annotations

import os
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from tests.net.connection import CancelAtStep
from tests.net.test_websocket import upgraded
from triosfu.net.listeners import open_listeners
from triosfu.net.udp import UdpMux
from triosfu.rooms.directory import Rooms
from triosfu.rooms.joining import Applicant, Services

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from triosfu.net.websocket import WebSocket
    from triosfu.peer import PeerConnection
    from triosfu.rooms.room import Room


async def cancelled_at_every_step(call: Callable[[], Awaitable[object]], then: Callable[[bool], object]) -> int:
    """Make the call again and again, cancelled one step later each time, until it comes through.

    `then` is told each time whether it was cancelled. Returns how often it was.
    """
    step = 0
    while True:
        step += 1
        with trio.CancelScope() as scope:
            at = CancelAtStep(scope, step)
            trio.lowlevel.add_instrument(at)
            try:
                await call()
            finally:
                trio.lowlevel.remove_instrument(at)
        then(scope.cancelled_caught)
        if not scope.cancelled_caught:
            return step - 1


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  counted, not looked at


def nobody_makes_peers(**_: object) -> PeerConnection:
    raise AssertionError


async def test_a_cancelled_create_has_made_no_room() -> None:
    rooms = Rooms(Services(peers=nobody_makes_peers, rng=Random(1)))

    def look(cancelled: bool) -> None:
        assert len(rooms) == (0 if cancelled else 1)

    async with trio.open_nursery() as nursery:
        await nursery.start(rooms.run)
        tasks = trio.lowlevel.current_statistics().tasks_living
        assert await cancelled_at_every_step(lambda: rooms.create("room"), look) > 1
        assert trio.lowlevel.current_statistics().tasks_living == tasks + 1  # those of cancelled calls are gone
        nursery.cancel_scope.cancel()


async def test_a_cancelled_join_has_admitted_nobody() -> None:
    """After `for_join`, `join` has only synchronous steps."""
    rooms = Rooms(Services(peers=nobody_makes_peers, rng=Random(1)))
    found: list[Room] = []

    async def join() -> None:
        found.append(await rooms.for_join("room", Applicant(identity="alice")))

    def look(cancelled: bool) -> None:
        assert found == ([] if cancelled else list(rooms))

    async with trio.open_nursery() as nursery:
        await nursery.start(rooms.run)
        assert await cancelled_at_every_step(join, look) > 1
        nursery.cancel_scope.cancel()


async def test_a_cancelled_wait_for_the_last_room_has_changed_nothing(autojump_clock: MockClock) -> None:
    rooms = Rooms(Services(peers=nobody_makes_peers, rng=Random(1)))
    async with trio.open_nursery() as nursery:
        await nursery.start(rooms.run)
        await rooms.create("room")
        with trio.move_on_after(1) as waited:
            await rooms.wait_empty()
        assert waited.cancelled_caught
        assert len(rooms) == 1
        assert not rooms._emptied.statistics().tasks_waiting
        nursery.cancel_scope.cancel()


async def test_listeners_that_are_cancelled_leave_no_socket() -> None:
    opened: list[trio.SocketListener] = []

    async def listen() -> None:
        opened.extend(await open_listeners(["127.0.0.1", "127.0.0.2", "127.0.0.3"], 0))

    before = descriptors()

    def look(cancelled: bool) -> None:
        assert descriptors() == before + len(opened)
        assert len(opened) == (0 if cancelled else 3)

    assert await cancelled_at_every_step(listen, look) > 1
    for listener in opened:
        listener.socket.close()


async def test_a_cancelled_mux_has_closed_its_sockets() -> None:
    async def serve() -> None:
        async with UdpMux.open(["127.0.0.1", "127.0.0.2"], 0) as mux:
            for _ in range(3):
                mux.egress.send(b"to nobody", mux.egress.destination(("127.0.0.1", 9)))
                await trio.lowlevel.checkpoint()

    before = descriptors()
    assert await cancelled_at_every_step(serve, lambda _: None) > 2
    assert descriptors() == before


@pytest.mark.parametrize("listening", [False, True])
async def test_a_cancelled_receive_or_listen_has_taken_no_message(listening: bool, autojump_clock: MockClock) -> None:
    heard: list[str | bytes] = []
    times, said = 0, 200 if listening else 20  # who listens may take several before it is cancelled

    def take(message: str | bytes) -> float:
        heard.append(message)
        return 0.0

    async def session(socket: WebSocket) -> None:
        nonlocal times
        while len(heard) < said:
            with trio.CancelScope() as scope:
                at = CancelAtStep(scope, times % 7 + 1)
                trio.lowlevel.add_instrument(at)
                times += 1
                try:
                    if listening:
                        await socket.listen(take)
                    heard.append(await socket.receive())
                finally:
                    trio.lowlevel.remove_instrument(at)

    async with upgraded(session) as client:
        for number in range(said):
            await client.send_message(str(number))
        await trio.sleep(1)
    assert heard == [str(number) for number in range(said)]
    assert times > 20
