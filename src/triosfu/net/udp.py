"""One UDP port for every peer, and a TCP port: who a datagram is for, and how it gets there without a task of its own.

The first byte tells the protocol (RFC 7983). STUN finds its way by what it carries: requests by our ufrag, responses by
the first bytes of the transaction id that we made. Everything else is for whoever ICE has bound the remote address to;
what nobody claims is dropped and counted, without an answer.

A TCP connection (`net.tcp`) is one more path: what comes over it is delivered like datagrams, with a table of its own
for who has which address.
"""

from __future__ import annotations

import secrets
from collections import Counter
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

import structlog
import trio

from triosfu.errors import UsageError
from triosfu.ice.candidate import Candidate
from triosfu.net.address import Address, family, pack, unpack
from triosfu.net.batch import (
    LARGEST,
    SLOT,
    BatchedInbox,
    Inbox,
    PlainInbox,
    Pointer,
    allowed,
    batching_available,
)
from triosfu.net.clock import Clock
from triosfu.net.egress import Destination, Egress
from triosfu.net.reading import Reader
from triosfu.net.sockets import bind, open_beside
from triosfu.net.tcp import FrameInbox, TcpPort
from triosfu.srtp.gcm import compiled_gcm
from triosfu.stun.wire import peek

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from triosfu.net.batch import DatagramSocket
    from triosfu.net.tcp import Connection, Frames

__all__ = ["Address", "Destination", "Egress", "Route", "UdpMux"]

MAX_TUPLES = 16  # remote addresses bound to one route; the oldest goes
PREFIX = 4  # bytes of a transaction id that tell whose request it was
FULL_PAUSE, FULL_TRIES = 0.002, 50  # seconds between looks at a full socket, and after how many it is given up

log = structlog.get_logger()


class Route(Protocol):
    """Whose datagrams they are: a peer connection. All of it is synchronous, and bad bytes never raise.

    A route that raises all the same has a bug: the mux removes it and calls `receive_failed`; nobody else notices.
    """

    def receive_stun(self, data: bytes, source: Address, local: Address, now: float) -> None:
        """Take a STUN message that came from `source` to our address `local`. Nothing in it is verified."""

    def receive_dtls(self, data: bytes, source: Address, now: float) -> None:
        """Take a DTLS datagram from a bound address."""

    def receive_rtp(self, arena: memoryview, pointer: Pointer, length: int, now: float, following: int = 0) -> int:
        """Take an SRTP packet from a bound address, where it lies: at the start of `arena`, which `pointer` points to.

        It may be decrypted in place. After the return the memory belongs to another datagram: copy what is kept. The
        `following` bytes behind it are further datagrams from there, of the same length but for the last; how many of
        them were taken as well is returned.
        """

    def receive_rtcp(self, arena: memoryview, pointer: Pointer, length: int, now: float) -> bool:
        """Take an SRTCP packet from a bound address, as `receive_rtp` does; whether anything follows of it."""

    def end_of_batch(self, now: float) -> None:
        """Act on what came: called once after each batch with something for this route to act upon."""

    def receive_failed(self, error: Exception) -> None:
        """End: one of the methods above raised `error`, and the mux has removed this route."""


@dataclass(slots=True)
class _Holdings:
    """What is entered in the tables for one route."""

    ufrags: set[str] = field(default_factory=set)
    prefix: bytes | None = None
    tuples: dict[bytes, bool] = field(default_factory=dict)  # oldest first, and whether it is proven
    streams: dict[Connection, _StreamPort] = field(default_factory=dict)  # oldest first


@dataclass(frozen=True, slots=True)
class _Port:
    """One of our UDP sockets."""

    sock: DatagramSocket
    local: Address  # as peers are told
    inbox: Inbox
    by_source: dict[bytes, Route]  # whose what comes is, unless it is STUN


@dataclass(frozen=True, slots=True)
class _StreamPort:
    """One of our TCP sockets: a packet's source is its connection."""

    tcp: TcpPort
    local: Address
    inbox: FrameInbox
    by_source: dict[bytes, Route]


