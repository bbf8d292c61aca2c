"""Whole peer connections on a network of our own: no kernel, virtual time, the same run for the same seed.

What stands in here is the operating system's UDP socket and nothing else. Behind each `VirtualSocket` there are a real
`UdpMux` and a real `PeerConnection` with its ICE, DTLS, SCTP and trio tasks; between two of them lies a `Way` for each
direction, which does to a datagram what networks do.

    @virtual_time                                   # the test runs under a MockClock that jumps
    async def test_...() -> None:
        async with joined(seed=1) as both:          # a `Joined`: a `Pair` as in tests/support/side.py, and its network
            await both.connect()                    # ICE, DTLS and SCTP are up, some 0.2 virtual seconds later
            ours, theirs = await both.channel()
            both.out.dark = (trio.current_time(), math.inf)   # from the offerer to the answerer nothing arrives now
            both.network.lose(Kind.SACK, 1, (both.back,))     # and back, the first SACK from here on is lost
            ...                                     # `both.mend()` makes it a good network again

Leaving the block cancels both `run`s and shows that neither mux remembers anything.

A way has a latency, a rate, loss, duplication and jitter (which reorders), drawn from the seed; a `script` of what
becomes of each datagram in turn; a window of darkness; windows in which writing to the socket, or reading from it,
fails with an error number; and `swallow`, which sees each datagram with its `Kind`s. Those reach through DTLS: the
network is told what is inside each record, as if it had the keys. So "a black hole exactly behind the second SACK" can
be said, see `lose` and `darken_behind`.

All that happens depends on the seed alone, the order in which trio runs tasks that are ready together included. What
OpenSSL and `secrets` draw changes bytes, not what happens.
"""

from __future__ import annotations

import heapq
import math
import os
import socket
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial, wraps
from random import Random
from typing import TYPE_CHECKING, ParamSpec

import trio
import trio._core._run as scheduler
from trio.testing import MockClock

from tests.support.side import Pair, Side, assert_forgotten
from triosfu.net.batch import FRAGMENTATION
from triosfu.net.udp import UdpMux
from triosfu.sctp.wire import PACKET_HEADER_SIZE, ChunkType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from triosfu.net.address import Address
    from triosfu.peer import PeerSettings

P = ParamSpec("P")

NEVER = (math.inf, math.inf)
PORT = 7882


class Kind(Enum):
    """What is in a datagram; one may be several at a time."""

    STUN_REQUEST = auto()
    STUN_RESPONSE = auto()
    CLIENT_HELLO = auto()  # the four flights of the DTLS handshake
    SERVER_HELLO = auto()
    CLIENT_FINISHED = auto()
    SERVER_FINISHED = auto()
    CLOSE_NOTIFY = auto()  # any alert: under encryption they look alike
    RTP = auto()
    INIT = auto()
    INIT_ACK = auto()
    COOKIE_ECHO = auto()
    COOKIE_ACK = auto()
    DATA = auto()
    SACK = auto()
    OPEN = auto()  # DCEP's
    ACK = auto()
    RESET_REQUEST = auto()
    RESET_RESPONSE = auto()
    FORWARD_TSN = auto()
    HEARTBEAT = auto()
    HEARTBEAT_ACK = auto()
    ABORT = auto()
    SHUTDOWN = auto()


FLIGHTS = {
    1: Kind.CLIENT_HELLO,
    2: Kind.SERVER_HELLO,
    11: Kind.CLIENT_FINISHED,  # begins with the certificate
    4: Kind.SERVER_FINISHED,  # begins with a session ticket, or else with CHANGE_CIPHER_SPEC
}
CHUNKS = {
    ChunkType.INIT: Kind.INIT,
    ChunkType.INIT_ACK: Kind.INIT_ACK,
    ChunkType.COOKIE_ECHO: Kind.COOKIE_ECHO,
    ChunkType.COOKIE_ACK: Kind.COOKIE_ACK,
    ChunkType.DATA: Kind.DATA,
    ChunkType.I_DATA: Kind.DATA,
    ChunkType.SACK: Kind.SACK,
    ChunkType.FORWARD_TSN: Kind.FORWARD_TSN,
    ChunkType.I_FORWARD_TSN: Kind.FORWARD_TSN,
    ChunkType.HEARTBEAT: Kind.HEARTBEAT,
    ChunkType.HEARTBEAT_ACK: Kind.HEARTBEAT_ACK,
    ChunkType.ABORT: Kind.ABORT,
    ChunkType.SHUTDOWN: Kind.SHUTDOWN,
}
DCEP = (50).to_bytes(4, "big")
CONTROL = {2: Kind.ACK, 3: Kind.OPEN}
RECONFIG = {13: Kind.RESET_REQUEST, 16: Kind.RESET_RESPONSE}


