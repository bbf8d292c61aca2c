"""Which worker does which job: every job is with at most one worker, and ends once. Sans-IO.

    board = JobBoard(rng=rng, token=token)
    worker = board.connect("devkey", now)           # its socket is open
    board.receive(worker, message, now)             # whatever it says
    board.submit(job, now)                          # something is to be done
    for output in board.poll():
        ...                                         # messages to workers, and what became of jobs
    ...                                             # and `expire` at `next_timeout`

    WAITING ──▶ OFFERED ──▶ ASSIGNED ──▶ ENDED      a refusal leads back, and so does a worker's end;
       ▲           │           │                    ADRIFT: the worker is gone, its agent is still in the room
       └───────────┴── ADRIFT ◀┘

LiveKit forgets the jobs of a worker that closes its socket; here another one that fits gets them. Protocol reference,
sections 10.1 to 10.4.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final

from livekit.protocol import agent

from triosfu.agents.counts import JobCounts
from triosfu.agents.jobs import Assigned, Close, Ended, Job, Ping, Send, Simulate, Stage, Worker
from triosfu.agents.registration import Unfit, check_registration
from triosfu.rooms.sids import new_sid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from livekit.protocol import models

    from triosfu.agents.jobs import Output, Subject
    from triosfu.agents.registration import Key

Status = agent.JobStatus
Reason = agent.JobStateReason
WORKER, JOB = "AW_", "AJ_"
POLICY_VIOLATION: Final = 1008  # WebSocket close code
FINAL: Final = frozenset({Status.JS_SUCCESS, Status.JS_FAILED, Status.JS_CANCELLED})
GOING_ON: Final = frozenset({Status.JS_PENDING, Status.JS_RUNNING})
MAX_ERROR: Final = 1024  # characters that are kept of what a worker says went wrong
LEFT: Final = "agent worker left the room"
GONE: Final = "the worker is gone"
NOBODY: Final = "no worker is available"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardSettings:
    """How much there may be, and how long it may take; times in seconds."""

    workers: int = 1000
    jobs: int = 10_000  # that have not ended
    offers: int = 256  # that one worker has not answered,
    offer_bytes: int = 2 << 20  # and how large they are: with what follows from them, a socket's queue has room
    running: int = 1000  # jobs of one worker
    register: float = 10.0  # from the open socket
    answer: float = 10.0
    patience: float = 30.0  # for a worker to come, for a job that had one, or for one to have room for it
    look: float = 1.0  # between two looks at an agent whose worker is gone
    tries: int = 32  # workers that are asked, in one search for one
    restarts: int = 5  # of one job
    target_load: float = 0.7  # who is above it is asked only when everybody is


class JobBoard:
    """The workers and jobs of one server.

    `token(worker, job, answer, identity)` makes the token that an agent joins with, or None when the worker's answer
    says something that no participant may. `epoch` is the time of day at which `now` was 0.
    """

    def __init__(
        self,
        *,
        rng: Random,
        token: Callable[[Worker, Job, agent.AvailabilityResponse, str], str | None],
        server_info: models.ServerInfo,
        settings: BoardSettings | None = None,
        epoch: float = 0.0,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.counts = JobCounts()
        self.settings = settings or BoardSettings()
        self.workers: dict[str, Worker] = {}
        self.jobs: dict[str, Job] = {}  # that have not ended
        self._rng = rng
        self._token = token
        self._server_info = server_info
        self._epoch = epoch
        self._by_key: dict[Key, dict[str, Worker]] = {}
        self._waiting: dict[Key, dict[str, Job]] = {}
        self._deadlines: list[tuple[float, int, Worker | Job]] = []  # a heap, with some that are not meant any more
        self._order = count()
        self._outputs: list[Output] = []

    def poll(self) -> list[Output]:
        """Return what is to be done now, in order, and forget it."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def next_timeout(self) -> float:
        """When `expire` is to be called, if nothing else happens before."""
        while self._deadlines and self._deadlines[0][2].deadline != self._deadlines[0][0]:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else math.inf

    def expire(self, now: float) -> None:
        """Do what is due at `now`."""
        while self._deadlines and self._deadlines[0][0] <= now:
            at, _, thing = heapq.heappop(self._deadlines)
            if thing.deadline != at:
                continue
            thing.deadline = math.inf
            if isinstance(thing, Worker):
                self._expel(thing, "not registered in time", now)
            else:
                self._overdue(thing, now)

    # --- workers ---------------------------------------------------------------------------------------------------

    def connect(self, api_key: str, now: float) -> Worker | None:
        """A worker's socket is open; None when there are too many. It must register in time."""
        if len(self.workers) >= self.settings.workers:
            self.counters["workers_refused"] += 1
            return None
        worker = Worker(new_sid(WORKER, self._rng), api_key, math.inf)
        self.workers[worker.id] = worker
        self._arm(worker, now + self.settings.register)
        return worker

    def receive(self, worker: Worker, message: agent.WorkerMessage, now: float) -> None:
        """Take what a worker says. What makes no sense is counted, and nothing else."""
        if worker.id not in self.workers:
            return
        kind = message.WhichOneof("message")
        if worker.silent:
            worker.silent = False
            self._wake(worker, now)
        if (worker.registration is None) != (kind == "register"):
            self.counters["out_of_order"] += 1  # nothing may come before the answer to `register` (trap 52)
            return
        match kind:
            case "register":
                self._register(worker, message.register, now)
            case "availability":
                self._answered(worker, message.availability, now)
            case "update_worker":
                self._update_worker(worker, message.update_worker, now)
            case "update_job":
                self._update_job(worker, message.update_job, now)
            case "ping":
                self._outputs.append(Ping(worker, message.ping.timestamp))
            case "simulate_job":
                self._outputs.append(Simulate(worker, message.simulate_job))
            case "migrate_job":
                for identity in message.migrate_job.job_ids:
                    self._claimed(worker, identity)
            case _:
                self.counters["unknown_messages"] += 1

    def lost(self, worker: Worker, now: float) -> None:
        """A worker's socket is over; others get what it had. Saying so again does nothing."""
        if self.workers.pop(worker.id, None) is None:
            return
        worker.deadline = math.inf
        if worker.registration is not None:
            peers = self._by_key[worker.registration.key]
            del peers[worker.id]
            if not peers:
                del self._by_key[worker.registration.key]
        offers, jobs = list(worker.offers.values()), list(worker.jobs.values())
        worker.offers.clear()
        worker.offer_bytes = 0
        worker.jobs.clear()
        for job in offers:
            job.may_wait = True
            self._seek(job, now)
        for job in jobs:
            job.worker = None
            if job.subject.has_agent(job.identity):
                job.stage = Stage.ADRIFT
                self._arm(job, now + self.settings.look)
            else:
                self._restart(job, now)

    def serves(self, agent_name: str, deployment: str) -> bool:
        """Whether any worker is there for this agent."""
        return any((key.agent_name, key.deployment) == (agent_name, deployment) for key in self._by_key)

    def namespaces(self, agent_name: str, kind: agent.JobType, deployment: str) -> list[str]:
        """The namespaces of the workers that jobs of this kind are for: each has jobs of its own."""
        return sorted(
            key.namespace
            for key in self._by_key
            if (key.agent_name, key.type, key.deployment) == (agent_name, kind, deployment)
        )

    def _register(self, worker: Worker, request: agent.RegisterWorkerRequest, now: float) -> None:
        try:
            registration = check_registration(request)
        except Unfit as unfit:
            self.counters["registrations_refused"] += 1
            self._expel(worker, str(unfit), now)
            return
        worker.registration = registration
        worker.deadline = math.inf
        self._by_key.setdefault(registration.key, {})[worker.id] = worker
        answer = agent.RegisterWorkerResponse(worker_id=worker.id, server_info=self._server_info)
        self._outputs.append(Send(worker, agent.ServerMessage(register=answer)))
        self._wake(worker, now)

    def _expel(self, worker: Worker, why: str, now: float) -> None:
        self._outputs.append(Close(worker, POLICY_VIOLATION, why))
        self.lost(worker, now)

    def _update_worker(self, worker: Worker, update: agent.UpdateWorkerStatus, now: float) -> None:
        if update.HasField("status"):
            worker.full = update.status == agent.WorkerStatus.WS_FULL
        worker.load = min(1.0, max(0.0, update.load)) if math.isfinite(update.load) else 1.0
        self._wake(worker, now)

    def _ready(self, worker: Worker) -> bool:
        """Whether a worker says that it has room for a job."""
        return worker.registration is not None and not worker.full and not worker.silent

    def _busy(self, worker: Worker) -> bool:
        """Whether a worker has as much as anybody may have."""
        offered = len(worker.offers) >= self.settings.offers or worker.offer_bytes >= self.settings.offer_bytes
        return offered or len(worker.jobs) >= self.settings.running

    # --- jobs ------------------------------------------------------------------------------------------------------

    def new_job(self, key: Key, subject: Subject, *, restartable: bool = True, pinned: Worker | None = None) -> Job:
        """A job that nobody knows of yet."""
        return Job(new_sid(JOB, self._rng), key, subject, restartable, pinned)

    def submit(self, job: Job, now: float) -> None:
        """Find a worker for `job`. When none is there, or every one refuses, the job ends without having started."""
        self.jobs[job.id] = job
        job.since = now
        if len(self.jobs) > self.settings.jobs:
            self.counters["jobs_refused"] += 1
            self.end(job, Status.JS_FAILED, now, error="too many jobs", reason=Reason.JSR_NO_CAPACITY)
            return
        self._search(job, now)

    def end(
        self, job: Job, status: Status, now: float, *, error: str = "", reason: Reason = Reason.JSR_UNSPECIFIED,
        tell: bool = True,
    ) -> None:  # fmt: skip
        """End `job`; the worker that has it is told to stop. Ending again does nothing."""
        if job.stage is Stage.ENDED:
            return
        worker, assigned = job.worker, job.stage is Stage.ASSIGNED
        self._unlist(job)
        job.stage, job.worker, job.deadline = Stage.ENDED, None, math.inf
        del self.jobs[job.id]
        job.state.status, job.state.error, job.state.reason = status, error[:MAX_ERROR], reason
        job.state.ended_at = job.state.updated_at = self._wall_ns(now)
        self.counts.over(job.key.type, status, now - job.since if job.started else None)
        if tell and assigned and worker is not None:
            stop = agent.JobTermination(job_id=job.id)
            self._outputs.append(Send(worker, agent.ServerMessage(termination=stop)))
        self._outputs.append(Ended(job))
        if worker is not None:
            self._wake(worker, now)

    def agent_left(self, job: Job, now: float) -> None:
        """The participant that does the job has left its room. A job without a worker is looked at soon anyway."""
        if job.stage is Stage.ASSIGNED:
            self.end(job, Status.JS_FAILED, now, error=LEFT)

    def _search(self, job: Job, now: float) -> None:
        job.tried.clear()
        job.give_up_at = now + self.settings.patience
        self._seek(job, now)

    def _seek(self, job: Job, now: float) -> None:
        """Offer the job to somebody who has not been asked, or let it wait for one where that makes sense."""
        self._unlist(job)
        job.worker, job.stage = None, Stage.WAITING
        fit = self._by_key.get(job.key, {}).values() if job.pinned is None else [job.pinned]
        left = [one for one in fit if one.id in self.workers and self._ready(one) and one.id not in job.tried]
        if len(job.tried) >= self.settings.tries:
            self._give_up(job, now)
        elif able := [one for one in left if not self._busy(one)]:
            self._offer(job, self._choose(able), now)
        elif job.pinned is None and (left or job.may_wait) and now < job.give_up_at:
            self._waiting.setdefault(job.key, {})[job.id] = job
            self._arm(job, job.give_up_at)
        else:
            self._give_up(job, now)

    def _choose(self, able: list[Worker]) -> Worker:
        calm = [worker for worker in able if worker.load < self.settings.target_load] or able
        weights = [1.0 - worker.load for worker in calm]
        return self._rng.choices(calm, weights)[0] if any(weights) else self._rng.choice(calm)

    def _offer(self, job: Job, worker: Worker, now: float) -> None:
        self._unlist(job)
        job.state.status, job.state.worker_id = Status.JS_RUNNING, worker.id
        message = job.message()
        if message is None:
            self._nothing_to_do(job, now)
            return
        job.stage, job.worker = Stage.OFFERED, worker
        job.tried.add(worker.id)
        worker.offers[job.id] = job
        job.size = message.ByteSize()
        worker.offer_bytes += job.size
        self._arm(job, now + self.settings.answer)
        asked = agent.AvailabilityRequest(job=message)
        self._outputs.append(Send(worker, agent.ServerMessage(availability=asked)))

    def _answered(self, worker: Worker, answer: agent.AvailabilityResponse, now: float) -> None:
        job = worker.offers.get(answer.job_id)
        if job is None:
            self.counters["unknown_jobs"] += 1  # late, or nobody asked
            return
        if answer.available:
            self._accepted(worker, job, answer, now)
        elif answer.terminate:
            self.end(job, Status.JS_SUCCESS, now)
        else:
            self.counters["refusals"] += 1
            self._seek(job, now)
        self._wake(worker, now)

    def _accepted(self, worker: Worker, job: Job, answer: agent.AvailabilityResponse, now: float) -> None:
        """Assign at once: the Python worker waits for 7.5 s (trap 53)."""
        identity = answer.participant_identity or f"agent-{job.id}"
        job.state.participant_identity = identity
        message, token = job.message(), self._token(worker, job, answer, identity)
        if message is None:
            self._nothing_to_do(job, now)
            return
        if token is None:
            self.counters["unfit_answers"] += 1
            self._seek(job, now)
            return
        self._adopt(worker, job)
        first, job.started = not job.started, True
        if first:
            self.counts.taken(job.key.type, now - job.since)
            job.since = now
        job.state.started_at = job.state.started_at or self._wall_ns(now)
        job.state.updated_at = self._wall_ns(now)
        message.state.CopyFrom(job.state)
        assignment = agent.JobAssignment(job=message, token=token)
        self._outputs.append(Send(worker, agent.ServerMessage(assignment=assignment)))
        self._outputs.append(Assigned(job, first))

    def _adopt(self, worker: Worker, job: Job) -> None:
        self._unlist(job)
        job.stage, job.worker, job.api_key, job.deadline = Stage.ASSIGNED, worker, worker.api_key, math.inf
        job.state.worker_id = worker.id
        worker.jobs[job.id] = job

    def _update_job(self, worker: Worker, update: agent.UpdateJobStatus, now: float) -> None:
        job = worker.jobs.get(update.job_id) or self._claimed(worker, update.job_id)
        if job is None:
            return
        if update.status in FINAL:
            self.end(job, update.status, now, error=update.error, tell=False)
        elif update.status in GOING_ON:
            job.state.status, job.state.updated_at = update.status, self._wall_ns(now)

    def _claimed(self, worker: Worker, job_id: str) -> Job | None:
        """A worker that has come back says that it has a job: it is believed if nobody else has it."""
        job = self.jobs.get(job_id)
        fits = job is not None and worker.registration is not None and worker.registration.key == job.key
        if job is None or not fits or not job.started or job.worker is not None or job.api_key != worker.api_key:
            self.counters["unknown_jobs"] += 1
            return None
        self._adopt(worker, job)
        return job

    def _restart(self, job: Job, now: float) -> None:
        """The worker is gone, and so is its agent."""
        if not job.restartable or job.pinned is not None or job.restarts >= self.settings.restarts:
            self.end(job, Status.JS_FAILED, now, error=GONE)
            return
        job.restarts += 1
        job.may_wait = True
        job.state.status, job.state.worker_id = Status.JS_PENDING, ""
        self.counters["jobs_restarted"] += 1
        self._search(job, now)

    def _overdue(self, job: Job, now: float) -> None:
        match job.stage:
            case Stage.OFFERED:
                self.counters["unanswered_offers"] += 1
                if job.worker is not None:
                    job.worker.silent = True
                job.may_wait = True
                self._seek(job, now)
            case Stage.ADRIFT if job.subject.has_agent(job.identity):
                self._arm(job, now + self.settings.look)
            case Stage.ADRIFT:
                self._restart(job, now)
            case _:
                self._give_up(job, now)

    def _nothing_to_do(self, job: Job, now: float) -> None:
        self.end(job, Status.JS_CANCELLED, now)

    def _give_up(self, job: Job, now: float) -> None:
        self.counters["jobs_without_worker"] += 1
        self.end(job, Status.JS_FAILED, now, error=NOBODY, reason=Reason.JSR_NO_CAPACITY)

    def _wake(self, worker: Worker, now: float) -> None:
        """A worker may have room for jobs that wait."""
        if worker.id not in self.workers or worker.registration is None:
            return
        waiting: Iterable[Job] = tuple(self._waiting.get(worker.registration.key, {}).values())
        for job in waiting:
            if not self._ready(worker) or self._busy(worker):
                break
            if job.stage is Stage.WAITING and worker.id not in job.tried and len(job.tried) < self.settings.tries:
                self._offer(job, worker, now)

    def _unlist(self, job: Job) -> None:
        """Take the job from whoever has it, and from those that wait."""
        if job.worker is not None:
            if job.worker.offers.pop(job.id, None) is not None:
                job.worker.offer_bytes -= job.size
            job.worker.jobs.pop(job.id, None)
        waiting = self._waiting.get(job.key)
        if waiting is not None and waiting.pop(job.id, None) is not None and not waiting:
            del self._waiting[job.key]
        job.deadline = math.inf

    def _arm(self, thing: Worker | Job, at: float) -> None:
        thing.deadline = at
        heapq.heappush(self._deadlines, (at, next(self._order), thing))

    def _wall_ns(self, now: float) -> int:
        return int((self._epoch + now) * 1e9)
