"""The page of a busy server tells what happens there, and belongs to who may read it."""

from __future__ import annotations

import json
import socket
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

import triosfu
from tests.docs.test_cancelled_calls import cancelled_at_every_step, descriptors
from tests.metrics.scrape import ask, free_port, get, monitored, read, scrape
from tests.rooms.test_lifetimes import running
from tests.server.test_garbage import socket_of
from tests.support.client import join
from tests.support.held import held
from triosfu.api.twirp import Twirp
from triosfu.errors import ConfigError
from triosfu.metrics.collector import Collector
from triosfu.metrics.history import History
from triosfu.metrics.loop import LoopDelay
from triosfu.metrics.monitoring import open_monitoring
from triosfu.metrics.page import FRESH, PATIENCE, MetricsPage, may_read
from triosfu.metrics.sources import Sources
from triosfu.net.http import Headers, HttpServer, Request, Response
from triosfu.net.listeners import open_listeners
from triosfu.net.udp import UdpMux
from triosfu.server.task_tree import Bound, watching
from triosfu.signalling.routes import Signalling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from tests.metrics.scrape import Page
    from triosfu.rooms.directory import Rooms

WAYS = ("incoming", "outgoing")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Each page is read anew: nobody waits a second for it."""
    if "autojump_clock" not in request.fixturenames:
        monkeypatch.setattr("triosfu.metrics.page.FRESH", 0.0)


async def test_a_call_shows_in_the_metrics_and_stays_in_the_totals() -> None:
    port = free_port()
    async with triosfu.serve(monitored(port)) as server:
        empty = await scrape(port)
        assert (empty.value("livekit_room_total"), empty.value("livekit_packet_total")) == (0, 0)
        async with join(server, "alice", room="den") as alice, join(server, "bob", room="den") as bob:
            await alice.ready()
            await bob.ready()
            await alice.say(b"hello", to=bob)
            await bob.play(b"sound", to=alice)
            await alice.play(b"sound", to=bob)
            await alice.signal(b"")  # a message that says nothing
            busy = await scrape(port)
            check_busy(busy)
            sent = server.rooms.services.tally.totals(server.rooms)
            assert sum(one.packets for flow, one in sent.items() if flow.direction == "outgoing") >= 1
            await alice.leave()
            await bob.leave()
        over = await scrape(port)
    check_over(over, busy)


def check_busy(page: Page) -> None:
    assert page.value("livekit_room_total") == 1
    assert page.value("livekit_participant_total") == 2
    assert page.value("livekit_track_published_total", kind="AUDIO") == 2
    assert page.value("livekit_track_subscribed_total", kind="AUDIO") == 2
    for state in ("signal_connected", "rtc_init", "rtc_connected"):
        assert page.value("livekit_participant_join_total", state=state) == 2
    for way in WAYS:
        assert page.value("livekit_packet_total", direction=way, transmission="initial") >= 1
        assert page.value("livekit_packet_bytes", direction=way, transmission="initial") >= len(b"sound")
        assert page.value("livekit_packet_total", direction=way, transmission="retransmit") == 0
    assert page.value("livekit_session_start_time_ms_count", protocol_version="17") == 2
    for state in ("attempt", "success"):
        assert page.value("livekit_track_publish_counter", kind="AUDIO", state=state) == 2
        assert page.value("livekit_track_subscribe_counter", state=state) == 2
    assert page.value("livekit_node_messages", status="success", direction="request") >= 4
    assert page.value("livekit_node_messages", status="success", direction="response") >= 6
    assert page.value("livekit_node_messages", status="failure") == 0
    assert page.value("livekit_forward_latency_ns_count") >= 2
    assert 0 < page.value("livekit_forward_latency_ns_sum") < 10e9
    assert page.value("triosfu_bugs_total") == 0
    assert len(page.all("triosfu_bugs_total")) == 8
    assert page.value("triosfu_tasks", kind="participant") == 2
    assert page.value("triosfu_tasks", kind="room") == 1
    assert page.value("triosfu_tasks", kind="session") == 2
    assert page.value("triosfu_peer_connections", state="connected") == 4
    assert page.value("triosfu_parked_writers") == 0
    assert page.value("triosfu_http_connections") == page.value("triosfu_http_connections_of_one_address") == 2
    assert page.value("triosfu_udp_datagrams_total") > 10
    assert page.value("triosfu_waits", bound=Bound.DEADLINE.value) >= 6
    assert 0 < page.value("triosfu_oldest_wait_seconds", bound=Bound.DEADLINE.value) < 60
    assert page.value("triosfu_loop_turn_seconds_count") > 10
    assert page.value("process_open_fds") > 5
    for name, labels, _ in page.samples:
        assert ("node_id" in labels) is name.startswith("livekit_"), name
        assert not {"den", "alice", "bob"} & set(labels.values()), "a name of somebody's"


def check_over(page: Page, before: Page) -> None:
    """What is over is in the totals, and in nothing else; the room itself stays for those who may come back."""
    assert page.value("livekit_participant_total") == 0
    assert page.value("livekit_track_published_total") == page.value("livekit_track_subscribed_total") == 0
    assert page.value("livekit_session_duration_ms_count") == 2
    assert page.value("triosfu_tasks", kind="participant") == page.value("triosfu_tasks", kind="peer") == 0
    for name, labels, value in before.samples:
        grows = name.endswith(("_total", "_count", "_bucket")) and before.kinds.get(name) != "gauge"
        if grows and name.startswith(("livekit_", "triosfu_")) and "participant_total" not in name:
            assert page.value(name, **labels) >= value, (name, labels)


async def test_nobody_may_read_who_does_not_know_the_password() -> None:
    port = free_port()
    async with triosfu.serve(monitored(port, username="watch", password="sécret")):
        for login in ("", "watch", "watch:", "watch:secret", "other:sécret", ":", "watch:sécret:more"):
            assert await get(port, login=login) == (401, "unauthorized")
            assert (await get(port, "/queues", login=login))[0] == 401
        assert (await get(port, login="watch:sécret"))[0] == 200


@given(st.text(max_size=60) | st.text(max_size=20).map("Basic {}".format))
@example("Basic \x00")
@example("Basic d2F0Y2g6bWU")
@example("Bearer d2F0Y2g6bWU=")
def test_any_other_header_may_not(header: str) -> None:
    assert not may_read(header, b"watch:me")
    assert may_read("bAsIc d2F0Y2g6bWU=", b"watch:me")


async def test_what_else_there_is_on_the_port() -> None:
    port = free_port()
    async with triosfu.serve(monitored(port)) as server:
        assert (await get(port, "/"))[0] == 200
        assert (await get(port, "/debug"))[0] == 404
        assert (await get(port, "/rtc"))[0] == 404
        assert [(await get(server.port, path))[0] for path in ("/rtc", "/rtc/validate")] == [404, 401]
        assert (await get(port, method="POST"))[0] == 405
        assert await get(port, method="HEAD") == (200, "")
        for method in ("GET", "OPTIONS"):  # a page from elsewhere, in an operator's browser, is not to read this one
            assert "access-control" not in (await ask(port, method=method))[0].lower()
        status, body = await get(port, "/queues")
        assert (status, json.loads(body)) == (200, {"receivers": []})
        page = await scrape(port)
        assert page.value("livekit_participant_join_total", state="signal_failed") == 1
        assert page.value("livekit_node_service_operation", type="signal_ws", error_type="reject") == 1
        assert page.value("triosfu_http_events_total", event="requests") == 2
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


@asynccontextmanager
async def pages() -> AsyncIterator[tuple[Rooms, Callable[[], MetricsPage]]]:
    """Rooms, and what makes pages about them that nothing serves."""
    async with UdpMux.open(["127.0.0.1"], 0) as mux, running() as rooms:
        sources = Sources(
            mux=mux,
            http=HttpServer(nobody_asks),
            signalling=Signalling(rooms, {}),
            api=Twirp({}, []),
            rooms=rooms,
            peers=Counter(),
            history=History(),
            delay=LoopDelay(),
        )
        with watching() as watch:
            yield rooms, lambda: MetricsPage(Collector(sources), watch, username="", password="")


async def nobody_asks(_: Request) -> Response:
    raise AssertionError


ASK = Request("GET", "/metrics", "/metrics", {}, Headers(), b"", ("127.0.0.1", 1))


async def test_a_page_is_read_once_a_second_whoever_asks(autojump_clock: MockClock) -> None:
    async with pages() as (rooms, make):
        page = make()
        first = await page.respond(ASK)
        await rooms.create("den")
        answers: list[Response] = []

        async def ask() -> None:
            answers.append(await page.respond(ASK))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert {answer.body for answer in answers} == {first.body}
        await trio.sleep(FRESH)
        assert read((await page.respond(ASK)).body.decode()).value("livekit_room_total") == 1


async def test_a_reading_that_does_not_get_done_is_given_up(autojump_clock: MockClock) -> None:
    async with pages() as (_, make):
        page, began = make(), trio.current_time()
        async with held(page._reading):
            answer = await page.respond(ASK)
        assert (answer.status, answer.body) == (503, b"reading took too long")
        assert trio.current_time() - began == pytest.approx(PATIENCE)
        assert (await page.respond(ASK)).status == 200


async def test_a_cancelled_reader_leaves_the_page_to_the_next() -> None:
    async with pages() as (_, make):
        made: list[MetricsPage] = []

        async def ask() -> None:
            made.append(make())
            assert (await made[-1].respond(ASK)).status == 200

        assert await cancelled_at_every_step(ask, bool) > 1
        for page in made:
            assert (await page.respond(ASK)).status == 200


async def test_a_server_that_is_cancelled_while_it_is_read_leaves_nothing() -> None:
    port = free_port()
    before = descriptors()

    async def serve() -> None:
        async with triosfu.serve(monitored(port)):
            assert (await get(port))[0] == 200

    def look(cancelled: bool) -> None:
        del cancelled
        assert descriptors() == before

    assert await cancelled_at_every_step(serve, look) > 10
    await serve()


@pytest.mark.parametrize(
    ("addresses", "username", "warned"),
    [(["127.0.0.1", "::1"], "", False), (["0.0.0.0"], "", True), (["0.0.0.0"], "watch", False)],
)
async def test_whoever_lets_everybody_read_is_told(addresses: list[str], username: str, *, warned: bool) -> None:
    config = replace(monitored(free_port(), username=username, password=username), bind_addresses=tuple(addresses))
    with capture_logs() as logs:
        async with open_monitoring(config):
            pass
    assert [one["event"] for one in logs if one["log_level"] == "warning"] == ["metrics.open"] * warned


async def test_a_taken_port_is_the_operators_mistake() -> None:
    [taken] = await open_listeners(["127.0.0.1"], 0)
    async with taken:
        port = taken.socket.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^prometheus\.port: cannot listen on 127\.0\.0\.1 port {port}: "):
            async with triosfu.serve(monitored(port)):
                raise AssertionError


async def test_what_goes_wrong_shows_and_is_not_forgotten() -> None:
    port, nobody = free_port(), free_port()
    webhook = f"keys: {{k: {'s' * 32}}}\nwebhook: {{api_key: k, urls: ['http://127.0.0.1:{nobody}/hook']}}"
    async with triosfu.serve(monitored(port, text=webhook), grace=0) as server:
        async with join(server, "alice", room="den") as alice, join(server, "bob", room="den") as bob:
            await alice.ready()
            await bob.ready()
            await bob.publisher.channels["_reliable"].send(b"\xff")
            await bob.say(b"and a good one", to=alice)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                for first in (70, 100, 128):
                    stranger.sendto(bytes([first]) * 40, server.mux.local_addresses[0])
            # From alice's own socket: a packet that is not encrypted, and one that is, with no SCTP in it.
            socket_of(alice).sendto(b"\x80\x60" + bytes(40), server.mux.local_addresses[0])
            alice.publisher.peer._transport.send_data(b"\xff" * 20)
            await alice.say(b"after that", to=bob)
            (room,) = server.rooms
            with room.participants["bob"].guard("test"):
                raise ZeroDivisionError
            await alice.signal(b"\xff\xff\xff")
            await alice.until(lambda: alice.code == 1007)
            check_wrong(await scrape(port))
            queue = json.loads((await get(port, "/queues"))[1])["receivers"]
            assert [(one["host"], one["rooms_not_shown"]) for one in queue] == [("127.0.0.1", 0)]
            assert [one["room"] for one in queue[0]["rooms"]] == ["den"]
            assert queue[0]["rooms"][0]["events"] >= 3
            server.rooms.close()
            await server.rooms.wait_empty()
        page = await scrape(port)
        check_wrong(page)
        assert page.value("livekit_room_total") == 0
        assert page.value("livekit_room_duration_seconds_count") == 1


def check_wrong(page: Page) -> None:
    assert page.value("triosfu_malformed_signals_total") == 1
    assert page.value("livekit_node_messages", status="failure") == 1
    assert page.value("triosfu_packets_dropped_total", layer="udp", reason="unknown_protocol") == 2
    assert page.value("triosfu_packets_dropped_total", layer="udp", reason="unbound_tuple") >= 1
    assert page.value("triosfu_packets_dropped_total", layer="peer", reason="unauthentic_rtp") == 1
    assert page.value("triosfu_packets_dropped_total", layer="peer", reason="sctp_port") == 1
    assert page.value("triosfu_data_dropped_total", reason="malformed") == 1
    assert page.value("triosfu_bugs_total", where="rooms") == page.value("triosfu_bugs_total") == 1
    assert page.value("triosfu_webhook_rooms") == 1
    assert page.value("triosfu_webhook_events") == page.value("triosfu_webhook_deepest_queue") >= 3


async def test_a_cancelled_start_leaves_the_port_and_the_loop_as_they_were() -> None:
    port = free_port()
    config = monitored(port)

    async def start() -> None:
        async with open_monitoring(config):
            await trio.lowlevel.checkpoint()

    async def take() -> None:
        for listener in await open_listeners(["127.0.0.1"], port):
            await listener.aclose()

    taken: list[bool] = []
    assert await cancelled_at_every_step(start, taken.append) > 1
    await take()
    with watching() as watch:
        assert watch.last == {}  # a new one: nobody watches
