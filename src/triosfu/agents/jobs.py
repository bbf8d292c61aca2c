"""Workers and jobs as the board knows them, and what comes out of it."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from livekit.protocol import agent

if TYPE_CHECKING:
    from triosfu.agents.registration import Key, Registration


class Subject(Protocol):
    """What a job is about."""

    def describe(self) -> agent.Job | None:
        """Return the job's message as of now, but for what the board knows; None if there is nothing to do any more."""

    def has_agent(self, identity: str) -> bool:
        """Whether the agent is in the room, and its client can be told something."""


class Stage(enum.Enum):
    """Where a job is."""

    WAITING = "waiting"
    OFFERED = "offered"
    ASSIGNED = "assigned"
    ADRIFT = "adrift"
    ENDED = "ended"


@dataclass(eq=False, slots=True, repr=False)
class Job:
    """Something that one worker at a time is asked to do, or does."""

    id: str
    key: Key
    subject: Subject
    restartable: bool = True  # by another worker, after it was assigned to one
    pinned: Worker | None = None  # nobody else is asked
    state: agent.JobState = field(default_factory=agent.JobState)
    stage: Stage = Stage.WAITING
    worker: Worker | None = None  # that is asked, or does it
    api_key: str = ""  # of the worker that did it last
    started: bool = False  # it was assigned, once at least
    since: float = 0.0  # it is wanted; from its first assignment on, it is done
    may_wait: bool = False  # somebody failed it: it is worth waiting for another one
    tried: set[str] = field(default_factory=set)  # ids of workers, in this search
    size: int = 0  # bytes of its offer
    restarts: int = 0
    give_up_at: float = math.inf
    deadline: float = math.inf

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.stage.value}>"

    @property
    def identity(self) -> str:
        """Of the agent's participant, once it is assigned."""
        return self.state.participant_identity

    def message(self) -> agent.Job | None:
        """The job as workers and others are told; None if there is nothing to do any more."""
        message = self.subject.describe()
        if message is not None:
            message.id = self.id
            message.type = self.key.type
            message.agent_name = self.key.agent_name
            message.namespace = self.key.namespace
            message.deployment = self.key.deployment
            message.state.CopyFrom(self.state)
        return message


@dataclass(eq=False, slots=True, repr=False)
class Worker:
    """One worker's socket, from its opening to its end."""

    id: str
    api_key: str
    deadline: float  # to have registered
    registration: Registration | None = None
    full: bool = False
    silent: bool = False  # it let an offer pass, and has said nothing since
    load: float = 0.0
    offer_bytes: int = 0  # of what follows
    offers: dict[str, Job] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Worker {self.id}>"


# --- what comes out ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Tell a worker something."""

    worker: Worker
    message: agent.ServerMessage


@dataclass(frozen=True, slots=True)
class Close:
    """End a worker's socket; the board has forgotten the worker."""

    worker: Worker
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer a worker's ping, with the time of day."""

    worker: Worker
    timestamp: int


@dataclass(frozen=True, slots=True)
class Assigned:
    """A worker has got the job, for the `first` time or after another one failed it."""

    job: Job
    first: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The job is over; it may never have started."""

    job: Job


@dataclass(frozen=True, slots=True)
class Simulate:
    """A worker asks for a job."""

    worker: Worker
    request: agent.SimulateJobRequest


Output = Send | Close | Ping | Assigned | Ended | Simulate
