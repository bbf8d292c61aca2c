"""Which worker gets which job, and what becomes of it, on virtual time."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from livekit.protocol import agent

from tests.agents.board import ANYTHING, ROOM, Errand, Table, Type
from triosfu.agents.core import GONE, LEFT, NOBODY
from triosfu.agents.jobs import Job, Stage
from triosfu.agents.registration import Key

Status, Reason = agent.JobStatus, agent.JobStateReason


def over(job: Job) -> tuple[Stage, agent.JobStatus, str]:
    return job.stage, job.state.status, job.state.error


def test_a_job_is_offered_and_assigned_with_a_token_and_ends_when_its_worker_says_so() -> None:
    table = Table()
    worker = table.worker()
    table.wait(5)
    job = table.job()
    (offer,) = table.heard(worker, "availability")
    assert not offer.resuming
    assert (offer.job.id, offer.job.type, offer.job.room.name) == (job.id, Type.JT_ROOM, "room")
    assert (offer.job.state.status, offer.job.state.worker_id) == (Status.JS_RUNNING, worker.id)
    assert table.assigned == []
    table.answer(worker, job, participant_identity="bot")
    (assignment,) = table.heard(worker, "assignment")
    assert assignment.token == f"{job.id} bot"
    assert not assignment.HasField("url")  # the worker's own
    assert assignment.job.state.participant_identity == "bot"
    assert table.assigned == [(job, True)]
    table.wait(3600)  # it may take its time
    table.say(worker, update_job=agent.UpdateJobStatus(job_id=job.id, status=Status.JS_RUNNING))
    table.say(worker, update_job=agent.UpdateJobStatus(job_id=job.id, status=Status.JS_FAILED, error="why"))
    assert over(job) == (Stage.ENDED, Status.JS_FAILED, "why")
    assert table.ended == [job]
    assert table.heard(worker, "termination") == []  # it knows
    assert (job.state.started_at, job.state.ended_at) == (1005 * 10**9, 4605 * 10**9)
    assert not table.board.jobs
    assert table.board.next_timeout() == math.inf


def test_an_agent_without_a_name_of_its_own_is_named_for_its_job() -> None:
    table = Table()
    worker, job = table.worker(), table.job()
    table.answer(worker, job)
    assert job.identity == f"agent-{job.id}"


def test_who_does_not_register_in_time_is_cut_off() -> None:
    table = Table()
    slow, quick = table.connect(), table.worker()
    table.wait(9.9)
    assert table.closed == {}
    table.wait(0.1)
    assert table.closed == {slow: "not registered in time"}
    assert list(table.board.workers) == [quick.id]
    table.say(slow, ping=agent.WorkerPing(timestamp=1))  # it may have been on its way
    assert table.told[slow] == []


def test_nothing_counts_before_registering_and_nobody_registers_twice() -> None:
    table = Table()
    worker = table.connect()
    table.say(worker, ping=agent.WorkerPing(timestamp=1))
    table.say(worker, update_worker=agent.UpdateWorkerStatus(load=1))
    assert (table.told[worker], worker.load) == ([], 0)
    for _ in range(2):
        table.say(worker, register=agent.RegisterWorkerRequest())
    assert [one.worker_id for one in table.heard(worker, "register")] == [worker.id]
    assert table.board.counters["out_of_order"] == 3
    assert table.heard(worker, "register")[0].server_info.version == "1"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"type": 9}, "type: unknown"),
        ({"agent_name": "n" * 257}, "agent_name: longer than 256 characters"),
        ({"namespace": "n" * 257}, "namespace: longer than 256 characters"),
        ({"deployment": "d" * 65}, "deployment: longer than 64 characters"),
        ({"deployment": "a_b"}, "deployment: must have no underscore and no white space"),
        ({"deployment": "a\tb"}, "deployment: must have no underscore and no white space"),
        ({"allowed_permissions": {"can_publish_sources": [77]}}, "allowed_permissions: an unknown source"),
    ],
)
def test_who_registers_as_nobody_may_be_is_cut_off(fields: dict[str, object], why: str) -> None:
    table = Table()
    worker = table.connect()
    table.say(worker, register=ANYTHING.RegisterWorkerRequest(**fields))
    assert (table.closed, table.told[worker]) == ({worker: why}, [])
    assert not table.board.workers


def test_jobs_go_only_to_workers_of_their_kind() -> None:
    table = Table()
    keys = [
        ROOM,
        Key("named", "", Type.JT_ROOM, ""),
        Key("", "space", Type.JT_ROOM, ""),
        Key("", "", Type.JT_PUBLISHER, ""),
        Key("", "", Type.JT_ROOM, "blue"),
    ]
    workers = [table.worker(key) for key in keys]
    jobs = [table.job(key) for key in keys]
    assert [table.asked(worker) for worker in workers] == [[job.id] for job in jobs]
    assert table.board.namespaces("", Type.JT_ROOM, "") == ["", "space"]
    assert table.board.namespaces("", Type.JT_PARTICIPANT, "") == []


def test_a_job_that_nobody_is_there_for_ends_at_once() -> None:
    table = Table()
    table.worker(Key("other", "", Type.JT_ROOM, ""))
    job = table.job()
    assert over(job) == (Stage.ENDED, Status.JS_FAILED, NOBODY)
    assert (job.started, job.state.reason) == (False, Reason.JSR_NO_CAPACITY)
    assert table.asked(table.worker()) == []  # who comes later does not get it


def test_idle_workers_are_asked_more_often_and_full_or_loaded_ones_hardly_ever() -> None:
    table = Table()
    loads = {table.worker(load=load): load for load in (0.1, 0.6, 0.75)}
    full = table.worker()
    table.say(full, update_worker=agent.UpdateWorkerStatus(status=agent.WorkerStatus.WS_FULL))
    asked: Counter[float] = Counter()
    for _ in range(600):
        job = table.job()
        assert job.worker is not None
        asked[loads[job.worker]] += 1
        table.answer(job.worker, job)
    assert asked[0.75] == 0  # above the target
    assert 2.2 * asked[0.6] == pytest.approx(asked[0.1], rel=0.3)
    for worker in loads:
        if worker.load < 0.7:
            table.lose(worker)
    assert table.board.counters["jobs_restarted"] == 600
    assert len(next(one for one in loads if one.load > 0.7).offers) == 256  # as many as it may have
    table.say(full, update_worker=agent.UpdateWorkerStatus(load=math.nan))  # a status that is not said stays
    assert (full.full, full.load) == (True, 1.0)


def test_workers_that_are_all_at_their_limit_are_asked_nevertheless() -> None:
    table = Table()
    worker, job = table.worker(load=1.0), table.job()
    assert table.asked(worker) == [job.id]


def test_after_a_refusal_the_next_one_is_asked_and_nobody_twice() -> None:
    table = Table()
    workers = [table.worker() for _ in range(3)]
    job = table.job()
    for _ in workers:
        assert job.worker is not None
        table.answer(job.worker, job, available=False)
    assert sorted(map(len, map(table.asked, workers))) == [1, 1, 1]
    assert over(job) == (Stage.ENDED, Status.JS_FAILED, NOBODY)


def test_as_many_are_asked_as_settings_say() -> None:
    table = Table(tries=3)
    for _ in range(5):
        table.worker()
    job = table.job()
    for _ in range(3):
        assert job.worker is not None
        table.answer(job.worker, job, available=False)
    assert job.stage is Stage.ENDED
    assert len(job.tried) == 3


def test_a_worker_may_end_a_job_that_it_is_asked_about() -> None:
    table = Table()
    table.worker()
    job = table.job()
    assert job.worker is not None
    table.worker()
    table.answer(job.worker, job, available=False, terminate=True)
    assert over(job) == (Stage.ENDED, Status.JS_SUCCESS, "")
    assert table.assigned == []


def test_an_answer_that_nobody_could_join_with_is_a_refusal() -> None:
    table = Table()
    worker = table.worker()
    job = table.job()
    table.unfit = True
    table.answer(worker, job)
    assert over(job) == (Stage.ENDED, Status.JS_FAILED, NOBODY)
    assert table.heard(worker, "assignment") == []


def test_who_does_not_answer_in_time_loses_the_job_to_another_and_gets_no_other_until_it_speaks() -> None:
    table = Table()
    silent = table.worker()
    job = table.job()
    other = table.worker()
    table.wait(9.9)
    assert table.asked(other) == []
    table.wait(0.1)
    assert table.asked(other) == [job.id]
    table.answer(silent, job)  # too late
    assert table.heard(silent, "assignment") == []
    assert table.board.counters["unknown_jobs"] == 1
    table.answer(other, job)
    assert table.assigned == [(job, True)]
    silent.silent = True
    assert [table.job().worker for _ in range(20)] == [other] * 20
    table.say(silent, ping=agent.WorkerPing())
    assert not silent.silent


def test_a_job_whose_only_worker_does_not_answer_waits_for_another_but_not_for_ever() -> None:
    table = Table()
    table.worker()
    first, second = table.job(), table.job()
    table.wait(15)
    assert first.stage is Stage.WAITING
    late = table.worker()
    assert table.asked(late) == [first.id, second.id]
    table.answer(late, first)
    assert table.assigned == [(first, True)]
    table.answer(late, second, available=False)
    table.wait(14.9)
    assert second.stage is Stage.WAITING
    table.wait(0.1)
    assert over(second) == (Stage.ENDED, Status.JS_FAILED, NOBODY)


@pytest.mark.parametrize("answered", [False, True])
def test_the_jobs_of_a_worker_that_dies_go_to_another(answered: bool) -> None:
    table = Table()
    worker = table.worker()
    jobs = [table.job() for _ in range(3)]
    other = table.worker()
    if answered:
        for job in jobs:
            table.answer(worker, job)
    table.lose(worker)
    table.lose(worker)
    assert table.asked(other) == [job.id for job in jobs]
    for job in jobs:
        table.answer(other, job)
        assert job.worker is other
        assert job.restarts == answered
    assert table.assigned[-3:] == [(job, not answered) for job in jobs]
    assert table.ended == []


def test_a_job_that_no_other_worker_is_there_for_waits_for_one_to_come() -> None:
    table = Table()
    worker, job = table.worker(), table.job()
    table.answer(worker, job)
    table.lose(worker)
    assert (job.stage, job.state.status) == (Stage.WAITING, Status.JS_PENDING)
    table.wait(29)
    again = table.worker()
    table.answer(again, job)
    assert table.assigned == [(job, True), (job, False)]
    table.lose(again)
    table.wait(30)
    assert over(job) == (Stage.ENDED, Status.JS_FAILED, NOBODY)


def test_a_job_is_started_anew_only_so_often() -> None:
    table = Table(restarts=2)
    job: Job | None = None
    for _ in range(3):
        worker = table.worker()
        job = job or table.job()
        table.answer(worker, job)
        table.lose(worker)
    assert job is not None
    assert over(job) == (Stage.ENDED, Status.JS_FAILED, GONE)


def test_a_job_that_may_not_be_restarted_is_not() -> None:
    table = Table()
    worker, job = table.worker(), table.job(restartable=False)
    table.worker()
    assert job.worker is not None
    worker = job.worker
    table.answer(worker, job)
    table.lose(worker)
    assert over(job) == (Stage.ENDED, Status.JS_FAILED, GONE)


def test_an_agent_that_lives_on_without_its_worker_is_not_given_a_double() -> None:
    table = Table()
    errand = Errand()
    worker, job = table.worker(), table.job(errand=errand)
    table.answer(worker, job, participant_identity="bot")
    other = table.worker()
    errand.agents.add("bot")
    table.lose(worker)
    table.wait(60)
    assert (job.stage, table.asked(other)) == (Stage.ADRIFT, [])
    errand.agents.clear()
    table.board.agent_left(job, table.now)
    table.wait(1)
    assert table.asked(other) == [job.id]
    table.answer(other, job, participant_identity="bot")
    assert table.ended == []


def test_a_worker_that_comes_back_has_its_jobs_again() -> None:
    table = Table()
    worker, job = table.worker(), table.job(errand=Errand(agents={"bot"}))
    table.answer(worker, job, participant_identity="bot")
    table.lose(worker)
    claim = agent.MigrateJobRequest(job_ids=[job.id, "AJ_none"])
    stranger, thief = table.worker(Key("other", "", Type.JT_ROOM, "")), table.connect(api_key="another key")
    table.say(thief, register=agent.RegisterWorkerRequest())
    for nobody in (stranger, thief):
        table.say(nobody, migrate_job=claim)
        assert job.worker is None
    back = table.worker()
    table.say(back, migrate_job=claim)
    assert (job.stage, job.worker) == (Stage.ASSIGNED, back)
    table.wait(100)
    table.end(job)
    assert [one.job_id for one in table.heard(back, "termination")] == [job.id]


def test_what_a_worker_says_of_a_job_when_it_is_back_counts() -> None:
    table = Table()
    worker, job = table.worker(), table.job(errand=Errand(agents={"bot"}))
    table.answer(worker, job, participant_identity="bot")
    table.lose(worker)
    back = table.worker()
    table.say(back, update_job=agent.UpdateJobStatus(job_id=job.id, status=Status.JS_SUCCESS))
    assert over(job) == (Stage.ENDED, Status.JS_SUCCESS, "")


def test_nobody_takes_a_job_from_the_worker_that_has_it() -> None:
    table = Table()
    worker, job = table.worker(), table.job()
    table.answer(worker, job)
    thief = table.worker()
    table.say(thief, migrate_job=agent.MigrateJobRequest(job_ids=[job.id]))
    table.say(thief, update_job=agent.UpdateJobStatus(job_id=job.id, status=Status.JS_SUCCESS))
    table.answer(thief, job)
    assert (job.stage, job.worker) == (Stage.ASSIGNED, worker)
    table.say(worker, update_job=ANYTHING.UpdateJobStatus(job_id=job.id, status=99))
    assert job.state.status == Status.JS_RUNNING


def test_an_agent_that_leaves_ends_its_job_and_the_worker_is_told_to_stop() -> None:
    table = Table()
    worker, job = table.worker(), table.job()
    table.board.agent_left(job, table.now)  # somebody of that name, before
    assert job.stage is Stage.OFFERED
    table.answer(worker, job)
    table.board.agent_left(job, table.now)
    table.look()
    assert over(job) == (Stage.ENDED, Status.JS_FAILED, LEFT)
    assert [one.job_id for one in table.heard(worker, "termination")] == [job.id]
    assert table.ended == [job]


def test_a_job_with_nothing_to_do_any_more_is_not_begun() -> None:
    table = Table()
    errand = Errand()
    worker, job = table.worker(), table.job(errand=errand)
    errand.over = True
    table.answer(worker, job)
    assert over(job) == (Stage.ENDED, Status.JS_CANCELLED, "")
    assert table.heard(worker, "assignment") == []
    assert over(table.job(errand=errand)) == (Stage.ENDED, Status.JS_CANCELLED, "")


def test_a_job_for_one_worker_goes_to_no_other() -> None:
    table = Table()
    worker = table.worker()
    table.worker()
    jobs = [table.job(pinned=worker) for _ in range(10)]
    assert table.asked(worker) == [job.id for job in jobs]
    table.answer(worker, jobs[0])
    table.lose(worker)
    assert [over(job)[2] for job in jobs] == [GONE] + [NOBODY] * 9


def test_everything_has_a_bound() -> None:
    table = Table(workers=2, jobs=3, offers=2, running=3)
    worker = table.worker()
    table.connect()
    assert table.board.connect("devkey", table.now) is None
    jobs = [table.job() for _ in range(4)]
    assert over(jobs[3]) == (Stage.ENDED, Status.JS_FAILED, "too many jobs")
    assert (table.asked(worker), jobs[2].stage) == ([jobs[0].id, jobs[1].id], Stage.WAITING)
    table.answer(worker, jobs[0])
    assert table.asked(worker) == [job.id for job in jobs[:3]]
    for job in jobs[1:3]:
        table.answer(worker, job)
    table.end(jobs[0])
    fourth, fifth = table.job(), table.job()
    assert table.asked(worker)[-1] == fourth.id
    assert over(fifth)[2] == "too many jobs"
    table.say(worker, update_job=agent.UpdateJobStatus(job_id=jobs[1].id, status=Status.JS_FAILED, error="e" * 5000))
    assert len(jobs[1].state.error) == 1024


def test_large_offers_are_made_a_few_at_a_time() -> None:
    table = Table()
    worker = table.worker()
    jobs = [table.job(errand=Errand(name="n" * (900 << 10))) for _ in range(5)]
    assert [job.stage for job in jobs] == [Stage.OFFERED] * 3 + [Stage.WAITING] * 2
    table.answer(worker, jobs[0])
    assert [job.stage for job in jobs] == [Stage.ASSIGNED] + [Stage.OFFERED] * 3 + [Stage.WAITING]
    table.end(jobs[1])
    assert jobs[4].stage is Stage.OFFERED
    for job in jobs:
        table.end(job)
    assert worker.offer_bytes == 0
