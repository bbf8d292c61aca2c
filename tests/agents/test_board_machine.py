"""Whatever workers do, a job is with one of them at most, ends once, and does not wait while somebody could do it."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from livekit.protocol import agent

from tests.agents.board import ROOM, Errand, Table, Type
from triosfu.agents.jobs import Job, Stage, Worker
from triosfu.agents.registration import Key

KEYS = [ROOM, Key("named", "", Type.JT_ROOM, "")]
STATUSES = [
    agent.JobStatus.JS_PENDING,
    agent.JobStatus.JS_RUNNING,
    agent.JobStatus.JS_SUCCESS,
    agent.JobStatus.JS_FAILED,
    agent.JobStatus.JS_CANCELLED,
]


class Boards(RuleBasedStateMachine):
    """Workers, jobs, answers, deaths and time, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(workers=5, jobs=8, offers=2, running=3, tries=3, restarts=2)
        self.workers: list[Worker] = []
        self.jobs: list[tuple[Job, Errand]] = []

    def one(self, draw: st.DataObject) -> Worker:
        return draw.draw(st.sampled_from(self.workers))

    def work(self, draw: st.DataObject) -> tuple[Job, Errand]:
        return draw.draw(st.sampled_from(self.jobs))

    @rule(key=st.sampled_from(KEYS), registers=st.booleans(), load=st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    def connect(self, key: Key, registers: bool, load: float) -> None:
        if len(self.table.board.workers) < 5:
            self.workers.append(self.table.worker(key, load=load) if registers else self.table.connect())

    @precondition(lambda self: self.workers)
    @rule(draw=st.data())
    def die(self, draw: st.DataObject) -> None:
        worker = self.one(draw)
        had = [*worker.offers.values(), *worker.jobs.values()] if worker.id in self.table.board.workers else []
        restarts = {job: job.restarts for job in had}
        started = {job for job in had if job in worker.jobs.values()}
        self.table.lose(worker)
        for job in had:  # none is lost while another worker fits
            if job.stage is Stage.ENDED:
                errand = next(errand for one, errand in self.jobs if one is job)
                # For a job that nobody had begun, `tried` is the search that goes on; else it is a new one.
                asked_enough = job not in started and len(job.tried) >= 3
                assert errand.over or asked_enough or (job in started and restarts[job] == 2)

    @rule(key=st.sampled_from(KEYS))
    def submit(self, key: Key) -> None:
        errand = Errand()
        self.jobs.append((self.table.job(key, errand=errand), errand))

    @precondition(lambda self: any(worker.offers for worker in self.workers))
    @rule(draw=st.data(), available=st.booleans(), terminate=st.booleans(), unfit=st.booleans())
    def answer(self, draw: st.DataObject, available: bool, terminate: bool, unfit: bool) -> None:
        worker = draw.draw(st.sampled_from([one for one in self.workers if one.offers]))
        job = draw.draw(st.sampled_from(list(worker.offers.values())))
        self.table.unfit = unfit
        self.table.answer(worker, job, available=available, terminate=terminate)

    @precondition(lambda self: self.workers and self.jobs)
    @rule(draw=st.data(), what=st.sampled_from(["answer", "update", "claim"]), status=st.sampled_from(STATUSES))
    def say_of_any_job(self, draw: st.DataObject, what: str, status: agent.JobStatus) -> None:
        worker, (job, _) = self.one(draw), self.work(draw)
        if what == "answer":
            self.table.answer(worker, job)
        elif what == "update":
            self.table.say(worker, update_job=agent.UpdateJobStatus(job_id=job.id, status=status))
        else:
            self.table.say(worker, migrate_job=agent.MigrateJobRequest(job_ids=[job.id]))

    @precondition(lambda self: self.workers)
    @rule(draw=st.data(), full=st.booleans())
    def update(self, draw: st.DataObject, full: bool) -> None:
        status = agent.WorkerStatus.WS_FULL if full else agent.WorkerStatus.WS_AVAILABLE
        self.table.say(self.one(draw), update_worker=agent.UpdateWorkerStatus(status=status))

    @precondition(lambda self: self.jobs)
    @rule(draw=st.data(), what=st.sampled_from(["joins", "leaves", "is over", "ends"]))
    def room(self, draw: st.DataObject, what: str) -> None:
        job, errand = self.work(draw)
        if what == "joins" and job.started:
            errand.agents.add(job.identity)
        elif what == "leaves":
            errand.agents.discard(job.identity)
            self.table.board.agent_left(job, self.table.now)
            self.table.look()
        elif what == "is over":
            errand.over = True
        else:
            self.table.end(job)

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 10.0, 31.0]))
    def time(self, seconds: float) -> None:
        self.table.wait(seconds)

    @invariant()
    def each_is_with_one_at_most(self) -> None:
        board = self.table.board
        offers, jobs = Counter[Job](), Counter[Job]()
        for worker in board.workers.values():
            offers.update(worker.offers.values())
            jobs.update(worker.jobs.values())
        for job, _ in self.jobs:
            assert (offers[job], jobs[job]) == (job.stage is Stage.OFFERED, job.stage is Stage.ASSIGNED)
            assert (job.worker is None) is (job.stage in {Stage.WAITING, Stage.ADRIFT, Stage.ENDED})
            assert (job.id in board.jobs) is (job.stage is not Stage.ENDED)
        assert all(one.offer_bytes == sum(job.size for job in one.offers.values()) for one in self.workers)
        assert all(not (worker.offers or worker.jobs) for worker in self.workers if worker.id not in board.workers)

    @invariant()
    def each_ends_once(self) -> None:
        ended = Counter(self.table.ended)
        assert all(ended[job] == (job.stage is Stage.ENDED) for job, _ in self.jobs)
        begun = Counter(job for job, first in self.table.assigned if first)
        assert all(begun[job] == job.started for job, _ in self.jobs)
        counts = self.table.board.counts
        over = sum(one.count for one in counts.seconds.values())
        assert counts.started.total() == sum(one.count for one in counts.waits.values()) == begun.total()
        assert (counts.ended.total(), over) == (ended.total(), sum(job.started for job in ended))

    @invariant()
    def nobody_waits_while_somebody_could_do_it(self) -> None:
        board = self.table.board
        for job, _ in self.jobs:
            if job.stage is Stage.WAITING:
                assert not any(
                    board._ready(one) and not board._busy(one) and one.id not in job.tried
                    for one in board.workers.values()
                    if one.registration is not None and one.registration.key == job.key
                )
        assert sum(map(len, board._waiting.values())) == sum(job.stage is Stage.WAITING for job, _ in self.jobs)

    @invariant()
    def every_wait_has_an_end(self) -> None:
        board, due = self.table.board, self.table.board.next_timeout()
        for job in board.jobs.values():
            assert (job.deadline == math.inf) is (job.stage is Stage.ASSIGNED)
            assert job.stage is Stage.ASSIGNED or due <= job.deadline <= self.table.now + 30
        for worker in board.workers.values():
            assert (worker.deadline == math.inf) is (worker.registration is not None)
            assert due <= worker.deadline

    def teardown(self) -> None:
        for _, errand in self.jobs:
            errand.agents.clear()
        for worker in self.workers:
            self.table.lose(worker)
        self.table.wait(32)
        assert not self.table.board.jobs
        assert not self.table.board._waiting
        assert self.table.board.next_timeout() == math.inf
        self.each_ends_once()


TestBoards = Boards.TestCase
TestBoards.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)
