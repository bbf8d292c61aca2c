"""A socket that counts the media which comes to it, and leaves the rest to a peer connection.

A subscriber that decrypted all it gets would cost more than the server that it measures. So media is counted by its
headers alone, which are in the clear; one packet in `SAMPLED` is decrypted and tells when it was sent. The kernel
stamps the arrival, so it does not matter when we look.
"""

from __future__ import annotations

import math
import select
import socket
import struct
from array import array
from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from bench.sfu.playing import sent_at
from triosfu.errors import MalformedPacket
from triosfu.net.address import IPV4_LENGTH, unpack
from triosfu.net.batch import LARGEST_RUN, Arena, coalesce, ffi, libc
from triosfu.sdp.extmap import TRANSPORT_CC

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from bench.sfu.feedback import Feedback
    from bench.sfu.peer import End
    from triosfu.net.address import Address

BATCH = 64
SO_TIMESTAMPNS = 35
STAMPED = 32  # bytes of the control message with the time of arrival
CONTROL = STAMPED + 24  # … and of the one that tells how a run was cut
WORDS = 8  # of a struct mmsghdr
CONTROL_LENGTH_AT, LENGTH_AT = 5, 14  # in 64-bit and in 32-bit words
RECEIVE_BUFFER = 1 << 20
MAX_PENDING = 256
SAMPLED = 17  # packets for each that is decrypted: no multiple of those in a frame, so that each place has its turn
RARELY = 4_096
UNKNOWN, ABSENT = -1, 0
DATA = -1  # stands for the SSRC of messages
ONE_BYTE = 0xBEDE  # the form of header extensions that all servers use (RFC 8285, section 4.2)
EVERY = 0.01  # seconds between two looks at all sockets
AT_ONCE = 0.0005  # seconds of looking in a row
HEADER = struct.Struct("!2xH4xI")  # sequence number and SSRC
TIMES = struct.Struct("=qq")


class Stream:
    """What came on one SSRC."""

    __slots__ = ("askable", "before", "count_at", "dropped", "first", "highest", "missing", "packets", "repairs")

    def __init__(self, sequence: int, *, repairs: bool) -> None:
        self.first = self.highest = sequence
        self.packets = 0
        self.repairs = repairs  # it carries what was lost, once more
        self.askable = False  # the server takes NACKs for it
        self.dropped = 0
        self.before = 0  # lost or dropped before anything counted
        self.missing: set[int] = set()  # sequence numbers that were dropped, and have not come again
        self.count_at = UNKNOWN  # where the number for transport-wide feedback was in the last packet

    @property
    def lost(self) -> int:
        """Numbers that did not come."""
        return 0 if self.repairs else max(0, self.highest - self.first + 1 - self.packets)

    @property
    def gone(self) -> int:
        """Packets that the subscriber has to say it has not got."""
        return self.before + self.lost + self.dropped

    def begin(self) -> None:
        """Count from here on."""
        self.before = self.gone
        self.first = self.highest + 1
        self.packets = self.dropped = 0
        self.missing.clear()


