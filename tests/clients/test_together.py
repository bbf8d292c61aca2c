"""Different clients in one room: each hears and reads the others."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from tests.clients.browser import chromium, join, open_client, wait
from tests.clients.node_client import node_participant
from tests.clients.python_client import Participant, leaving, until

if TYPE_CHECKING:
    from tests.clients.server import RunningServer


def test_two_node_participants_hear_each_other(server: RunningServer) -> None:
    with (
        node_participant(server.url, server.token("alice", "node")) as alice,
        node_participant(server.url, server.token("bob", "node")) as bob,
    ):
        alice.wait_for(event="hears", who="bob")
        bob.wait_for(event="hears", who="alice")


def test_node_and_python_hear_and_read_each_other(server: RunningServer) -> None:
    async def python(node_done: threading.Event) -> None:
        bob = Participant("bob")
        async with leaving((bob,)):
            await bob.join(server.url, server.token("bob", "mixed"), single=True)
            await bob.publish_microphone()
            await bob.publish_camera()
            await until(lambda: bob.loud_frames["alice"] > 50, seconds=15, what="node's tone")
            await bob.room.local_participant.publish_data(b"hello", reliable=True)
            await until(lambda: ("alice", b"re: hello", True) in bob.data, seconds=5, what="node's answer")
            await until(node_done.is_set, seconds=20, what="node sees and hears")

    with node_participant(server.url, server.token("alice", "mixed")) as alice:
        node_done = threading.Event()
        worker = threading.Thread(target=lambda: asyncio.run(asyncio.wait_for(python(node_done), 60)))
        worker.start()
        try:
            alice.wait_for(event="hears", who="bob")
            alice.wait_for(event="sees", who="bob")
            alice.wait_for(event="data", who="bob", text="hello")
        finally:
            node_done.set()
            worker.join()


def test_browser_and_python_in_one_room(server: RunningServer) -> None:
    seen = threading.Event()

    async def python() -> None:
        bot = Participant("bot")
        async with leaving((bot,)):
            await bot.join(server.url, server.token("bot", "browser"), single=True)
            await bot.publish_microphone()
            await bot.publish_camera()
            await until(lambda: bot.video_frames["alice"] > 20, seconds=20, what="the browser's camera")
            await until(lambda: bot.audio_frames["alice"] > 100, seconds=20, what="the browser's microphone")
            await bot.room.local_participant.send_text("x" * 40_000, topic="chat")
            answer = await bot.room.local_participant.perform_rpc(
                destination_identity="alice", method="double", payload="4"
            )
            assert answer == "8"
            await until(seen.is_set, seconds=30, what="the browser sees the bot")

    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(asyncio.wait_for(python(), 60))
        except BaseException as error:  # noqa: BLE001  told below
            failures.append(error)

    with chromium() as browser:
        page = open_client(browser, server)
        join(page, server, "alice", "browser")
        page.evaluate("room.localParticipant.enableCameraAndMicrophone()")
        worker = threading.Thread(target=run)
        worker.start()
        try:
            wait(page, "(await received())['bot/camera']?.frames > 20", seconds=20)
            wait(page, "(await received())['bot/microphone']?.energy > 0", seconds=20)
            wait(page, "seen.texts.length === 1 && seen.texts[0][0] === 40000", seconds=20)
        finally:
            seen.set()
            worker.join()
    assert not failures, failures
