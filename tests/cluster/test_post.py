"""A worker process's end: leases are given back in time, rooms are told of, and its front's end is its own."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio
from livekit.protocol import models
from trio.testing import wait_all_tasks_blocked

from tests.net.connection import PEER
from tests.support.client import join
from triosfu.cluster.control import Control, pair
from triosfu.cluster.post import OWN, PUBLIC, Post
from triosfu.config import load_config
from triosfu.net.http import HttpServer, Request, Response
from triosfu.rooms.directory import Rooms
from triosfu.rooms.joining import Services
from triosfu.rooms.transfer import move_to
from triosfu.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from triosfu.peer import PeerConnection
    from triosfu.server import Server

Reason = models.DisconnectReason
GET = b"GET /there HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def nobody_makes_peers(**_: object) -> PeerConnection:
    raise AssertionError


@dataclass
class Bench:
    """A post, and the front's end of its socket."""

    front: Control
    post: Post
    rooms: Rooms
    answering: trio.Event  # set by a test that lets requests be answered

    async def told(self) -> dict[str, Any]:
        return (await self.front.receive()).said

    def hand_over(self, data: bytes = GET, *, lease: int = 1, door: str = PUBLIC) -> socket.socket:
        mine, its = socket.socketpair()
        with its:
            said = {"kind": "take", "lease": lease, "peer": list(PEER), "door": door}
            assert self.front.hand_over(said, its.fileno(), data)
        return mine


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    front, ours = map(Control, pair())
    rooms, answering = Rooms(Services(peers=nobody_makes_peers, rng=Random(1))), trio.Event()

    async def respond(request: Request) -> Response:
        await answering.wait()
        if request.path == "/bug":
            raise RuntimeError
        return Response.text(200, str(request.peer))

    async def inside(request: Request) -> Response:
        del request
        return Response.text(200, "inside")

    post = Post(ours, node_id="ND_x")
    async with trio.open_nursery() as nursery:
        await nursery.start(rooms.run)
        await nursery.start(post.run, rooms, {PUBLIC: HttpServer(respond), OWN: HttpServer(inside)})
        yield Bench(front, post, rooms, answering)
        nursery.cancel_scope.cancel()
    front.close()
    ours.close()


async def read(sock: socket.socket) -> bytes:
    data = b""
    async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
        while more := await stream.receive_some(1000):
            data += more
    return data


async def test_a_lease_is_given_back_when_the_request_has_had_its_effect(autojump_clock: MockClock) -> None:
    async with bench() as one:
        client = one.hand_over(lease=7)
        with trio.move_on_after(5) as waited:
            await one.told()
        assert waited.cancelled_caught
        one.answering.set()
        assert await one.told() == {"kind": "done", "lease": 7}
        answer = await read(client)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(str(PEER).encode())


async def test_it_is_given_back_once_whatever_becomes_of_the_request(autojump_clock: MockClock) -> None:
    async with bench() as one:
        one.answering.set()
        for lease, data in enumerate((b"\x00", b"GET /half", GET.replace(b"/there", b"/bug"), b"", GET)):
            client = one.hand_over(data, lease=lease)
            if lease == 1:
                client.close()
            assert await one.told() == {"kind": "done", "lease": lease}
            client.close()
        one.answering = trio.Event()
        client = one.hand_over(lease=9)
    with client:
        assert client.recv(10) == b""  # cancelled, it has closed the connection


async def test_the_front_has_a_door_of_its_own(autojump_clock: MockClock) -> None:
    async with bench() as one:
        client = one.hand_over(door=OWN)
        assert (await read(client)).endswith(b"inside")