class UdpMux:
    """The UDP sockets of a server and the tables that say which peer a datagram belongs to.

    Registering, binding and removing are synchronous and take effect with the next datagram.
    """

    def __init__(
        self,
        sockets: Sequence[DatagramSocket],
        *,
        advertised: Sequence[Address] = (),
        batched: bool,
        beside: Sequence[DatagramSocket] = (),
        listeners: Sequence[socket.socket] = (),
        wait_readable: Callable[[Any], Awaitable[None]] = trio.lowlevel.wait_readable,
    ) -> None:
        """Serve `sockets`, and for each that is in `beside` its second one, as `net.sockets` opens them."""
        self.counters: Counter[str] = Counter()
        """Datagrams received and sent, batches, and drops by reason."""
        self.forwarded: Callable[[float], None] | None = None
        """Told how many seconds a batch took that ended with media, of which something was sent; it may not raise."""
        self.egress = Egress(self.counters)
        self.egress.wake = self._ask_for_flush
        self.clock = Clock()
        """Wakes the routes' tasks in time, while this mux is served."""
        self._flusher = trio.lowlevel.ParkingLot()
        self._routes: dict[Route, _Holdings] = {}
        self._by_ufrag: dict[str, Route] = {}
        self._by_prefix: dict[bytes, Route] = {}
        self._by_tuple: dict[bytes, Route] = {}
        self._touched: dict[Route, None] = {}  # routes that the batch at hand had something for
        self._failed: list[tuple[Route, Exception]] = []
        self._current: Route | None = None
        self._ports: list[_Port] = []
        self._beside: list[_Port] = []  # the same ports: what the kernel thinks can wait a little
        self._wait_readable = wait_readable
        for sock in sockets:
            host, port = sock.getsockname()[:2]
            told = (address for address in advertised if family(address) == sock.family)
            local = next(((at[0], at[1] or port) for at in told), (host, port))
            self._ports.append(self._port(sock, local, batched=batched))
            second = (one for one in beside if one.getsockname() == sock.getsockname())
            self._beside += [self._port(one, local, batched=batched) for one in second]
            self.egress.open_outlet(sock, local, batched=batched)
        told_hosts = {family(address): address[0] for address in reversed(advertised)}
        heard_at: dict[Address, list[socket.socket]] = {}
        for listener in listeners:
            host, port = listener.getsockname()[:2]
            heard_at.setdefault((told_hosts.get(listener.family, host), port), []).append(listener)
        self._streams: dict[Address, _StreamPort] = {}
        for local, heard in heard_at.items():
            tcp = TcpPort(heard, self.counters)
            self._streams[local] = _StreamPort(tcp, local, FrameInbox(), {})
            self.egress.open_stream_outlet(tcp, local)

    def _port(self, sock: DatagramSocket, local: Address, *, batched: bool) -> _Port:
        inbox = BatchedInbox(sock) if batched else PlainInbox(sock)
        return _Port(sock, local, inbox, self._by_tuple)

    def path(self) -> dict[str, str]:
        """How datagrams are received and sent here: what the system has, and whether the compiled kernel is used."""
        inboxes = [port.inbox for port in self._ports if isinstance(port.inbox, BatchedInbox)]
        runs_in, runs_out = any(inbox.coalesced for inbox in inboxes), self.egress.segmented
        return {
            "calls": "recvmmsg, sendmmsg" if inboxes else "one for each datagram",
            "control": "apart" if self._beside else "with media",
            "runs": " and ".join(way for way, taken in (("in", runs_in), ("out", runs_out)) if taken) or "none",
            "kernel": "python" if self.egress.kernel_queue is None else "compiled",
            "srtp": "libsrtp" if compiled_gcm() is None else "compiled",
        }

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        hosts: Sequence[str],
        port: int,
        *,
        advertised: Sequence[Address] = (),
        batched: bool | None = None,
        listeners: Sequence[socket.socket] = (),
    ) -> AsyncIterator[Self]:
        """Serve UDP `port` on every one of `hosts`; port 0 takes one that is free on all.

        Where the system lets us, each has a second socket for control (`net.sockets`).

        TCP is served on `listeners` (`net.tcp.listen`), whose port must be another one; their owner closes them.

        `advertised` are the addresses that peers are told instead of a socket's own (a public address in front of it;
        port 0 means the socket's). `batched` forces recvmmsg and sendmmsg, or plain calls; None takes what there is.

        Leaving the block, also by a cancellation, flushes what is queued and closes the sockets.

        Raises:
            OSError: A host or port cannot be had.
        """
        with ExitStack() as stack:
            sockets = [stack.enter_context(sock) for sock in bind(hosts, port)]
            beside = []
            for sock in sockets if allowed("batches") else ():
                second = open_beside(sock)
                if second is not None:
                    beside.append(stack.enter_context(second))
            batched = batching_available() if batched is None else batched
            mux = cls(sockets, advertised=advertised, batched=batched, beside=beside, listeners=listeners)
            async with mux.served():
                yield mux

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """Receive and flush within the block; leaving it, also cancelled, flushes once more. `open` does this, too."""
        async with trio.open_nursery() as nursery:
            for port in self._ports:
                name = f"udp {port.local[0]}:{port.local[1]}"
                nursery.start_soon(self._reader(port).read_at_once, name=name)
            for port in self._beside:
                name = f"udp {port.local[0]}:{port.local[1]} control"
                nursery.start_soon(self._reader(port).read_control, name=name)
            for stream in self._streams.values():
                nursery.start_soon(self._serve_streams, stream, name=f"tcp {stream.local[0]}:{stream.local[1]}")
            nursery.start_soon(self._flush_when_asked)
            nursery.start_soon(self.clock.run, name="clock")
            try:
                yield
            finally:
                self.egress.close()
                nursery.cancel_scope.cancel()

    # --- who is where ----------------------------------------------------------------------------------------------

    @property
    def local_addresses(self) -> list[Address]:
        """One address per socket, as peers are told."""
        return [port.local for port in self._ports]

    def host_candidates(self, advertised: Sequence[Address] = ()) -> list[Candidate]:
        """A host candidate for each of `advertised`, or else for each socket; earlier ones are preferred."""
        addresses = advertised or self.local_addresses
        return [Candidate.host(address, local_preference=65535 - index) for index, address in enumerate(addresses)]

    def stream_candidates(self) -> list[Candidate]:
        """A passive TCP candidate for each socket that listens (RFC 6544, section 5.1)."""
        return [
            Candidate.host(address, protocol="tcp", tcptype="passive", local_preference=65535 - index)
            for index, address in enumerate(self._streams)
        ]

    def register(self, ufrag: str, route: Route) -> None:
        """Give `route` the STUN requests for `ufrag`.

        Raises:
            UsageError: Another route has this ufrag.
        """
        if self._by_ufrag.get(ufrag, route) is not route:
            raise UsageError("net: this ufrag belongs to another route")
        self._by_ufrag[ufrag] = route
        self._holdings(route).ufrags.add(ufrag)

    def unregister(self, ufrag: str) -> None:
        """Drop STUN requests for `ufrag` from now on; an unknown one is ignored."""
        route = self._by_ufrag.pop(ufrag, None)
        if route is not None:
            self._holdings(route).ufrags.discard(ufrag)

    def transaction_prefix(self, route: Route) -> bytes:
        """The 4 bytes that every transaction id of `route` has to begin with, so that the answers find it."""
        holdings = self._holdings(route)
        while holdings.prefix is None:
            prefix = secrets.token_bytes(PREFIX)
            if prefix not in self._by_prefix:
                holdings.prefix = prefix
                self._by_prefix[prefix] = route
        return holdings.prefix

    def release_prefix(self, route: Route) -> None:
        """Drop STUN responses for `route` from now on."""
        holdings = self._routes.get(route)
        if holdings is not None and holdings.prefix is not None:
            del self._by_prefix[holdings.prefix]
            holdings.prefix = None

    def bind(self, remote: Address, route: Route, *, proven: bool = True) -> None:
        """Give `route` what comes from `remote`; if `proven`, whoever had it before (a NAT reuses ports).

        What is not proven may be a forged source address: nobody loses a tuple to it. A route has `MAX_TUPLES`
        addresses at most: the one bound longest ago goes, those that are not proven first.
        """
        key = pack(remote)
        before = self._by_tuple.get(key)
        if before is not None:
            if before is not route and not proven:
                self.counters["contested_tuple"] += 1
                return
            proven |= self._holdings(before).tuples.pop(key)
        self._by_tuple[key] = route
        tuples = self._holdings(route).tuples
        tuples[key] = proven
        if len(tuples) > MAX_TUPLES:
            goes = next((one for one, is_proven in tuples.items() if not is_proven), next(iter(tuples)))
            del tuples[goes], self._by_tuple[goes]

    def bind_stream(self, remote: Address, local: Address, route: Route) -> None:
        """Give `route` the TCP connection from `remote` to `local`, for which it has authenticated a check.

        A connection has one route for all its life; it is closed when that is removed. A route has `MAX_TUPLES` of them
        at most: the one bound longest ago is closed.
        """
        port = self._streams[local]
        connection = port.tcp.connections.get(remote)
        if connection is None or connection.ending or port.by_source.get(connection.source, route) is not route:
            self.counters["contested_stream"] += 1
            return
        port.tcp.prove(connection)
        port.by_source[connection.source] = route
        streams = self._holdings(route).streams
        streams.pop(connection, None)
        streams[connection] = port  # behind those that were used longer ago
        if len(streams) > MAX_TUPLES:
            self._let_go_of_stream(streams, next(iter(streams)))

    def _let_go_of_stream(self, streams: dict[Connection, _StreamPort], connection: Connection) -> None:
        """Have a connection close, when what is queued in this turn of the loop has left."""
        del streams.pop(connection).by_source[connection.source]
        connection.end()

    def unbind(self, route: Route) -> None:
        """Drop media and DTLS for `route` from now on, from wherever it comes."""
        holdings = self._routes.get(route)
        if holdings is None:
            return
        for key in holdings.tuples:
            del self._by_tuple[key]
        holdings.tuples.clear()
        for connection in list(holdings.streams):
            self._let_go_of_stream(holdings.streams, connection)

    def remove(self, route: Route) -> None:
        """Forget `route`: nothing is delivered to it any more, not even the end of this batch."""
        self._touched.pop(route, None)
        holdings = self._routes.get(route)
        if holdings is None:
            return
        for ufrag in holdings.ufrags:
            del self._by_ufrag[ufrag]
        self.unbind(route)
        self.release_prefix(route)
        del self._routes[route]

    def _holdings(self, route: Route) -> _Holdings:
        return self._routes.setdefault(route, _Holdings())

    # --- receiving -------------------------------------------------------------------------------------------------

    def _reader(self, port: _Port) -> Reader:
        return Reader(
            port.sock, port.inbox, partial(self._deliver, port),
            counters=self.counters, wait_readable=self._wait_readable,
        )  # fmt: skip

    async def _serve_streams(self, port: _StreamPort) -> None:
        def deliver(connection: Connection, frames: Frames) -> None:
            while not connection.ending and (count := port.inbox.take(frames, connection.source)):
                self._deliver(port, count)

        def gone(connection: Connection) -> None:
            route = port.by_source.pop(connection.source, None)
            if route is not None:
                del self._holdings(route).streams[connection]

        await port.tcp.serve(deliver, gone)

    def _deliver(self, port: _Port | _StreamPort, count: int) -> None:
        """Dispatch one batch, end it for every route that it touched, flush."""
        now = trio.current_time()
        self.counters["datagrams"] += count
        self.counters["batches"] += 1
        self.egress.held = True
        slot, touched, failed = 0, self._touched, self._failed
        while slot < count or touched or failed:
            # The one place where a route's bug is caught; the batch goes on behind what caused it.
            try:
                while slot < count:
                    slot += 1
                    self._current = None
                    slot += self._dispatch(port, slot - 1, now)
                while touched:
                    self._current = touched.popitem()[0]
                    self._current.end_of_batch(now)
                while failed:
                    self._current = None
                    route, error = failed.pop()
                    route.receive_failed(error)
            except Exception as error:  # noqa: BLE001  a bug of any kind may cost one peer, never the port
                self._expel(error)
        self._current = None
        self.egress.held = False
        sent = self.egress.queued
        self.egress.flush()
        if self.egress.held_back:
            self._ask_for_flush()
        # One look at a batch's last datagram, instead of one at each: a busy server's batches are media.
        if self.forwarded is not None and sent and count and _is_rtp(port.inbox.views[count - 1]):
            self.forwarded(trio.current_time() - now)

    def _dispatch(self, port: _Port | _StreamPort, slot: int, now: float) -> int:
        """Give a datagram to whom it is for; how many behind it went there as well."""
        inbox = port.inbox
        length, source, view = inbox.lengths[slot], inbox.sources[slot], inbox.views[slot]
        first = view[0]
        if length < 2 or (length >= SLOT and (length >= LARGEST or not 20 <= first < 64)):
            self.counters["odd_size"] += 1
        elif first < 4:
            self._dispatch_stun(bytes(view[:length]), source, port, now)
        elif not (128 <= first < 192 or 20 <= first < 64):
            self.counters["unknown_protocol"] += 1
        elif (route := port.by_source.get(source)) is None:
            self.counters["unbound_tuple"] += 1
        else:
            self._current = route
            if first >= 128 and 192 <= view[1] < 224:  # RFC 5761, section 4
                if route.receive_rtcp(view, inbox.pointers[slot], length, now):
                    self._touched[route] = None
                return 0
            self._touched[route] = None
            if first < 128:
                route.receive_dtls(bytes(view[:length]), unpack(source), now)
            else:
                return route.receive_rtp(view, inbox.pointers[slot], length, now, inbox.following[slot])
        return 0

    def _dispatch_stun(self, data: bytes, source: bytes, port: _Port | _StreamPort, now: float) -> None:
        match peek(data):
            case str(ufrag):
                route, reason = self._by_ufrag.get(ufrag), "unknown_ufrag"
            case bytes(transaction):
                route, reason = self._by_prefix.get(transaction[:PREFIX]), "unknown_transaction"
            case None:
                route, reason = None, "odd_stun"
        if route is None:
            self.counters[reason] += 1
            return
        if isinstance(port, _StreamPort) and port.by_source.get(source, route) is not route:
            self.counters["contested_stream"] += 1
            return
        self._current = route
        self._touched[route] = None
        route.receive_stun(data, unpack(source), port.local, now)

    def _expel(self, error: Exception) -> None:
        """Remove the route that raised `error`, and let it know."""
        self.counters["route_failed"] += 1
        log.error("route failed", exc_info=error)
        route = self._current
        if route is not None:
            self.remove(route)
            self._failed.append((route, error))

    # --- sending outside of batches --------------------------------------------------------------------------------

    def _ask_for_flush(self) -> None:
        self._flusher.unpark()

    async def _flush_when_asked(self) -> None:
        """Flush what was queued outside of a batch, once for all tasks that run in the same turn of the loop."""
        tries = 0
        while True:
            egress = self.egress
            if egress.held_back:
                await trio.sleep(FULL_PAUSE)  # what comes meanwhile flushes as well, and tries again
                egress.flush()
                tries = tries + 1 if egress.held_back else 0
                if tries == FULL_TRIES:
                    egress.drop_held()
                continue
            tries = 0
            if not egress.queued:
                await self._flusher.park()
            egress.flush()


def _is_rtp(datagram: memoryview) -> bool:
    return 128 <= datagram[0] < 192 and not 192 <= datagram[1] < 224
