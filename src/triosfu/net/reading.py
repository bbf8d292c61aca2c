"""When a socket is read, and how much of it in a row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from triosfu.net.batch import BATCH

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable

    from triosfu.net.batch import DatagramSocket, Inbox

BUDGET = 0.003  # seconds of work in a row for one socket, before timers, signalling and the others have their turn
LEAST = 8  # messages in a batch, if they have come: a picture's packets leave together
CONTROL_EVERY = 0.005  # seconds between two reads of control, if there is so much


class Reader:
    """Reads one socket into its inbox, and has each batch delivered."""

    def __init__(
        self,
        sock: DatagramSocket,
        inbox: Inbox,
        deliver: Callable[[int], None],
        *,
        counters: Counter[str],
        wait_readable: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Read nothing yet. `deliver` is told how many datagrams lie in `inbox`, and may not raise."""
        self._socket = sock
        self._inbox = inbox
        self._deliver = deliver
        self._counters = counters
        self._wait_readable = wait_readable
        self._cost = 0.0  # seconds for each message, lately: with many subscribers one of them is much work

    async def read_at_once(self) -> None:
        """Read whenever something has come, until cancelled."""
        while True:
            await self._wait_readable(self._socket)
            self._read()

    async def read_in_batches(self) -> None:
        """Read at once what comes after a while of silence, else once in `CONTROL_EVERY`, until cancelled.

        What comes meanwhile waits in the socket's buffer, and wakes nobody. A read has `BUDGET`, so what comes here,
        a stranger's STUN for example, takes three fifths of the time, and a batch.
        """
        next_read = -math.inf
        while True:
            await self._wait_readable(self._socket)
            if next_read > trio.current_time():
                await trio.sleep_until(next_read)
            next_read = trio.current_time() + CONTROL_EVERY
            self._read()

    def _read(self) -> None:
        """Take what is there and have it delivered, until nothing is left or the budget is used up."""
        inbox, cost = self._inbox, self._cost
        began = trio.current_time()
        while True:
            try:
                count = inbox.receive(BATCH if cost * BATCH < BUDGET else max(LEAST, int(BUDGET / cost)))
            except OSError:
                self._counters["receive_error"] += 1  # an ICMP error, told to whom it may concern
                break
            before = trio.current_time()
            self._deliver(count)
            now = trio.current_time()
            if inbox.messages:
                cost += ((now - before) / inbox.messages - cost) / 8
            if inbox.empty or now - began > BUDGET:
                break
        self._cost = cost