async def test_pings_are_answered_and_revocations_go_both_ways(autojump_clock: MockClock) -> None:
    async with bench() as one:
        one.front.tell({"kind": "ping"})
        beat = await one.told()
        assert beat["kind"] == "beat"
        assert 0 <= beat["load"] < 10
        one.front.tell({"kind": "revoked", "room": "r", "identity": "alice", "before": 50.0})
        await wait_all_tasks_blocked()
        assert one.rooms.revocations.refuses("r", "alice", 49)
        one.rooms.revocations.revoke("r", "bob", 60)
        assert await one.told() == {"kind": "revoked", "room": "r", "identity": "bob", "before": 60}
        one.rooms.revocations.revoke("r", "x" * 10_000, 60)  # nobody has such a name
        one.front.tell({"kind": "ping"})
        assert (await one.told())["kind"] == "beat"


async def test_it_knows_whether_the_front_says_stop_or_is_gone(autojump_clock: MockClock) -> None:
    endings: list[tuple[Callable[[Bench], None], bool]] = [
        (lambda one: one.front.tell({"kind": "stop"}), True),
        (lambda one: one.front.close(), False),
        (lambda one: one.front.tell({"kind": "sings"}), False),
        (lambda one: one.front.tell({"kind": "revoked", "room": "r"}), False),
    ]
    for end, asked in endings:
        async with bench() as one:
            end(one)
            assert await one.post.until_told() is asked


# --- which rooms are here -------------------------------------------------------------------------------------------


class Front:
    """The front's end, and what it has been told of rooms."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.told: list[tuple[str, str]] = []

    async def news(self) -> list[tuple[str, str]]:
        """What has been told since the last time; a ping is answered behind it."""
        self.told.clear()
        self.control.tell({"kind": "ping"})
        while (said := (await self.control.receive()).said)["kind"] != "beat":
            if "room" in said:
                self.told.append((said["kind"], said["room"]))
        return self.told


@asynccontextmanager
async def worker() -> AsyncIterator[tuple[Server, Front]]:
    """A worker process's server in this process, and the front's end."""
    front, ours = map(Control, pair())
    config = load_config(overrides={"rtc": {"udp_port": 0}}, development=True)
    async with serve(config, grace=0, post=Post(ours, node_id="ND_x")) as server:
        yield server, Front(front)
    ours.close()
    front.close()


async def test_rooms_are_told_of_when_they_begin_and_end() -> None:
    async with worker() as (server, front):
        assert server.rooms.settings.node_id == "ND_x"
        room = await server.rooms.create("a")
        again = await server.rooms.create("a")
        assert again is room
        await server.rooms.create("b")
        assert await front.news() == [("held", "a"), ("held", "b")]
        room.close(Reason.ROOM_DELETED)
        await server.rooms.create("a")
        assert await front.news() == [("free", "a"), ("held", "a")]


async def test_a_room_s_name_stays_while_somebody_is_here_who_was_moved_away() -> None:
    async with worker() as (server, front), outside(server, front.control) as reachable:
        async with join(reachable, "alice", room="first") as alice:
            await alice.ready()
            (participant,) = next(iter(server.rooms)).participants.values()
            await move_to(server.rooms, participant, "second", create=True)
            first, second = server.rooms.find("first"), server.rooms.find("second")
            assert first is not None
            assert second is not None
            assert await front.news() == [("held", "first"), ("held", "second")]
            first.close(Reason.ROOM_DELETED)
            assert await front.news() == []
            participant.close(Reason.PARTICIPANT_REMOVED)
            assert await front.news() == [("free", "first")]
            await alice.until(lambda: alice.gone)
        second.close(Reason.ROOM_DELETED)
        assert await front.news() == [("free", "second")]


@asynccontextmanager
async def outside(server: Server, front: Control) -> AsyncIterator[Any]:
    """Somewhere to connect to: everything is handed over."""

    async def listen(listener: trio.SocketListener) -> None:
        while True:
            stream = await listener.accept()
            said = {"kind": "take", "lease": 1, "peer": ["127.0.0.1", 5], "door": PUBLIC}
            assert front.hand_over(said, stream.socket.fileno())
            await trio.aclose_forcefully(stream)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(listen, listener)
        yield SimpleNamespace(port=port, url=f"ws://127.0.0.1:{port}", create_token=server.create_token)
        nursery.cancel_scope.cancel()
