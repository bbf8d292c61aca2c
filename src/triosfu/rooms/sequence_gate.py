"""Lets each numbered message of one sender through once, in order, also while the sender's resume is under way.

A client keeps what it is given to send while it tries to resume, and sends that, and what may be lost, once it has. But
livekit-client sends directly between two attempts: then newer messages come first, and who receives them takes older
ones for copies from then on (protocol reference, section 6.4). So while a resume may be under way newer messages wait
for the missing ones. Without a loss of signalling nothing ever waits.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")
MAX_HELD = 1000  # messages
MAX_BYTES = 1 << 20


class SequenceGate(Generic[T]):
    """The numbers of one sender. Sans-IO: its owner gives what waits a deadline, and calls `settle` when it passes."""

    def __init__(self) -> None:
        self.last = 0  # everything up to here has come, as far as it will
        self.patient = False  # what is missing may still come
        self._held: dict[int, tuple[T, int]] = {}  # ascending, each above `last` + 1 when it came
        self._bytes = 0

    @property
    def holds(self) -> bool:
        """Whether anything waits."""
        return bool(self._held)

    def take(self, sequence: int, message: T, size: int) -> list[T]:
        """Return what may go on, now that `message` has come; 0 is a message without a number."""
        if sequence == 0:
            return [message]
        if sequence <= self.last:
            return []
        if not self.patient or sequence == self.last + 1 or self.last == 0:
            self.last = sequence
            return [message, *self._contiguous()]
        if sequence in self._held:
            # A copy: the client is sending again, in order, so nothing below it is going to come.
            return self._up_to(sequence)
        self._held[sequence] = message, size
        self._bytes += size
        return self._up_to(sequence) if len(self._held) > MAX_HELD or self._bytes > MAX_BYTES else []

    def settle(self) -> list[T]:
        """Wait for nothing any more; return what did."""
        self.patient = False
        return self._up_to(max(self._held, default=0))

    def _up_to(self, sequence: int) -> list[T]:
        """Give up what is missing up to `sequence`."""
        passed = [self._release(number) for number in sorted(self._held) if number <= sequence]
        return passed + self._contiguous()

    def _contiguous(self) -> list[T]:
        passed = []
        while self.last + 1 in self._held:
            passed.append(self._release(self.last + 1))
        return passed

    def _release(self, sequence: int) -> T:
        message, size = self._held.pop(sequence)
        self._bytes -= size
        self.last = sequence
        return message
