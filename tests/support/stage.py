"""A virtual network for state machines: the run of trio goes on between their rules, and stands still meanwhile."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio
import trio._core._run as scheduler
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.virtual import joined, watching

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.virtual import Joined
    from triosfu.peer import PeerSettings

P = ParamSpec("P")
T = TypeVar("T")


class Stage:
    """A joined pair in a run of trio of its own thread. Only within `call` and `pass_time` does anything happen there.

    `look(resting)` is called as by `watching`, throughout.
    """

    both: Joined
    nursery: trio.Nursery  # for the tasks of the test, cancelled at the end

    def __init__(self, look: Callable[[bool], None], *, seed: int, settings: PeerSettings) -> None:
        self._look = look
        self._seed, self._settings = seed, settings
        self._clock = MockClock(autojump_threshold=math.inf)
        self._up = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="stage")
        self._thread.start()
        self._up.wait()
        self._raise()

    def call(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        """Call a synchronous function among the tasks, and let them come to rest, in no time."""

        async def run() -> T:
            try:
                return function(*arguments, **keywords)
            finally:
                await wait_all_tasks_blocked()

        return trio.from_thread.run(run, trio_token=self._token)

    def pass_time(self, seconds: float) -> None:
        """Let so many seconds go by."""

        async def run() -> None:
            self._clock.autojump_threshold = 0
            await trio.sleep(seconds)
            self._clock.autojump_threshold = math.inf
            await wait_all_tasks_blocked()

        trio.from_thread.run(run, trio_token=self._token)

    def check(self) -> None:
        """Raise now what `look` has seen so far."""
        if self._watch.failure is not None:
            raise self._watch.failure

    def close(self) -> None:
        """Cancel both ends, and raise what went wrong among the tasks or was seen by `look`."""
        if self._thread.is_alive():
            self._token.run_sync_soon(self._leave.set)
        self._thread.join()
        self._raise()

    def _run(self) -> None:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # for good, as Hypothesis does it
        try:
            trio.run(self._main, clock=self._clock)
        except BaseException as failure:  # noqa: BLE001  it is raised where the rules run
            self._failure = failure
        finally:
            self._up.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._leave = trio.Event()
        pair = joined(seed=self._seed, settings=self._settings)
        with watching(self._look) as self._watch:
            async with pair as self.both, trio.open_nursery() as self.nursery:
                self._up.set()
                await self._leave.wait()
                self.nursery.cancel_scope.cancel()

    def _raise(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
