"""The page on webhooks is true: its backend, with livekit-api's receiver, is told of a real participant's call.

And livekit-server-sdk's receiver takes the same requests.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from livekit.protocol.models import Room
from livekit.protocol.webhook import WebhookEvent

from tests.clients.python_client import Participant, leaving, until
from tests.clients.server import running_server
from triosfu.webhooks.delivery import authorization, render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.server import RunningServer

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"
BLOCK = re.compile(r"^```(?:python|yaml)\n# (?P<name>[\w.]+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
JS = Path(__file__).parent / "js"
RECEIVE = """
import { WebhookReceiver } from 'livekit-server-sdk';
const { body, token } = JSON.parse(process.argv[1]);
const receiver = new WebhookReceiver('devkey', 'secret');
const event = await receiver.receive(body, token);
const refused = await receiver.receive(body + ' ', token).then(() => false, () => true);
const { id, room, numDropped, createdAt } = event;
console.log(JSON.stringify([event.event, id, room.name, numDropped, String(createdAt), refused]));
"""


@contextmanager
def backend(folder: Path) -> Iterator[Path]:
    """The page's backend, listening; what it prints is in the file."""
    printed, said = folder / "told.txt", folder / "said.txt"
    with printed.open("wb") as output, said.open("wb") as errors:
        process = subprocess.Popen([sys.executable, "backend.py"], cwd=folder, stdout=output, stderr=errors)
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", 8080), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, said.read_text()
                    time.sleep(0.05)
            yield printed
        finally:
            process.kill()
            process.wait()


async def call(server: RunningServer, printed: Path) -> None:
    alice = Participant("alice")
    async with leaving((alice,)):
        await alice.join(server.url, server.token("alice", "hooked"), single=True)
        publication = await alice.publish_microphone()
        await until(lambda: "track_published" in printed.read_text(), seconds=10, what="the microphone")
        await alice.room.local_participant.unpublish_track(publication.sid)
        await until(lambda: "track_unpublished" in printed.read_text(), seconds=10, what="the microphone's end")


def test_the_pages_backend_is_told_of_a_call(network: None, artifacts: Path, tmp_path: Path) -> None:
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        (tmp_path / block["name"]).write_text(block["code"], encoding="utf-8")
    with backend(tmp_path) as printed:
        options = ("--config", str(tmp_path / "livekit.yaml"))
        with running_server(artifacts / "test_webhooks.log", *options, port=7890) as server:
            asyncio.run(asyncio.wait_for(call(server, printed), 30))
        # The server has been interrupted, and has told the end of the room.
        assert printed.read_text().splitlines() == [
            "room_started hooked ",
            "participant_joined hooked alice",
            "track_published hooked alice",
            "track_unpublished hooked alice",
            "participant_left hooked alice",
            "room_finished hooked ",
        ]


def test_the_receiver_of_the_node_sdk_takes_it() -> None:
    body = render(
        WebhookEvent(event="room_started", id="EV_1", created_at=1_700_000_000, room=Room(name="käse")), num_dropped=3
    )
    request = {"body": body.decode(), "token": authorization(body, "devkey", "secret", now=time.time())}
    done = subprocess.run(
        ["node", "--input-type=module", "-e", RECEIVE, json.dumps(request)],
        cwd=JS,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["room_started", "EV_1", "käse", 3, "1700000000", True]
