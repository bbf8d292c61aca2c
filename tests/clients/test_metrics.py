"""What a call of real clients looks like in the metrics, as Prometheus' own parser reads them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.clients.python_client import Participant, leaving, until
from tests.clients.server import running_server
from tests.metrics.scrape import Page, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clients.server import RunningServer

PORT = 6789
CONFIG = f"prometheus: {{port: {PORT}, username: watch, password: me}}"


@pytest.fixture
def watched(network: None, artifacts: Path) -> Iterator[RunningServer]:
    """A server whose totals begin at nothing, also when the test is run again."""
    with running_server(artifacts / "test_metrics.log", "--config-body", CONFIG) as running:
        yield running


def scrape() -> Page:
    reply = httpx.get(f"http://127.0.0.1:{PORT}/metrics", auth=("watch", "me"), timeout=5)
    assert reply.status_code == 200
    assert reply.headers["Content-Type"].startswith("text/plain; version=")
    return read(reply.text)


def test_a_call_of_real_clients_shows_in_the_metrics(watched: RunningServer) -> None:
    async def run() -> tuple[Page, Page]:
        alice, bob = Participant("alice"), Participant("bob")
        async with leaving((alice, bob)):
            await alice.join(watched.url, watched.token("alice", "seen"), single=True)
            await bob.join(watched.url, watched.token("bob", "seen"), single=False)
            await alice.publish_microphone()
            await until(lambda: bob.loud_frames["alice"] > 30, seconds=10, what="sound")
            texts: list[str] = []
            bob.room.register_text_stream_handler("t", lambda _, who: texts.append(who))
            await alice.room.local_participant.send_text("a text", topic="t")
            await until(lambda: texts == ["alice"], seconds=5, what="a text")
            page = await asyncio.to_thread(scrape)
        await asyncio.sleep(1.1)  # a page is kept for a second
        return page, await asyncio.to_thread(scrape)

    assert httpx.get(f"http://127.0.0.1:{PORT}/metrics", timeout=5).status_code == 401
    page, after = asyncio.run(asyncio.wait_for(run(), 40))
    assert (page.value("livekit_room_total"), page.value("livekit_participant_total")) == (1, 2)
    assert page.value("livekit_track_published_total", kind="AUDIO") == 1
    assert page.value("livekit_track_subscribed_total", kind="AUDIO") == 1
    assert page.value("livekit_participant_join_total", state="rtc_connected") == 2
    assert page.value("livekit_session_start_time_ms_count") == 2
    for way in ("incoming", "outgoing"):
        assert page.value("livekit_packet_total", direction=way, transmission="initial") > 10  # of 20 ms
        assert page.value("livekit_packet_bytes", direction=way, transmission="initial") > 300
    forwarded = page.value("livekit_forward_latency_ns_count")
    assert forwarded > 10
    assert 20_000 < page.value("livekit_forward_latency_ns_sum") / forwarded < 50e6  # a packet is not here for long
    assert page.value("livekit_node_messages", status="success", direction="response") > 10
    assert page.value("livekit_node_messages", status="failure") == 0
    assert page.value("livekit_datapacket_stream_bytes_sum", type="text") == len("a text")
    assert page.value("triosfu_bugs_total") == page.value("triosfu_waits", bound="none") == 0
    assert page.value("triosfu_tasks", kind="participant") == 2
    assert after.value("livekit_participant_total") == after.value("triosfu_tasks", kind="peer") == 0
    assert after.value("livekit_packet_total") >= page.value("livekit_packet_total")
    assert after.value("livekit_session_duration_ms_count") == 2
