"""A `livekit` client that numbers its reliable messages, and knows which ones of the others' it got.

Usage: python -m tests.clients.numbers_child URL TOKEN single|dual

It publishes a tone, subscribes to everybody's, and sends a number to all every 20 ms. Its parent tells it by lines on
stdin: `simulate KIND` (of the wheel's own scenarios), `pause` (send no more; tells `paused` with how many), `report`
(tells `report`: by sender, the numbers that came, and how much sound), and `go` (send again).
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from typing import Any

from livekit import rtc

from tests.clients.child import tell
from tests.clients.python_client import Participant, simulate

EVERY = 0.02  # seconds
EVENTS = ("reconnecting", "reconnected", "disconnected", "track_unsubscribed", "participant_disconnected")


class Counting:
    """A participant, what it has sent, and whether it sends."""

    def __init__(self, participant: Participant) -> None:
        self.participant = participant
        self.sent = 0
        self.sending = True

    async def talk(self) -> None:
        """Send numbers for ever; while it reconnects, the client itself waits."""
        while True:
            if self.sending:
                try:
                    await self.participant.room.local_participant.publish_data(str(self.sent))
                except rtc.participant.PublishDataError as error:
                    tell("unsent", number=self.sent, error=str(error))
                self.sent += 1
            await asyncio.sleep(EVERY)

    def report(self) -> None:
        """Tell what came."""
        numbers: dict[str, list[int]] = defaultdict(list)
        for sender, payload, _ in self.participant.data:
            if sender:  # what comes while it is still joining has none
                numbers[sender].append(int(payload))
        sid = self.participant.room.local_participant.sid
        tell("report", numbers=numbers, loud=self.participant.loud_frames, sent=self.sent, sid=sid)


async def main(url: str, token: str, shape: str) -> None:
    """Join, talk, and do as told."""
    participant = Participant("numbers")
    room: Any = participant.room  # which knows its events by literals
    for name in EVENTS:
        room.on(name, _teller(name))
    await participant.join(url, token, single=shape == "single")
    await participant.publish_microphone()
    counting = Counting(participant)
    talking = asyncio.ensure_future(counting.talk())
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    tell("ready")
    while line := (await lines.readline()).decode().strip():
        match line.split():
            case ["simulate", kind]:
                await simulate(participant.room, kind)
            case ["pause"]:
                counting.sending = False
                tell("paused", sent=counting.sent)
            case ["go"]:
                counting.sending = True
            case ["report"]:
                counting.report()
    talking.cancel()
    await participant.leave()


def _teller(name: str) -> Any:  # noqa: ANN401  a listener of any event
    return lambda *_: tell(name)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
