"""Candidate pairs, and the order in which they are checked (RFC 8445, section 6.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from triosfu.ice.candidate import Address, Candidate
    from triosfu.ice.transactions import Transaction

MAX_PAIRS: Final = 100  # RFC 8445, section 6.1.2.5


class PairState(Enum):
    """Where the check of a pair stands.

    One component of one stream has nothing to learn from another's checks, so a pair starts WAITING; FROZEN is one that
    is checked only if the peer checks it first.
    """

    FROZEN = "frozen"
    WAITING = "waiting"
    IN_PROGRESS = "in progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(slots=True, eq=False)
class Pair:
    """A local and a remote candidate: one way that datagrams might go.

    `base` is the address of our socket; the local candidate's own address differs from it where a NAT maps it.
    """

    base: Address
    local: Candidate
    remote: Candidate
    priority: int = 0
    state: PairState = PairState.WAITING
    transaction: Transaction | None = None  # the check that decides the state
    in_use: bool = False  # selected, or about to be
    probed: bool = False  # the peer checked it without nominating it
    wanted: bool = False  # the controlling peer nominated it, and our own check is not through yet
    heard_at: float = -math.inf  # the last authenticated request on it
    valid_since: float = math.inf  # the first answered check
    valid_until: float = -math.inf  # consent by the last one

    @property
    def addresses(self) -> tuple[Address, Address]:
        """Where we send from, and to."""
        return self.base, self.remote.address

    def prioritise(self, *, controlling: bool) -> None:
        """Compute the priority, which depends on who controls (RFC 8445, section 6.1.2.3)."""
        mine, theirs = self.local.priority, self.remote.priority
        controls, controlled = (mine, theirs) if controlling else (theirs, mine)
        self.priority = (min(controls, controlled) << 32) + 2 * max(controls, controlled) + (controls > controlled)

    def confirm(self, now: float, valid_until: float) -> None:
        """Note that it works: a check was answered."""
        self.settle(PairState.SUCCEEDED)
        self.valid_since = min(self.valid_since, now)
        self.valid_until = valid_until

    def settle(self, state: PairState) -> None:
        """End the check under way with this outcome."""
        if self.transaction is not None:
            self.transaction.give_way()
            self.transaction = None
        self.state = state


class Checklist:
    """All pairs of a generation, at most `MAX_PAIRS`, and the queue of triggered checks."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[Address, Address], Pair] = {}
        self._triggered: dict[Pair, None] = {}  # an ordered set
        self._floor = 0  # no ordinary checks of pairs below this priority

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs.values())

    def __len__(self) -> int:
        return len(self._pairs)

    def get(self, base: Address, remote: Address) -> Pair | None:
        """The pair of these addresses."""
        return self._pairs.get((base, remote))

    def add(self, pair: Pair, *, pressing: bool) -> None:
        """Take the pair in; when the list is full, in the place of a worse one that is not in use, or not at all.

        A pressing pair, one on which the peer has just spoken, always finds a place.
        """
        if len(self._pairs) >= MAX_PAIRS:
            worst = min((each for each in self if not each.in_use), key=_worth)
            if not pressing and worst.state is not PairState.FAILED and worst.priority >= pair.priority:
                return
            self.remove(worst)
        if not pressing and pair.priority < self._floor:
            pair.state = PairState.FROZEN
        self._pairs[pair.addresses] = pair

    def remove(self, pair: Pair) -> None:
        """Forget the pair; an answer to its check will change nothing."""
        pair.settle(PairState.FAILED)
        pair.wanted = False
        self._pairs.pop(pair.addresses, None)
        self._triggered.pop(pair, None)

    def trigger(self, pair: Pair) -> None:
        """Check this pair before all ordinary ones (RFC 8445, section 7.3.1.4)."""
        pair.settle(PairState.WAITING)
        self._triggered[pair] = None

    def dismiss(self, pair: Pair) -> None:
        """Take the pair off the queue of triggered checks."""
        self._triggered.pop(pair, None)

    def freeze_below(self, priority: int) -> None:
        """Stop ordinary checks of pairs that could not win any more (RFC 8445, section 8.1.2)."""
        self._floor = priority
        for pair in self:
            if pair.priority < priority and pair.state in (PairState.WAITING, PairState.IN_PROGRESS):
                pair.settle(PairState.FROZEN)
                self.dismiss(pair)

    def next_check(self) -> Pair | None:
        """The pair to check now: a triggered one first, else the best that waits."""
        if self._triggered:
            pair = next(iter(self._triggered))
            del self._triggered[pair]
            return pair
        best: Pair | None = None
        for pair in self._pairs.values():
            if pair.state is PairState.WAITING and (best is None or pair.priority > best.priority):
                best = pair
        return best

    def best_valid(self, now: float, *, heard_since: float = -math.inf) -> Pair | None:
        """The best of the pairs that work, and on which the peer spoke lately if that is asked for."""
        valid = (
            pair
            for pair in self
            if pair.state is PairState.SUCCEEDED and now < pair.valid_until and pair.heard_at >= heard_since
        )
        return max(valid, key=lambda pair: pair.priority, default=None)

    def may_beat(self, pair: Pair) -> bool:
        """Whether a better pair than this is still being checked."""
        hopes = (PairState.WAITING, PairState.IN_PROGRESS)
        return any(other.priority > pair.priority and other.state in hopes for other in self)

    @property
    def has_work(self) -> bool:
        """Whether a check is waiting to be sent."""
        if self._triggered:
            return True
        for pair in self._pairs.values():  # noqa: SIM110  asked after each datagram: any() would cost a generator
            if pair.state is PairState.WAITING:
                return True
        return False

    @property
    def busy(self) -> int:
        """How many checks wait or are under way."""
        return sum(pair.state in (PairState.WAITING, PairState.IN_PROGRESS) for pair in self)


def _worth(pair: Pair) -> tuple[bool, bool, float, int]:
    """What decides which pair makes room: failed ones first, working ones last; then how lately the peer used it."""
    return (pair.state is not PairState.FAILED, pair.state is PairState.SUCCEEDED, pair.heard_at, pair.priority)
