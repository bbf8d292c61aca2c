"""A server of several processes, with real clients and those of `tests.support`; one process dies, one hangs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from livekit import api
from livekit.protocol import agent, models
from livekit.protocol import room as room_messages

from tests.agents.worker import connected, worker
from tests.api.caller import token
from tests.clients.agent_worker import agent_worker
from tests.clients.browser import chromium
from tests.clients.child import Child
from tests.clients.numbers import HEARD, InProcess, all_heard, back, lost, patiently, talkers
from tests.clients.python_client import Participant, leaving
from tests.clients.python_client import until as asyncio_until
from tests.clients.server import KEY, SECRET, RunningServer, running_server
from tests.metrics.scrape import get, scrape
from tests.support.client import join
from tests.support.whip import request, whip
from triosfu.cli.tasks import fetch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from playwright.sync_api import Browser

    from tests.support.client import Client
    from tests.support.whip import Answer
    from triosfu.server import Server

# `triosfu run --dev` has LiveKit's key and secret, which is shorter than PyJWT likes.
pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
WORKERS = 2
METRICS = 6790
KNOCKS = 500
SERVICE = "/twirp/livekit.RoomService/"
DISPATCHES = "/twirp/livekit.AgentDispatchService/"
numbers = count(1)  # of rooms: a test that is tried once more finds nothing of its first attempt


class Several:
    """The server, and what it says of its processes."""

    def __init__(self, running: RunningServer, socket: Path) -> None:
        self.running = running
        self.port = running.port
        self.url = running.url
        self._keys = {KEY: SECRET}
        self._socket = socket

    @property
    def server(self) -> Server:
        """For clients that ask for no more than this has."""
        return cast("Server", self)

    def create_token(self, *, identity: str, room: str) -> str:
        return self.running.token(identity, room)

    def tree(self) -> dict[str, Any]:
        return fetch(self._socket)

    def processes(self) -> dict[int, tuple[int, dict[str, Any]]]:
        """The worker processes that are there: pid and tree, by their numbers."""
        found = {}
        for task in self.tree()["nurseries"][-1]:
            if match := re.fullmatch(r"worker process (\d+), pid (\d+)", task["name"]):
                found[int(match[1])] = (int(match[2]), task)
        return found

    def pids(self) -> list[int]:
        """Of those, by their numbers."""
        return [pid for _, (pid, _) in sorted(self.processes().items())]

    def home(self, room: str) -> int | None:
        """The worker process that has a room."""
        name = f"room {room}"
        trees = self.processes().items()
        return next((index for index, (_, tree) in trees if any(task["name"] == name for task in every(tree))), None)

    async def room_in(self, index: int) -> str:
        """A new room in this worker process; the next one is for who does less, which depends on what was before."""
        while True:
            name = f"room {next(numbers)}"
            assert (await self.call("CreateRoom", name=name)).status == 200
            if self.home(name) == index:
                return name

    async def dispatch(self, room: str, agent_name: str) -> None:
        """Ask for an agent."""
        headers = {"Authorization": f"Bearer {token(room_admin=True, room=room)}", "Content_Type": "application/json"}
        body = json.dumps({"room": room, "agent_name": agent_name})
        answer = await request(self.port, "POST", f"{DISPATCHES}CreateDispatch", body, **headers)
        assert answer.status == 200, answer

    async def has_succeeded(self, room: str) -> bool:
        """Whether the job that was asked for has."""
        headers = {"Authorization": f"Bearer {token(room_admin=True, room=room)}", "Content_Type": "application/json"}
        answer = await request(self.port, "POST", f"{DISPATCHES}ListDispatch", json.dumps({"room": room}), **headers)
        jobs = [job for one in json.loads(answer.body)["agent_dispatches"] for job in one["state"]["jobs"]]
        return [job["state"]["status"] for job in jobs] == ["JS_SUCCESS"]

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


def rooms_in(tree: dict[str, Any]) -> set[str]:
    return {task["room"] for task in every(tree) if task["name"].startswith("room ")}


async def patience(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(100):
        if await condition():
            return
        await trio.sleep(0.05)
    raise AssertionError


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
        names = [await server.room_in(index) for index in range(WORKERS)]
        yield [(name, *await together(server, stack, name)) for name in names]
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
        assert server.home(new) == 0
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
    (name, alice, bob), (_, carol, dave) = spread
    answers: Counter[object] = Counter()

    async def knock() -> None:
        """Ask for the room of the process that is stopped: more than its socket holds do."""
        target = f"/rtc/validate?access_token={server.create_token(identity='eve', room=name)}"
        try:
            answers[(await request(server.port, "GET", target)).status] += 1
        except (OSError, ValueError, IndexError, trio.BrokenResourceError):
            answers["reset"] += 1

    stopped, _ = server.pids()
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        for _ in range(KNOCKS):
            nursery.start_soon(knock)
        await trio.sleep(2.2)
        one = await stack.enter_async_context(worker(server.server, agent_name="survivor"))
        for number in range(2):
            asked = time.monotonic()
            await together(server, stack, f"{began} while it is stopped {number}")
            assert time.monotonic() - asked < 2
        await carol.say(b"nobody waits", to=dave)
        tasks = list(every(server.tree()))
        assert [task["bound"] for task in tasks if "does not answer" in task["name"]] in ([], ["deadline"])
        for client in (alice, bob):
            await client.until(lambda client=client: client.gone, within=8)  # type: ignore[misc]
        assert 4 < time.monotonic() - began < 12
        anew = partial(patiently, lambda: len(server.pids()) == WORKERS, "the process that is begun anew", seconds=10)
        await trio.to_thread.run_sync(anew)
        assert not is_running(stopped)
        await server.dispatch(await server.room_in(0), "survivor")
        await one.take()  # the agent worker has been introduced to the new process
    # Those that the dead one had been given are lost with it; the others were answered by whoever has the room now.
    assert set(answers) == {200, "reset"}
    assert answers[200] > 100
    assert answers.total() == KNOCKS


async def test_an_agent_worker_registers_once_and_all_processes_give_it_jobs(server: Several) -> None:
    async with worker(server.server, agent_name="hand") as one:
        jobs = []
        for index in range(WORKERS):
            room = await server.room_in(index)
            await server.dispatch(room, "hand")
            jobs.append((room, await one.take()))
        for room, assigned in jobs:
            assert assigned.job.room.name == room
            done = agent.UpdateJobStatus(job_id=assigned.job.id, status=agent.JobStatus.JS_SUCCESS)
            await one.say(update_job=done)
            await patience(partial(server.has_succeeded, room))
            assert (await server.call("DeleteRoom", room=room)).status == 200
        await one.nothing_of("termination")
        await one.nothing_of("register")
        await one.say(simulate_job=agent.SimulateJobRequest(room=models.Room(name="imagined"), type=agent.JT_ROOM))
        imagined = await one.take()
        assert imagined.job.room.name == "imagined"
        await one.nothing_of("availability")  # one process has imagined it


async def test_an_agent_worker_that_is_refused_is_told_why(server: Several) -> None:
    answer = await request(server.port, "GET", "/agent", Authorization=f"Bearer {token(room_join=True)}")
    assert answer.status == 404
    async with connected(server.server) as one:
        await one.say(register=agent.RegisterWorkerRequest(agent_name="x" * 1000))
        assert await one.closed() == (1008, "agent_name: longer than 256 characters")
    async with connected(server.server) as one:
        await one.socket.send_message("text")
        assert (await one.closed())[0] == 1003


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
    with agent_worker(server.url, artifacts / "agents-several.log", AGENT_NAME="several") as theirs:

        async def echo_in(room: str, calls: api.LiveKitAPI) -> int:
            alice = Participant("alice")
            async with leaving((alice,)):
                wish = api.CreateRoomRequest(name=room, agents=[api.RoomAgentDispatch(agent_name="several")])
                await calls.room.create_room(wish)
                await alice.join(server.url, server.running.token("alice", room), single=True)
                await alice.publish_microphone()
                heard = partial(lambda: any(many > 10 for many in alice.loud_frames.values()))
                await asyncio_until(heard, seconds=20, what="an echo")
            home = server.home(room)
            assert home is not None
            await calls.room.delete_room(api.DeleteRoomRequest(room=room))
            return home

        async def run() -> None:
            await asyncio.to_thread(theirs.wait_for, "registered", seconds=40)
            async with api.LiveKitAPI(server.running.http, KEY, SECRET) as calls:
                homes: set[int] = set()
                while len(homes) < WORKERS:
                    room = f"agents {next(numbers)}"
                    homes.add(await echo_in(room, calls))
            joined = theirs.events("joined")
            assert len(joined) >= WORKERS
            await asyncio_until(lambda: len(theirs.events("over")) == len(joined), seconds=10, what="the jobs' ends")
            assert len(theirs.registrations()) == 1

        asyncio.run(asyncio.wait_for(run(), 80))


def test_who_dies_takes_its_rooms_along_and_their_clients_come_back(
    server: Several, browser: Browser, artifacts: Path
) -> None:
    """The wheel and Chromium begin new sessions, in a process that is alive; nobody else notices."""
    before = trio.run(scrape, METRICS)
    with ExitStack() as stack:
        hit = stack.enter_context(talkers(server.running, browser, "hit", artifacts, "wheel-single", "chromium-dual"))
        homes = {name: index for index, (_, tree) in server.processes().items() for name in rooms_in(tree)}
        (home,) = [index for name, index in homes.items() if name.startswith("hit-")]
        room, spared = trio.run(server.room_in, 1 - home), {}
        for name in ("first", "second"):
            arguments = (server.url, server.running.token(name, room), "single")
            child = Child("tests.clients.numbers_child", *arguments, log=artifacts / "spared_clients.log")
            stack.callback(child.end)
            spared[name] = InProcess(child)
        patiently(lambda: all(one.child.events("ready") for one in spared.values()), "they have joined")
        patiently(partial(all_heard, spared, HEARD), "they hear each other")
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
        unhurt = {name: one.numbers() for name, one in spared.items()}
        patiently(partial(all_heard, spared, HEARD, beyond=unhurt), "the others go on")
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
