"""One `livekit` participant that stays until it is killed. Usage: python -m tests.clients.one URL TOKEN"""

from __future__ import annotations

import asyncio
import sys

from tests.clients.python_client import Participant


async def main(url: str, token: str) -> None:
    """Join, publish, tell, stay."""
    participant = Participant("victim", count=False)
    await participant.join(url, token, single=True)
    await participant.publish_microphone()
    await participant.publish_camera()
    print("joined", flush=True)  # noqa: T201  its parent waits for it
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
