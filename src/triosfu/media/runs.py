"""Packets that the compiled kernel has opened and read, several at a time: the next ones of a stream, all straight.

What is straight is said in `kernel/receive.c`. Of such packets no object is made: there are their bytes for the buffer,
and what the kernel has read for those that are sent on. Whoever wants to see them gets them as Python reads them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from triosfu.rtp.wire import RtpPacket

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.kernel import Kernel, Record
    from triosfu.media.sink import CompiledQueue

Datagrams: TypeAlias = tuple[memoryview, Any, int, int]
"""SRTP packets one behind the other: their memory, a pointer to it, bytes of all, and of each but for the last one."""

PACKETS = 64  # in a run at most: what a `media.lanes.Fan` takes at a time
SLOTS = 512  # packets that a batch may bring before the earlier ones are read again by Python
STORE = SLOTS * 1536  # bytes of them

# What is expected, and what was found, in struct intake of kernel/records.h
expected_record = struct.Struct("=IHBBBB")
found_record = struct.Struct("=BBIiIII")


class Intake:
    """Where the kernel reads what is received: one for all publishers of a mux, as nothing in it outlives a batch."""

    def __init__(self, kernel: Kernel, unprotect: int) -> None:
        ffi = kernel.ffi
        self.kernel = kernel
        self._store = ffi.new("char[]", STORE)
        self._packets = ffi.new("struct packet[]", SLOTS)
        self.record: Record = ffi.new(
            "struct intake *",
            {
                "unprotect": ffi.cast("void *", unprotect),
                "store": self._store,
                "packets": self._packets,
                "room": STORE,
                "slots": SLOTS,
            },
        )
        memory = memoryview(ffi.buffer(self.record))
        at = ffi.offsetof("struct intake", "ssrc")
        self._expected = memory[at : at + expected_record.size]
        at = ffi.offsetof("struct intake", "level")
        self._found = memory[at : at + found_record.size]
        self.turn = 0
        """Counts how often it was emptied."""
        self._now = 0.0

    def receive(
        self, session: int, datagrams: Datagrams, now: float, expected: tuple[int, int, int, int, int, int]
    ) -> tuple[int, int, tuple[int, ...]]:
        """Open and read what is straight; the place of the first packet, how many there are, and `found_record`.

        `expected` are an SSRC, a sequence number, a payload type, whether that is VP8, and the numbers of the
        extensions with the transport-wide sequence number and with the loudness.
        """
        record = self.record
        first = record.count
        if now != self._now or first > SLOTS - PACKETS:
            self._now = now
            self.turn += 1
            first = record.count = record.used = 0
        expected_record.pack_into(self._expected, 0, *expected)
        _, pointer, length, size = datagrams
        count = self.kernel.lib.kernel_receive(record, session, pointer, min(length, PACKETS * size), size)
        return first, count, found_record.unpack(self._found)


class Run:
    """Some of these packets: of one stream, of one time."""

    __slots__ = ("_intake", "_turn", "arrival", "data", "index", "place", "see", "timestamp", "vital")

    index: int  # from here on, what their stream knows of them: that of the first one,
    vital: bool  # whether they are of a keyframe,
    see: Callable[[RtpPacket], None]  # and what else it finds in one

    def __init__(self, intake: Intake, place: int, data: list[bytes], timestamp: int, arrival: float) -> None:
        self._intake, self._turn = intake, intake.turn
        self.place = place  # of the first one in the intake
        self.data = data
        self.timestamp, self.arrival = timestamp, arrival

    @property
    def intake(self) -> Intake | None:
        """Where the kernel still knows them; None where it has forgotten them for others."""
        return self._intake if self._turn == self._intake.turn else None

    def packets(self) -> list[RtpPacket]:
        """All of them, as Python sees them."""
        return [self._packet(number) for number in range(len(self.data))]

    def newest(self) -> RtpPacket:
        """The last one."""
        return self._packet(len(self.data) - 1)

    def _packet(self, number: int) -> RtpPacket:
        packet = RtpPacket.parse(self.data[number], self.arrival)
        packet.index = self.index + number
        self.see(packet)
        packet.vital = self.vital
        return packet


_intakes: WeakKeyDictionary[CompiledQueue, Intake] = WeakKeyDictionary()


def intake_of(queue: CompiledQueue | None, unprotect: int) -> Intake | None:
    """The intake beside `queue`, with libsrtp's function at `unprotect`; None if there is nothing that is compiled."""
    if queue is None or not unprotect:
        return None
    if (intake := _intakes.get(queue)) is None:
        intake = _intakes[queue] = Intake(queue.kernel, unprotect)
    return intake
