"""The live tree of nurseries as plain values: who waits for what, since when, and what bounds the wait.

async with watching() as watch:
    tree = look(watch)
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import trio

from triosfu.net.clock import Alarm
from triosfu.server.declared_waits import DECLARED
from triosfu.server.inside_trio import PLUMBING, effective_deadline, is_runnable, joins_children

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

WAIT = Alarm.wait.__code__  # where the owner of an alarm waits: its deadline bounds the wait as a scope's does


class Bound(Enum):
    """What bounds the wait of a task."""

    RUNNING = "running"  # it does not wait
    CHILDREN = "children"  # it waits for the tasks in its nursery, and is bounded as they are
    DEADLINE = "deadline"
    DECLARED = "declared"  # by what `declared_waits` says
    NONE = "none"  # nothing: a bug


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task at one moment."""

    name: str
    room: str
    participant: str
    bound: Bound
    waits_on: str  # the function that it called and that has not returned, "" if it does not wait
    where: str  # module:function
    line: int
    since: float | None  # seconds; None if it has not run since we watch
    deadline_in: float | None  # seconds; None without one
    reason: str  # of a declared wait
    nurseries: tuple[tuple[TaskView, ...], ...]

    def walk(self) -> Iterator[TaskView]:
        """This task and all below it."""
        yield self
        for nursery in self.nurseries:
            for task in nursery:
                yield from task.walk()

    def to_json(self) -> dict[str, Any]:
        """The same as JSON knows it."""
        return {
            "name": self.name,
            "room": self.room,
            "participant": self.participant,
            "bound": self.bound.value,
            "waits_on": self.waits_on,
            "where": self.where,
            "line": self.line,
            "since": _rounded(self.since),
            "deadline_in": _rounded(self.deadline_in),
            "reason": self.reason,
            "nurseries": [[task.to_json() for task in nursery] for nursery in self.nurseries],
        }


class Watch(trio.abc.Instrument):
    """Remembers when each task last ran: one dict entry for each step of a task, and one clock reading for each turn.

    So "since" is the beginning of the turn of the loop in which the task began to wait.
    """

    def __init__(self) -> None:
        self.last: dict[trio.lowlevel.Task, float] = {}
        self._turn = trio.current_time()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002  trio's signature
        """A turn of the loop begins."""
        self._turn = trio.current_time()

    # Not after the step: trio tells of a task's end before it tells that its last step is over.
    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """`task` runs in this turn, and then waits."""
        self.last[task] = self._turn

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """`task` will not run any more."""
        self.last.pop(task, None)


_watch: trio.lowlevel.RunVar[tuple[Watch | None, int]] = trio.lowlevel.RunVar("triosfu watch")


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch all tasks of this `trio.run` until the block is left; blocks at the same time share one watch."""
    watch, others = _watch.get((None, 0))
    if watch is None:
        watch = Watch()
        trio.lowlevel.add_instrument(watch)
    _watch.set((watch, others + 1))
    try:
        yield watch
    finally:
        _, users = _watch.get((watch, 1))
        _watch.set((watch if users > 1 else None, users - 1))
        if users == 1:
            trio.lowlevel.remove_instrument(watch)


def look(watch: Watch, root: trio.lowlevel.Task | None = None) -> TaskView:
    """Return the tree below `root`, by default all of this `trio.run`. Synchronous, so the tree is of one moment."""
    start = root or trio.lowlevel.current_root_task()
    if start is None:
        raise RuntimeError("there is no trio.run here")
    return _view(start, watch, trio.current_time(), "", "")


def _view(task: trio.lowlevel.Task, watch: Watch, now: float, room: str, participant: str) -> TaskView:
    # Rooms and participants name their tasks so; what is below one is its own.
    kind, _, named = task.name.partition(" ")
    if kind == "room":
        room = named
    elif kind == "participant":
        participant = named
    bound, own, waits_on, deadline = _wait(task)
    where = _where(own) if own is not None else ""
    last = watch.last.get(task)
    return TaskView(
        name=task.name,
        room=room,
        participant=participant,
        bound=bound,
        waits_on=waits_on,
        where=where,
        line=own.f_lineno if own is not None else 0,
        since=None if last is None else now - last,
        deadline_in=max(deadline - now, 0.0) if deadline < math.inf else None,
        reason=DECLARED[where] if bound is Bound.DECLARED else "",
        nurseries=tuple(
            tuple(
                _view(child, watch, now, room, participant)
                for child in sorted(nursery.child_tasks, key=lambda child: child.name)
            )
            for nursery in task.child_nurseries
        ),
    )


def bound_of(task: trio.lowlevel.Task) -> Bound:
    """What bounds the wait of one task now."""
    return _wait(task)[0]


def _wait(task: trio.lowlevel.Task) -> tuple[Bound, FrameType | None, str, float]:
    """What bounds a wait, in which of our frames it is, and for what; and its deadline."""
    frames = [frame for frame, _ in task.iter_await_frames()]
    own, waits_on = _place(frames)
    alarms = [frame.f_locals["self"].deadline for frame in frames if frame.f_code is WAIT]
    deadline = min(effective_deadline(task), *alarms, math.inf)
    if is_runnable(task):
        return Bound.RUNNING, own, "", deadline
    if joins_children(frames):
        return Bound.CHILDREN, own, "its tasks", deadline
    if deadline < math.inf:
        return Bound.DEADLINE, own, waits_on, deadline
    declared = own is not None and _where(own) in DECLARED
    return Bound.DECLARED if declared else Bound.NONE, own, waits_on, deadline


def _place(frames: list[FrameType]) -> tuple[FrameType | None, str]:
    """Our innermost frame, or else the outermost of all; and the function that it waits for."""
    ours = [at for at, frame in enumerate(frames) if _module(frame).startswith("triosfu.") and frame.f_code is not WAIT]
    index = ours[-1] if ours else 0
    if not frames:
        return None, ""
    called = [frame for frame in frames[index + 1 :] if frame.f_code.co_name not in PLUMBING]
    # Of a library's own calls among themselves the first is the one that we know.
    waits_on = called[0] if called else frames[-1]
    return frames[index], waits_on.f_code.co_qualname


def _where(frame: FrameType) -> str:
    return f"{_module(frame)}:{frame.f_code.co_qualname}"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
