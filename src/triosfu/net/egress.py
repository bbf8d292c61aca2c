"""Everything that leaves: datagrams are written into one arena, and go out together.

The few that are larger than a slot stay where they are, and their slot points to them.

    offset = egress.reserve()                 # a free slot
    ... write the packet at arena[offset:] ...
    egress.commit(offset, length, destination)

What a full socket does not take of media is dropped, the newest first by nature; keyframes and all that is no media are
held back for a moment, because to lose them costs more than they do.

Nobody has to remember to flush: a batch of received datagrams ends with a flush, and what is queued at any other time
(a timer, signalling) calls `wake`, with which the mux has a flush follow before the event loop sleeps.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from triosfu.errors import UsageError
from triosfu.kernel import installed
from triosfu.net.address import Address, family, pack
from triosfu.net.batch import LARGEST, SLOT, Arena, ffi
from triosfu.net.kernel_queue import KernelQueue
from triosfu.net.messages import Messages
from triosfu.net.outlets import BatchedOutlet, NoOutlet, PlainOutlet, StreamOutlet
from triosfu.srtp.binding import protect_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from triosfu.kernel import Kernel, Record
    from triosfu.net.batch import DatagramSocket, Pointer
    from triosfu.net.outlets import Outlet
    from triosfu.net.tcp import TcpPort

SLOTS = 1024  # datagrams per flush at most
MAX_HELD = 512  # datagrams held back from a full socket


class Destination:
    """A prepared remote address; made by `Egress.destination`, kept by whoever sends there."""

    __slots__ = ("_sockaddr", "address", "name", "name_length", "outlet", "way", "way_address", "whole")

    def __init__(self, address: Address, outlet: Outlet, kernel: Kernel | None = None) -> None:
        raw = pack(address)
        self.address = address
        self.outlet = outlet
        self._sockaddr = ffi.new("char[]", raw)
        self.name = int(ffi.cast("uintptr_t", self._sockaddr))
        self.name_length = len(raw)
        self.whole = False  # the way there takes no messages that are to be cut into datagrams
        self.way: Record = None  # the same for the compiled kernel
        self.way_address = 0
        if kernel is not None:
            way = {"name": kernel.ffi.cast("void *", self.name), "name_length": self.name_length}
            self.way = kernel.ffi.new("struct way *", way)
            self.way_address = int(kernel.ffi.cast("uintptr_t", self.way))

    def take_whole(self) -> None:
        """From now on send no messages there that are to be cut into datagrams."""
        self.whole = True
        if self.way is not None:
            self.way.whole = 1


class Egress:
    """The outgoing side of all sockets of a mux."""

    def __init__(self, counters: Counter[str] | None = None, *, compiled: bool = True) -> None:
        """Make an egress without a way out; with the kernel if it is there, and `compiled` does not forbid it."""
        self._slots = Arena(SLOTS)
        self._iovecs = self._slots.iovec_words
        self._queued: list[Destination] = []  # one for each slot in use, from slot 0 on
        self._large: dict[int, bytes] = {}  # what is sent in place of a slot
        self._pinned: list[Pointer] = []  # holds these where they are
        self._kept = bytearray(SLOTS)  # 1 for a slot that is held back rather than dropped
        self._held: deque[tuple[bytes, Destination]] = deque()  # what a full socket did not take, oldest first
        self._outlets: list[tuple[Address, Outlet]] = []
        self._streams: dict[Address, Outlet] = {}
        self.arena = self._slots.memory
        """All slots; a packet may be written from its offset on, `SLOT` bytes with the room for protection."""
        self.pointers: list[Pointer] = [self._slots.pointer + slot * SLOT for slot in range(SLOTS)]
        """The same memory as a cffi `char *` for each slot."""
        self._places = self._iovecs[::2].tolist()  # where these are
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.held = False
        """True while somebody promises to flush: nobody is woken."""
        self.wake: Callable[[], None] = _nobody
        """Called when the first datagram is queued and nobody has promised to flush."""
        self.kernel_queue = self._for_kernel() if compiled else None
        """What the compiled kernel writes to; None where Python does all."""
        self._messages = Messages(self._slots, self.kernel_queue)

    def _for_kernel(self) -> KernelQueue | None:
        kernel, protect = installed(), protect_address()
        if kernel is None or not protect:
            return None
        queue = KernelQueue(kernel, self._slots, slot_size=SLOT, queued=self._queued, kept=self._kept, protect=protect)
        queue.flush, queue.woken = self.flush, self._woken
        return queue

    def _woken(self) -> None:
        if not self.held:
            self.wake()

    def open_outlet(self, sock: DatagramSocket, local: Address, *, batched: bool) -> None:
        """Send through `sock` what goes to addresses of its family; the first socket of a family is its default."""
        outlet: Outlet
        if batched:
            outlet = BatchedOutlet(sock, self._messages, self._queued, self.counters)
        else:
            outlet = PlainOutlet(sock, self._slots, self.counters, self._queued, self._large)
        self._outlets.append((local, outlet))

    def open_stream_outlet(self, port: TcpPort, local: Address) -> None:
        """Send through the TCP connections of `port` what goes to their other ends from `local`."""
        self._streams[local] = StreamOutlet(port, self._slots, self._queued, self._large, self.counters)

    def destination(self, address: Address, source: Address | None = None) -> Destination:
        """Prepare to send to `address`, from the socket whose local address is `source` if there is such a one.

        Datagrams to a family without a socket are dropped and counted.

        Raises:
            UsageError: `address` is not numeric.
        """
        if source is not None and source in self._streams:
            return Destination(address, self._streams[source], self._kernel)
        fitting = [(local, outlet) for local, outlet in self._outlets if family(local) == family(address)]
        chosen = [outlet for local, outlet in fitting if local == source] + [outlet for _, outlet in fitting]
        return Destination(address, chosen[0] if chosen else NoOutlet(self.counters), self._kernel)

    @property
    def _kernel(self) -> Kernel | None:
        return None if self.kernel_queue is None else self.kernel_queue.kernel

    @property
    def segmented(self) -> bool:
        """Whether runs of datagrams to one address leave as one message."""
        return any(isinstance(outlet, BatchedOutlet) and outlet.segmented for _, outlet in self._outlets)

    @property
    def queued(self) -> int:
        """Datagrams that wait for a flush."""
        return len(self._queued)

    @property
    def held_back(self) -> int:
        """Datagrams that a full socket did not take; each flush tries them again, ahead of the others."""
        return len(self._held)

    def reserve(self) -> int:
        """The offset of a free slot of `SLOT` bytes. Reserved again unless it was committed in between."""
        slot = len(self._queued)
        if slot == SLOTS:
            self.flush()
            slot = 0
        return slot * SLOT

    def commit(self, offset: int, length: int, destination: Destination, keep: bool = False) -> None:  # noqa: FBT001, FBT002  of the hot path
        """Queue the `length` bytes at `offset`, the slot reserved last; to `keep` it is not to drop it lightly."""
        queued = self._queued
        slot = len(queued)
        if offset != slot * SLOT or not 0 < length <= SLOT:
            raise UsageError("net: only the slot reserved last can be committed, with what fits it")
        self._iovecs[2 * slot + 1] = length
        queued.append(destination)
        self._kept[slot] = keep
        if self.kernel_queue is not None:
            self.kernel_queue.ways[slot] = destination.way_address
            self._iovecs[2 * slot] = self._places[slot]  # the kernel may have had it elsewhere
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
            self.commit(offset, length, destination, True)
            return
        slot, pinned = offset // SLOT, ffi.from_buffer(data)
        self.commit(offset, SLOT, destination, True)
        self._large[slot] = data
        self._pinned.append(pinned)
        self._iovecs[2 * slot] = int(ffi.cast("uintptr_t", pinned))
        self._iovecs[2 * slot + 1] = length

    def probe(self, data: bytes, destination: Destination) -> None:
        """Send `data` at once, behind what is queued, in one piece or not at all: it asks how much the path carries."""
        self.flush()
        destination.outlet.probe(data, destination.address)

    def flush(self) -> None:
        """Hand all that is queued to the kernel. Never waits; what is not taken is held back, or counted."""
        queued = self._queued
        if self._held:
            self._try_again()
        first, count = 0, len(queued)
        while first < count:
            outlet = queued[first].outlet
            last = first + 1
            while last < count and queued[last].outlet is outlet:
                last += 1
            if left := outlet.send(range(first, last)):
                self._hold(left)
            first = last
        if self.kernel_queue is not None:
            self.kernel_queue.clear()
        queued.clear()
        if self._large:
            self._let_go_of_large()

    def _hold(self, slots: Sequence[int]) -> None:
        """Keep what is to be kept of what a socket did not take."""
        for slot in slots:
            if self._kept[slot] and len(self._held) < MAX_HELD:
                data = self._large.get(slot) or bytes(self._slots.datagram(slot))
                self._held.append((data, self._queued[slot]))
            else:
                self.counters["send_full"] += 1

    def _try_again(self) -> None:
        held = self._held
        while held:
            data, destination = held[0]
            if not destination.outlet.send_one(data, destination.address):
                return
            held.popleft()

    def drop_held(self) -> None:
        """Give up what is held back, and count it: it has become too old."""
        if self._held:
            self.counters["send_full"] += len(self._held)
            self._held.clear()

    def _let_go_of_large(self) -> None:
        for slot in self._large:
            self._iovecs[2 * slot] = self._places[slot]
        self._large.clear()
        self._pinned.clear()

    def close(self) -> None:
        """Flush, and from then on drop and count."""
        self.flush()
        self.drop_held()
        for outlet in (*(outlet for _, outlet in self._outlets), *self._streams.values()):
            outlet.close()
        self._outlets.clear()
        self._streams.clear()


def _nobody() -> None:
    """The waker of an egress without an event loop."""
