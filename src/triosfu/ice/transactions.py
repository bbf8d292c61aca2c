"""Checks under way: what was asked, when to ask again, until when an answer counts (RFC 8489, section 6.2.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from triosfu.errors import UsageError
from triosfu.ice import binding
from triosfu.ice.local import reflexive_priority
from triosfu.stun.wire import TRANSACTION_SIZE

if TYPE_CHECKING:
    from random import Random

    from triosfu.ice.checklist import Pair
    from triosfu.ice.credentials import Credentials
    from triosfu.ice.generation import Generation
    from triosfu.ice.role import Role
    from triosfu.stun.wire import Template

PACE: Final = 0.05  # Ta: seconds between the checks of one agent; RFC 8445, section 14.2
FIRST_TIMEOUT: Final = 0.5  # RTO, at least; RFC 8445, section 14.3
MAX_TRANSACTIONS: Final = 256
SENDS: Final = 7  # Rc
LIFETIME: Final = 2 ** (SENDS - 1) - 1 + 16  # in units of the first timeout: all waits between, and Rm after the last
GRACE: Final = 5.0  # for how long an answer to a check that is not repeated any more is waited for


class Purpose(Enum):
    """Why a check is sent; the value is for how many seconds, at most, its answer counts."""

    ORDINARY = math.inf
    NOMINATION = 4.0  # unanswered for so long, another pair is nominated
    KEEPALIVE = 10.0  # sent once, and no pair fails with it


@dataclass(slots=True, eq=False)
class Transaction:
    """One binding request of ours, until its answer or its end."""

    id: bytes
    pair: Pair
    generation: Generation
    purpose: Purpose
    request: bytes
    key: bytes
    controlling: bool  # the role that the request told
    sent_at: float  # the last time
    timeout: float  # the first one
    resend_at: float
    expires_at: float
    sends: int = 1

    def give_way(self) -> None:
        """Stop repeating it; its answer is still welcome (RFC 8445, section 7.3.1.4)."""
        self.resend_at = math.inf
        self.expires_at = min(self.expires_at, self.sent_at + GRACE)

    def sent_again(self, now: float) -> None:
        """Note a repetition; each waits twice as long as the one before, except where somebody waits for us."""
        wait = self.timeout if self.purpose is Purpose.NOMINATION else self.timeout * 2**self.sends
        self.sends += 1
        self.sent_at = now
        self.resend_at = now + wait if self.sends < SENDS else math.inf


class Transactions:
    """The open ones by id, never more than `MAX_TRANSACTIONS`: the oldest makes room."""

    def __init__(self, *, rng: Random, prefix: bytes) -> None:
        self._rng = rng
        self._prefix = prefix
        self._open: dict[bytes, Transaction] = {}
        self._said: tuple[object, ...] = ()  # by the last check
        self._template: Template | None = None

    def __len__(self) -> int:
        return len(self._open)

    def open(
        self, generation: Generation, pair: Pair, role: Role, purpose: Purpose, now: float
    ) -> tuple[Transaction, Transaction | None]:
        """Make a check of `pair`, to be sent now. Returns it, and the one that had to make room, if any."""
        if generation.remote is None:
            raise UsageError("ice: a check needs the peer's credentials")
        identifier = self._prefix + self._rng.randbytes(TRANSACTION_SIZE - len(self._prefix))
        request = self._like_the_last(generation.local, generation.remote, pair, role, purpose).message(identifier)
        timeout = max(FIRST_TIMEOUT, PACE * generation.checklist.busy)
        transaction = Transaction(
            identifier,
            pair,
            generation,
            purpose,
            request,
            generation.remote.key,
            role.controlling,
            sent_at=now,
            timeout=timeout,
            resend_at=math.inf if purpose is Purpose.KEEPALIVE else now + timeout,
            expires_at=now + min(purpose.value, LIFETIME * timeout),
        )
        oldest = self._open.pop(next(iter(self._open))) if len(self._open) >= MAX_TRANSACTIONS else None
        self._open[identifier] = transaction
        return transaction, oldest

    def _like_the_last(
        self, local: Credentials, remote: Credentials, pair: Pair, role: Role, purpose: Purpose
    ) -> Template:
        """What to ask with; most checks ask for consent, and say what the one before has said."""
        nominating = purpose is Purpose.NOMINATION
        said = local, remote, pair.local, role.controlling, role.tie_breaker, nominating
        if self._template is None or self._said != said:
            self._said = said
            self._template = binding.requests(
                local=local,
                remote=remote,
                priority=reflexive_priority(pair.local),
                controlling=role.controlling,
                tie_breaker=role.tie_breaker,
                nominating=nominating,
            )
        return self._template

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
        self._template = None

    def pop_expired(self, now: float) -> list[Transaction]:
        """Close and return those for which no answer counts any more."""
        if not self._open:
            return []
        expired = [transaction for transaction in self._open.values() if transaction.expires_at <= now]
        for transaction in expired:
            del self._open[transaction.id]
        return expired

    def due(self, now: float) -> list[Transaction]:
        """Those to be sent again now."""
        return [transaction for transaction in self._open.values() if transaction.resend_at <= now]

    def next_timeout(self) -> float:
        """When the first of them needs attention."""
        if not self._open:
            return math.inf
        return min((min(each.resend_at, each.expires_at) for each in self._open.values()), default=math.inf)
