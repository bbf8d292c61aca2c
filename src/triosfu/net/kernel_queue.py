"""The egress arena as the compiled kernel sees it: which slots are in use, how long, and where to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from triosfu.net.batch import ffi

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from triosfu.kernel import Kernel, Record
    from triosfu.net.batch import Arena, Pointer
    from triosfu.net.egress import Destination

ENOUGH = 128 * 1024  # bytes written for one flush: they are still in the processor's near caches when they are sent


class Sink:
    """One transport's way out, as the kernel uses it: `lead` it anew whenever the path or the keys change."""

    __slots__ = ("destination", "queue", "record")

    def __init__(self, queue: KernelQueue) -> None:
        self.queue = queue
        self.record: Record = queue.kernel.ffi.new("struct sink *")
        self.destination: Destination | None = None

    def lead(self, destination: Destination | None, *, gcm: Record | None, session: int) -> None:
        """Send to `destination`, protected with `gcm`, or else with libsrtp's `session`.

        Without a destination (None), or without either of the others (None and 0), nothing is sent.
        """
        ffi = self.queue.kernel.ffi
        self.destination = destination
        self.record.gcm = gcm or ffi.NULL
        self.record.session = ffi.cast("void *", session)
        self.record.way = ffi.NULL if destination is None else destination.way


class KernelQueue:
    """The kernel's records of one egress, and what it does with them."""

    def __init__(
        self,
        kernel: Kernel,
        slots: Arena,
        *,
        slot_size: int,
        queued: list[Destination],
        kept: bytearray,
        protect: int,
    ) -> None:
        ffi = kernel.ffi
        self.kernel = kernel
        self.protect: Record = ffi.cast("void *", protect)
        self.flush: Callable[[], None] = _nothing
        self.woken: Callable[[], None] = _nothing
        self._slots, self._queued = slots, queued
        self._end = 0  # the slot behind the last one that the kernel has written
        self._kept = ffi.from_buffer(kept)  # holds it where it is
        self._ways = ffi.new("struct way *[]", slots.slots)
        self._lanes = ffi.new("uint32_t[]", slots.slots)
        self._sources = ffi.new("uint64_t[]", slots.slots)
        self._following = ffi.new("uint32_t[]", slots.slots)
        self._later = ffi.new("uint8_t[]", slots.slots)
        self._starts = ffi.new("uint32_t[]", slots.slots)
        self._order = ffi.new("uint32_t[]", slots.slots)
        self.ways = memoryview(ffi.buffer(self._ways)).cast("B").cast("Q")
        """The address of each slot's destination."""
        self.starts = memoryview(ffi.buffer(self._starts)).cast("B").cast("I")
        """The first place of each message, as `gather` has made them."""
        self.order = memoryview(ffi.buffer(self._order)).cast("B").cast("I")
        """The slot at each place, as `arrange` has made it."""
        self._numbers = memoryview(ffi.buffer(self._lanes)).cast("B").cast("I")
        self.record: Record = ffi.new(
            "struct queue *",
            {
                "arena": ffi.cast("char *", _address(slots.pointer)),
                "iovecs": ffi.cast("struct iovec *", _address(slots.iovecs)),
                "ways": self._ways,
                "kept": ffi.cast("uint8_t *", self._kept),
                "lanes": self._lanes,
                "sources": self._sources,
                "following": self._following,
                "later": self._later,
                "enough": ENOUGH,
                "slot_size": slot_size,
                "slots": slots.slots,
            },
        )

    def begin(self) -> None:
        """Say how much is in use; then the kernel may write."""
        record = self.record
        record.queued = queued = len(self._queued)
        if self._end != queued:  # others have written since, each to its slot's own place
            record.used = queued * record.slot_size

    def wrote(self, sinks: Sequence[Sink]) -> None:
        """Queue what the kernel has written since `begin`, for the lanes of these sinks."""
        queued = self._queued
        first, end = len(queued), self.record.queued
        self._end = end
        if end > first:
            queued += [sinks[number].destination for number in self._numbers[first:end].tolist()]  # type: ignore[misc]
            if not first:
                self.woken()

    def clear(self) -> None:
        """Begin the arena anew."""
        self._end = self.record.used = 0

    def arrange(self, iovecs: Pointer) -> Callable[..., None]:
        """What `Messages._arrange` does, compiled: into `order` and `iovecs`."""
        record, order = self.record, self._order
        compiled: Callable[..., None] = self.kernel.lib.kernel_arrange
        iovecs = self.kernel.ffi.cast("struct iovec *", _address(iovecs))

        def arrange(_queued: object, slots: range, *, segmented: bool) -> None:
            compiled(record, order, iovecs, slots.start, len(slots), segmented)

        return arrange

    def gather(  # noqa: PLR0917  called once
        self,
        iovecs: Pointer,
        headers: Pointer,
        controls: Pointer,
        control_size: int,
        most_segments: int,
        most_bytes: int,
    ) -> Callable[..., int]:
        """What `Messages._write` does, compiled: into `headers` and `controls`, and the first places into `starts`."""
        ffi, record, order, starts = self.kernel.ffi, self.record, self._order, self._starts
        compiled: Callable[..., int] = self.kernel.lib.kernel_gather
        iovecs = ffi.cast("struct iovec *", _address(iovecs))
        headers = ffi.cast("struct mmsghdr *", _address(headers))
        controls = ffi.cast("char *", _address(controls))

        def write(_queued: object, places: range, *, segmented: bool) -> int:
            return compiled(
                record,
                order,
                iovecs,
                headers,
                controls,
                control_size,
                starts,
                places.start,
                len(places),
                segmented,
                most_segments,
                most_bytes,
            )

        return write


def _address(pointer: Any) -> int:  # noqa: ANN401  a cffi pointer of whichever instance
    return int(ffi.cast("uintptr_t", pointer))


def _nothing() -> None:
    """Until the egress says what to do."""
