"""Datagrams by the batch: recvmmsg, and the memory for it and for sendmmsg (see `messages`), which is laid out once.

cffi in ABI mode calls the C library that the process already has: no compiler, no extension module. Where those calls
are missing, or when asked, the same memory is filled and sent by one plain socket call per datagram.
`TRIOSFU_DATAGRAMS` in the environment says what of it is used at most: see `WAYS`.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from array import array
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from cffi import FFI

from triosfu.errors import ConfigError
from triosfu.net.address import IPV4_LENGTH, IPV6_LENGTH, pack

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping, Sequence

    from triosfu.net.address import Address

Pointer: TypeAlias = Any
"""A cffi `char *`."""

SLOT = 2048  # bytes per datagram of media, room for protection included; a power of two
LARGEST = 9 * SLOT  # bytes of a datagram: data channels may use all of a DTLS record where the path carries it
LARGEST_RUN = 65_536  # bytes of what the kernel hands over as one: no UDP datagram is larger, before it is cut
BATCH = 64  # messages per receiving call
ALONE = (0,) * BATCH  # of datagrams that are no runs: nothing follows in the same message
UDP_GRO, CONTROL = 104, 32  # the option, and bytes for the control message that tells a segment's size
SWITCH = "TRIOSFU_DATAGRAMS"
# A call for each datagram, and one socket; recvmmsg and sendmmsg; these with UDP_GRO and UDP_SEGMENT.
WAYS = ("single", "batches", "runs")
FULL = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS})

# Linux's option (ip(7), ipv6(7)) that says who may fragment what leaves, by family: its level, its number, the value
# for "nobody, and never mind what is known of the path", and the one for "whoever has to". The latter is not the
# default of IPv4: what has left in large packets must get through also when the path becomes narrower.
FRAGMENTATION: Mapping[int, tuple[int, int, int, int]] = (
    {socket.AF_INET: (socket.IPPROTO_IP, 10, 3, 0), socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 3, 1)}
    if sys.platform == "linux"
    else {}
)

ffi = FFI()
ffi.cdef("""
    struct iovec { void *iov_base; size_t iov_len; };
    struct msghdr {
        void *msg_name; unsigned int msg_namelen; struct iovec *msg_iov; size_t msg_iovlen;
        void *msg_control; size_t msg_controllen; int msg_flags;
    };
    struct mmsghdr { struct msghdr msg_hdr; unsigned int msg_len; };
    int recvmmsg(int, struct mmsghdr *, unsigned int, int, void *);
    int sendmmsg(int, struct mmsghdr *, unsigned int, int);
""")
HEADER_WORDS = 8  # 64-bit words of a `struct mmsghdr`
CONTROL_AT = 5  # msg_controllen
LENGTH_AT, HEADER_HALVES = 14, 16  # msg_len, counted in 32-bit words


def _load() -> Any:  # noqa: ANN401  a cffi library
    """The C library, or None where it lacks the calls or lays out its structures in another way."""
    if ffi.sizeof("struct mmsghdr") != HEADER_WORDS * 8 or os.name != "posix":
        return None
    library = ffi.dlopen(None)
    return library if hasattr(library, "recvmmsg") and hasattr(library, "sendmmsg") else None


libc = _load()


def allowed(way: str) -> bool:
    """Whether the operator lets us use `way`, one of `WAYS`.

    Raises:
        ConfigError: `TRIOSFU_DATAGRAMS` is none of them.
    """
    most = os.environ.get(SWITCH) or WAYS[-1]
    if most not in WAYS:
        raise ConfigError(f"{SWITCH}: {most!r} is none of {', '.join(WAYS)}")
    return WAYS.index(way) <= WAYS.index(most)


def batching_available() -> bool:
    """Whether this system has recvmmsg and sendmmsg as we know them, and we may use them."""
    return allowed("batches") and libc is not None


class DatagramSocket(Protocol):
    """A bound, non-blocking UDP socket, as far as a mux uses one: `socket.socket`, or what a test puts in its place."""

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""

    def fileno(self) -> int:
        """The descriptor; only what sends and receives by the batch needs one."""

    def getsockname(self) -> Any:  # noqa: ANN401  as the standard library has it
        """The address and port it is bound to."""

    def recvfrom_into(self, buffer: memoryview, nbytes: int = 0, /) -> tuple[int, Any]:
        """Take the next datagram; its length and where it came from."""

    def sendto(self, data: memoryview | bytes, address: Address, /) -> int:
        """Hand over one datagram."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Set one of the options of `FRAGMENTATION`."""

    def close(self) -> None:
        """Give it back."""


