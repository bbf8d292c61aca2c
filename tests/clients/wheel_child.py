"""A `livekit` client that exchanges data.

Usage: python -m tests.clients.wheel_child ROLE URL TOKEN IDENTITY single|dual

Roles: `stays` answers who says hello, tells who comes and goes, and sends bursts to whom its parent names; `idle`,
`plays` (sound and picture), `sends` and `receives` say hello to it and then do so until they are killed;
`resumes` loses its signalling connection after the hello and comes back.
"""

from __future__ import annotations

import asyncio
import sys

from tests.clients.child import tell
from tests.clients.python_client import Participant, simulate, until

STAYS = "stays"
HELLO, WELCOME = b"hello", b"welcome"
BURST = bytes(60_000)
FLOWING = 10  # messages of a burst
MANY = 50  # messages, after each so many of which who stays tells how many it has sent
PAUSE = 0.03  # seconds between the messages of a burst


async def stay(participant: Participant) -> None:
    """Answer, tell, and send bursts: a line `burst NAME,NAME...` on stdin begins one, `burst` alone ends it."""
    room = participant.room
    room.on("participant_connected", lambda who: tell("connected", identity=who.identity))
    room.on("participant_disconnected", lambda who: tell("disconnected", identity=who.identity))
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    deaf: list[str] = []

    async def listen() -> None:
        while line := (await lines.readline()).decode():
            deaf[:] = [name for name in line.removeprefix("burst").strip().split(",") if name]

    listening = asyncio.ensure_future(listen())
    tell("ready")
    answered = sent = 0
    while not listening.done():
        while answered < len(participant.data):
            sender, payload, _ = participant.data[answered]
            answered += 1
            if payload == HELLO:
                await room.local_participant.publish_data(WELCOME, destination_identities=[sender])
        if answered > 1000:  # bursts are not kept
            del participant.data[:answered]
            answered = 0
        if deaf:
            await room.local_participant.publish_data(BURST, destination_identities=list(deaf))
            sent += 1
            if sent % MANY == 0:
                tell("sent", messages=sent)
        await asyncio.sleep(PAUSE)


async def exchange(participant: Participant) -> None:
    """Say hello to who stays until there is an answer: data flows both ways."""
    while not participant.data:
        await participant.room.local_participant.publish_data(HELLO, destination_identities=[STAYS])
        await asyncio.sleep(0.3)


async def main(role: str, url: str, token: str, identity: str, shape: str) -> None:
    """Join and play the role."""
    participant = Participant(identity, count=False)
    await participant.join(url, token, single=shape == "single")
    if role == STAYS:
        await stay(participant)
        return
    await exchange(participant)
    if role == "sends":
        for sent in range(1_000_000):
            await participant.room.local_participant.publish_data(BURST, destination_identities=[STAYS])
            if sent == FLOWING:
                tell("ready", identity=identity)
            await asyncio.sleep(PAUSE)
    if role == "resumes":
        resumed = asyncio.Event()
        participant.room.on("reconnected", resumed.set)
        await simulate(participant.room, "SIGNAL_RECONNECT")
        await resumed.wait()
    if role == "plays":
        await participant.publish_microphone()
        await participant.publish_camera(width=320, height=180, rate=10)
    if role == "receives":
        tell("listening", identity=identity)
        await until(lambda: len(participant.data) > FLOWING, seconds=60, what="a burst")
        participant.data.clear()
    tell("ready", identity=identity)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
