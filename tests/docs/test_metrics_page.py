"""docs/metrics.md is true: its tables have the metrics that a server shows, with their types and labels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from livekit.protocol import models

import triosfu
from tests.docs.pages import read, table_under
from tests.metrics.scrape import free_port, get, monitored
from tests.metrics.scrape import read as parse
from tests.support.client import join
from triosfu.cluster.supervisor import Process, Supervisor
from triosfu.metrics import collector, page
from triosfu.metrics.front import FrontCollector
from triosfu.metrics.history import History
from triosfu.metrics.loop import LoopDelay
from triosfu.metrics.merging import LARGEST, SMALLEST
from triosfu.net.http import HttpServer, Request, Response

if TYPE_CHECKING:
    from tests.metrics.scrape import Page

PAGE = read("docs/metrics.md")
HEADINGS = ("Under LiveKit's names", "Our own")
SEVERAL = ("With several worker processes",)
ALWAYS = {"node_id", "node_type"}
PARTS = ("_bucket", "_count", "_sum")
NOT_SEEN = {"livekit_rtt_ms"}  # the call below is too short for a report about a report, on most machines


def documented(headings: tuple[str, ...] = HEADINGS) -> dict[str, tuple[str, set[str]]]:
    rows = [row for heading in headings for row in table_under(PAGE, heading)]
    return {name.strip("`"): (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}


@pytest.fixture
async def seen() -> Page:
    """What a server shows on which everything has happened that is counted."""
    port = free_port()
    webhook = f"keys: {{k: {'s' * 32}}}\nwebhook: {{api_key: k, urls: ['http://127.0.0.1:{free_port()}']}}"
    async with (
        triosfu.serve(monitored(port, text=webhook), grace=0) as server,
        join(server, "alice") as alice,
        join(server, "bob") as bob,
    ):
        await alice.ready()
        await bob.ready()
        await alice.say(b"hello", to=bob)
        await bob.play(b"sound", to=alice)
        header = models.DataStream.Header(mime_type="text/plain", total_length=3, text_header={})
        packet = models.DataPacket(stream_header=header)
        await alice.publisher.channels["_reliable"].send(packet.SerializeToString())
        await alice.publisher.channels["_reliable"].send(b"\xff")
        await alice.say(b"after it", to=bob)
        server.mux.counters["odd_size"] += 1
        assert (await get(server.port, "/twirp/livekit.RoomService/ListRooms"))[0] == 404
        async with join(server, "carol") as carol:
            await carol.ready()
            await carol.leave()
        (history,) = [one for one in server.rooms.services.listeners if isinstance(one, History)]
        for text in (b"first window", b"second window"):
            history.look(server.rooms)
            await bob.play(text, to=alice)
        history.look(server.rooms)
        return parse((await get(port))[1])


async def test_the_tables_have_every_metric_with_its_type_and_labels(seen: Page) -> None:
    told = documented()
    types = {
        f"{name}_total" if kind == "counter" else name: {"unknown": "untyped"}.get(kind, kind)
        for name, kind in seen.kinds.items()
        if name.startswith(("livekit_", "triosfu_"))
    }
    assert types == {name: kind for name, (kind, _) in told.items()}
    for name, (kind, labels) in told.items():
        samples = [found for part in PARTS for found in seen.labels(name + part)] or list(seen.labels(name))
        for found in samples:
            assert found - ALWAYS - {"le"} == labels, name
        assert samples or name in NOT_SEEN, (name, kind)


async def test_the_front_s_table_has_what_it_adds() -> None:
    async def nobody(index: int, sock: object) -> Process:
        raise AssertionError

    supervisor = Supervisor(2, nobody, lambda _: ({}, b""))
    added = {metric.name: metric for metric in FrontCollector(supervisor, _http(), LoopDelay()).collect()}
    told = documented(SEVERAL)
    found = {f"{name}_total" if one.type == "counter" else name: one for name, one in added.items()}
    assert {name: one.type for name, one in found.items() if name not in documented()} == {
        name: kind for name, (kind, _) in told.items()
    }
    for name, (_, labels) in told.items():
        assert all(set(sample.labels) == labels for sample in found[name].samples)
    assert {word for word in LARGEST | SMALLEST if word.startswith(("livekit", "triosfu"))} <= documented().keys()
    assert all(f"`{word}`" in PAGE for word in LARGEST | SMALLEST if word.startswith(("livekit", "triosfu")))


def _http() -> HttpServer:
    async def respond(request: Request) -> Response:
        raise AssertionError

    return HttpServer(respond)


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    assert f"{page.LIMITS.connections} of them" in PAGE
    assert (page.MOST, page.FRESH) == (100, 1)
    assert len(collector.LIVEKIT) + len(collector.OWN) == 14


@pytest.mark.parametrize("row", table_under(PAGE, "What to be woken for"), ids=lambda row: row[0])
def test_an_alarm_is_about_a_metric_that_there_is(row: list[str]) -> None:
    names = re.findall(r"(?:livekit|triosfu)_\w+", row[0])
    assert names
    for name in names:
        assert name.removesuffix("_bucket") in documented(HEADINGS + SEVERAL)