@dataclass(frozen=True, slots=True)
class Datagram:
    """What `swallow` is shown."""

    data: bytes
    packet: bytes  # of SCTP, under the encryption
    kinds: frozenset[Kind]
    at: float  # when it was sent


@dataclass
class Way:
    """One direction between two sockets, and what happens to datagrams on it."""

    latency: float = 0.01
    rate: float = math.inf  # bytes a second; what comes faster waits
    loss: float = 0.0
    duplicate: float = 0.0
    jitter: float = 0.0
    dark: tuple[float, float] = NEVER  # from when until when everything is lost
    script: Sequence[tuple[float, ...]] = ()
    """For each datagram in turn, how much later each copy of it arrives: () is lost, (0,) as usual, (0, 1) twice."""
    swallow: Callable[[Datagram], bool] | None = None  # may take a datagram away that the dice have spared
    unwritable: tuple[float, float] = NEVER  # when `sendto` fails
    unreadable: tuple[float, float] = NEVER  # when what arrives is an error instead of the datagram
    errno: int = 101  # ENETUNREACH; of both
    mtu: float = math.inf  # bytes of the largest datagram that passes in one piece
    sent: int = 0
    busy_until: float = -math.inf

    def mend(self) -> None:
        """Be a good network from now on; what is under way arrives."""
        self.loss = self.duplicate = self.jitter = 0.0
        self.dark = self.unwritable = self.unreadable = NEVER
        self.script, self.swallow = (), None


class VirtualSocket:
    """A UDP socket of an operating system that is not there (`net.batch.DatagramSocket`)."""

    def __init__(self, network: VirtualNetwork, address: Address) -> None:
        self.family = socket.AF_INET
        self._network = network
        self._address = address
        self._arriving: list[tuple[float, int, bytes, Address, int]] = []  # the last is an errno, if not 0
        self._alarm = trio.CancelScope()
        self._whole = False  # what is sent must not be fragmented

    def fileno(self) -> int:
        return -1

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        assert (level, option) == FRAGMENTATION[self.family][:2]
        self._whole = value == FRAGMENTATION[self.family][2]

    def getsockname(self) -> Address:
        return self._address

    def sendto(self, data: memoryview | bytes, address: Address, /) -> int:
        self._network.post(self._address, address, bytes(data), whole=self._whole)
        return len(data)

    def recvfrom_into(self, buffer: memoryview, nbytes: int = 0, /) -> tuple[int, Address]:
        if not self._arriving or self._arriving[0][0] > trio.current_time():
            raise BlockingIOError
        _, _, data, source, errno = heapq.heappop(self._arriving)
        if errno:
            raise OSError(errno, os.strerror(errno))
        buffer[: len(data)] = data
        return len(data), source

    def close(self) -> None:
        self._arriving.clear()

    def arrive(self, at: float, number: int, data: bytes, source: Address, errno: int) -> None:
        heapq.heappush(self._arriving, (at, number, data, source, errno))
        self._alarm.deadline = min(self._alarm.deadline, at)

    async def wait_readable(self) -> None:
        """As `trio.lowlevel.wait_readable`: return when something has arrived, a checkpoint in any case."""
        while True:
            at = self._arriving[0][0] if self._arriving else math.inf
            if at <= trio.current_time():
                break
            with trio.CancelScope(deadline=at) as self._alarm:
                await trio.sleep_forever()
        await trio.lowlevel.checkpoint()


