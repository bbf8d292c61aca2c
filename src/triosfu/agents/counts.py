"""What a board keeps for those who watch it: jobs by type, how long they took and how long they waited for a worker."""

from __future__ import annotations

from collections import Counter
from typing import Final

from livekit.protocol import agent

from triosfu.histogram import Histogram

TYPES: Final = (agent.JobType.JT_ROOM, agent.JobType.JT_PUBLISHER, agent.JobType.JT_PARTICIPANT)
JOB_SECONDS: Final = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 18_000, 36_000)
WAIT_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60)


class JobCounts:
    """Since the server began."""

    def __init__(self) -> None:
        self.started: Counter[agent.JobType] = Counter()
        self.ended: Counter[tuple[agent.JobType, agent.JobStatus]] = Counter()
        self.seconds = {kind: Histogram(JOB_SECONDS) for kind in TYPES}
        self.waits = {kind: Histogram(WAIT_SECONDS) for kind in TYPES}

    def taken(self, kind: agent.JobType, waited: float) -> None:
        """A worker took a job for the first time, `waited` seconds after somebody wanted it."""
        self.started[kind] += 1
        self.waits[kind].observe(waited)

    def over(self, kind: agent.JobType, status: agent.JobStatus, took: float | None) -> None:
        """A job ended, `took` seconds after a worker took it, or without that."""
        self.ended[kind, status] += 1
        if took is not None:
            self.seconds[kind].observe(took)
