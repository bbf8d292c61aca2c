"""Where outgoing media goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from triosfu.kernel import Kernel, Record


class MediaSink(Protocol):
    """Where outgoing packets are written, protected and queued; the peer connection gives it."""

    arena: memoryview  # the writable egress arena; a slot in it has 2048 bytes

    @property
    def compiled(self) -> CompiledSink | None:
        """The same for the compiled kernel; None where there is none."""

    def reserve(self) -> int:
        """The offset of a free slot."""

    def commit_rtp(self, offset: int, length: int, vital: bool = False) -> None:  # noqa: FBT001, FBT002  of the hot path
        """Protect the packet at `offset` in place and queue it; dropped and counted while not connected."""


class CompiledSink(Protocol):
    """A sink that the compiled kernel writes to."""

    record: Record  # struct sink *

    @property
    def queue(self) -> CompiledQueue:
        """Where its packets are queued."""


class CompiledQueue(Protocol):
    """The egress arena for the compiled kernel; all sinks of one egress have the same."""

    kernel: Kernel
    protect: Record  # libsrtp's function
    record: Record  # struct queue *
    flush: Callable[[], None]  # hands all that is queued to the system

    def begin(self) -> None:
        """Set `record.queued` to what is in use; then the kernel may write."""

    def wrote(self, sinks: Sequence[Any]) -> None:
        """Queue what the kernel has written since `begin`, for the lanes of these sinks, all of this queue."""
