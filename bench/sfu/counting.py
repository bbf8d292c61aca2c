"""A socket that counts the media which comes to it, and leaves the rest to a peer connection.

A subscriber that decrypted all it gets would cost more than the server that it measures. So media is counted by its
headers alone, which are in the clear; one packet in `SAMPLED` is decrypted and tells when it was sent. The kernel
stamps the arrival, so it does not matter when we look.
"""

from __future__ import annotations

import math
import socket
import struct
from array import array
from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from triosfu.net.address import IPV4_LENGTH, unpack
from triosfu.net.batch import Arena, ffi, libc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from triosfu.net.address import Address

BATCH, LARGEST = 64, 18_432
SO_TIMESTAMPNS = 35
CONTROL = 32  # bytes of the one control message
WORDS = 8  # of a struct mmsghdr
CONTROL_LENGTH_AT, LENGTH_AT = 5, 14  # in 64-bit and in 32-bit words
RECEIVE_BUFFER = 1 << 20
MAX_PENDING = 256
SAMPLED = 16
EVERY = 0.01  # seconds between two looks at all sockets
HEADER = struct.Struct("!BBHII")
TIMES = struct.Struct("=qq")


class Stream:
    """What came on one SSRC."""

    __slots__ = ("first", "highest", "packets")

    def __init__(self, sequence: int) -> None:
        self.first = self.highest = sequence
        self.packets = 0

    @property
    def lost(self) -> int:
        """Numbers that did not come."""
        return max(0, self.highest - self.first + 1 - self.packets)


class Shelf:
    """Memory for one batch, shared by all sockets: they are read one after the other."""

    def __init__(self) -> None:
        self.arena = Arena(BATCH, LARGEST)
        self._control = ffi.new("char[]", BATCH * CONTROL)
        self._names = ffi.new("char[]", BATCH * IPV4_LENGTH)
        self.times = memoryview(ffi.buffer(self._control)).cast("B")
        self.views = [self.arena.view(slot) for slot in range(BATCH)]
        for slot in range(BATCH):
            self.arena.headers[slot].msg_hdr.msg_name = self._names + slot * IPV4_LENGTH
            self.arena.headers[slot].msg_hdr.msg_namelen = IPV4_LENGTH
            self.arena.headers[slot].msg_hdr.msg_control = self._control + slot * CONTROL
            self.arena.headers[slot].msg_hdr.msg_controllen = CONTROL
        self._words = memoryview(ffi.buffer(self.arena.headers)).cast("B").cast("Q")
        self.halves = memoryview(ffi.buffer(self.arena.headers)).cast("B").cast("I")

    def receive(self, descriptor: int) -> int:
        """Take what has arrived, at most `BATCH` datagrams."""
        count: int = libc.recvmmsg(descriptor, self.arena.headers, BATCH, socket.MSG_DONTWAIT, ffi.NULL)
        for slot in range(max(0, count)):
            self._words[slot * WORDS + CONTROL_LENGTH_AT] = CONTROL
        return max(0, count)

    def source(self, slot: int) -> Address:
        """Where the datagram of a slot came from."""
        return unpack(ffi.unpack(self._names + slot * IPV4_LENGTH, IPV4_LENGTH))

    def arrived(self, slot: int) -> int:
        """When the datagram of a slot came, in nanoseconds since 1970."""
        seconds, nanoseconds = TIMES.unpack_from(self.times, slot * CONTROL + 16)
        return int(seconds) * 1_000_000_000 + int(nanoseconds)


class CountingSocket:
    """A `DatagramSocket` for the mux of one subscriber."""

    def __init__(self, host: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind((host, 0))
        self.family = socket.AF_INET
        self.streams: dict[int, Stream] = {}
        self.packets = self.octets = 0
        self.delays = array("d")  # seconds, of the packets that were decrypted
        self.keep_delays = False
        self.decrypt: Callable[[bytes], int | None] | None = None
        """Gives the time in a packet's payload, in nanoseconds since 1970."""
        self._others: deque[tuple[bytes, Address]] = deque(maxlen=MAX_PENDING)
        self._news = trio.Event()

    def look(self, shelf: Shelf) -> None:
        """Take in what has come."""
        count = BATCH
        while count == BATCH:
            count = shelf.receive(self._socket.fileno())
            for slot in range(count):
                view = shelf.views[slot]
                length = shelf.halves[slot * 2 * WORDS + LENGTH_AT]
                if 128 <= view[0] < 192 and not 192 <= view[1] < 224:
                    self._count(shelf, slot, view, length)
                else:
                    self._others.append((bytes(view[:length]), shelf.source(slot)))
            if self._others:
                self._news.set()

    def _count(self, shelf: Shelf, slot: int, view: memoryview, length: int) -> None:
        _, _, sequence, _, ssrc = HEADER.unpack_from(view)
        self.packets += 1
        self.octets += length
        stream = self.streams.get(ssrc)
        if stream is None:
            stream = self.streams[ssrc] = Stream(sequence)
        stream.packets += 1
        ahead = (sequence - stream.highest) & 0xFFFF
        if 0 < ahead < 1 << 15:
            stream.highest += ahead
        if self.keep_delays and self.decrypt is not None and self.packets % SAMPLED == 0:
            sent = self.decrypt(bytes(view[:length]))
            if sent is not None:
                self.delays.append((shelf.arrived(slot) - sent) / 1e9)

    def begin(self) -> None:
        """Count from here on."""
        self.packets = self.octets = 0
        self.streams.clear()
        del self.delays[:]
        self.keep_delays = True

    # --- what the mux asks -----------------------------------------------------------------------------------------

    async def readable(self, _sock: object) -> None:
        """Wait until there is something for the peer connection."""
        while not self._others:
            self._news = trio.Event()
            await self._news.wait()
        await trio.lowlevel.checkpoint()

    def fileno(self) -> int:
        """Its descriptor."""
        return self._socket.fileno()

    def getsockname(self) -> Any:  # noqa: ANN401  as the standard library has it
        """Its address."""
        return self._socket.getsockname()

    def recvfrom_into(self, buffer: memoryview, nbytes: int = 0, /) -> tuple[int, Any]:
        """Take the next datagram that is no media."""
        if not self._others:
            raise BlockingIOError
        data, source = self._others.popleft()
        buffer[: len(data)] = data
        return len(data), source

    def sendto(self, data: memoryview | bytes, address: Address, /) -> int:
        """Send."""
        return self._socket.sendto(data, address)

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Pass it on."""
        self._socket.setsockopt(level, option, value)

    def close(self) -> None:
        """Give it back."""
        self._socket.close()


async def look_at_all(sockets: Iterable[CountingSocket]) -> None:
    """Look at all sockets for ever."""
    shelf = Shelf()
    due = -math.inf
    while True:
        due = max(due + EVERY, trio.current_time())
        for one in list(sockets):
            one.look(shelf)
        await trio.sleep_until(due)
