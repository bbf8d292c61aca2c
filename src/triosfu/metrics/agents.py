"""Metrics of agent workers and their jobs, under names of our own: LiveKit's server has none for them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from livekit.protocol import agent

from triosfu.agents.core import FINAL
from triosfu.agents.counts import TYPES
from triosfu.agents.jobs import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from triosfu.agents.jobs import Worker
    from triosfu.metrics.families import Families, Labels
    from triosfu.metrics.sources import Reading

LABELS: Final = {kind: agent.JobType.Name(kind).removeprefix("JT_").lower() for kind in TYPES}
STATES: Final = ("available", "full", "silent")
ENDS: Final = {status: agent.JobStatus.Name(status).removeprefix("JS_").lower() for status in sorted(FINAL)}
# A reason or an event, and the counter that has it.
FAILURES: Final = {
    "no_worker": "jobs_without_worker",
    "not_registered": "dispatches_unserved",
    "too_many_jobs": "jobs_refused",
    "unfit_dispatch": "dispatches_refused",
}
EVENTS: Final = {
    "offer_refused": "refusals",
    "offer_unanswered": "unanswered_offers",
    "answer_unfit": "unfit_answers",
    "job_restarted": "jobs_restarted",
    "connection_refused": "refused",
    "worker_refused": "workers_refused",
    "registration_refused": "registrations_refused",
    "simulation_refused": "simulations_refused",
    "malformed": "malformed_messages",
    "out_of_order": "out_of_order",
    "unknown_message": "unknown_messages",
    "unknown_job": "unknown_jobs",
}


def workers(families: Families, reading: Reading) -> Iterator[Metric]:
    """Who is registered, and how busy they say they are."""
    agents = reading.sources.agents
    if agents is None:
        return
    there: Counter[tuple[agent.JobType, str]] = Counter()
    load: dict[agent.JobType, float] = dict.fromkeys(TYPES, 0.0)
    for one in agents.board.workers.values():
        if one.registration is not None:
            kind = one.registration.key.type
            there[kind, _state(one)] += 1
            load[kind] += one.load
    yield families.gauge(
        "triosfu_agent_workers",
        "Registered agent workers, by what they take and whether they take it now.",
        [({"type": LABELS[kind], "state": state}, there[kind, state]) for kind in TYPES for state in STATES],
    )
    yield families.gauge(
        "triosfu_agent_workers_load",
        "The loads that they tell, 0 to 1 each, added up.",
        [({"type": LABELS[kind]}, load[kind]) for kind in TYPES],
    )
    yield families.counter(
        "triosfu_agent_events_total",
        "What workers did that led to nothing, and jobs that were begun again.",
        [({"event": event}, agents.counters[name]) for event, name in EVENTS.items()],
    )


def jobs(families: Families, reading: Reading) -> Iterator[Metric]:
    """What is done, was done, and was not."""
    agents = reading.sources.agents
    if agents is None:
        return
    counts = agents.board.counts
    there = Counter((job.key.type, job.stage) for job in agents.board.jobs.values())
    yield families.gauge(
        "triosfu_agent_jobs",
        "Jobs that have not ended, by type and state; `adrift` are those whose worker is gone and whose agent is not.",
        [
            ({"type": LABELS[kind], "state": stage.value}, there[kind, stage])
            for kind in TYPES
            for stage in Stage
            if stage is not Stage.ENDED
        ],
    )
    yield families.counter(
        "triosfu_agent_jobs_started_total",
        "Jobs that a worker took, each once.",
        [({"type": LABELS[kind]}, counts.started[kind]) for kind in TYPES],
    )
    rows: list[tuple[Labels, float]] = [
        ({"type": LABELS[kind], "status": name}, counts.ended[kind, status])
        for kind in TYPES
        for status, name in ENDS.items()
    ]
    yield families.counter(
        "triosfu_agent_jobs_ended_total", "Jobs that are over, those among them that no worker took.", rows
    )
    yield families.histogram(
        "triosfu_agent_job_seconds",
        "How long jobs took, from the first worker on.",
        [({"type": LABELS[kind]}, one) for kind, one in counts.seconds.items()],
    )
    yield families.histogram(
        "triosfu_agent_job_wait_seconds",
        "How long jobs waited until a worker took them.",
        [({"type": LABELS[kind]}, one) for kind, one in counts.waits.items()],
    )
    yield families.counter(
        "triosfu_agent_dispatch_failures_total",
        "Jobs and dispatches that came to nothing, by reason.",
        [({"reason": reason}, agents.counters[name]) for reason, name in FAILURES.items()],
    )


def _state(worker: Worker) -> str:
    return "silent" if worker.silent else "full" if worker.full else "available"
