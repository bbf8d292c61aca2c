"""Ten `livekit` participants that all publish and all watch. Usage: python -m tests.clients.ten SECONDS URL TOKEN...

Prints one JSON object: what each of them got from each other one, by its own statistics.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from livekit import rtc

from tests.clients.python_client import Participant, leaving, until


async def received(participant: Participant) -> dict[str, dict[str, int]]:
    """What libwebrtc counted on each subscribed track."""
    reports = {}
    for remote in participant.room.remote_participants.values():
        for publication in remote.track_publications.values():
            if publication.track is None:
                continue
            for entry in await publication.track.get_stats():
                if entry.HasField("inbound_rtp"):
                    inbound = entry.inbound_rtp
                    reports[f"{remote.identity}/{rtc.TrackKind.Name(publication.kind)}"] = {
                        "packets": inbound.received.packets_received,
                        "lost": inbound.received.packets_lost,
                        "frames": inbound.inbound.frames_decoded,
                    }
    return reports


async def meeting(seconds: float, url: str, tokens: list[str]) -> dict[str, Any]:
    """Meet for `seconds` once everybody is subscribed to everybody."""
    participants = [Participant(f"p{number}", count=False) for number in range(len(tokens))]
    others = len(tokens) - 1
    async with leaving(participants):
        for number, (participant, token) in enumerate(zip(participants, tokens, strict=True)):
            await participant.join(url, token, single=number % 2 == 0)
        for participant in participants:
            await participant.publish_microphone()
            await participant.publish_camera(width=160, height=90, simulcast=False, rate=8)

        def everybody() -> bool:
            return all(participant.subscribed == 2 * others for participant in participants)

        await until(everybody, seconds=30, what="everybody is subscribed to everybody")
        await asyncio.sleep(seconds)
        return {participant.identity: await received(participant) for participant in participants}


if __name__ == "__main__":
    duration, server, *given = sys.argv[1:]
    print(json.dumps(asyncio.run(meeting(float(duration), server, given))))  # noqa: T201  its result
