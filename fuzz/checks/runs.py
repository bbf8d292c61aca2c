"""Any decrypted bytes are to the compiled kernel what they are to Python, or are left to Python.

What the kernel has read it makes parts of for subscribers, and these are Python's as well.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from cffi import FFI

from triosfu.errors import MalformedPacket
from triosfu.kernel import installed
from triosfu.media.burst import Burst
from triosfu.media.codecs import DEPENDENCY_DESCRIPTOR, inspect_vp8
from triosfu.media.codecs.vp8 import Vp8Descriptor
from triosfu.media.lanes import _Parts, part_record
from triosfu.media.runs import Intake, Run
from triosfu.media.shape import ABS_CAPTURE_TIME, ABS_SEND_TIME, Shape
from triosfu.net.egress import Egress
from triosfu.rtp.wire import RtpPacket

if TYPE_CHECKING:
    from collections.abc import Sequence

TRANSPORT, LEVEL = 3, 1  # identifiers of extensions
PUBLISHED = {ABS_CAPTURE_TIME: 6, DEPENDENCY_DESCRIPTOR: 12}
NOW = 1.5

ffi = FFI()


@ffi.callback("int(void *, void *, int *)")  # type: ignore[untyped-decorator]
def opened(_session: object, _packet: object, _length: object) -> int:
    """What is there is decrypted already."""
    return 0


@cache
def place() -> tuple[Intake, _Parts, Any]:
    """Where the kernel reads and writes; and what it belongs to."""
    egress = Egress()
    assert egress.kernel_queue is not None
    intake = Intake(egress.kernel_queue.kernel, int(ffi.cast("uintptr_t", opened)))
    return intake, _Parts(egress.kernel_queue), egress


def written(parts: _Parts, count: int) -> list[tuple[object, ...]]:
    """The parts that are filled in, with their bytes."""
    found = []
    for number in range(count):
        index, tail, length, *rest = part_record.unpack_from(parts._bytes, number * part_record.size)  # noqa: SLF001
        for value, at in ((4, 6), (8, 7), (10, 9)):
            rest[value] = rest[value] if rest[at] else 0  # a number that is nowhere is no matter
        found.append((index, bytes(parts._tails[tail : tail + length]), *rest))  # noqa: SLF001
    return found


def seen(data: bytes) -> RtpPacket | None:
    """The packet, if Python finds it straight as far as one can say who knows only it."""
    try:
        packet = RtpPacket.parse(data, NOW)
    except MalformedPacket:
        return None
    inspect_vp8(packet)
    padded, csrcs = data[0] & 0x20, data[0] & 0x0F
    whole = packet.payload_offset < packet.payload_end and isinstance(packet.descriptor, Vp8Descriptor)
    return packet if whole and not packet.keyframe and not padded and not csrcs else None


def number_in(packet: RtpPacket) -> int:
    """Its transport-wide number; -1 without one."""
    value = packet.extension(TRANSPORT)
    return int.from_bytes(value, "big") if value is not None and len(value) == 2 else -1


def parts_alike(intake: Intake, parts: _Parts, datagrams: Sequence[bytes], first: RtpPacket) -> None:
    """What the kernel makes of what it has read is what Python makes of it."""
    run = Run(intake, 0, list(datagrams), first.timestamp, NOW)
    run.index, run.vital, run.see = first.sequence, False, inspect_vp8
    burst = Burst(first.ssrc)
    burst.add_run(run)
    for extension_ids in ({}, {ABS_SEND_TIME: 3, ABS_CAPTURE_TIME: 5, DEPENDENCY_DESCRIPTOR: 4}):
        shape = Shape(extension_ids, primary_only=False)
        if parts._read(run, shape.form(PUBLISHED)):  # noqa: SLF001
            kernel = written(parts, len(datagrams))
            assert parts._write(shape.take(burst, PUBLISHED)) == len(datagrams)  # noqa: SLF001
            assert kernel == written(parts, len(datagrams))


def check_run(data: bytes) -> None:
    """Bytes behind the first two are datagrams of a size that these tell, of which the first is the next one."""
    size, body = (data[0] << 3 | data[1] & 7 if len(data) > 1 else 0), data[2:]
    if installed() is None or not size >= 12 or len(body) < 12:
        return
    intake, parts, _ = place()
    intake.record.count = intake.record.used = 0
    memory = ffi.new("char[]", body)
    datagrams = [body[at : at + size] for at in range(0, len(body), size)]
    first = datagrams[0]
    expected = int.from_bytes(first[8:12], "big"), int.from_bytes(first[2:4], "big"), first[1] & 0x7F, 1
    begin, count, found = intake.receive(
        0, (memoryview(body), memory, len(body), size), NOW, (*expected, TRANSPORT, LEVEL if data[1] & 8 else 0)
    )
    level, levelled, timestamp, transport, overhead, left, refused = found
    assert (begin, overhead * count, refused) == (0, 0, 0)
    for number, datagram in enumerate(datagrams[:count]):
        packet = seen(datagram)
        assert packet is not None
        assert (packet.ssrc, packet.sequence) == (expected[0], expected[1] + number & 0xFFFF)
        assert (packet.payload_type, packet.timestamp) == (expected[2], timestamp)
        assert number_in(packet) == (transport if transport < 0 else transport + number & 0xFFFF)
        assert packet.marker == (number == count - 1 and packet.marker), "a run ends with a marker"
        if data[1] & 8:
            value = packet.extension(LEVEL)
            assert (value[0] if value else -1) == (level if levelled else -1)
            assert count == 1
    if left:
        assert left == len(datagrams[count])
        assert seen(datagrams[count]) is None
    if count:
        parts_alike(intake, parts, datagrams[:count], RtpPacket.parse(first))