class VirtualNetwork:
    """Sockets, and a `Way` from each to each other."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = Random(seed)
        self.sockets: dict[Address, VirtualSocket] = {}
        self.ways: dict[tuple[Address, Address], Way] = {}
        self._inside: dict[bytes, bytes] = {}  # DTLS record -> SCTP packet
        self._count = 0

    @asynccontextmanager
    async def mux(self, host: str) -> AsyncIterator[UdpMux]:
        """A mux with one socket on this network."""
        sock = self.sockets[host, PORT] = VirtualSocket(self, (host, PORT))
        mux = UdpMux([sock], batched=False, wait_readable=VirtualSocket.wait_readable)
        async with mux.served():
            yield mux
        sock.close()
        del self.sockets[host, PORT]

    def way(self, source: UdpMux, destination: UdpMux) -> Way:
        """The direction from one mux to another."""
        (near,), (far,) = source.local_addresses, destination.local_addresses
        return self.ways.setdefault((near, far), Way())

    def post(self, source: Address, destination: Address, data: bytes, *, whole: bool = False) -> None:
        """What the kernel does at `sendto`."""
        now = trio.current_time()
        way = self.ways.setdefault((source, destination), Way())
        packet = self._inside.pop(data, b"")
        if _within(way.unwritable, now):
            raise OSError(way.errno, os.strerror(way.errno))
        number, way.sent = way.sent, way.sent + 1
        target = self.sockets.get(destination)
        if target is None or _within(way.dark, now) or (whole and len(data) > way.mtu):
            return
        script, rng = way.script, self.rng
        copies = script[number] if number < len(script) else (0.0, 0.0) if _dice(rng, way.duplicate) else (0.0,)
        for extra in copies:
            if _dice(rng, way.loss):
                continue
            if way.swallow is not None and way.swallow(Datagram(data, packet, kinds(data, packet), now)):
                continue
            self._count += 1
            way.busy_until = max(now, way.busy_until) + len(data) / way.rate
            at = way.busy_until + way.latency + extra + (rng.random() * way.jitter if way.jitter else 0.0)
            target.arrive(at, self._count, data, source, way.errno if _within(way.unreadable, at) else 0)

    def see_through(self, side: Side) -> None:
        """Know from now on what is in the DTLS records of `side`."""
        transport = side.peer._transport
        send = transport.send_data

        def send_data(packet: bytes) -> None:
            send(packet)
            outbox = transport._dtls._outbox if transport._dtls is not None else []
            if outbox and outbox[-1][0] == 23:
                self._inside[outbox[-1]] = packet

        transport.send_data = send_data  # type: ignore[method-assign]

    def lose(self, kind: Kind, which: int, ways: Sequence[Way]) -> None:
        """Lose the `which`-th datagram of `kind` from now on, on any of `ways`, and no other; the first is 1."""
        seen = 0

        def swallow(datagram: Datagram) -> bool:
            nonlocal seen
            if kind not in datagram.kinds:
                return False
            seen += 1
            return seen == which

        for way in ways:
            way.swallow = swallow

    def darken_behind(self, kind: Kind, which: int, ways: Sequence[Way], dark: Sequence[Way]) -> None:
        """Let nothing through `dark` any more once the `which`-th datagram of `kind` has been sent on any of `ways`.

        That one still arrives.
        """
        seen = 0

        def swallow(datagram: Datagram) -> bool:
            nonlocal seen
            if kind in datagram.kinds:
                seen += 1
                if seen == which:
                    for way in dark:
                        way.dark = (datagram.at, math.inf)
            return False

        for way in ways:
            way.swallow = swallow


class Joined(Pair):
    """A pair on a virtual network: `out` leads from the offerer to the answerer, `back` the other way."""

    def __init__(self, network: VirtualNetwork, offerer: Side, answerer: Side, nursery: trio.Nursery) -> None:
        super().__init__(offerer, answerer, nursery)
        self.network = network
        self.out = network.way(offerer.mux, answerer.mux)
        self.back = network.way(answerer.mux, offerer.mux)
        for side in self.sides:
            network.see_through(side)

    @property
    def ways(self) -> tuple[Way, Way]:
        return self.out, self.back

    def mend(self) -> None:
        """Make both directions good from now on."""
        for way in self.ways:
            way.mend()

    def darken(self) -> None:
        """Let nothing pass any more, either way."""
        for way in self.ways:
            way.dark = (trio.current_time(), math.inf)


@asynccontextmanager
async def joined(
    *,
    ways: tuple[Way, Way] | None = None,
    seed: int = 0,
    single: bool = False,
    settings: PeerSettings | None = None,
) -> AsyncIterator[Joined]:
    """Two connections that run; leaving the block cancels them, and shows that nothing is left of them.

    `ways` are those from the offerer and to it; from the start, so the handshakes meet them, too.
    """
    network = VirtualNetwork(seed)
    scheduler._r.seed(seed)
    async with network.mux("192.0.2.1") as near, network.mux("192.0.2.2") as far:
        if ways is not None:
            network.ways[near.local_addresses[0], far.local_addresses[0]] = ways[0]
            network.ways[far.local_addresses[0], near.local_addresses[0]] = ways[1]
        offerer = Side("offerer", near, offerer=True, settings=settings, rng=Random(seed + 1))
        answerer = Side("answerer", far, offerer=False, single=single, settings=settings, rng=Random(seed + 2))
        async with trio.open_nursery() as nursery:
            yield Joined(network, offerer, answerer, nursery)
            nursery.cancel_scope.cancel()
        assert_forgotten(near)
        assert_forgotten(far)


class Watch(trio.abc.Instrument):
    """Calls `look(resting)` after each pass of the scheduler; resting is when every task waits, for time or for news.

    What it raises is raised at the end of the block of `watching`.
    """

    def __init__(self, look: Callable[[bool], None]) -> None:
        self._look = look
        self.failure: Exception | None = None

    def before_io_wait(self, timeout: float) -> None:
        if self.failure is None:
            try:
                self._look(trio.lowlevel.current_statistics().tasks_runnable == 0)
            except Exception as failure:  # noqa: BLE001  an instrument may not raise
                self.failure = failure


@contextmanager
def watching(look: Callable[[bool], None]) -> Iterator[Watch]:
    """Look at something between all steps of all tasks within the block."""
    watch = Watch(look)
    trio.lowlevel.add_instrument(watch)
    try:
        yield watch
    finally:
        trio.lowlevel.remove_instrument(watch)
        if watch.failure is not None:
            raise watch.failure


def virtual_time(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Make a plain test, or one for `given`, of an async one: each call is a run of trio whose clock jumps."""

    @wraps(test)
    def run(*arguments: P.args, **keywords: P.kwargs) -> None:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # for good, as Hypothesis does it
        scheduler._r.seed(0)
        trio.run(partial(test, *arguments, **keywords), clock=MockClock(autojump_threshold=0))

    return run


