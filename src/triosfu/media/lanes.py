"""Straight ways from a track to its subscribers, which the compiled kernel walks without Python.

A `Lane` is one forwarder's numbers as the kernel sees them, copied when something has changed (`arm`). While it is
armed, the kernel takes packet after packet along it, as long as each is the next one of the source that flows, and what
the lane counts is the truth. A packet that is anything else is left to the forwarder, which first takes the numbers
back. A `Fan` is all forwarders whose subscribers get the same bytes behind the header.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

from triosfu.media.codecs.vp8 import Vp8Descriptor
from triosfu.media.shape import HEADER_SIZE, MAX_PACKET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triosfu.kernel import Record
    from triosfu.media.burst import Burst
    from triosfu.media.forwarder import Forwarder
    from triosfu.media.munger import Shifts
    from triosfu.media.receiver import Subscriber, TrackReceiver
    from triosfu.media.sent_log import SentLog
    from triosfu.media.shape import Part, Shape
    from triosfu.media.sink import CompiledQueue, CompiledSink

STALLED = 1.0  # seconds without a packet while other layers flow: the layer has gone
CLOSED = 2  # of a lane: nothing passes until something changes
PARTS = 64  # of a burst, at a time
TAIL = MAX_PACKET - HEADER_SIZE  # bytes of each, at most

# struct lane and struct part of kernel/records.h
lane_record = struct.Struct("@IIqqIiiiiIBBbBIQQdQ")
part_record = struct.Struct("@qIIIIHHHBBBBBBBBBBHd")


class Lane:
    """The numbers of one forwarder as the kernel uses them."""

    __slots__ = ("_bytes", "_log", "_log_address", "_log_record", "_sink_address", "queue", "record", "sink")

    def __init__(self, sink: CompiledSink) -> None:
        self.sink = sink
        self.queue: CompiledQueue = sink.queue
        ffi = sink.queue.kernel.ffi
        self.record = ffi.new("struct lane *")
        self._bytes = memoryview(ffi.buffer(self.record))
        self._sink_address = int(ffi.cast("uintptr_t", sink.record))
        self._log: SentLog | None = None
        self._log_record: tuple[Record, ...] = ()  # holds it where it is
        self._log_address = 0

    def close(self) -> None:
        """Have the kernel send nothing, and leave nothing to Python either."""
        self.record.armed = CLOSED

    def number_in(self, log: SentLog | None) -> None:
        """Number packets for transport-wide feedback in `log`, from the next `arm` on."""
        if log is self._log:
            return
        ffi = self.queue.kernel.ffi
        self._log, self._log_record, self._log_address = log, (), 0
        if log is not None:
            self._log_record = log.record(ffi)
            self._log_address = int(ffi.cast("uintptr_t", self._log_record[0]))

    def arm(self, shifts: Shifts, *, next_index: int, ssrc: int, payload_type: int, gate: int, arrival: float) -> None:
        """Have the kernel go on from the packet `next_index` of the source of `shifts`."""
        lane_record.pack_into(
            self._bytes,
            0,
            1,
            shifts.source,
            next_index,
            shifts.sequence,
            shifts.timestamp & 0xFFFFFFFF,
            shifts.picture & 0x7FFF,
            shifts.tl0 & 0xFF,
            shifts.key & 0x1F,
            shifts.frame & 0xFFFF,
            ssrc,
            payload_type,
            shifts.renumbers,
            gate,
            0,
            0,
            self._sink_address,
            self._log_address,
            arrival,
            0,
        )


class Fan:
    """The forwarders of one shape and one egress, together."""

    __slots__ = (
        "_at",
        "_burst",
        "_lanes",
        "_left",
        "_left_count",
        "_parts",
        "_queue",
        "_shape",
        "_sinks",
        "forwarders",
    )

    def __init__(self, forwarders: Sequence[Forwarder]) -> None:
        lanes = [forwarder.lane for forwarder in forwarders if forwarder.lane is not None]
        self.forwarders = list(forwarders)
        self._sinks = [lane.sink for lane in lanes]
        self._shape: Shape = forwarders[0].shape
        self._queue = queue = lanes[0].queue
        ffi = queue.kernel.ffi
        self._lanes = ffi.new("struct lane *[]", [lane.record for lane in lanes])
        self._left = ffi.new("struct stop[]", len(lanes))
        self._left_count = ffi.new("uint32_t *")
        self._at = ffi.new("struct stop *")
        self._parts = _parts_of(queue)
        self._burst = ffi.new("struct burst *", {"parts": self._parts.records, "tails": self._parts.tails})

    def forward(self, burst: Burst, now: float, receiver: TrackReceiver) -> list[tuple[Forwarder, int]]:
        """Send `burst` along the lanes; where a lane is not straight, the forwarder and its first part are returned."""
        parts = self._shape.parts if self._shape.burst is burst else self._shape.take(burst, receiver.extension_ids)
        queue, record, at, count = self._queue, self._burst, self._at, self._left_count
        record.source, record.keyframe, record.video = burst.source, burst.keyframe, receiver.kind == "video"
        record.now, record.stalled = now, STALLED
        left: dict[int, int] = {}  # the number of a forwarder -> from where in the burst on Python has to do it
        forward, number = queue.kernel.lib.kernel_forward, len(self.forwarders)
        for first in range(0, len(parts), PARTS):
            record.count = self._parts.write(parts[first : first + PARTS])
            at.lane = at.part = count[0] = 0
            full = 1
            while full:
                queue.begin()
                full = forward(queue.protect, queue.record, self._lanes, number, record, at, self._left, count)
                queue.wrote(self._sinks)
                if full:
                    queue.flush()
            for place in range(count[0]):
                stop = self._left[place]
                left.setdefault(stop.lane, first + stop.part)
        forwarders = self.forwarders
        return [(forwarders[number], start) for number, start in left.items()]


class _Parts:
    """Room for the parts of one burst; all fans of a queue share it, one after the other."""

    __slots__ = ("_bytes", "_tails", "records", "tails")

    def __init__(self, queue: CompiledQueue) -> None:
        ffi = queue.kernel.ffi
        self.records = ffi.new("struct part[]", PARTS)
        self.tails = ffi.new("char[]", PARTS * TAIL)
        self._bytes = memoryview(ffi.buffer(self.records))
        self._tails = memoryview(ffi.buffer(self.tails)).cast("B")

    def write(self, parts: Sequence[Part]) -> int:
        """Fill in `parts`; their number."""
        to, size = self._bytes, part_record.size
        for number, part in enumerate(parts):
            packet, descriptor, tail = part.packet, part.packet.descriptor, number * TAIL
            self._tails[tail : tail + len(part.tail)] = part.tail
            picture = picture_at = picture_bits = tl0_at = tl0 = key_at = key = 0
            if isinstance(descriptor, Vp8Descriptor) and part.octets >= descriptor.size:
                picture_at, picture_bits = descriptor.picture_at, descriptor.picture_bits
                tl0_at, key_at = descriptor.tl0_at, descriptor.key_at
                picture, tl0, key = descriptor.picture_id & 0x7FFF, descriptor.tl0 & 0xFF, descriptor.key_index & 0x1F
            part_record.pack_into(
                to,
                number * size,
                packet.index,
                tail,
                len(part.tail),
                packet.timestamp,
                part.octets,
                part.payload_at,
                part.frame_at,
                picture,
                picture_at,
                picture_bits,
                tl0_at,
                tl0,
                key_at,
                key,
                part.first,
                part.marker,
                packet.temporal,
                packet.vital,
                part.transport_at,
                packet.arrival,
            )
        return len(parts)


_rooms: WeakKeyDictionary[CompiledQueue, _Parts] = WeakKeyDictionary()


def _parts_of(queue: CompiledQueue) -> _Parts:
    if (room := _rooms.get(queue)) is None:
        room = _rooms[queue] = _Parts(queue)
    return room


def grouped(subscribers: Sequence[Subscriber]) -> tuple[list[Fan], list[Subscriber]]:
    """The fans that serve `subscribers`, and those who have no lane."""
    groups: dict[tuple[int, int], list[Forwarder]] = {}
    plain: list[Subscriber] = []
    for subscriber in subscribers:
        if subscriber.lane is None:
            plain.append(subscriber)
        else:
            forwarder = cast("Forwarder", subscriber)  # nobody else has lanes
            groups.setdefault((id(forwarder.shape), id(subscriber.lane.queue)), []).append(forwarder)
    return [Fan(forwarders) for forwarders in groups.values()], plain
