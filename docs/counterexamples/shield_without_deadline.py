"""A shield without a deadline: the goodbye that must not be cancelled is the one that cannot be.

The client has stopped to read. Only so that this program ends, it reads again after an hour.
"""

from collections.abc import Awaitable, Callable

import trio
from trio.testing import MockClock

HOUR = 3600.0
GRACE = 1.0  # seconds for goodbyes

Send = Callable[[str], Awaitable[None]]


async def session_fails(send: Send) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):  # a cancelled session should still say goodbye
            await send("goodbye")


async def session_holds(send: Send) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.move_on_after(GRACE, shield=True):  # the same, for as long as it is worth
            await send("goodbye")


async def cancelled(session: Callable[[Send], Awaitable[None]]) -> None:
    """Serve a client for five seconds, then stop."""
    send, receive = trio.open_memory_channel[str](0)  # nothing is taken before somebody reads

    async def client() -> None:
        await trio.sleep(HOUR)
        await receive.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client)
        with trio.move_on_after(5):
            await session(send.send)
        nursery.cancel_scope.cancel()


async def fails() -> None:
    await cancelled(session_fails)


async def holds() -> None:
    await cancelled(session_holds)


async def main() -> None:
    for serve in (fails, holds):
        begun = trio.current_time()
        await serve()
        print(f"{serve.__name__}: cancelled after 5 s, over after {trio.current_time() - begun:.0f} s")


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