class Arena:
    """`slots` times `size` bytes of memory, with what recvmmsg and sendmmsg need to use them.

    Of a large slot the system provides the pages that are used.
    """

    __slots__ = ("_address", "_size", "headers", "iovec_words", "iovecs", "memory", "pointer", "slots")

    def __init__(self, slots: int, size: int = SLOT) -> None:
        self.slots, self._size = slots, size
        self.pointer: Pointer = ffi.new("char[]", slots * size)
        self.memory = memoryview(ffi.buffer(self.pointer)).cast("B")
        self._address = int(ffi.cast("uintptr_t", self.pointer))
        self.iovecs = ffi.new("struct iovec[]", slots)
        self.headers = ffi.new("struct mmsghdr[]", slots)
        for index in range(slots):
            self.iovecs[index].iov_base = self.pointer + index * size
            self.iovecs[index].iov_len = size
            self.headers[index].msg_hdr.msg_iov = self.iovecs + index
            self.headers[index].msg_hdr.msg_iovlen = 1
        # The hot path writes lengths into an array of words, which is three times faster than by field.
        self.iovec_words = memoryview(ffi.buffer(self.iovecs)).cast("B").cast("Q")

    def datagram(self, slot: int) -> memoryview:
        """What is to be sent of `slot`, which may stand elsewhere in the arena than the slot itself."""
        at = self.iovec_words[2 * slot] - self._address
        return self.memory[at : at + self.iovec_words[2 * slot + 1]]

    def view(self, slot: int) -> memoryview:
        """The bytes of one slot."""
        return self.memory[slot * self._size : (slot + 1) * self._size]


class Inbox(Protocol):
    """Where one socket's datagrams land. What `receive` filled in is valid until it is called again."""

    views: list[memoryview]
    pointers: list[Pointer]
    lengths: list[int]
    sources: list[bytes]  # as `net.address` packs them
    following: Sequence[int]  # bytes behind each one that are further datagrams of its run: as long, but for the last
    messages: int  # taken from the kernel; each is a datagram, or a run of them from one address
    empty: bool  # whether there was no more

    def receive(self, most: int = BATCH) -> int:
        """Take what has arrived, at most `most` messages, and return the number of datagrams. Never waits.

        Raises:
            OSError: The socket has an error to tell; it can be used on.
        """


def coalesce(sock: DatagramSocket) -> bool:
    """Have the kernel hand over runs of datagrams as it got them (UDP_GRO, udp(7)); whether it will."""
    if not allowed("runs"):
        return False
    try:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


