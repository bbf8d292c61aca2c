"""Checks under way: what was asked, when to ask again, until when an answer counts (RFC 8489, section 6.2.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from triosfu.ice.checklist import Generation, Pair

MAX_TRANSACTIONS: Final = 256
SENDS: Final = 7  # Rc
LAST_WAIT: Final = 16  # Rm: times the first timeout


@dataclass(slots=True, eq=False)
class Transaction:
    """One binding request of ours, until its answer or its end."""

    id: bytes
    pair: Pair
    generation: Generation
    request: bytes
    key: bytes
    controlling: bool  # the role that the request told
    nominating: bool
    keepalive: bool  # sent once, and nothing fails with it
    sent_at: float
    timeout: float  # the first one
    resend_at: float
    expires_at: float
    sends: int = 1

    def give_way(self) -> None:
        """Stop repeating it; its answer is still welcome (RFC 8445, section 7.3.1.4)."""
        self.resend_at = math.inf

    def sent_again(self, now: float) -> None:
        """Note a repetition; each waits twice as long as the one before."""
        wait = self.timeout * 2**self.sends
        self.sends += 1
        if self.sends < SENDS:
            self.resend_at = now + wait
        else:
            self.resend_at = math.inf
            self.expires_at = min(self.expires_at, now + LAST_WAIT * self.timeout)


class Transactions:
    """The open ones by id, never more than `MAX_TRANSACTIONS`: the oldest makes room."""

    def __init__(self) -> None:
        self._open: dict[bytes, Transaction] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, transaction: Transaction) -> Transaction | None:
        """Open one. Returns the one that had to make room, if any."""
        oldest = None
        if len(self._open) >= MAX_TRANSACTIONS:
            oldest = self._open.pop(next(iter(self._open)))
        self._open[transaction.id] = transaction
        return oldest

    def get(self, identifier: bytes) -> Transaction | None:
        """The open one with this id."""
        return self._open.get(identifier)

    def close(self, transaction: Transaction) -> None:
        """It was answered; a second answer finds nothing."""
        self._open.pop(transaction.id, None)

    def stop_repeating(self) -> None:
        """Send none of them again; answers still count."""
        for transaction in self._open.values():
            transaction.give_way()

    def clear(self) -> None:
        """Forget all."""
        self._open.clear()

    def pop_expired(self, now: float) -> list[Transaction]:
        """Close and return those for which no answer counts any more."""
        expired = [transaction for transaction in self._open.values() if transaction.expires_at <= now]
        for transaction in expired:
            del self._open[transaction.id]
        return expired

    def due(self, now: float) -> list[Transaction]:
        """Those to be sent again now."""
        return [transaction for transaction in self._open.values() if transaction.resend_at <= now]

    def next_timeout(self) -> float:
        """When the first of them needs attention."""
        return min((min(each.resend_at, each.expires_at) for each in self._open.values()), default=math.inf)
