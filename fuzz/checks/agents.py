"""A job board lives through whatever a worker sends, and so do the jobs of others."""

from __future__ import annotations

import math
from random import Random

from livekit.protocol import agent, models

from fuzz.script import Script
from triosfu.agents.core import JobBoard
from triosfu.agents.jobs import Ended, Send, Stage, Worker
from triosfu.agents.registration import Key
from triosfu.agents.workers import decode
from triosfu.errors import MalformedPacket

STEPS = 64  # of one script; more would only be slower
STATUSES = [
    agent.JobStatus.JS_PENDING,
    agent.JobStatus.JS_RUNNING,
    agent.JobStatus.JS_SUCCESS,
    agent.JobStatus.JS_FAILED,
]
KEY = Key("", "", agent.JobType.JT_ROOM, "")


class _Errand:
    def describe(self) -> agent.Job | None:
        return agent.Job(room=models.Room(name="room"))

    def has_agent(self, identity: str) -> bool:
        return len(identity) % 2 == 1


def check_worker_messages(data: bytes) -> None:
    """Frames of two workers among offers, deaths and time: each job ends once, and nothing waits for ever."""
    script = Script(data)
    board = JobBoard(
        rng=Random(1), token=lambda *_: "token", server_info=models.ServerInfo(version="1"), epoch=1_700_000_000.0
    )
    now = 0.0
    ended: list[str] = []
    jobs: list[str] = []
    workers = [_connect(board, now) for _ in range(2)]
    for _ in range(STEPS):
        if not script:
            break
        step = script.number()
        which = step & 1
        match step >> 1 & 7:
            case 0:
                job = board.new_job(KEY, _Errand())
                jobs.append(job.id)
                board.submit(job, now)
            case 1:
                board.lost(workers[which], now)
                workers[which] = _connect(board, now)
            case 2:
                now += script.number() / 8
                board.expire(now)
            case 3:  # a well-formed answer about a job that there is
                about = jobs[script.number() % len(jobs)] if jobs else ""
                board.receive(workers[which], _about(about, script.number()), now)
            case 4:
                board.receive(workers[which], agent.WorkerMessage(register=agent.RegisterWorkerRequest()), now)
            case _:
                try:
                    message = decode(script.chunk(2))
                except MalformedPacket:
                    continue
                board.receive(workers[which], message, now)
        _look(board, ended)
    for worker in workers:
        board.lost(worker, now)
    for job in list(board.jobs.values()):
        board.end(job, agent.JobStatus.JS_CANCELLED, now)
    _look(board, ended)
    assert sorted(ended) == sorted(jobs)
    assert board.next_timeout() == math.inf


def _connect(board: JobBoard, now: float) -> Worker:
    worker = board.connect("devkey", now)
    assert worker is not None
    return worker


def _about(job_id: str, what: int) -> agent.WorkerMessage:
    if what & 1:
        answer = agent.AvailabilityResponse(job_id=job_id, available=bool(what & 2), terminate=bool(what & 4))
        return agent.WorkerMessage(availability=answer)
    if what & 2:
        return agent.WorkerMessage(migrate_job=agent.MigrateJobRequest(job_ids=[job_id]))
    status = STATUSES[what >> 2 & 3]
    return agent.WorkerMessage(update_job=agent.UpdateJobStatus(job_id=job_id, status=status))


def _look(board: JobBoard, ended: list[str]) -> None:
    for output in board.poll():
        if isinstance(output, Send):
            output.message.SerializeToString()
        elif isinstance(output, Ended):
            ended.append(output.job.id)
    for job in board.jobs.values():
        assert (job.worker is not None) is (job.stage in {Stage.OFFERED, Stage.ASSIGNED})
        assert job.stage is Stage.ASSIGNED or job.deadline < math.inf