class BatchedInbox:
    """Receives with one recvmmsg for all; runs that arrive as one message are taken apart here."""

    def __init__(self, sock: DatagramSocket) -> None:
        self._descriptor = sock.fileno()
        self.coalesced = coalesce(sock)
        self._size = LARGEST_RUN if self.coalesced else LARGEST
        self._arena = Arena(BATCH, self._size)
        self._name_length = IPV6_LENGTH if sock.family == socket.AF_INET6 else IPV4_LENGTH
        self._names = ffi.new("char[]", BATCH * self._name_length)
        for index in range(BATCH):
            header = self._arena.headers[index].msg_hdr
            header.msg_name = self._names + index * self._name_length
            # The kernel writes this field too, but a socket of one family always writes the same number.
            header.msg_namelen = self._name_length
        headers = memoryview(ffi.buffer(self._arena.headers)).cast("B")
        self._halves, self._words = headers.cast("I"), headers.cast("Q")
        self._controls = ffi.new("char[]", BATCH * CONTROL)
        self._runs = memoryview(ffi.buffer(self._controls)).cast("B").cast("I")
        for index in range(BATCH):
            self._arena.headers[index].msg_hdr.msg_control = self._controls + index * CONTROL
        self._room = memoryview(array("Q", [CONTROL] * BATCH)).cast("B").cast("Q")
        self._words[CONTROL_AT::HEADER_WORDS] = self._room
        self._views = self.views = [self._arena.view(index) for index in range(BATCH)]
        self._pointers = self.pointers = [self._arena.pointer + index * self._size for index in range(BATCH)]
        self.lengths: list[int] = []
        self.sources: list[bytes] = []
        self.following: Sequence[int] = ALONE
        self.messages = 0
        self.empty = True

    def receive(self, most: int = BATCH) -> int:
        """Take what has arrived with one system call."""
        count: int = libc.recvmmsg(self._descriptor, self._arena.headers, most, socket.MSG_DONTWAIT, ffi.NULL)
        self.messages, self.empty = max(0, count), count < most
        if count < 0:
            if ffi.errno in (errno.EAGAIN, errno.EINTR):
                return 0
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        self.lengths = self._halves[LENGTH_AT : count * HEADER_HALVES : HEADER_HALVES].tolist()
        size = self._name_length
        names: bytes = ffi.unpack(self._names, count * size)
        self.sources = [names[at : at + size] for at in range(0, count * size, size)]
        self.views, self.pointers, self.following = self._views, self._pointers, ALONE
        told = self._words[CONTROL_AT : count * HEADER_WORDS : HEADER_WORDS]
        if any(told):
            self._take_apart(told.tolist())
        told[:] = self._room[:count]
        return len(self.lengths)

    def _take_apart(self, told: list[int]) -> None:
        """Make a datagram of each segment of each run."""
        lengths, sources = self.lengths, self.sources
        self.lengths, self.sources, self.views, self.pointers = [], [], [], []
        following = self.following = []
        for slot, (length, source) in enumerate(zip(lengths, sources, strict=True)):
            size = (self._runs[slot * CONTROL // 4 + 4] if told[slot] else 0) or max(1, length)
            view, pointer = self._views[slot], self._pointers[slot]
            for start in range(0, max(1, length), size):
                self.lengths.append(min(size, length - start))
                self.sources.append(source)
                self.views.append(view[start:])
                self.pointers.append(pointer + start)
                following.append(max(0, length - start - size))


class PlainInbox:
    """Receives with one call per datagram, on any system."""

    def __init__(self, sock: DatagramSocket) -> None:
        self._socket = sock
        self._arena = Arena(BATCH, LARGEST)
        self.views = [self._arena.view(index) for index in range(BATCH)]
        self.pointers = [self._arena.pointer + index * LARGEST for index in range(BATCH)]
        self.lengths: list[int] = []
        self.sources: list[bytes] = []
        self.following: Sequence[int] = ALONE
        self.messages = 0
        self.empty = True

    def receive(self, most: int = BATCH) -> int:
        """Take what has arrived, one datagram after the other."""
        self.lengths, self.sources = [], []
        self.messages, self.empty = 0, True
        for view in self.views[:most]:
            try:
                length, source = self._socket.recvfrom_into(view, LARGEST)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                if self.lengths:
                    break  # deliver these; the error comes again or was of no consequence
                raise
            self.lengths.append(length)
            self.sources.append(pack((source[0], source[1])))
        self.messages = len(self.lengths)
        self.empty = self.messages < most
        return self.messages


def may_be_fragmented(sock: DatagramSocket) -> None:
    """Let what leaves through `sock` be fragmented on its way, by whoever has to."""
    if sock.family in FRAGMENTATION:
        level, option, _, normal = FRAGMENTATION[sock.family]
        sock.setsockopt(level, option, normal)


def send_unfragmented(sock: DatagramSocket, data: bytes, address: Address, drops: Counter[str]) -> None:
    """Send `data` in one piece or not at all, which is counted. Never waits, never raises.

    Where the system has no way to say so for a single datagram, nothing is sent.
    """
    if sock.family not in FRAGMENTATION:
        drops["send_probe"] += 1
        return
    level, option, whole, normal = FRAGMENTATION[sock.family]
    try:
        sock.setsockopt(level, option, whole)
        try:
            sock.sendto(data, address)
        finally:
            sock.setsockopt(level, option, normal)
    except OSError as error:
        drops[send_error(error.errno)] += 1


def send_error(number: int | None) -> str:
    """The name under which a datagram that the kernel refused is counted, such as "send_enetunreach"."""
    return f"send_{errno.errorcode.get(number or 0, 'error').lower()}"
