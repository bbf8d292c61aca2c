"""A livekit-agents worker whose agents play back what they hear: `python echo.py start`.

By the environment: LIVEKIT_URL, LIVEKIT_API_KEY, LIVEKIT_API_SECRET; AGENT_NAME for explicit dispatch; WORKER_TYPE
`publisher` for a job for each publisher; EXECUTOR `process` for agents in processes of their own; IDENTITY for agents
of one name; REFUSE to refuse every job. It tells what happens by lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys

from livekit import rtc
from livekit.agents import (
    AgentServer,
    AutoSubscribe,
    JobContext,
    JobExecutorType,
    JobRequest,
    WorkerOptions,
    WorkerType,
    cli,
)

RATE = 48_000


def tell(event: str, **more: object) -> None:
    """One line, for who started this; in one piece, as each agent is a thread."""
    sys.stdout.write(json.dumps({"event": event, **more}) + "\n")
    sys.stdout.flush()


async def consider(request: JobRequest) -> None:
    """Take the job, unless told otherwise."""
    tell("asked", job=request.id, room=request.room.name)
    if os.environ.get("REFUSE"):
        await request.reject(terminate=False)  # else nobody else is asked
    else:
        identity = os.environ.get("IDENTITY", "")
        await request.accept(name="echo", identity=identity, attributes={"mood": "attentive"})


async def echo(track: rtc.Track, source: rtc.AudioSource) -> None:
    """Play back a track."""
    async for event in rtc.AudioStream(track, sample_rate=RATE, num_channels=1):
        await source.capture_frame(event.frame)


async def entrypoint(ctx: JobContext) -> None:
    """The life of one agent."""
    echoes: set[asyncio.Task[None]] = set()
    source = rtc.AudioSource(RATE, 1)

    def subscribed(track: rtc.Track, _: object, who: rtc.RemoteParticipant) -> None:
        if track.kind == rtc.TrackKind.KIND_AUDIO:
            tell("hears", job=ctx.job.id, identity=who.identity)
            echoes.add(asyncio.ensure_future(echo(track, source)))

    ctx.room.on("track_subscribed", subscribed)
    ctx.room.on("moved", lambda: tell("moved", job=ctx.job.id, room=ctx.room.name))
    await ctx.connect(auto_subscribe=AutoSubscribe.AUDIO_ONLY)
    about = ctx.job.participant.identity
    tell("joined", job=ctx.job.id, room=ctx.room.name, metadata=ctx.job.metadata, participant=about, pid=os.getpid())
    ctx.add_shutdown_callback(lambda reason: over(ctx, reason))
    track = rtc.LocalAudioTrack.create_audio_track("echo", source)
    await ctx.room.local_participant.publish_track(track, rtc.TrackPublishOptions())
    tell("ready", identity=ctx.room.local_participant.identity)


async def over(ctx: JobContext, reason: str) -> None:
    """The job is over."""
    tell("over", job=ctx.job.id, reason=reason)


if __name__ == "__main__":
    threads = os.environ.get("EXECUTOR") != "process"
    publishers = os.environ.get("WORKER_TYPE") == "publisher"
    server = AgentServer.from_server_options(
        WorkerOptions(
            entrypoint_fnc=entrypoint,
            request_fnc=consider,
            agent_name=os.environ.get("AGENT_NAME", ""),
            worker_type=WorkerType.PUBLISHER if publishers else WorkerType.ROOM,
            job_executor_type=JobExecutorType.THREAD if threads else JobExecutorType.PROCESS,
            load_fnc=lambda _: 0.0,  # whatever else this machine does,
            load_threshold=math.inf,  # and however many jobs begin at once
            num_idle_processes=0,
            initialize_process_timeout=60,  # a process of its own imports a lot
            host="127.0.0.1",
            port=0,
            drain_timeout=1,
        )
    )
    server.on("worker_registered", lambda worker, _: tell("registered", worker=worker))
    cli.run_app(server)
