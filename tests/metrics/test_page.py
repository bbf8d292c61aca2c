"""The page of a busy server tells what happens there, and belongs to who may read it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio

import triosfu
from tests.metrics.scrape import free_port, get, monitored, scrape
from tests.support.client import join
from triosfu.errors import ConfigError
from triosfu.net.http import open_listeners
from triosfu.server.task_tree import Bound

if TYPE_CHECKING:
    from tests.metrics.scrape import Page

WAYS = ("incoming", "outgoing")


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
    assert page.value("livekit_node_messages", status="success", direction="request") >= 4
    assert page.value("triosfu_bugs_total") == 0
    assert len(page.all("triosfu_bugs_total")) == 7
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


async def test_what_else_there_is_on_the_port() -> None:
    port = free_port()
    async with triosfu.serve(monitored(port)):
        assert (await get(port, "/"))[0] == 200
        assert (await get(port, "/debug"))[0] == 404
        assert (await get(port, "/rtc"))[0] == 404
        assert (await get(port, method="POST"))[0] == 405
        assert await get(port, method="HEAD") == (200, "")
        status, body = await get(port, "/queues")
        assert (status, json.loads(body)) == (200, {"receivers": []})
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


async def test_a_page_is_read_once_a_second_whoever_asks() -> None:
    port = free_port()
    async with triosfu.serve(monitored(port)) as server:
        await trio.sleep(1)
        pages = [await get(port) for _ in range(3)]
        assert len(set(pages)) == 1
        await server.rooms.create("room")
        assert "livekit_room_total" in pages[0][1]
        assert (await scrape(port)).value("livekit_room_total") == 1


async def test_a_taken_port_is_the_operators_mistake() -> None:
    [taken] = await open_listeners(["127.0.0.1"], 0)
    async with taken:
        port = taken.socket.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^prometheus\.port: cannot listen on 127\.0\.0\.1 port {port}: "):
            async with triosfu.serve(monitored(port)):
                raise AssertionError
