"""A lock that somebody else has and does not give back."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def held(lock: trio.Lock) -> AsyncIterator[None]:
    """Within the block another task has `lock`."""

    async def hold(*, task_status: trio.TaskStatus[None]) -> None:
        async with lock:
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(hold)
        yield
        nursery.cancel_scope.cancel()
