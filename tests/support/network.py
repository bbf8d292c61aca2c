"""Two ends on a virtual network: seeded loss, duplication, reordering, black holes; time is a number."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from triosfu.sctp.core import Association, Settings
from triosfu.sctp.wire import PACKET_HEADER_SIZE, Chunk, ChunkType, Packet

if TYPE_CHECKING:
    from collections.abc import Callable


class End(Protocol):
    def receive_datagram(self, data: bytes, now: float) -> None: ...
    def handle_timeout(self, now: float) -> None: ...
    def next_timeout(self) -> float: ...
    def datagrams_to_send(self) -> list[bytes]: ...
    def events(self) -> list[Any]: ...


@dataclass
class Path:
    """One direction. `swallow(data, now)` may take a packet away after the dice have spared it."""

    latency: float = 0.02
    loss: float = 0.0
    duplicate: float = 0.0
    jitter: float = 0.0
    dark: tuple[float, float] = (math.inf, math.inf)
    swallow: Callable[[bytes, float], bool] | None = None
    mtu: int = 1191  # bytes of the largest packet that passes in one piece; a larger probe is lost
    sent: list[tuple[float, bytes]] = field(default_factory=list)

    def chunks(self) -> list[Chunk]:
        return [chunk for _, data in self.sent for chunk in Packet.parse(data).chunks]


class Network:
    """Runs ends 0 and 1 against each other. `events[i]` gathers what end i reports, `times` when it did."""

    def __init__(self, *ends: End, seed: int = 1, paths: tuple[Path, Path] | None = None) -> None:
        self.ends = ends
        self.rng = Random(seed)
        self.paths = paths or (Path(), Path())  # paths[i] leads away from end i
        self.now = 0.0
        self.events: tuple[list[Any], list[Any]] = ([], [])
        self.times: tuple[list[float], list[float]] = ([], [])
        self._flying: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def of(self, end: int, kind: type) -> list[Any]:
        return [event for event in self.events[end] if isinstance(event, kind)]

    def flush(self) -> None:
        """Drain both ends onto the network."""
        for index, end in enumerate(self.ends):
            for event in end.events():
                self.events[index].append(event)
                self.times[index].append(self.now)
            for data in end.datagrams_to_send():
                self._post(index, data)
            for probe in end.probes_to_send() if isinstance(end, Association) else ():
                if len(probe) <= self.paths[index].mtu:
                    self._post(index, probe)

    def _post(self, source: int, data: bytes) -> None:
        path, rng = self.paths[source], self.rng
        assert len(data) <= path.mtu or data[PACKET_HEADER_SIZE] == ChunkType.HEARTBEAT_ACK, (
            "which is as large as a probe"
        )
        path.sent.append((self.now, data))
        if path.dark[0] <= self.now < path.dark[1]:
            return
        copies = 2 if rng.random() < path.duplicate else 1
        for _ in range(copies):
            if rng.random() < path.loss or (path.swallow is not None and path.swallow(data, self.now)):
                continue
            self._count += 1
            arrival = self.now + path.latency + rng.random() * path.jitter
            heapq.heappush(self._flying, (arrival, self._count, 1 - source, data))

    def next(self) -> float:
        deadlines = [end.next_timeout() for end in self.ends]
        return min([*deadlines, self._flying[0][0] if self._flying else math.inf])

    def run(self, until: float = math.inf, *, done: Callable[[], bool] = lambda: False, steps: int = 200_000) -> None:
        """Let time pass until `until`, or `done()`, or nothing is left to happen."""
        for _ in range(steps):
            self.flush()
            if done():
                return
            at = self.next()
            if at > until or at == math.inf:
                self.now = max(self.now, min(at, until)) if until < math.inf else self.now
                return
            self.now = max(self.now, at)
            for end in self.ends:
                end.handle_timeout(self.now)
                assert end.next_timeout() > self.now, "P19: a timer spins"
                check_windows(end)
            self.flush()
            while self._flying and self._flying[0][0] <= self.now:
                _, _, target, data = heapq.heappop(self._flying)
                self.ends[target].receive_datagram(data, self.now)
                check_windows(self.ends[target])
        raise AssertionError("the network never comes to rest")


def check_windows(end: End) -> None:
    """P20, the part that holds at every moment; and the books agree with themselves."""
    if not isinstance(end, Association):
        return
    outbound = end._connection.outbound
    unit = end._connection.unit
    in_flight = [sent for sent in outbound._outstanding.values() if sent.state == 0]
    assert outbound.flight == sum(sent.size for sent in in_flight)
    assert outbound.in_flight == len(in_flight)
    assert outbound.congestion.bytes >= unit
    assert end.total_buffered >= 0


# What nearly all peers do today, and all that we can do.
PLAIN, FULL = Settings(interleaving=False, zero_checksum=False, larger_mtus=()), Settings()


def associations(
    seed: int = 1, *, tsns: tuple[int | None, int | None] = (None, None), settings: Settings = PLAIN
) -> tuple[Association, Association]:
    """Two associations that do not know each other yet."""
    left, right = (
        Association(now=0.0, rng=Random(seed + i), initial_tsn=tsns[i], over_dtls=True, settings=settings)
        for i in range(2)
    )
    return left, right


def established(
    seed: int = 1, *, tsns: tuple[int | None, int | None] = (None, None), settings: Settings = PLAIN
) -> Network:
    """Two associations that are up, both having connected, with the handshake's traffic forgotten."""
    left, right = associations(seed, tsns=tsns, settings=settings)
    network = Network(left, right, seed=seed)
    left.connect(0.0)
    right.connect(0.0)
    network.run(until=1.0)
    for path in network.paths:
        path.sent.clear()
    return network
