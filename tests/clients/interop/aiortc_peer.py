"""A peer by aiortc. Commands from stdin, one JSON object a line; see `foreign.py` for what they are."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

Command = dict[str, Any]


def tell(message: dict[str, Any]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Peer:
    """Does what the commands say."""

    def __init__(self) -> None:
        self.connections: dict[int, RTCPeerConnection] = {}
        self.channels: dict[int, RTCDataChannel] = {}

    def create(self, connection: int) -> RTCPeerConnection:
        pc = self.connections[connection] = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        pc.on("datachannel", lambda channel: self.adopt(connection, channel, opened_here=False))
        pc.on(
            "connectionstatechange",
            lambda: tell({"event": "state", "connection": connection, "state": pc.connectionState}),
        )
        return pc

    def adopt(self, connection: int, channel: RTCDataChannel, *, opened_here: bool) -> int:
        handle = len(self.channels) + 1
        self.channels[handle] = channel
        about = {"connection": connection, "channel": handle, "label": channel.label}

        def opened() -> None:
            reliability = [channel.ordered, channel.maxRetransmits, channel.maxPacketLifeTime]
            found = {"opened_here": opened_here, "stream": channel.id, "protocol": channel.protocol}
            tell({"event": "open", "reliability": reliability, **found, **about})

        def received(data: str | bytes) -> None:
            content = {"text": data} if isinstance(data, str) else {"base64": base64.b64encode(data).decode()}
            tell({"event": "message", **content, **about})

        channel.on("open", opened)
        channel.on("message", received)
        channel.on("close", lambda: tell({"event": "closed", **about}))
        if channel.readyState == "open":
            opened()
        return handle

    async def do(self, command: Command) -> Any:  # noqa: ANN401  whatever the command gives
        return await getattr(self, f"do_{command.pop('do')}")(**command)

    async def do_offer(self, connection: int, label: str) -> str:
        pc = self.create(connection)
        self.adopt(connection, pc.createDataChannel(label), opened_here=True)
        await pc.setLocalDescription(await pc.createOffer())
        return str(pc.localDescription.sdp)

    async def do_answer(self, connection: int, sdp: str) -> str:
        pc = self.create(connection)
        await pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        await pc.setLocalDescription(await pc.createAnswer())
        return str(pc.localDescription.sdp)

    async def do_accept(self, connection: int, sdp: str) -> None:
        await self.connections[connection].setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def do_open(self, connection: int, label: str, options: dict[str, Any]) -> int:
        channel = self.connections[connection].createDataChannel(label, **options)
        return self.adopt(connection, channel, opened_here=True)

    async def do_send(self, channel: int, messages: list[dict[str, str]]) -> None:
        for message in messages:
            data = message["text"] if "text" in message else base64.b64decode(message["base64"])
            self.channels[channel].send(data)

    async def do_close_channel(self, channel: int) -> None:
        self.channels[channel].close()

    async def do_close(self, connection: int) -> None:
        if (pc := self.connections.pop(connection, None)) is not None:
            await pc.close()


async def main() -> None:
    peer = Peer()
    lines = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    tell({"event": "ready"})
    while line := await lines.readline():
        command = json.loads(line)
        number = command.pop("id")
        try:
            tell({"reply": number, "result": await peer.do(command)})
        except Exception as error:  # noqa: BLE001  whatever aiortc raises is a reply
            tell({"reply": number, "error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    asyncio.run(main())
