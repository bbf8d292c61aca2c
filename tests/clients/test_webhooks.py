"""livekit-server-sdk's receiver takes webhooks; livekit-api's does in tests/conformance/test_sessions.py."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from livekit.protocol.models import Room
from livekit.protocol.webhook import WebhookEvent

from triosfu.webhooks.delivery import authorization, render

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
