"""Janus with its VideoRoom, as the peer at hand: Debian's package, started with a configuration of the run's own.

Everybody has a session on a WebSocket of their own: a handle to publish with, which has a peer connection, and one to
watch with, which has another and carries all subscriptions (Janus 1.x). The media comes from the same code as for
other servers, and is counted by the same.

What is not the same, and whom that favours:

- Janus has a thread for each handle unless `--janus-loops` says otherwise, and uses all cores; triosfu has one process
  on one core, unless it has workers. Threads cost Janus the switches, and give it less delay while there is a core to
  spare; beyond one core's worth of work it goes on. Its CPU seconds are those of all threads.
- Janus sends each datagram by a call of its own; triosfu sends batches, and what goes to one address as one message.
- Subscribers of Janus give transport-wide feedback (ten a second), as it asks for, and it numbers their packets for
  that; those of triosfu give what it asks for: REMB, once a second. Janus uses neither: it does not estimate what a
  subscriber can take, and adapts nothing to that; triosfu does.
- Janus takes no NACK for audio. Of video it keeps a copy of each packet for each subscriber, triosfu one for all.
- Janus sends sender reports each second for each stream, triosfu every three seconds for all of a subscriber at once.
- Once all is set up, Janus's signalling is silent; triosfu tells who speaks, and how good connections are.
- Who only watches has one peer connection with both; who publishes has one for that and one for watching with both.
  With Janus the latter comes with the first subscription, with triosfu with the joining: see `__main__` on memory.
- Streams of different quality are told to Janus by a group of SSRCs, to servers of LiveKit's protocol by rids.
- Debian's Janus is 1.1.2, of January 2023; later ones may be better.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bench.sfu.peer import Ended
from bench.sfu.playing import Data, Picture, Quality, Sound, next_sender
from bench.sfu.presence import Presence, present
from bench.sfu.process import PATIENCE, running, tail
from bench.sfu.servers import Measured
from tests.clients.network import ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from bench.sfu.attendee import Somebody
    from bench.sfu.counting import CountingSocket
    from triosfu.sdp.sections import Sender

PORT = 8188
PLUGIN = "janus.plugin.videoroom"
ALIVE = "alive"  # the transaction of what is not waited for
UNLIMITED = 100_000_000  # bits per second that a publisher is allowed
MOST = 10_000  # publishers in a room
WORST, BEST = 0, 2  # substreams

JANUS = """
general: {{
    configs_folder = "{folder}"
    plugins_folder = "{libraries}/plugins"
    transports_folder = "{libraries}/transports"
    events_folder = "{libraries}/events"
    loggers_folder = "{libraries}/loggers"
    debug_level = 3
    {loops}
}}
media: {{ ipv6 = false }}
nat: {{ ice_enforce_list = "{address}" }}
plugins: {{ disable = "{plugins}" }}
transports: {{ disable = "{transports}" }}
events: {{ broadcast = false }}
"""
WEBSOCKETS = """
general: {{
    json = "plain"
    ws = true
    ws_port = {port}
    ws_ip = "{address}"
    wss = false
}}
admin: {{ admin_ws = false }}
"""
ROOM = """
room-{number}: {{
    publishers = {publishers}
    bitrate = {bitrate}
    fir_freq = 0
    audiocodec = "opus"
    videocodec = "vp8"
    notify_joining = false
}}
"""


def room_number(room: str) -> int:
    """Janus numbers its rooms from 1, and the scenarios end the names of theirs with a number from 0."""
    return int(room.rpartition("-")[2]) + 1


@contextlib.contextmanager
def janus(*, loops: int = 0, rooms: int = 1) -> Iterator[Measured]:
    """Debian's Janus, with as many threads for media as it has handles, or `loops` of them.

    Raises:
        Ended: It is not installed, or does not start.
    """
    program = shutil.which("janus")
    libraries = next(Path("/usr/lib").glob("*/janus"), None)
    if program is None or libraries is None:
        raise Ended("janus is not installed: apt-get install --no-install-recommends janus")
    others = {
        kind: ",".join(sorted(file.name for file in (libraries / kind).glob("*.so") if keep not in file.name))
        for kind, keep in (("plugins", "videoroom"), ("transports", "websockets"))
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = {
            "janus.jcfg": JANUS.format(
                folder=folder, libraries=libraries, address=ADDRESS, **others,
                loops=f"event_loops = {loops}" if loops else "",
            ),
            "janus.transport.websockets.jcfg": WEBSOCKETS.format(port=PORT, address=ADDRESS),
            "janus.plugin.videoroom.jcfg": "general: { }\n" + "".join(
                ROOM.format(number=number + 1, publishers=MOST, bitrate=UNLIMITED) for number in range(rooms)
            ),
        }  # fmt: skip
        for file, text in files.items():
            (folder / file).write_text(text, encoding="ascii")
        log = folder / "log"
        command = [program, "--disable-colors", f"--configs-folder={folder}", f"--config={folder / 'janus.jcfg'}"]
        with running(command, log, environment={}) as process:
            deadline = time.monotonic() + PATIENCE
            while True:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Ended(f"janus did not come up:\n{tail(log)}")
                with contextlib.suppress(OSError), socket.create_connection((ADDRESS, PORT), timeout=1):
                    break
                time.sleep(0.05)
            yield Measured("janus", ADDRESS, partial(attend, f"ws://{ADDRESS}:{PORT}"), process.pid)


class Attendee(Presence):
    """What one participant has."""

    rids = False
    subprotocols = ("janus-protocol",)
    keep_alive_every = 20.0  # Janus forgets a session after 60

    def __init__(self, identity: str, url: str, room: int) -> None:
        super().__init__(identity, url, "/")
        self.feed = int(identity.removeprefix("one")) + 1
        self._room = room
        self._has_offered = False
        self._numbers = count(1)
        self._replies: dict[str, dict[str, Any]] = {}  # by transaction
        self._session = 0
        self._handles: dict[str, int] = {}

    # --- what the scenarios ask ------------------------------------------------------------------------------------

    async def publish_sound(self) -> Sound:
        """Publish a microphone."""
        return Sound(self.way, await self._publish("audio", "audio/opus", ()))

    async def publish_picture(self, qualities: Sequence[Quality]) -> Picture:
        """Publish a camera; several streams are given lowest quality first."""
        sender = await self._publish("video", "video/VP8", qualities)
        return Picture(self.way, sender, qualities)

    async def publish_data(self) -> Data:
        """Not asked of Janus."""
        raise NotImplementedError

    async def watch(self, others: Sequence[Somebody], best: Somebody | None) -> None:
        """Subscribe to all that others publish, on one peer connection."""
        feeds = [other for other in others if isinstance(other, Attendee)]
        handle = self._handles["subscriber"] = await self._attach()
        join = {"request": "join", "ptype": "subscriber", "room": self._room, "use_msid": False}
        reply = await self._ask(handle, {**join, "streams": [{"feed": feed.feed} for feed in feeds]})
        peer = self.subscriber.peer
        peer.accept_offer(reply["jsep"]["sdp"])
        answer = {"type": "answer", "sdp": peer.create_answer()}
        await self._ask(handle, {"request": "start"}, jsep=answer)
        if isinstance(best, Attendee):
            streams = [
                {"mid": stream["mid"], "substream": BEST if stream["feed_id"] == best.feed else WORST, "temporal": 2}
                for stream in reply["plugindata"]["data"]["streams"]
                if stream["type"] == "video"
            ]
            await self._ask(handle, {"request": "configure", "streams": streams})
        await self.until(lambda: self.subscriber.connected, "a peer connection to watch with")

    async def arrive(self) -> None:
        """Wait until there is a session, and join the room if this one publishes."""
        await self.connected()
        self._session = (await self._request({"janus": "create"}))["data"]["id"]
        if self.publishes:
            handle = self._handles["publisher"] = await self._attach()
            join = {"request": "join", "ptype": "publisher", "room": self._room, "id": self.feed}
            await self._ask(handle, join)

    # --- publishing ------------------------------------------------------------------------------------------------

    async def _publish(self, kind: str, mime: str, qualities: Sequence[Quality]) -> Sender:
        way = self.way
        sender = next_sender(kind, mime, self.identity)
        if len(qualities) > 1:
            self.way.layers[sender.track_id] = len(qualities)
        peer = way.end.peer
        peer.negotiation.add_sender(sender)
        offer = {"type": "offer", "sdp": way.offer()}
        request = {"request": "configure" if self._has_offered else "publish", "bitrate": UNLIMITED}
        reply = await self._ask(self._handles["publisher"], request, jsep=offer)
        self._has_offered = True
        peer.accept_answer(reply["jsep"]["sdp"])
        await self.until(lambda: sender.negotiated and way.end.connected, "an answer")
        way.learn()
        return sender

    # --- signalling ------------------------------------------------------------------------------------------------

    async def _attach(self) -> int:
        reply = await self._request({"janus": "attach", "plugin": PLUGIN})
        return int(reply["data"]["id"])

    async def _ask(
        self, handle: int, body: Mapping[str, object], *, jsep: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Ask the plugin something; its answer comes as an event, behind an acknowledgement."""
        message: dict[str, object] = {"janus": "message", "handle_id": handle, "body": body}
        if jsep is not None:
            message["jsep"] = jsep
        reply = await self._request(message)
        told = reply["plugindata"]["data"]
        if "error" in told:
            raise Ended(f"{self.identity}: janus: {told['error']}")
        return reply

    async def _request(self, message: dict[str, object]) -> dict[str, Any]:
        transaction = str(next(self._numbers))
        await self._say({**message, "transaction": transaction})
        await self.until(lambda: transaction in self._replies, f"an answer to {message['janus']}")
        reply = self._replies.pop(transaction)
        if reply["janus"] == "error":
            raise Ended(f"{self.identity}: janus: {reply['error']['reason']}")
        return reply

    async def _say(self, message: dict[str, object]) -> None:
        if self._session:
            message["session_id"] = self._session
        await self.send(json.dumps(message))

    async def keep_alive(self) -> None:
        """Say that this one is still there."""
        await self._say({"janus": "keepalive", "transaction": ALIVE})

    async def handle(self, frame: bytes | str) -> None:
        """Act on a message of the server."""
        message = json.loads(frame)
        match message["janus"]:
            case "ack":
                pass
            case "timeout" | "hangup" | "detached":
                raise Ended(f"{self.identity}: janus says {message['janus']} ({message.get('reason', '')})")
            case _ if message.get("transaction", ALIVE) != ALIVE:
                self._replies[message["transaction"]] = message


def attend(
    url: str, identity: str, room: str, *, sock: CountingSocket, publishes: bool, feedback: bool
) -> AbstractAsyncContextManager[Attendee]:
    """Somebody in a room until the end of the block; what comes to them comes to `sock`."""
    somebody = Attendee(identity, url, room_number(room))
    return present(somebody, sock=sock, publishes=publishes, feedback=feedback)
