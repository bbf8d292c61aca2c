"""What the peer's last good check said: most of its checks say that again, and are neither read nor answered anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.ice import binding

if TYPE_CHECKING:
    from triosfu.ice.candidate import Address
    from triosfu.stun.wire import Message, Template


class Usual:
    """A check that was authentic, and with whose roles we agreed. Each further one still has to prove itself."""

    __slots__ = ("_answered", "_message", "_template", "controlling", "nominated", "priority", "ufrag")

    def __init__(
        self, message: Message, ufrag: str, priority: int | None, *, nominated: bool, controlling: bool
    ) -> None:
        self.ufrag = ufrag  # of ours, that it named
        self.priority = priority
        self.nominated = nominated
        self.controlling = controlling  # our role with which it agrees: with the other one it has to be judged anew
        self._message = message
        self._answered: tuple[Address, bytes] | None = None  # from where it came, and our key
        self._template: Template | None = None

    def again(self, data: bytes) -> Message | None:
        """The message in `data`, if that says the same."""
        return self._message.parse_again(data)

    def answer(self, message: Message, source: Address, key: bytes) -> bytes:
        """The answer to `message`, which says the same and came from `source`."""
        if self._answered != (source, key):
            self._answered = source, key
            self._template = binding.successes(source, key)
        template = self._template
        return binding.success(message, source, key) if template is None else template.message(message.transaction)
