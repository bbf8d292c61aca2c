"""When a socket is read, and how much of it in a row.

Media is read when it comes. Control (`net.sockets`) is, too, while there is little of it. A turn of the loop for a lone
datagram costs several times what the datagram does, so where much comes it is left in the socket's buffer, nobody is
woken for it, and the clock says when it is read.
"""

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
CONTROL_EVERY = 0.01  # seconds between two reads of control where there is much: nobody waits for it
MUCH, LITTLE = 10, 4  # datagrams in `CONTROL_EVERY`, from which on there is much, and at which there is no more


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

    async def read_control(self) -> None:
        """Read at once while little comes, and once in `CONTROL_EVERY` while much does, until cancelled.

        Of that time a read takes `BUDGET` and a batch at most, so a flood of it, a stranger's STUN for example, leaves
        two thirds of the time to media.
        """
        since, found = -math.inf, 0
        while True:
            await self._wait_readable(self._socket)
            began = trio.current_time()
            if began - since > CONTROL_EVERY:
                since, found = began, 0
            found += self._read()
            if found < MUCH:
                continue
            while found > LITTLE:
                await trio.sleep_until(began + CONTROL_EVERY)
                began = trio.current_time()
                found = self._read()
            since = -math.inf

    def _read(self) -> int:
        """Have delivered what is there, until nothing is left or the budget is used up; how many datagrams it was."""
        inbox, cost, total = self._inbox, self._cost, 0
        began = trio.current_time()
        while True:
            try:
                count = inbox.receive(BATCH if cost * BATCH < BUDGET else max(LEAST, int(BUDGET / cost)))
            except OSError:
                self._counters["receive_error"] += 1  # an ICMP error, told to whom it may concern
                break
            before = trio.current_time()
            self._deliver(count)
            total += count
            now = trio.current_time()
            if inbox.messages:
                cost += ((now - before) / inbox.messages - cost) / 8
            if inbox.empty or now - began > BUDGET:
                break
        self._cost = cost
        return total
