"""A UDP relay between two peers that loses, delays and so reorders datagrams, by dice with a seed of their own."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Address = tuple[str, int]


class Relay:
    """Stands at `address` for `target`, as a NAT would: to the target, every client has a port of its own here.

    `loss` and `jitter` may change while it runs; at first it is a good wire. A datagram takes up to `jitter` seconds
    longer than the one before it, or less, so that some overtake others.
    """

    def __init__(self, front: trio.socket.SocketType, target: Address, seed: int, nursery: trio.Nursery) -> None:
        self.address: Address = front.getsockname()[:2]
        self.loss = 0.0
        self.jitter = 0.0
        self.counters: Counter[str] = Counter()  # datagrams: lost, delivered, overtaken
        self._front = front
        self._target = target
        self._rng = Random(seed)
        self._nursery = nursery
        self._backs: dict[Address, trio.socket.SocketType] = {}
        self._sent: Counter[Address] = Counter()  # by where a datagram goes
        self._newest: Counter[Address] = Counter()  # of what has arrived there

    async def _serve(self) -> None:
        while True:
            data, client = await self._front.recvfrom(65_535)
            if client not in self._backs:
                back = trio.socket.socket(self._front.family, self._front.type)
                await back.bind((self.address[0], 0))
                self._backs[client] = back
                self._nursery.start_soon(self._serve_back, back, client)
            self._carry(data, self._backs[client], self._target)

    async def _serve_back(self, back: trio.socket.SocketType, client: Address) -> None:
        with back:
            while True:
                data, sender = await back.recvfrom(65_535)
                if sender[:2] == self._target:
                    self._carry(data, self._front, client)

    def _carry(self, data: bytes, outlet: trio.socket.SocketType, to: Address) -> None:
        if self._rng.random() < self.loss:
            self.counters["lost"] += 1
            return
        self._sent[to] += 1
        self._nursery.start_soon(self._arrive, data, outlet, to, self._sent[to], self._rng.random() * self.jitter)

    async def _arrive(
        self, data: bytes, outlet: trio.socket.SocketType, to: Address, number: int, delay: float
    ) -> None:
        await trio.sleep(delay)
        self.counters["delivered"] += 1
        self.counters["overtaken"] += number < self._newest[to]
        self._newest[to] = max(number, self._newest[to])
        await outlet.sendto(data, to)


@asynccontextmanager
async def relay(target: Address, *, seed: int) -> AsyncIterator[Relay]:
    """A relay to `target`, on a port of the same host; leaving the block ends it with all that is on its way."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as front:
        await front.bind((target[0], 0))
        async with trio.open_nursery() as nursery:
            between = Relay(front, target, seed, nursery)
            nursery.start_soon(between._serve)
            yield between
            nursery.cancel_scope.cancel()
