"""Close waits for a queue that waits for close.

A session does its operations one after the other, in a queue. One of them waits for the client's answer, or for the
session's end. The client is gone.
"""

from collections.abc import Awaitable, Callable

import trio
from trio.testing import MockClock

HOUR = 3600.0
GRACE = 1.0  # seconds for goodbyes


class Session:
    def __init__(self) -> None:
        self.answered = trio.Event()
        self.ended = trio.Event()
        self.idle = trio.Event()
        self.operations, self.queue = trio.open_memory_channel[Callable[[], Awaitable[None]]](8)

    async def run(self) -> None:
        async for operation in self.queue:
            await operation()
        self.idle.set()

    async def negotiate(self) -> None:
        async with trio.open_nursery() as nursery:
            for event in (self.answered, self.ended):  # progress, or the end: two wake-ups, as it should be
                nursery.start_soon(wait_then, event, nursery.cancel_scope.cancel)

    async def close_fails(self) -> None:
        """Let the queue finish, so that the client misses nothing; then end."""
        self.operations.close()
        await self.idle.wait()  # for `negotiate`, which waits for the next line
        self.ended.set()

    async def close_holds(self) -> None:
        """End first. What is left to say has a second."""
        self.ended.set()  # synchronous: whoever waits is woken before anything else happens
        self.operations.close()
        with trio.move_on_after(GRACE, shield=True):
            await self.idle.wait()


async def wait_then(event: trio.Event, act: Callable[[], None]) -> None:
    await event.wait()
    act()


async def fails() -> None:
    session = Session()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await session.operations.send(session.negotiate)
        await session.close_fails()


async def holds() -> None:
    session = Session()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await session.operations.send(session.negotiate)
        await session.close_holds()
        nursery.cancel_scope.cancel()


async def main() -> None:
    for close in (fails, holds):
        begun = trio.current_time()
        with trio.move_on_after(HOUR) as patience:
            await close()
        what = "not closed" if patience.cancelled_caught else "closed"
        print(f"{close.__name__}: {what} after {trio.current_time() - begun:.0f} s")


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
