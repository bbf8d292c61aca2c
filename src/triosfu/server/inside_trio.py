"""The one place that knows how trio keeps its tasks: what is not public there is touched here and nowhere else.

`tests/server/test_admin.py` fails when one of these moves. Public, and used freely elsewhere: `Task.child_nurseries`,
`Nursery.child_tasks`, `Task.iter_await_frames`, `current_root_task`, instruments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from types import CodeType, FrameType

PLUMBING = frozenset({"wait_task_rescheduled", "_async_yield"})  # the lowest frames of every wait say nothing
JOINING = "Nursery._nested_child_finished"  # where the end of a nursery's block waits for its tasks


def effective_deadline(task: trio.lowlevel.Task) -> float:
    """When `task` is cancelled at the latest: the earliest of its scopes' deadlines as far as no shield hides them.

    `trio.current_effective_deadline` of another task. Minus infinity for one that is cancelled already.
    """
    return float(task._cancel_status.effective_deadline())  # noqa: SLF001  see above


def is_runnable(task: trio.lowlevel.Task) -> bool:
    """Whether `task` waits for nothing but its turn, or is the one that runs."""
    return task is trio.lowlevel.current_task() or task._next_send_fn is not None  # noqa: SLF001  see above


def joins_children(frames: list[FrameType]) -> bool:
    """Whether a task with these frames is at the end of a nursery's block, where it waits for the tasks in it."""
    return any(frame.f_code.co_qualname == JOINING and _in_trio(frame.f_code) for frame in frames[-3:])


def _in_trio(code: CodeType) -> bool:
    return code.co_filename == trio.Nursery._nested_child_finished.__code__.co_filename  # noqa: SLF001  see above