def kinds(data: bytes, packet: bytes = b"") -> frozenset[Kind]:
    """What is in a datagram, and in the SCTP packet that it has under encryption."""
    first = data[0]
    if first < 4:
        return frozenset({Kind.STUN_REQUEST if data[:2] == b"\0\1" else Kind.STUN_RESPONSE})
    if first >= 128:
        return frozenset({Kind.RTP})
    match first:
        case 20:
            return frozenset({Kind.SERVER_FINISHED})
        case 21:
            return frozenset({Kind.CLOSE_NOTIFY})
        case 22 if len(data) > 13 and data[13] in FLIGHTS:
            return frozenset({FLIGHTS[data[13]]})
    return frozenset(_inside(packet))


def _inside(packet: bytes) -> Iterator[Kind]:
    at = PACKET_HEADER_SIZE
    while at + 4 <= len(packet):
        chunk, flags, length = packet[at], packet[at + 1], int.from_bytes(packet[at + 2 : at + 4], "big")
        if chunk in CHUNKS:
            yield CHUNKS[ChunkType(chunk)]
        if chunk == ChunkType.RE_CONFIG:
            parameter = int.from_bytes(packet[at + 4 : at + 6], "big")
            if parameter in RECONFIG:
                yield RECONFIG[parameter]
        begin = at + (20 if chunk == ChunkType.I_DATA else 16)
        if chunk in {ChunkType.DATA, ChunkType.I_DATA} and flags & 2 and packet[begin - 4 : begin] == DCEP:
            yield CONTROL[packet[begin]]
        at += max(4, (length + 3) & ~3)


def _within(window: tuple[float, float], now: float) -> bool:
    return window[0] <= now < window[1]


def _dice(rng: Random, chance: float) -> bool:
    return chance > 0 and rng.random() < chance
