"""A server of several processes, with real clients and those of `tests.support`; one process dies, one hangs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from livekit import api
from livekit.protocol import room as room_messages

from tests.api.caller import token
from tests.clients.agent_worker import agent_worker
from tests.clients.browser import chromium
from tests.clients.numbers import HEARD, all_heard, back, lost, patiently, talkers
from tests.clients.python_client import Participant, leaving
from tests.clients.python_client import until as asyncio_until
from tests.clients.server import KEY, SECRET, RunningServer, running_server
from tests.metrics.scrape import get, scrape
from tests.support.client import join
from tests.support.whip import request, whip
from triosfu.cli.tasks import fetch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.sync_api import Browser

    from tests.support.client import Client
    from tests.support.whip import Answer
    from triosfu.server import Server

# `triosfu run --dev` has LiveKit's key and secret, which is shorter than PyJWT likes.
pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
WORKERS = 2
METRICS = 6790
SERVICE = "/twirp/livekit.RoomService/"
numbers = count(1)  # of rooms: a test that is tried once more finds nothing of its first attempt


class Several:
    """The server, and what it says of its processes."""

    def __init__(self, running: RunningServer, socket: Path) -> None:
        self.running = running
        self.port = running.port
        self.url = running.url
        self._socket = socket

    @property
    def server(self) -> Server:
        """For clients that ask for no more than this has."""
        return cast("Server", self)

    def create_token(self, *, identity: str, room: str) -> str:
        return self.running.token(identity, room)

    def tree(self) -> dict[str, Any]:
        return fetch(self._socket)

    def pids(self) -> list[int]:
        """Of its worker processes, by their numbers."""
        found = [re.fullmatch(r"worker process \d+, pid (\d+)", task["name"]) for task in self.tree()["nurseries"][-1]]
        return [int(match[1]) for match in found if match is not None]

    def rooms(self) -> list[set[str]]:
        """Of each worker process."""
        trees = self.tree()["nurseries"][-1]
        return [{task["room"] for task in every(tree) if task["name"].startswith("room ")} for tree in trees]

    def home(self, room: str) -> int:
        """The worker process that has a room."""
        (index,) = [index for index, rooms in enumerate(self.rooms()) if room in rooms]
        return index

    async def call(self, method: str, room: str = "", /, **body: object) -> Answer:
        """A call to the server API, in JSON, with a token that lets it do anything in `room`."""
        grants = {"room_create": True, "room_list": True, "room_admin": True, "room": room}
        grants |= {"destination_room": body["destination_room"]} if "destination_room" in body else {}
        headers = {"Authorization": f"Bearer {token(**grants)}", "Content_Type": "application/json"}
        return await request(self.port, "POST", f"{SERVICE}{method}", json.dumps(body), **headers)

    async def listed(self) -> set[str]:
        answer = await self.call("ListRooms")
        assert answer.status == 200, answer
        return {one["name"] for one in json.loads(answer.body)["rooms"]}


def every(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield task
    for nursery in task["nurseries"]:
        for child in nursery:
            yield from every(child)


@pytest.fixture(scope="module")
def server(network: None, artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    socket = tmp_path_factory.mktemp("several") / "admin.sock"
    options = ["--workers", str(WORKERS), "--admin-socket", str(socket)]
    options += ["--config-body", f"prometheus: {{port: {METRICS}}}"]
    with running_server(artifacts / "test_workers.log", *options) as running:
        several = Several(running, socket)
        pids = several.pids()
        yield several
        pids = several.pids()
        assert len(pids) == WORKERS
    patiently(lambda: not any(is_running(pid) for pid in pids), "the end of all processes", seconds=1)


@pytest.fixture(scope="module")
def browser(server: Several) -> Iterator[Browser]:
    with chromium() as running:
        yield running


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie, which nobody may be there to bury."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def together(server: Several, stack: AsyncExitStack, room: str) -> tuple[Client, Client]:
    """Two who talk in a room."""
    alice = await stack.enter_async_context(join(server.server, "alice", room=room))
    bob = await stack.enter_async_context(join(server.server, "bob", room=room, single=True))
    await alice.ready()
    await bob.ready()
    await alice.say(b"hello", to=bob)
    await bob.play(b"sound", to=alice)
    return alice, bob


@pytest.fixture
async def spread(server: Several) -> AsyncIterator[list[tuple[str, Client, Client]]]:
    """Two in a room of each worker process, by its number."""
    async with AsyncExitStack() as stack:
        found: dict[int, tuple[str, Client, Client]] = {}
        while len(found) < WORKERS:  # the next room is for who does less, which may be the same one by what was before
            name = f"room {next(numbers)}"
            assert (await server.call("CreateRoom", name=name)).status == 200
            index = server.home(name)
            if index not in found:
                found[index] = (name, *await together(server, stack, name))
        yield [found[index] for index in range(WORKERS)]
    for name in await server.listed():
        assert (await server.call("DeleteRoom", room=name)).status == 200


async def test_rooms_are_spread_and_calls_find_them(server: Several, spread: list[tuple[str, Client, Client]]) -> None:
    names = {name for name, _, _ in spread}
    assert names <= await server.listed()
    for name in names:
        answer = await server.call("ListParticipants", name, room=name)
        assert {one["identity"] for one in json.loads(answer.body)["participants"]} == {"alice", "bob"}
    headers = {"Authorization": f"Bearer {token(room_list=True)}", "Content_Type": "application/protobuf"}
    wanted = room_messages.ListRoomsRequest(names=sorted(names)[:1]).SerializeToString()
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        head = [f"POST {SERVICE}ListRooms HTTP/1.1", "Host: x", *lines, f"Content-Length: {len(wanted)}", "", ""]
        await stream.send_all("\r\n".join(head).encode() + wanted)
        told = b""
        while b"\r\n\r\n" not in told or len(told.partition(b"\r\n\r\n")[2]) < length_of(told):
            told += await stream.receive_some(65536)
        listed = room_messages.ListRoomsResponse.FromString(told.partition(b"\r\n\r\n")[2])
        assert [one.name for one in listed.rooms] == sorted(names)[:1]
        # The front has answered, so the connection is there for another request, which is about one room.
        target = f"/rtc/validate?access_token={server.create_token(identity='carol', room=min(names))}"
        await stream.send_all(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        told = b""
        while more := await stream.receive_some(65536):
            told += more
        assert told.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in told.lower()
        assert told.endswith(b"success")


def length_of(told: bytes) -> int:
    found = re.search(rb"(?i)content-length: (\d+)", told)
    return int(found[1]) if found else 1 << 30


async def test_what_is_refused_is_refused_in_the_same_words(server: Several) -> None:
    for target, status, text in (
        ("/rtc/validate", 401, "no permissions to access the room"),
        ("/rtc/validate?access_token=x.y.z", 401, "invalid authorization token"),
        ("/rtc/validate?access_token=" + token(room_join=True), 400, "identity cannot be empty"),
        ("/nowhere", 404, ""),
    ):
        answer = await request(server.port, "GET", target)
        assert (answer.status, answer.body) == (status, text)
    answer = await request(server.port, "POST", f"{SERVICE}CreateRoom", "{}", Content_Type="application/json")
    assert (answer.status, json.loads(answer.body)["code"]) == (401, "unauthenticated")
    for body in ("{", '{"name": ""}', '{"name": "' + "x" * 5000 + '"}'):
        headers = {"Authorization": f"Bearer {token(room_create=True)}", "Content_Type": "application/json"}
        answer = await request(server.port, "POST", f"{SERVICE}CreateRoom", body, **headers)
        assert answer.status == 400
    answer = await request(server.port, "POST", f"{SERVICE}ListRooms", "{}", Content_Type="application/json")
    assert answer.status == 401
    health = await request(server.port, "GET", "/")
    assert (health.status, health.body) == (200, "OK")
    preflight = await request(server.port, "OPTIONS", "/whip/v1", Access_Control_Request_Method="POST")
    assert preflight.status == 204


async def test_a_large_request_arrives_whole(server: Several) -> None:
    metadata = "m" * 500_000
    answer = await server.call("CreateRoom", name="large", metadata=metadata)
    assert json.loads(answer.body)["metadata"] == metadata
    await server.call("DeleteRoom", room="large")
    assert "large" not in await server.listed()


async def test_a_participant_moves_to_a_room_of_its_own_process_only(
    server: Several, spread: list[tuple[str, Client, Client]]
) -> None:
    (here, alice, _), (there, _, _) = spread
    answer = await server.call("MoveParticipant", here, room=here, identity="alice", destination_room=there)
    assert (answer.status, json.loads(answer.body)["code"]) == (412, "failed_precondition")
    assert not alice.seen("room_moved")
    for number in range(4):  # wherever its name would have it
        new = f"{here} {number}"
        answer = await server.call("ForwardParticipant", here, room=here, identity="bob", destination_room=new)
        assert answer.status == 200, answer
        assert new in server.rooms()[0]
    answer = await server.call("MoveParticipant", here, room=here, identity="alice", destination_room=new)
    assert answer.status == 200, answer
    await alice.until(lambda: bool(alice.seen("room_moved")))


async def test_whip_goes_to_the_room(server: Several, spread: list[tuple[str, Client, Client]]) -> None:
    for name, alice, _ in spread:
        async with whip(server.server, "camera", room=name) as camera:
            await camera.ready()
            await camera.play(b"sound", to=alice)
            assert (await camera.trickle()).status == 204
            assert (await camera.ask("DELETE")).status == 200
            await camera.closed()


async def test_metrics_and_tasks_are_of_all_processes(
    server: Several, spread: list[tuple[str, Client, Client]]
) -> None:
    await trio.sleep(1.1)  # a page is given to all for a second
    page = await scrape(METRICS)
    assert page.value("livekit_participant_total") == 2 * WORKERS
    assert page.value("triosfu_workers", state="up") == WORKERS
    assert len(page.all("triosfu_worker_load")) == WORKERS
    assert min(page.all("triosfu_worker_rooms")) > 0
    assert page.value("triosfu_worker_events_total", event="handed_over") > 10
    assert page.value("triosfu_bugs_total") == 0
    assert page.value("triosfu_waits", bound="none") == 0
    assert len(page.all("livekit_room_total")) == 1  # the processes are one node
    assert page.value("process_resident_memory_bytes") > (1 + WORKERS) * 20e6
    status, text = await get(METRICS, "/queues")
    assert (status, json.loads(text)) == (200, {"receivers": []})
    tasks = list(every(server.tree()))
    assert [task for task in tasks if task["bound"] == "none"] == []
    assert {task["room"] for task in tasks if task["participant"] == "alice"} == {name for name, _, _ in spread}


async def test_who_is_stopped_holds_up_nobody_and_is_replaced(
    server: Several, spread: list[tuple[str, Client, Client]]
) -> None:
    (_, alice, bob), (_, carol, dave) = spread
    stopped, _ = server.pids()
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    await trio.sleep(2.2)
    async with AsyncExitStack() as stack:
        for number in range(2):
            asked = time.monotonic()
            await together(server, stack, f"{began} while it is stopped {number}")
            assert time.monotonic() - asked < 2
        await carol.say(b"nobody waits", to=dave)
        tasks = list(every(server.tree()))
        assert [task["bound"] for task in tasks if "does not answer" in task["name"]] in ([], ["deadline"])
    for one in (alice, bob):
        await one.until(lambda one=one: one.gone, within=8)  # type: ignore[misc]
    assert 4 < time.monotonic() - began < 12
    assert not is_running(stopped)
    anew = partial(patiently, lambda: len(server.pids()) == WORKERS, "the process that is begun anew", seconds=10)
    await trio.to_thread.run_sync(anew)
    await server.listed()


def test_livekit_api_sees_one_server(server: Several) -> None:
    """The lists of all processes as one, and calls for a room wherever it is."""
    names = [f"listed {next(numbers)}" for _ in range(4)]

    async def run() -> None:
        async with api.LiveKitAPI(server.running.http, KEY, SECRET) as calls:
            for name in names:
                await calls.room.create_room(api.CreateRoomRequest(name=name, metadata=f"of {name}"))
            listed = await calls.room.list_rooms(api.ListRoomsRequest())
            assert set(names) <= {room.name for room in listed.rooms}
            assert len({server.home(name) for name in names}) == WORKERS
            some = await calls.room.list_rooms(api.ListRoomsRequest(names=names[1:3]))
            assert {room.name: room.metadata for room in some.rooms} == {name: f"of {name}" for name in names[1:3]}
            for name in names:
                changed = api.UpdateRoomMetadataRequest(room=name, metadata="new")
                assert (await calls.room.update_room_metadata(changed)).metadata == "new"
                await calls.agent_dispatch.create_dispatch(api.CreateAgentDispatchRequest(agent_name="a", room=name))
                assert "a" in {one.agent_name for one in await calls.agent_dispatch.list_dispatch(name)}
                await calls.room.delete_room(api.DeleteRoomRequest(room=name))
            assert not set(names) & {room.name for room in (await calls.room.list_rooms(api.ListRoomsRequest())).rooms}

    asyncio.run(asyncio.wait_for(run(), 30))


def test_an_agent_worker_has_jobs_in_rooms_of_all_processes(server: Several, artifacts: Path) -> None:
    """One unmodified livekit-agents worker; a process that is begun anew gives it jobs as well."""
    with agent_worker(server.url, artifacts / "agents-several.log", AGENT_NAME="several") as worker:

        async def echo_in(room: str, calls: api.LiveKitAPI) -> None:
            alice = Participant("alice")
            async with leaving((alice,)):
                wish = api.CreateRoomRequest(name=room, agents=[api.RoomAgentDispatch(agent_name="several")])
                await calls.room.create_room(wish)
                await alice.join(server.url, server.running.token("alice", room), single=True)
                await alice.publish_microphone()
                heard = partial(lambda: any(many > 10 for many in alice.loud_frames.values()))
                await asyncio_until(heard, seconds=20, what="an echo")
            await calls.room.delete_room(api.DeleteRoomRequest(room=room))

        async def run() -> None:
            await asyncio.to_thread(worker.wait_for, "registered", seconds=40)
            async with api.LiveKitAPI(server.running.http, KEY, SECRET) as calls:
                homes: set[int] = set()
                while len(homes) < WORKERS:
                    room = f"agents {next(numbers)}"
                    await calls.room.create_room(api.CreateRoomRequest(name=room))
                    if server.home(room) in homes:
                        continue
                    homes.add(server.home(room))
                    await calls.room.delete_room(api.DeleteRoomRequest(room=room))
                    await echo_in(room, calls)
            joined = worker.events("joined")
            assert len(joined) >= WORKERS
            await asyncio_until(lambda: len(worker.events("over")) == len(joined), seconds=10, what="the jobs' ends")
            assert len(worker.registrations()) == 1

        asyncio.run(asyncio.wait_for(run(), 80))


def test_who_dies_takes_its_rooms_along_and_their_clients_come_back(
    server: Several, browser: Browser, artifacts: Path
) -> None:
    """The wheel and Chromium begin new sessions, in a process that is alive; nobody else notices."""
    before = trio.run(scrape, METRICS)
    with ExitStack() as stack:
        hit = stack.enter_context(talkers(server.running, browser, "hit", artifacts, "wheel-single", "chromium-dual"))
        spared = stack.enter_context(talkers(server.running, browser, "spared", artifacts, "wheel-dual"))
        (home,) = [index for index, rooms in enumerate(server.rooms()) if any("hit" in room for room in rooms)]
        killed, others = server.pids()[home], [pid for index, pid in enumerate(server.pids()) if index != home]
        for one in hit.values():
            one.pause()  # a message that is being sent when its connection ends holds the wheel up for 15 s
        os.kill(killed, signal.SIGKILL)
        began = time.monotonic()
        back(hit)
        took = time.monotonic() - began
        for one in hit.values():
            one.go()
        heard = {name: one.numbers() for name, one in hit.items()}
        patiently(partial(all_heard, hit, HEARD, beyond=heard), "they hear each other again")
        assert took < 10
        if not any("spared" in room for room in server.rooms()[home]):
            assert not lost(spared)
        patiently(lambda: len(server.pids()) == WORKERS, "the process that is begun anew")
        assert killed not in server.pids()
        assert set(others) <= set(server.pids())
    after = trio.run(scrape, METRICS)
    restarts = partial(lambda page: page.value("triosfu_worker_events_total", event="restarts"))
    assert restarts(after) == restarts(before) + 1
    for total in ("livekit_packet_total", "livekit_participant_join_total", "triosfu_udp_datagrams_total"):
        assert after.value(total) >= before.value(total)
    assert after.value("triosfu_bugs_total") == 0
