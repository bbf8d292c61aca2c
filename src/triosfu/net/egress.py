"""Everything that leaves: datagrams are written into one arena, and go out together.

The few that are larger than a slot stay where they are, and their slot points to them.

    offset = egress.reserve()                 # a free slot
    ... write the packet at arena[offset:] ...
    egress.commit(offset, length, destination)

Nobody has to remember to flush: a batch of received datagrams ends with a flush, and what is queued at any other time
(a timer, signalling) calls `wake`, with which the mux has a flush follow before the event loop sleeps.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from triosfu.errors import UsageError
from triosfu.net.address import Address, family, pack
from triosfu.net.batch import FULL, LARGEST, SLOT, Arena, ffi, send_batch, send_error, send_unfragmented

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.net.batch import DatagramSocket, Pointer
    from triosfu.net.tcp import Connection, TcpPort

SLOTS = 256  # datagrams per flush at most


class Outlet(Protocol):
    """A way out for datagrams of the egress arena."""

    def send(self, first: int, count: int) -> None:
        """Send `count` slots from `first` on; must neither wait nor raise."""

    def probe(self, data: bytes, address: Address) -> None:
        """Send `data` now, in one piece or not at all; must neither wait nor raise."""

    def close(self) -> None:
        """Drop everything from now on: the socket is about to be closed, and its number to be given to another."""


class Destination:
    """A prepared remote address; made by `Egress.destination`, kept by whoever sends there."""

    __slots__ = ("_sockaddr", "address", "name", "name_length", "outlet")

    def __init__(self, address: Address, outlet: Outlet) -> None:
        raw = pack(address)
        self.address = address
        self.outlet = outlet
        self._sockaddr = ffi.new("char[]", raw)
        self.name = int(ffi.cast("uintptr_t", self._sockaddr))
        self.name_length = len(raw)


class Egress:
    """The outgoing side of all sockets of a mux."""

    def __init__(self, counters: Counter[str] | None = None) -> None:
        self._slots = Arena(SLOTS)
        self._iovecs, self._headers = self._slots.iovec_words, self._slots.header_words
        self._queued: list[Destination] = []  # one for each slot in use, from slot 0 on
        self._large: dict[int, bytes] = {}  # what is sent in place of a slot
        self._pinned: list[Pointer] = []  # holds these where they are
        self._outlets: list[tuple[Address, Outlet]] = []
        self._streams: dict[Address, Outlet] = {}
        self.arena = self._slots.memory
        """All slots; a packet may be written from its offset on, `SLOT` bytes with the room for protection."""
        self.pointer = self._slots.pointer
        """The same memory as a cffi `char *`."""
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.held = False
        """True while somebody promises to flush: nobody is woken."""
        self.wake: Callable[[], None] = _nobody
        """Called when the first datagram is queued and nobody has promised to flush."""

    def open_outlet(self, sock: DatagramSocket, local: Address, *, batched: bool) -> None:
        """Send through `sock` what goes to addresses of its family; the first socket of a family is its default."""
        outlet: Outlet
        if batched:
            outlet = _BatchedOutlet(sock, self._slots, self.counters)
        else:
            outlet = _PlainOutlet(sock, self._slots, self.counters, self._queued, self._large)
        self._outlets.append((local, outlet))

    def open_stream_outlet(self, port: TcpPort, local: Address) -> None:
        """Send through the TCP connections of `port` what goes to their other ends from `local`."""
        self._streams[local] = _StreamOutlet(port, self._slots, self._queued, self._large, self.counters)

    def destination(self, address: Address, source: Address | None = None) -> Destination:
        """Prepare to send to `address`, from the socket whose local address is `source` if there is such a one.

        Datagrams to a family without a socket are dropped and counted.

        Raises:
            UsageError: `address` is not numeric.
        """
        if source is not None and source in self._streams:
            return Destination(address, self._streams[source])
        fitting = [(local, outlet) for local, outlet in self._outlets if family(local) == family(address)]
        chosen = [outlet for local, outlet in fitting if local == source] + [outlet for _, outlet in fitting]
        return Destination(address, chosen[0] if chosen else _NoOutlet(self.counters))

    @property
    def queued(self) -> int:
        """Datagrams that wait for a flush."""
        return len(self._queued)

    def reserve(self) -> int:
        """The offset of a free slot of `SLOT` bytes. Reserved again unless it was committed in between."""
        slot = len(self._queued)
        if slot == SLOTS:
            self.flush()
            slot = 0
        return slot * SLOT

    def commit(self, offset: int, length: int, destination: Destination) -> None:
        """Queue the `length` bytes at `offset`, the slot reserved last."""
        queued = self._queued
        slot = len(queued)
        if offset != slot * SLOT or not 0 < length <= SLOT:
            raise UsageError("net: only the slot reserved last can be committed, with what fits it")
        self._iovecs[2 * slot + 1] = length
        headers = self._headers
        headers[8 * slot] = destination.name
        headers[8 * slot + 1] = destination.name_length  # its other half is padding
        queued.append(destination)
        if not slot and not self.held:
            self.wake()

    def send(self, data: bytes, destination: Destination) -> None:
        """Queue `data`; more than `LARGEST` bytes are dropped and counted."""
        length = len(data)
        if not 0 < length <= LARGEST:
            self.counters["send_oversize"] += 1
            return
        offset = self.reserve()
        if length <= SLOT:
            self.arena[offset : offset + length] = data
            self.commit(offset, length, destination)
            return
        slot, pinned = offset // SLOT, ffi.from_buffer(data)
        self.commit(offset, SLOT, destination)
        self._large[slot] = data
        self._pinned.append(pinned)
        self._iovecs[2 * slot] = int(ffi.cast("uintptr_t", pinned))
        self._iovecs[2 * slot + 1] = length

    def probe(self, data: bytes, destination: Destination) -> None:
        """Send `data` at once, behind what is queued, in one piece or not at all: it asks how much the path carries."""
        self.flush()
        destination.outlet.probe(data, destination.address)

    def flush(self) -> None:
        """Hand all that is queued to the kernel. Never waits: what it does not take is dropped and counted."""
        queued = self._queued
        first, count = 0, len(queued)
        while first < count:
            outlet = queued[first].outlet
            last = first + 1
            while last < count and queued[last].outlet is outlet:
                last += 1
            outlet.send(first, last - first)
            first = last
        queued.clear()
        if self._large:
            self._let_go_of_large()

    def _let_go_of_large(self) -> None:
        base = int(ffi.cast("uintptr_t", self.pointer))
        for slot in self._large:
            self._iovecs[2 * slot] = base + slot * SLOT
        self._large.clear()
        self._pinned.clear()

    def close(self) -> None:
        """Flush, and from then on drop and count."""
        self.flush()
        for outlet in (*(outlet for _, outlet in self._outlets), *self._streams.values()):
            outlet.close()
        self._outlets.clear()
        self._streams.clear()


class _BatchedOutlet:
    """A socket that sends with sendmmsg."""

    def __init__(self, sock: DatagramSocket, slots: Arena, counters: Counter[str]) -> None:
        self._socket = sock
        self._descriptor = sock.fileno()
        self._slots = slots
        self._counters = counters

    def send(self, first: int, count: int) -> None:
        if self._descriptor < 0:
            self._counters["send_closed"] += count
            return
        send_batch(self._descriptor, self._slots, first, count, self._counters)

    def probe(self, data: bytes, address: Address) -> None:
        if self._descriptor < 0:
            self._counters["send_closed"] += 1
            return
        send_unfragmented(self._socket, data, address, self._counters)

    def close(self) -> None:
        self._descriptor = -1


class _PlainOutlet:
    """A socket that sends with one call per datagram."""

    def __init__(
        self,
        sock: DatagramSocket,
        slots: Arena,
        counters: Counter[str],
        queued: list[Destination],
        large: dict[int, bytes],
    ) -> None:
        self._socket: DatagramSocket | None = sock
        self._slots = slots
        self._counters = counters
        self._queued = queued
        self._large = large

    def send(self, first: int, count: int) -> None:
        if self._socket is None:
            self._counters["send_closed"] += count
            return
        for slot in range(first, first + count):
            data = self._large.get(slot) or self._slots.view(slot)[: self._slots.length(slot)]
            try:
                self._socket.sendto(data, self._queued[slot].address)
            except OSError as error:
                if error.errno in FULL:
                    self._counters["send_full"] += first + count - slot
                    return
                self._counters[send_error(error.errno)] += 1

    def probe(self, data: bytes, address: Address) -> None:
        if self._socket is None:
            self._counters["send_closed"] += 1
            return
        send_unfragmented(self._socket, data, address, self._counters)

    def close(self) -> None:
        self._socket = None


class _StreamOutlet:
    """A port that takes TCP connections: a packet goes over the one from where it is addressed to."""

    def __init__(
        self,
        port: TcpPort,
        slots: Arena,
        queued: list[Destination],
        large: dict[int, bytes],
        counters: Counter[str],
    ) -> None:
        self._port: TcpPort | None = port
        self._slots = slots
        self._queued = queued
        self._large = large
        self._counters = counters

    def send(self, first: int, count: int) -> None:
        touched: dict[Connection, None] = {}
        connections = {} if self._port is None else self._port.connections
        for slot in range(first, first + count):
            connection = connections.get(self._queued[slot].address)
            if connection is None:
                self._counters["send_no_stream"] += 1
                continue
            connection.write(self._large.get(slot) or self._slots.view(slot)[: self._slots.length(slot)])
            touched[connection] = None
        for connection in touched:
            connection.flush()

    def probe(self, data: bytes, address: Address) -> None:  # noqa: ARG002  there is nothing to find out
        self._counters["send_probe"] += 1

    def close(self) -> None:
        self._port = None


class _NoOutlet:
    """Where datagrams for an address family without a socket go."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters

    def send(self, first: int, count: int) -> None:  # noqa: ARG002  which ones does not matter
        self._counters["send_no_socket"] += count

    def probe(self, data: bytes, address: Address) -> None:  # noqa: ARG002  nor here
        self._counters["send_no_socket"] += 1

    def close(self) -> None:
        """Nothing to do."""


def _nobody() -> None:
    """The waker of an egress without an event loop."""
