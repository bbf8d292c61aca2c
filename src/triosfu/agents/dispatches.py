"""What agents are asked for in each room, and the jobs that follow from it when rooms and people come.

A room's dispatches are those that its creator named, or one without a name, which every worker without a name serves.
Protocol reference, sections 8.4 and 10.5.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import structlog
import trio
from livekit.protocol import agent, agent_dispatch, models

from triosfu.agents.core import LEFT, JobBoard, Reason, Status
from triosfu.agents.registration import MAX_NAME, Key, deployment_problem
from triosfu.errors import TriosfuError
from triosfu.rooms.sids import new_sid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from random import Random

    from triosfu.agents.jobs import Assigned, Ended, Job, Simulate
    from triosfu.rooms.participant import Participant
    from triosfu.rooms.publication import Publication
    from triosfu.rooms.room import Room

log = structlog.get_logger(__name__)

DISPATCH: Final = "AD_"
MAX_DISPATCHES: Final = 100  # of one room
MAX_ENDED: Final = 100  # jobs of one dispatch that are still listed after their end
MAX_SIMULATED: Final = 16 << 10  # bytes of a request for a job that is kept while the job is
# Why one may be gone from a room who has not left: the same one comes again, or is in another room.
ELSEWHERE: Final = frozenset({models.DisconnectReason.DUPLICATE_IDENTITY, models.DisconnectReason.MIGRATION})
Type = agent.JobType
Wish = agent_dispatch.CreateAgentDispatchRequest | agent_dispatch.RoomAgentDispatch


class NoPlace(TriosfuError):
    """A room has as many dispatches as it may have."""


class JobListener(Protocol):
    """Is told of jobs, at once and in order; what it does is short, and never waits."""

    def job_started(self, room: str, job: agent.Job) -> None:
        """A worker does the job."""

    def job_ended(self, room: str, job: agent.Job) -> None:
        """A job that had started is over."""


@dataclass(eq=False, slots=True)
class Dispatch:
    """An agent that is wanted in a room."""

    id: str
    room: str
    agent_name: str = ""
    metadata: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    restart_policy: agent_dispatch.JobRestartPolicy = agent_dispatch.JobRestartPolicy.JRP_ON_FAILURE
    deployment: str = ""
    created_ns: int = field(default_factory=time.time_ns)
    deleted_ns: int = 0
    jobs: dict[str, Job] = field(default_factory=dict)

    def message(self) -> agent_dispatch.AgentDispatch:
        """The dispatch as the server API shows it, with those jobs that a worker has taken."""
        jobs = [brief(job) for job in self.jobs.values() if shown(job)]
        state = agent_dispatch.AgentDispatchState(jobs=jobs, created_at=self.created_ns, deleted_at=self.deleted_ns)
        return agent_dispatch.AgentDispatch(
            id=self.id,
            agent_name=self.agent_name,
            room=self.room,
            metadata=self.metadata,
            state=state,
            restart_policy=self.restart_policy,
            deployment=self.deployment,
            attributes=self.attributes,
        )


@dataclass(eq=False, slots=True)
class Errand:
    """What a job is about: a room, or somebody in it. It is the `Subject` of that job."""

    room_name: str
    room: Room | None = None  # None for one that a worker has only imagined
    participant: Participant | None = None
    dispatch: Dispatch | None = None
    imagined: agent.Job = field(default_factory=agent.Job)  # room and participant of a simulated job
    enable_recording: bool = False
    enable_redaction: bool = False
    older: str = ""  # sid of one in the room with the agent's identity, whom it will replace
    who: models.ParticipantInfo | None = None  # whom it is about, in short; this stays when they have left
    gone: bool = False

    def __post_init__(self) -> None:
        if self.participant is not None:
            self.who = models.ParticipantInfo(sid=self.participant.sid, identity=self.participant.identity)

    def let_go(self) -> None:
        """Whom it is about has left, or it is over: what a session held is not kept for it."""
        self.gone = self.participant is not None
        self.participant = None

    def describe(self) -> agent.Job | None:
        """See `Subject`."""
        message = agent.Job(enable_recording=self.enable_recording, enable_redaction=self.enable_redaction)
        message.MergeFrom(self.imagined)
        if self.room is not None:
            if self.room.closed:
                return None
            message.room.CopyFrom(self.room.info())
        if self.gone:
            return None
        if self.participant is not None:
            if self.participant.closed or self.participant.room is not self.room:
                return None
            message.participant.CopyFrom(self.participant.info())
        if self.dispatch is not None:
            message.dispatch_id = self.dispatch.id
            message.metadata = self.dispatch.metadata
            message.attributes.update(self.dispatch.attributes)
        return message

    def has_agent(self, identity: str) -> bool:
        """See `Subject`."""
        found = self.agent(identity)
        return found is not None and not found.closed and found.linked

    def agent(self, identity: str) -> Participant | None:
        """The participant of this identity."""
        return None if self.room is None else self.room.participants.get(identity)


def errand(job: Job) -> Errand:
    """What `job` is about."""
    assert isinstance(job.subject, Errand)  # noqa: S101  there is no other kind
    return job.subject


def shown(job: Job) -> bool:
    """Whether anybody is told of `job`: not while nobody has taken it."""
    return job.started or job.state.status == Status.JS_SUCCESS


def brief(job: Job) -> agent.Job:
    """The job with names in place of whole rooms and participants."""
    about = errand(job)
    message = agent.Job(
        id=job.id,
        dispatch_id="" if about.dispatch is None else about.dispatch.id,
        type=job.key.type,
        agent_name=job.key.agent_name,
        namespace=job.key.namespace,
        deployment=job.key.deployment,
        metadata="" if about.dispatch is None else about.dispatch.metadata,
        room=models.Room(sid="" if about.room is None else about.room.sid, name=about.room_name),
        state=job.state,
    )
    if about.who is not None:
        message.participant.CopyFrom(about.who)
    return message


@dataclass(eq=False, slots=True)
class _Place:
    """A room, and what is wanted there."""

    room: Room
    dispatches: dict[str, Dispatch] = field(default_factory=dict)
    publishers: set[str] = field(default_factory=set)  # sids of those who have published, and are here


class Dispatches:
    """A `RoomListener` that gives the jobs of every room to the board.

    `changed` is called after the board was given anything.
    """

    def __init__(
        self,
        board: JobBoard,
        *,
        rng: Random,
        changed: Callable[[], None],
        listener: JobListener | None = None,
        enable_recording: bool = False,
        enable_redaction: bool = False,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._board = board
        self._rng = rng
        self._changed = changed
        self._listener = listener
        self._recording, self._redaction = enable_recording, enable_redaction
        self._clock = clock
        self._places: dict[str, _Place] = {}
        self._jobs: dict[str, dict[str, Job]] = {}  # that have not ended, by room and id
        self._agents: dict[tuple[str, str], Job] = {}  # that have begun, by room and identity

    # --- the server API --------------------------------------------------------------------------------------------

    def of_room(self, room: Room) -> Iterator[Dispatch]:
        """What is wanted in a room."""
        place = self._places.get(room.name)
        return iter(list(place.dispatches.values()) if place is not None and place.room is room else ())

    def find(self, room: Room, dispatch_id: str) -> Dispatch | None:
        """One of them."""
        return next((one for one in self.of_room(room) if one.id == dispatch_id), None)

    def create(self, room: Room, request: agent_dispatch.CreateAgentDispatchRequest, *, dispatch_id: str) -> Dispatch:
        """Want one more agent in a room: for the room, and for everybody who is there.

        Raises:
            NoPlace: There are too many.
        """
        place = self._places[room.name]
        if len(place.dispatches) >= MAX_DISPATCHES:
            raise NoPlace(f"a room has at most {MAX_DISPATCHES} dispatches")
        dispatch = self._dispatch(room, request, dispatch_id)
        place.dispatches[dispatch.id] = dispatch
        self._launch(dispatch, Type.JT_ROOM, room)
        for participant in list(room.participants.values()):
            if participant.applicant.dependent or participant.closed:
                continue
            if participant.was_active:
                self._launch(dispatch, Type.JT_PARTICIPANT, room, participant)
            if participant.sid in place.publishers:
                self._launch(dispatch, Type.JT_PUBLISHER, room, participant)
        self._changed()
        return dispatch

    def delete(self, room: Room, dispatch: Dispatch) -> None:
        """Want an agent no more: its jobs end."""
        place = self._places[room.name]
        del place.dispatches[dispatch.id]
        dispatch.deleted_ns = time.time_ns()
        for job in list(dispatch.jobs.values()):
            self._board.end(job, Status.JS_CANCELLED, self._clock(), reason=Reason.JSR_DISPATCH_DELETED)
        self._changed()

    # --- RoomListener ----------------------------------------------------------------------------------------------

    def room_started(self, room: Room) -> None:
        """Want what its creator asked for, or whoever serves rooms without being asked."""
        place = self._places[room.name] = _Place(room)
        named = [one for one in room.own.agents if dispatch_problem(one.agent_name, one.deployment) is None]
        if len(named) < len(room.own.agents) or len(named) > MAX_DISPATCHES:
            log.warning("agents left out", room=room.name, asked=len(room.own.agents), at_most=MAX_DISPATCHES)
            self._board.counters["dispatches_refused"] += 1
        wanted = [self._dispatch(room, one) for one in named[:MAX_DISPATCHES]]
        if not room.own.agents:
            wanted = [self._dispatch(room, agent_dispatch.RoomAgentDispatch())]
        for dispatch in wanted:
            place.dispatches[dispatch.id] = dispatch
            self._launch(dispatch, Type.JT_ROOM, room)
        self._changed()

    def room_finished(self, room: Room) -> None:
        """End all jobs in it."""
        place = self._places.get(room.name)
        if place is not None and place.room is room:
            del self._places[room.name]
        for job in list(self._jobs.get(room.name, {}).values()):
            if errand(job).room in {room, None}:
                self._board.end(job, Status.JS_CANCELLED, self._clock(), reason=Reason.JSR_ROOM_CLOSED)
        self._changed()

    def participant_active(self, participant: Participant) -> None:
        """One job for each participant that is not itself somebody's helper; one who was moved may publish already."""
        if participant.departures:
            self._follow(participant)
        self._launch_all(Type.JT_PARTICIPANT, participant)
        if len(participant.publications):
            self._publishes(participant)

    def participant_left(self, participant: Participant) -> None:
        """An agent that leaves has ended its job; unless it was moved, or has joined again, which replaces it."""
        place = self._places.get(participant.room.name)
        if place is not None:
            place.publishers.discard(participant.sid)
        for job in self._jobs.get(participant.room.name, {}).values():
            if errand(job).participant is participant:
                errand(job).let_go()
        own = self._agents.get((participant.room.name, participant.identity))
        if own is None or participant.disconnect_reason in ELSEWHERE or participant.room.closed:  # that ends all jobs
            return
        if errand(own).room in {participant.room, None} and errand(own).older != participant.sid:
            self._board.agent_left(own, self._clock())
            self._changed()

    def track_published(self, publication: Publication) -> None:
        """One job for each participant that publishes, however many tracks."""
        self._publishes(publication.publisher)

    def track_unpublished(self, publication: Publication) -> None:
        """Nothing: whoever publishes again has its agent already."""

    # --- what becomes of jobs, by the driver ------------------------------------------------------------------------

    def assigned(self, output: Assigned) -> None:
        """A worker has a job: its agent will come."""
        job = output.job
        about = errand(job)
        here = about.agent(job.identity)
        about.older = "" if here is None else here.sid
        self._agents[about.room_name, job.identity] = job
        log.info("job assigned", room=about.room_name, job=job.id, worker=job.state.worker_id, first=output.first)
        if output.first and self._listener is not None:
            self._listener.job_started(about.room_name, brief(job))

    def ended(self, output: Ended) -> None:
        """A job is over."""
        job = output.job
        about = errand(job)
        about.let_go()
        self._strike(job)
        if self._agents.get((about.room_name, job.identity)) is job:
            del self._agents[about.room_name, job.identity]
        if about.dispatch is not None:
            _tidy(about.dispatch, job)
        status, error = Status.Name(job.state.status), job.state.error
        log.info("job ended", room=about.room_name, job=job.id, status=status, left=error == LEFT)
        if job.started and self._listener is not None:
            self._listener.job_ended(about.room_name, brief(job))

    def simulate(self, output: Simulate) -> None:
        """A worker wants a job in a room, whether there is such a room or not."""
        worker, request = output.worker, output.request
        named = 0 < len(request.room.name) <= MAX_NAME
        if worker.registration is None or not named or request.ByteSize() > MAX_SIMULATED:
            self._board.counters["simulations_refused"] += 1
            return
        about = Errand(request.room.name, enable_recording=self._recording, enable_redaction=self._redaction)
        if (place := self._places.get(request.room.name)) is not None:
            about.room = place.room
            about.participant = place.room.participants.get(request.participant.identity)
        else:
            about.imagined.room.CopyFrom(request.room)
        publisher = request.HasField("participant")
        if publisher and about.participant is None:
            about.imagined.participant.CopyFrom(request.participant)
        key = worker.registration.key
        key = Key(key.agent_name, key.namespace, Type.JT_PUBLISHER if publisher else Type.JT_ROOM, key.deployment)
        self._submit(self._board.new_job(key, about, pinned=worker))

    # --- inside ----------------------------------------------------------------------------------------------------

    def _publishes(self, publisher: Participant) -> None:
        place = self._places.get(publisher.room.name)
        if place is not None and publisher.sid not in place.publishers and not publisher.closed:
            place.publishers.add(publisher.sid)
            self._launch_all(Type.JT_PUBLISHER, publisher)

    def _follow(self, moved: Participant) -> None:
        """An agent was moved to another room, and its job with it: it ends with the agent or with that room."""
        origin, room = moved.departures[-1], moved.room
        own = self._agents.get((origin.room, moved.identity))
        if own is None or errand(own).older == origin.sid:
            return
        if (room.name, moved.identity) in self._agents:  # another agent of this identity is on its way here
            self._board.agent_left(own, self._clock())
            self._changed()
            return
        about = errand(own)
        del self._agents[origin.room, moved.identity]
        self._strike(own)
        about.room_name, about.room, about.older = room.name, room, ""
        if about.participant is not None:
            about.let_go()  # whom it is about is not here
        self._agents[room.name, moved.identity] = own
        self._jobs.setdefault(room.name, {})[own.id] = own
        log.info("job moved", room=origin.room, job=own.id, to=room.name)

    def _strike(self, job: Job) -> None:
        """Take a job off the list of its room."""
        name = errand(job).room_name
        jobs = self._jobs.get(name, {})
        jobs.pop(job.id, None)
        if not jobs:
            self._jobs.pop(name, None)

    def _dispatch(self, room: Room, wish: Wish, dispatch_id: str = "") -> Dispatch:
        if wish.agent_name and not self._board.serves(wish.agent_name, wish.deployment):
            self._board.counters["dispatches_unserved"] += 1
            log.warning("no worker for an agent", room=room.name, agent_name=wish.agent_name)
        return Dispatch(
            dispatch_id or new_sid(DISPATCH, self._rng),
            room.name,
            wish.agent_name,
            wish.metadata,
            dict(wish.attributes),
            wish.restart_policy,
            wish.deployment,
        )

    def _launch_all(self, kind: agent.JobType, participant: Participant) -> None:
        place = self._places.get(participant.room.name)
        if place is None or participant.applicant.dependent:
            return
        for dispatch in list(place.dispatches.values()):
            self._launch(dispatch, kind, place.room, participant)
        self._changed()

    def _launch(
        self, dispatch: Dispatch, kind: agent.JobType, room: Room, participant: Participant | None = None
    ) -> None:
        """A job in each namespace that has workers for it."""
        for namespace in self._board.namespaces(dispatch.agent_name, kind, dispatch.deployment):
            about = Errand(
                room.name, room, participant, dispatch,
                enable_recording=self._recording, enable_redaction=self._redaction,
            )  # fmt: skip
            key = Key(dispatch.agent_name, namespace, kind, dispatch.deployment)
            restartable = dispatch.restart_policy != agent_dispatch.JobRestartPolicy.JRP_NEVER
            job = self._board.new_job(key, about, restartable=restartable)
            dispatch.jobs[job.id] = job
            self._submit(job)

    def _submit(self, job: Job) -> None:
        self._jobs.setdefault(errand(job).room_name, {})[job.id] = job
        self._board.submit(job, self._clock())


def dispatch_problem(agent_name: str, deployment: str) -> str | None:
    """What is wrong with a wish for an agent, if anything."""
    if len(agent_name) > MAX_NAME:
        return f"agent_name is longer than {MAX_NAME} characters"
    if problem := deployment_problem(deployment):
        return f"deployment is {problem}" if problem.startswith("longer") else f"deployment {problem}"
    return None


def _tidy(dispatch: Dispatch, job: Job) -> None:
    """Forget a job that nobody was told of, and the oldest of those that are over."""
    if not shown(job):
        dispatch.jobs.pop(job.id, None)
    over = [one.id for one in dispatch.jobs.values() if one.state.ended_at]
    for job_id in over[:-MAX_ENDED]:
        del dispatch.jobs[job_id]
