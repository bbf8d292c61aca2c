"""A board with workers and jobs that a test moves by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from livekit.protocol import agent, models

from triosfu.agents.core import BoardSettings, JobBoard
from triosfu.agents.jobs import Assigned, Close, Ended, Job, Send, Worker
from triosfu.agents.registration import Key

Type = agent.JobType
ROOM = Key("", "", Type.JT_ROOM, "")
ANYTHING: Any = agent  # numbers outside an enumeration are the point


@dataclass(eq=False)
class Errand:
    """What a job is about."""

    over: bool = False
    name: str = "room"
    agents: set[str] = field(default_factory=set)  # identities of those who are in the room

    def describe(self) -> agent.Job | None:
        return None if self.over else agent.Job(room=models.Room(name=self.name))

    def has_agent(self, identity: str) -> bool:
        return identity in self.agents


class Table:
    """A board, and what came out of it."""

    def __init__(self, *, seed: int = 1, **settings: Any) -> None:  # noqa: ANN401  fields
        self.now = 0.0
        self.unfit = False  # the next answer is
        self.board = JobBoard(
            rng=Random(seed),
            token=lambda worker, job, answer, identity: None if self.unfit else f"{job.id} {identity}",
            server_info=models.ServerInfo(version="1"),
            settings=BoardSettings(**settings),
            epoch=1000.0,
        )
        self.told: dict[Worker, list[agent.ServerMessage]] = {}
        self.closed: dict[Worker, str] = {}
        self.assigned: list[tuple[Job, bool]] = []
        self.ended: list[Job] = []

    def look(self) -> None:
        """Take what came out."""
        for output in self.board.poll():
            match output:
                case Send(worker, message):
                    assert worker in self.told
                    self.told[worker].append(message)
                case Close(worker, _, reason):
                    self.closed[worker] = reason
                case Assigned(job, first):
                    self.assigned.append((job, first))
                case Ended(job):
                    self.ended.append(job)

    def connect(self, api_key: str = "devkey") -> Worker:
        worker = self.board.connect(api_key, self.now)
        assert worker is not None
        self.told[worker] = []
        return worker

    def worker(self, key: Key = ROOM, *, load: float = 0.0) -> Worker:
        """One that has registered."""
        worker = self.connect()
        request = agent.RegisterWorkerRequest(
            type=key.type, agent_name=key.agent_name, namespace=key.namespace, deployment=key.deployment
        )
        self.say(worker, register=request)
        if load:
            self.say(worker, update_worker=agent.UpdateWorkerStatus(load=load))
        return worker

    def say(self, worker: Worker, **message: Any) -> None:  # noqa: ANN401  fields
        self.board.receive(worker, agent.WorkerMessage(**message), self.now)
        self.look()

    def answer(self, worker: Worker, job: Job, *, available: bool = True, **more: Any) -> None:  # noqa: ANN401  fields
        response = agent.AvailabilityResponse(job_id=job.id, available=available, **more)
        self.say(worker, availability=response)

    def job(self, key: Key = ROOM, *, errand: Errand | None = None, **more: Any) -> Job:  # noqa: ANN401  fields
        """One that has been submitted."""
        job = self.board.new_job(key, errand or Errand(), **more)
        self.board.submit(job, self.now)
        self.look()
        return job

    def lose(self, worker: Worker) -> None:
        self.board.lost(worker, self.now)
        self.look()

    def end(self, job: Job, status: agent.JobStatus = agent.JobStatus.JS_CANCELLED) -> None:
        self.board.end(job, status, self.now)
        self.look()

    def wait(self, seconds: float) -> None:
        """Let time pass, deadline by deadline."""
        until = self.now + seconds
        while (due := self.board.next_timeout()) <= until:
            self.now = max(self.now, due)
            self.board.expire(self.now)
            self.look()
        self.now = until

    def heard(self, worker: Worker, kind: str) -> list[Any]:
        """What a worker was told of one kind."""
        return [getattr(one, kind) for one in self.told[worker] if one.WhichOneof("message") == kind]

    def asked(self, worker: Worker) -> list[str]:
        """The ids of the jobs that a worker was asked about."""
        return [one.job.id for one in self.heard(worker, "availability")]
