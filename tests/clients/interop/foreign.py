"""Another implementation's peer in a process of its own, told what to do over a pipe.

All four programs (`aiortc_peer.py`, `chromium_peer.py`, `../js/data_werift.mjs`, `../js/data_node_datachannel.mjs`)
speak the same lines of JSON. A command is `{"id": 7, "do": "open", ...}`, its reply `{"reply": 7, "result": ...}` or
`{"reply": 7, "error": "..."}`:

    offer connection label -> sdp        begin a connection with one channel
    answer connection sdp -> sdp         begin a connection from our offer
    accept connection sdp                take our answer
    open connection label options -> channel       `options` as in RTCDataChannelInit
    send channel messages                each `{"text": ...}` or `{"base64": ...}`
    close_channel channel
    close connection

In between come events: `ready` (once), and with `connection`

    open channel label protocol stream opened_here reliability     `[ordered, maxRetransmits, maxPacketLifeTime]`
    message channel label text|base64
    closed channel label
    state state
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

HERE = Path(__file__).parent
JS = HERE.parent / "js"
COMMANDS = {
    "aiortc": [sys.executable, str(HERE / "aiortc_peer.py")],
    "node-datachannel": ["node", str(JS / "data_node_datachannel.mjs")],
    "werift": ["node", str(JS / "data_werift.mjs")],
    "chromium": [sys.executable, str(HERE / "chromium_peer.py")],
}
LIMIT = 20.0  # seconds; reached only by a failing test

Event = dict[str, Any]


class Refused(Exception):
    """The other implementation raised an error."""


class ForeignProcess:
    """One of the programs, which serves one test after another."""

    def __init__(self, kind: str, process: subprocess.Popen[bytes]) -> None:
        self.kind = kind
        self.process = process
        self.numbers = itertools.count(1)  # of commands and of connections
        self.unread = bytearray()  # the beginning of a line
        self.killed = False

    def kill(self) -> None:
        """End the process without a goodbye."""
        self.killed = True
        self.process.kill()


@contextmanager
def foreign_process(kind: str, log: Path) -> Iterator[ForeignProcess]:
    """Run the program of one `kind`, once it is ready; what it writes to stderr goes to `log`."""
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            COMMANDS[kind], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == {"event": "ready"}
            yield ForeignProcess(kind, process)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=5)
        finally:
            process.kill()


class Foreign:
    """One connection of a foreign process, for the length of one test. What happens there is in `events`."""

    def __init__(self, process: ForeignProcess, commands: trio.abc.SendStream) -> None:
        self.process = process
        self.kind = process.kind
        self.connection = next(process.numbers)
        self.events: list[Event] = []
        self._commands = commands
        self._turn = trio.Lock()
        self._replies: dict[int, Event] = {}
        self._news = trio.Event()

    async def until(self, condition: Callable[[], bool], *, within: float = LIMIT) -> None:
        """Wait until news make `condition` hold."""
        with trio.fail_after(within):
            while not condition():
                await self._news.wait()

    async def ask(self, action: str, **arguments: object) -> Any:  # noqa: ANN401  whatever the command gives
        """Give a command and wait for its reply.

        Raises:
            Refused: The peer's implementation raised an error.
        """
        number = next(self.process.numbers)
        async with self._turn:
            await self._commands.send_all(json.dumps({"id": number, "do": action, **arguments}).encode() + b"\n")
        await self.until(lambda: number in self._replies)
        reply = self._replies.pop(number)
        if "error" in reply:
            raise Refused(reply["error"])
        return reply["result"]

    async def open(self, label: str, **options: object) -> int:
        """Open a channel; returns its handle at once."""
        return int(await self.ask("open", connection=self.connection, label=label, options=options))

    async def send(self, channel: int, *messages: str | bytes) -> None:
        """Send messages on a channel, text or binary."""
        await self.ask("send", channel=channel, messages=[encoded(message) for message in messages])

    async def close_channel(self, channel: int) -> None:
        await self.ask("close_channel", channel=channel)

    async def close(self) -> None:
        await self.ask("close", connection=self.connection)

    def of(self, kind: str, **expected: object) -> list[Event]:
        """The events of one kind so far, of those with what is expected."""
        return [event for event in self.events if event["event"] == kind and expected.items() <= event.items()]

    async def opened(self, label: str) -> Event:
        """Wait until a channel with this label is open, and return what is known of it."""
        await self.until(lambda: bool(self.of("open", label=label)))
        return self.of("open", label=label)[-1]

    async def closed(self, label: str) -> None:
        """Wait until a channel with this label is closed."""
        await self.until(lambda: bool(self.of("closed", label=label)))

    def messages(self, label: str) -> list[str | bytes]:
        """The messages of a channel so far."""
        return [
            event["text"] if "text" in event else base64.b64decode(event["base64"])
            for event in self.of("message", label=label)
        ]

    async def received(self, label: str, count: int) -> list[str | bytes]:
        """Wait for `count` messages on a channel."""
        await self.until(lambda: len(self.of("message", label=label)) >= count)
        return self.messages(label)

    async def _read(self, lines: trio.abc.ReceiveStream) -> None:
        unread = self.process.unread
        while data := await lines.receive_some(1 << 20):
            unread += data
            while (end := unread.find(b"\n")) >= 0:
                message = json.loads(unread[:end])
                del unread[: end + 1]
                if "reply" in message:
                    self._replies[message["reply"]] = message
                elif message.get("connection") == self.connection:
                    self.events.append(message)
            self._news.set()
            self._news = trio.Event()
        if not self.process.killed:
            raise AssertionError(f"{self.kind} ended with {self.process.process.poll()}")


def encoded(message: str | bytes) -> dict[str, str]:
    return {"text": message} if isinstance(message, str) else {"base64": base64.b64encode(message).decode()}


@asynccontextmanager
async def foreign(process: ForeignProcess) -> AsyncIterator[Foreign]:
    """A connection of the process, closed at the end, if it still lives."""
    assert process.process.stdin is not None
    assert process.process.stdout is not None
    # The streams close what they are given, and the next test needs the pipes again.
    commands = trio.lowlevel.FdStream(os.dup(process.process.stdin.fileno()))
    lines = trio.lowlevel.FdStream(os.dup(process.process.stdout.fileno()))
    async with commands, lines, trio.open_nursery() as nursery:
        peer = Foreign(process, commands)
        nursery.start_soon(peer._read, lines)
        yield peer
        if not process.killed:
            await peer.close()
        nursery.cancel_scope.cancel()