class Shelf:
    """Memory for one batch, shared by all sockets: they are read one after the other."""

    def __init__(self) -> None:
        self.arena = Arena(BATCH, LARGEST_RUN)
        self._control = ffi.new("char[]", BATCH * CONTROL)
        self._names = ffi.new("char[]", BATCH * IPV4_LENGTH)
        self.times = memoryview(ffi.buffer(self._control)).cast("B")
        self._runs = self.times.cast("I")
        self.views = [self.arena.view(slot) for slot in range(BATCH)]
        for slot in range(BATCH):
            self.arena.headers[slot].msg_hdr.msg_name = self._names + slot * IPV4_LENGTH
            self.arena.headers[slot].msg_hdr.msg_namelen = IPV4_LENGTH
            self.arena.headers[slot].msg_hdr.msg_control = self._control + slot * CONTROL
            self.arena.headers[slot].msg_hdr.msg_controllen = CONTROL
        self._used = 0
        self._words = memoryview(ffi.buffer(self.arena.headers)).cast("B").cast("Q")
        self.halves = memoryview(ffi.buffer(self.arena.headers)).cast("B").cast("I")

    def receive(self, descriptor: int) -> int:
        """Take what has arrived, at most `BATCH` datagrams."""
        for slot in range(self._used):
            self._words[slot * WORDS + CONTROL_LENGTH_AT] = CONTROL
        count: int = libc.recvmmsg(descriptor, self.arena.headers, BATCH, socket.MSG_DONTWAIT, ffi.NULL)
        self._used = max(0, count)
        return self._used

    def datagrams(self, slot: int) -> Iterator[memoryview]:
        """What came in a slot: a datagram, or a run of them that nobody has cut (UDP_GRO, udp(7))."""
        view, length = self.views[slot], self.halves[slot * 2 * WORDS + LENGTH_AT]
        if self._words[slot * WORDS + CONTROL_LENGTH_AT] <= STAMPED:
            yield view[:length]
            return
        size = self._runs[(slot * CONTROL + STAMPED + 16) // 4]
        for start in range(0, length, size):
            yield view[start : min(start + size, length)]

    def source(self, slot: int) -> Address:
        """Where the datagram of a slot came from."""
        return unpack(ffi.unpack(self._names + slot * IPV4_LENGTH, IPV4_LENGTH))

    def arrived(self, slot: int) -> int:
        """When the datagram of a slot came, in nanoseconds since 1970."""
        seconds, nanoseconds = TIMES.unpack_from(self.times, slot * CONTROL + 16)
        return int(seconds) * 1_000_000_000 + int(nanoseconds)


class CountingSocket:
    """A `DatagramSocket` for the mux of one subscriber. It drops one packet of media in `every`, if that is not 0."""

    def __init__(self, host: str, *, drop_every: int = 0) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        coalesce(self._socket)
        self._socket.bind((host, 0))
        self.host = host
        self.family = socket.AF_INET
        self.streams: dict[int, Stream] = {}
        self.packets = self.octets = 0
        self.asked = self.repaired = 0  # packets that were dropped and asked for; that then came
        self.delays = array("d")  # seconds, of the packets that were decrypted
        self.arrivals: list[tuple[int, int]] = []  # for transport-wide feedback: number and nanoseconds since 1970
        self._keep_delays = False
        self._drop_every = self._until_drop = drop_every
        self._numbered = 0  # the id of the extension for transport-wide feedback, 0 without
        self._end: End | None = None
        self._feedback: Feedback | None = None
        self._stamp = 0  # when what the peer connection is being given has come
        self._others: deque[tuple[bytes, Address]] = deque(maxlen=MAX_PENDING)
        self._news = trio.Event()

    def attach(self, end: End, feedback: Feedback) -> None:
        """Have `end`, which is connected, decrypt samples and take data at once; give `feedback` on what comes."""
        self._end, self._feedback = end, feedback

    def detach(self) -> None:
        """Leave the peer connection alone from now on."""
        self._end = self._feedback = None

    def begin(self) -> None:
        """Count from here on."""
        self.packets = self.octets = self.asked = self.repaired = 0
        for stream in self.streams.values():
            stream.begin()
        del self.delays[:]
        self._keep_delays = True

    def owes(self, now: float) -> bool:
        """Whether it is time for feedback, though nothing may have come."""
        return self._feedback is not None and now >= self._feedback.due

    def look(self, shelf: Shelf, now: float) -> None:
        """Take in what has come, and say so if it is time."""
        end = self._end
        if end is not None:
            end.mux.egress.held = True
        count = BATCH
        while count == BATCH:
            count = shelf.receive(self._socket.fileno())
            for slot in range(count):
                for view in shelf.datagrams(slot):
                    if 128 <= view[0] < 192 and not 192 <= view[1] < 224:
                        self._count(shelf, slot, view)
                    elif end is not None and 20 <= view[0] < 64:
                        self._stamp = shelf.arrived(slot)
                        end.peer.transport.receive_dtls(bytes(view), shelf.source(slot), now)
                        end.peer.transport.end_of_batch(now)
                    else:
                        self._others.append((bytes(view), shelf.source(slot)))
        if self._others:
            self._news.set()
        if end is not None:
            if self._feedback is not None:
                self._feedback.run(now)
            end.mux.egress.held = False
            end.mux.egress.flush()

    def _count(self, shelf: Shelf, slot: int, view: memoryview) -> None:
        sequence, ssrc = HEADER.unpack_from(view)
        self.packets += 1
        self.octets += len(view)
        stream = self.streams.get(ssrc) or self._new_stream(ssrc, sequence)
        ahead = (sequence - stream.highest) & 0xFFFF
        if ahead < 1 << 15:
            stream.highest += ahead
        if self._drop_every and self._drops(stream, sequence):
            return
        stream.packets += 1
        if self._numbered and (at := self._count_at(stream, view)) > 0:
            self.arrivals.append((view[at] << 8 | view[at + 1], shelf.arrived(slot)))
        if self.packets % (SAMPLED if self._keep_delays else RARELY) == 0:
            self._sample(bytes(view), shelf.arrived(slot))

    def _new_stream(self, ssrc: int, sequence: int) -> Stream:
        stream = self.streams[ssrc] = Stream(sequence, repairs=False)
        if self._end is None or self._feedback is None or not self._feedback.tells:
            return stream
        for section in self._end.peer.negotiation.sections:
            incoming = section.incoming
            if incoming is None:
                continue
            for number, uri in incoming.extensions.items():
                if uri == TRANSPORT_CC:
                    self._numbered = number
            if ssrc in incoming.fid.values():
                stream.repairs = True
            elif ssrc in incoming.ssrcs:
                stream.askable = any("nack" in codec.feedback for codec in incoming.codecs)
        return stream

    def _drops(self, stream: Stream, sequence: int) -> bool:
        """Whether this packet is dropped, or one that was dropped has come again."""
        if stream.repairs:
            self.repaired += 1
            return False
        if sequence in stream.missing:
            stream.missing.discard(sequence)
            self.repaired += 1
            return True
        self._until_drop -= 1
        if self._until_drop:
            return False
        self._until_drop = self._drop_every
        stream.packets += 1  # the server has not lost it
        stream.dropped += 1
        if stream.askable and self._feedback is not None:
            self.asked += 1
            stream.missing.add(sequence)
            self._feedback.miss(stream, sequence)
        return True

    def _count_at(self, stream: Stream, view: memoryview) -> int:
        """Where the packet has its number for transport-wide feedback; usually where the one before had it."""
        at = stream.count_at
        if at == UNKNOWN or (at > 0 and view[at - 1] != self._numbered << 4 | 1):
            at = stream.count_at = extension_at(view, self._numbered)
        return at

    def _sample(self, packet: bytes, arrived: int) -> None:
        # Also before anything counts, so that libsrtp sees each time that the sequence numbers begin anew.
        inbound = None if self._end is None else self._end.peer.transport._inbound  # noqa: SLF001  as `Connection` says
        if inbound is None:
            return
        try:
            found = sent_at(inbound.unprotect(packet))
        except MalformedPacket:
            return
        if found is not None and self._keep_delays:
            self.delays.append((arrived - found[0]) / 1e9)

    def take(self, message: bytes) -> None:
        """Count a message of data; its sender's number tells what was lost."""
        found = sent_at(message)
        if found is None:
            return
        sent, number = found
        self.packets += 1
        self.octets += len(message)
        stream = self.streams.get(DATA)
        if stream is None:
            stream = self.streams[DATA] = Stream(number, repairs=False)
        stream.highest = max(stream.highest, number)
        stream.packets += 1
        if self._keep_delays and self._stamp:
            self.delays.append((self._stamp - sent) / 1e9)

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


def extension_at(view: memoryview, wanted: int) -> int:
    """Where the value of a header extension begins; `ABSENT` if the packet has none of that id."""
    at = 12 + 4 * (view[0] & 0x0F)
    if not view[0] & 0x10 or view[at] << 8 | view[at + 1] != ONE_BYTE:
        return ABSENT
    end = at + 4 + 4 * (view[at + 2] << 8 | view[at + 3])
    at += 4
    while at < end:
        if view[at] >> 4 == wanted:
            return at + 1
        at += 1 if view[at] == 0 else (view[at] & 0x0F) + 2
    return ABSENT


class Watchman:
    """Looks at all sockets, again and again: at those with something to read, at the others when feedback is due."""

    def __init__(self) -> None:
        self.late = 0.0  # seconds that a look was behind its time, at worst: what the clients' process was held up for

    async def watch(self, sockets: Collection[CountingSocket]) -> None:
        """Look for ever; `sockets` may change meanwhile."""
        shelf, known = Shelf(), set[CountingSocket]()
        due = -math.inf
        with select.epoll() as poll:
            while True:
                now = trio.current_time()
                self.late = max(self.late, now - due if due > 0 else 0.0)
                due = max(due + EVERY, now)
                for one in set(sockets) - known:
                    poll.register(one.fileno(), select.EPOLLIN)
                known = set(sockets)  # what was closed the kernel has taken off
                readable = {descriptor for descriptor, _ in poll.poll(0, max(1, len(known)))}
                for one in known:
                    if one.fileno() in readable or one.owes(now):
                        one.look(shelf, trio.current_time())
                    if trio.current_time() - now > AT_ONCE:
                        await trio.lowlevel.checkpoint()  # publishers send in time, not in clumps between our looks
                        now = trio.current_time()
                await trio.sleep_until(due)
