"""What one sendmmsg is told: a message for each datagram, or for a run of them to one address.

A run of datagrams of equal size (the last may be shorter) costs the kernel little more than a single one, when it gets
them as one message and cuts them itself (UDP_SEGMENT of udp(7), "GSO"). A burst of video is such a run for each
subscriber; the sound of several speakers becomes one, since what goes to one address is brought together first. The
datagrams stay where they are: only their iovecs are put in order, and a message is a stretch of those.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, Protocol

import structlog

from triosfu.net.batch import FULL, HEADER_WORDS, SLOT, allowed, ffi, libc, send_error

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence

    from triosfu.net.batch import Arena, DatagramSocket
    from triosfu.net.kernel_queue import KernelQueue

UDP_SEGMENT = 103
MAX_SEGMENTS = 64  # of one message (UDP_MAX_SEGMENTS)
MAX_RUN = 65_000  # bytes of one message: they travel as one UDP datagram until they are cut
NAME, NAME_LENGTH, IOVEC, IOVEC_COUNT, CONTROL, CONTROL_LENGTH = range(6)  # 64-bit words of a struct msghdr
HEADER_SIZE = 12  # of a packet of RTP
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
    """Whether the kernel cuts messages that leave through `sock`, and we may let it."""
    if not allowed("runs"):
        return False
    try:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
    except OSError:
        return False
    return True


class Messages:
    """The headers for the slots of one arena; shared by all sockets that send from it, one at a time."""

    __slots__ = (
        "_arena",
        "_controls",
        "_first_iovec",
        "_headers",
        "_iovec_words",
        "_iovecs",
        "_order",
        "_sizes",
        "_starts",
        "_words",
        "arrange",
        "order",
        "starts",
        "write",
    )

    def __init__(self, arena: Arena, compiled: KernelQueue | None = None) -> None:
        self._arena = arena
        self._iovecs = ffi.new("struct iovec[]", arena.slots)  # those of the arena, in the order in which they leave
        self._iovec_words = memoryview(ffi.buffer(self._iovecs)).cast("B").cast("Q")
        self._first_iovec = int(ffi.cast("uintptr_t", self._iovecs))
        self._headers = ffi.new("struct mmsghdr[]", arena.slots)
        self._words = memoryview(ffi.buffer(self._headers)).cast("B").cast("Q")
        self._controls = ffi.new("char[]", arena.slots * CONTROL_SIZE)
        controls = memoryview(ffi.buffer(self._controls)).cast("B")
        for at in range(0, len(controls), CONTROL_SIZE):
            _control.pack_into(controls, at, 18, socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        self._sizes = controls.cast("H")
        self._order: list[int] = []
        self._starts: list[int] = []
        self.order: Sequence[int] = self._order
        """The slots in the order in which they leave."""
        self.starts: Sequence[int] = self._starts
        """The place in `order` where each message begins."""
        self.arrange: Callable[..., None] = self._arrange
        """Brings slots into order."""
        self.write: Callable[..., int] = self._write
        """Writes the messages for places of `order`."""
        if compiled is not None:
            self.order, self.starts = compiled.order, compiled.starts
            self.arrange = compiled.arrange(self._iovecs)
            self.write = compiled.gather(
                self._iovecs, self._headers, self._controls, CONTROL_SIZE, MAX_SEGMENTS, MAX_RUN
            )

    def send(
        self,
        descriptor: int,
        queued: Sequence[Addressed],
        slots: range,
        drops: Counter[str],
        *,
        segmented: bool,
    ) -> tuple[Sequence[int], bool]:
        """Send the arena's `slots` with as few calls as it takes. Never waits, never raises.

        What one source sends to one address keeps its order (RTP by its SSRC, and all else together); the addresses
        have their turns as they first come. A datagram with an error of its own is dropped alone, and counted by its
        reason. Returns the slots that a full socket buffer did not take; and whether runs may be sent as one message
        from now on.
        """
        self.arrange(queued, slots, segmented=segmented)
        count = len(slots)
        unsent, segmented = self._send(descriptor, queued, range(count), drops, segmented=segmented)
        return self.order[unsent:count], segmented

    def _send(
        self,
        descriptor: int,
        queued: Sequence[Addressed],
        places: range,
        drops: Counter[str],
        *,
        segmented: bool,
    ) -> tuple[int, bool]:
        """Send what is at `places` of the order; the first one that a full socket did not take, or their end."""
        starts = self.starts
        first, count = 0, self.write(queued, places, segmented=segmented)
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
            run = range(starts[first], starts[first + 1] if first + 1 < count else places.stop)
            rest = range(run.stop, places.stop)
            if len(run) == 1 or error not in UNCUT:
                drops[send_error(error)] += len(run)
                first += 1
                continue
            queued[self.order[run.start]].take_whole()
            if error in UNABLE and segmented:
                segmented = False
                log.info("datagrams are not sent in runs", reason=send_error(error))
            unsent, _ = self._send(descriptor, queued, run, drops, segmented=False)
            if unsent < run.stop:
                return unsent, segmented
            return self._send(descriptor, queued, rest, drops, segmented=segmented)
        return places.stop, segmented

    def _arrange(self, queued: Sequence[Addressed], slots: range, *, segmented: bool) -> None:
        """Bring `slots` into order: as they stand, or, to be sent in runs, those to one address together."""
        words, moved, order = self._arena.iovec_words, self._iovec_words, self._order
        order[:] = slots
        moved[: 2 * len(order)] = words[2 * slots.start : 2 * slots.stop]
        if not segmented:
            return
        groups: dict[Addressed, list[int]] = {}
        for slot in slots:
            groups.setdefault(queued[slot], []).append(slot)
        if len(groups) == len(order):
            return
        order[:] = [slot for group in groups.values() for slot in self._by_size(group)]
        for place, slot in enumerate(order):
            moved[2 * place : 2 * place + 2] = words[2 * slot : 2 * slot + 2]

    def _by_size(self, group: list[int]) -> list[int]:
        """The slots to one address: one source after the other, first the one that begins with the largest packet.

        A run ends with a packet that is smaller than the others; so the packets of two sources are always one run. What
        one source has sent keeps its order, and so does all that is no RTP.
        """
        if len(group) == 1:
            return group
        sources: dict[bytes, list[int]] = {}
        for slot in group:
            sources.setdefault(self._source(slot), []).append(slot)
        words = self._arena.iovec_words
        ordered = sorted(sources.values(), key=lambda slots: -words[2 * slots[0] + 1])
        return [slot for source in ordered for slot in source]

    def _source(self, slot: int) -> bytes:
        """Whose order a datagram is part of: the SSRC of a packet of RTP, and nothing for all else."""
        if not HEADER_SIZE <= self._arena.iovec_words[2 * slot + 1] <= SLOT:
            return b""
        datagram = self._arena.datagram(slot)
        return bytes(datagram[8:12]) if datagram[0] >> 6 == 2 and datagram[1] >> 5 != 6 else b""  # RFC 5761, section 4

    def _write(self, queued: Sequence[Addressed], places: range, *, segmented: bool) -> int:
        """Write the messages for `places`, and note in `starts` where each begins; their number."""
        words, iovecs, order, starts = self._words, self._iovec_words, self._order, self._starts
        starts.clear()
        at, message, run, size, total = -HEADER_WORDS, -1, 0, 0, 0
        before: Addressed | None = None  # whose run is open
        for place in places:
            destination = queued[order[place]]
            if destination is before:
                length = iovecs[2 * place + 1]
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
            starts.append(place)
            words[at + NAME] = destination.name
            words[at + NAME_LENGTH] = destination.name_length  # its other half is padding
            words[at + IOVEC] = self._first_iovec + 16 * place
            words[at + IOVEC_COUNT] = 1
            words[at + CONTROL_LENGTH] = 0
            if segmented:
                size = total = iovecs[2 * place + 1]
                run = 1
                before = None if destination.whole or size > SLOT else destination
        return message + 1

    def _cut(self, message: int, at: int, size: int) -> None:
        """Have the kernel cut a message into datagrams of `size` bytes."""
        control = self._controls + message * CONTROL_SIZE
        self._words[at + CONTROL] = int(ffi.cast("uintptr_t", control))
        self._words[at + CONTROL_LENGTH] = CONTROL_SIZE
        self._sizes[(message * CONTROL_SIZE + 16) // 2] = size
