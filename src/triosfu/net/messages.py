"""What one sendmmsg is told: a message for each datagram, or for a run of them to one address.

A run of datagrams of equal size (the last may be shorter) costs the kernel little more than a single one, when it gets
them as one message and cuts them itself (UDP_SEGMENT of udp(7), "GSO"). A burst of video is such a run for each
subscriber. The datagrams stay where they are: a message is a stretch of the arena's iovecs.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, Protocol

import structlog

from triosfu.net.batch import FULL, HEADER_WORDS, SLOT, ffi, libc, send_error

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence

    from triosfu.net.batch import Arena, DatagramSocket
    from triosfu.net.kernel_queue import KernelQueue

UDP_SEGMENT = 103
MAX_SEGMENTS = 64  # of one message (UDP_MAX_SEGMENTS)
MAX_RUN = 65_000  # bytes of one message: they travel as one UDP datagram until they are cut
NAME, NAME_LENGTH, IOVEC, IOVEC_COUNT, CONTROL, CONTROL_LENGTH = range(6)  # 64-bit words of a struct msghdr
CONTROL_SIZE = 24  # CMSG_SPACE of the segment's size, which is a 16-bit number
UNABLE = frozenset({errno.EIO, errno.EOPNOTSUPP, errno.ENOPROTOOPT})  # nothing is cut on the way out, whoever it is for
UNCUT = UNABLE | {errno.EINVAL, errno.EMSGSIZE}  # nothing is cut on the way to this address, such as for a smaller MTU
_control = struct.Struct("=QiiH")

log = structlog.get_logger()


class Addressed(Protocol):
    """Where a datagram goes."""

    name: int
    name_length: int
    whole: bool

    def take_whole(self) -> None:
        """Set `whole`."""


def segmentation_available(sock: DatagramSocket) -> bool:
    """Whether the kernel cuts messages that leave through `sock`."""
    try:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
    except OSError:
        return False
    return True


class Messages:
    """The headers for the slots of one arena; shared by all sockets that send from it, one at a time."""

    __slots__ = ("_arena", "_controls", "_first_iovec", "_headers", "_sizes", "_starts", "_words", "starts", "write")

    def __init__(self, arena: Arena, compiled: KernelQueue | None = None) -> None:
        self._arena = arena
        self._headers = ffi.new("struct mmsghdr[]", arena.slots)
        self._words = memoryview(ffi.buffer(self._headers)).cast("B").cast("Q")
        self._first_iovec = int(ffi.cast("uintptr_t", ffi.addressof(arena.iovecs)))
        self._controls = ffi.new("char[]", arena.slots * CONTROL_SIZE)
        controls = memoryview(ffi.buffer(self._controls)).cast("B")
        for at in range(0, len(controls), CONTROL_SIZE):
            _control.pack_into(controls, at, 18, socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        self._sizes = controls.cast("H")
        self._starts: list[int] = []
        self.starts: Sequence[int] = self._starts
        """The first slot of each message."""
        self.write: Callable[..., int] = self._write
        """Writes the messages for slots."""
        if compiled is not None:
            self.starts = compiled.starts
            self.write = compiled.gather(self._headers, self._controls, CONTROL_SIZE, MAX_SEGMENTS, MAX_RUN)

    def send(
        self,
        descriptor: int,
        queued: Sequence[Addressed],
        slots: range,
        drops: Counter[str],
        *,
        segmented: bool,
    ) -> tuple[int, bool]:
        """Send the arena's `slots` with as few calls as it takes. Never waits, never raises.

        A datagram with an error of its own is dropped alone, and counted by its reason. Returns the first slot that a
        full socket buffer did not take, or the end of `slots`; and whether runs may be sent as one message from now on.
        """
        starts = self.starts
        first, count = 0, self.write(queued, slots, segmented=segmented)
        while first < count:
            sent = libc.sendmmsg(descriptor, self._headers + first, count - first, socket.MSG_DONTWAIT)
            if sent >= 0:
                first += sent
                continue
            error = ffi.errno
            if error == errno.EINTR:
                continue
            if error in FULL:
                return starts[first], segmented
            # sendmmsg fails only for the first of what it was given
            run = range(starts[first], starts[first + 1] if first + 1 < count else slots.stop)
            rest = range(run.stop, slots.stop)
            if len(run) == 1 or error not in UNCUT:
                drops[send_error(error)] += len(run)
                first += 1
                continue
            queued[run.start].take_whole()
            if error in UNABLE and segmented:
                segmented = False
                log.info("datagrams are not sent in runs", reason=send_error(error))
            unsent, _ = self.send(descriptor, queued, run, drops, segmented=False)
            if unsent < run.stop:
                return unsent, segmented
            return self.send(descriptor, queued, rest, drops, segmented=segmented)
        return slots.stop, segmented

    def _write(self, queued: Sequence[Addressed], slots: range, *, segmented: bool) -> int:
        """Write the messages for `slots`, and note in `starts` with which slot each begins; their number."""
        words, iovecs, starts = self._words, self._arena.iovec_words, self._starts
        starts.clear()
        at, message, run, size, total = -HEADER_WORDS, -1, 0, 0, 0
        before: Addressed | None = None  # whose run is open
        for slot in slots:
            destination = queued[slot]
            if destination is before:
                length = iovecs[2 * slot + 1]
                total += length
                if length <= size and run < MAX_SEGMENTS and total <= MAX_RUN:
                    run += 1
                    words[at + IOVEC_COUNT] = run
                    if run == 2:
                        self._cut(message, at, size)
                    if length < size:
                        before = None
                    continue
            message += 1
            at += HEADER_WORDS
            starts.append(slot)
            words[at + NAME] = destination.name
            words[at + NAME_LENGTH] = destination.name_length  # its other half is padding
            words[at + IOVEC] = self._first_iovec + 16 * slot
            words[at + IOVEC_COUNT] = 1
            words[at + CONTROL_LENGTH] = 0
            if segmented:
                size = total = iovecs[2 * slot + 1]
                run = 1
                before = None if destination.whole or size > SLOT else destination
        return message + 1

    def _cut(self, message: int, at: int, size: int) -> None:
        """Have the kernel cut a message into datagrams of `size` bytes."""
        control = self._controls + message * CONTROL_SIZE
        self._words[at + CONTROL] = int(ffi.cast("uintptr_t", control))
        self._words[at + CONTROL_LENGTH] = CONTROL_SIZE
        self._sizes[(message * CONTROL_SIZE + 16) // 2] = size
