"""The ICE agent (RFC 8445): bytes, candidates and time in; datagrams, events and a deadline out.

    candidates, credentials ─> pairs ─> checks ─> valid pairs ─> nomination ─> selected pair ─> consent
                                 ^                                  │ controlling: we choose
        the peer's own checks ───┘                                  │ controlled: the peer does

Nothing is believed, answered or remembered before its MESSAGE-INTEGRITY is verified, and a path is used only after it
answered a check of ours (as lite agent: after the peer nominated it). Whatever a peer can make grow has a bound.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from triosfu.errors import MalformedPacket, UsageError
from triosfu.ice import binding
from triosfu.ice.candidate import Candidate, is_ipv6, priority_of
from triosfu.ice.checklist import (
    MAX_EARLY_CANDIDATES,
    MAX_REMOTE_CANDIDATES,
    Generation,
    Pair,
    PairState,
)
from triosfu.ice.consent import CONSENT_LIFETIME, Consent
from triosfu.ice.credentials import Credentials
from triosfu.ice.state import IceState, On, after
from triosfu.ice.transactions import Transaction, Transactions
from triosfu.stun import wire
from triosfu.stun.wire import TRANSACTION_SIZE, U64, Attribute, Kind, Message

if TYPE_CHECKING:
    from random import Random

    from triosfu.ice.candidate import Address

__all__ = [
    "Credentials",
    "Event",
    "IceAgent",
    "IceState",
    "SelectedPair",
    "StateChanged",
    "Transmit",
    "TupleValidated",
]

PACE: Final = 0.05  # Ta: seconds between the checks of one agent; RFC 8445, section 14.2
FIRST_TIMEOUT: Final = 0.5  # RTO, at least; RFC 8445, section 14.3
NOMINATION_WAIT: Final = 0.3  # how long a valid pair waits for a better one,
RELAYED_NOMINATION_WAIT: Final = 1.0  # and how long if it costs somebody a relay
NOMINATION_LIFETIME: Final = 4.0  # a nominating check unanswered for so long makes us choose again
KEEPALIVE_LIFETIME: Final = 10.0  # an answer later than this is no answer
STALE_AFTER: Final = 3.0  # a selected pair so long unheard yields to any other that works
MAX_LOCAL_CANDIDATES: Final = 16
MAX_ROLE_SWITCHES: Final = 8  # per generation; honest peers need one
MAX_OUTBOX: Final = 256


@dataclass(frozen=True, slots=True)
class Transmit:
    """A datagram to send from the socket bound to `source`."""

    data: bytes
    source: Address
    destination: Address


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The agent moved to another state."""

    state: IceState


@dataclass(frozen=True, slots=True)
class TupleValidated:
    """Something authenticated came from `remote` to `local`: datagrams from there may be routed to this agent's owner.

    Told again each time, so that a routing table that forgot or gave away the tuple mends itself.
    """

    local: Address
    remote: Address


@dataclass(frozen=True, slots=True)
class SelectedPair:
    """Send from `local` to `remote` from now on."""

    local: Address
    remote: Address


Event = StateChanged | TupleValidated | SelectedPair


class IceAgent:
    """One side of ICE for one component; full or lite, controlling or controlled.

    Local addresses are those of sockets, and tell TCP and UDP apart: no two candidates of different protocols may share
    one. After every call, drain `datagrams_to_send` and `events`, and look at `next_timeout`.

    Args:
        local: Our credentials; the peer learns them by signalling.
        controlling: Whether we choose the pair: the side that offers does, unless one is lite. A lite agent never does.
        lite: Only answer checks, never send any (RFC 8445, section 2.5).
        now: The present.
        rng: The source of transaction ids and tie-breakers: a SystemRandom in production.
        transaction_prefix: How every transaction id of this agent begins, so that answers can be routed by it.
        check_timeout: Seconds from the peer's credentials to a selected pair.
        disconnected_after: Seconds of silence on the selected pair until DISCONNECTED. A lite agent cannot ask, and
            some peers check only every six seconds, so it waits at least ten.
        failed_after: Seconds of silence on the selected pair until FAILED.
        keepalive: Seconds between checks of the selected pair, give or take a fifth.
    """

    def __init__(
        self,
        *,
        local: Credentials,
        controlling: bool,
        lite: bool = False,
        now: float,
        rng: Random,
        transaction_prefix: bytes = b"",
        check_timeout: float = 30.0,
        disconnected_after: float = 5.0,
        failed_after: float = 15.0,
        keepalive: float = 2.0,
    ) -> None:
        self.state = IceState.NEW
        self.lite = lite
        self.controlling = controlling and not lite
        self.local_candidates: list[Candidate] = []
        self.reflexive_candidates: list[Candidate] = []
        self.rtt = 0.0
        self.dropped: Counter[str] = Counter()
        self._rng = rng
        self._prefix = transaction_prefix
        self._check_timeout = check_timeout
        self._disconnected_after = max(disconnected_after, 10.0) if lite else disconnected_after
        self._failed_after = failed_after
        self._keepalive = math.inf if lite else keepalive
        self._tie_breaker = rng.getrandbits(64)
        self._role_switches = 0
        self._bases: dict[Address, Candidate] = {}
        self._early: deque[Candidate] = deque(maxlen=MAX_EARLY_CANDIDATES)
        self._generation = Generation(local)
        self._transactions = Transactions()
        self._pace_at = now
        self._give_up_at = math.inf
        self._nominate_at = math.inf
        self._nominating: Pair | None = None
        self._selected: Pair | None = None
        self._carrying = self._generation  # whose pair is the selected one
        self._consent: Consent | None = None
        self._outbox: deque[Transmit] = deque(maxlen=MAX_OUTBOX)
        self._events: list[Event] = []

    # What signalling brings

    @property
    def local(self) -> Credentials:
        """Our present credentials."""
        return self._generation.local

    @property
    def remote(self) -> Credentials | None:
        """The peer's credentials, as far as they are known for the present generation."""
        return self._generation.remote

    @property
    def selected(self) -> tuple[Address, Address] | None:
        """Where to send from, and to; None as long as, or as soon as, there is no working path."""
        return None if self._selected is None else self._selected.addresses

    def local_ufrags(self) -> tuple[str, ...]:
        """The username fragments by which requests find this agent: two of them during a restart."""
        return tuple(generation.local.ufrag for generation in self._generations())

    def add_local_candidate(self, candidate: Candidate, *, base: Address | None = None) -> None:
        """Offer a way to reach us; `base` is the socket's address where it differs (a NAT that maps one to one)."""
        if len(self.local_candidates) >= MAX_LOCAL_CANDIDATES:
            raise UsageError("ice: too many local candidates")
        self.local_candidates.append(candidate)
        base = base or candidate.address
        if base in self._bases:
            return  # two names of one socket: checks from it are the same (RFC 8445, section 6.1.2.4)
        self._bases[base] = candidate
        for remote in self._generation.remotes.values():
            self._pair_up(base, remote)

    def set_remote_credentials(self, remote: Credentials, now: float) -> None:
        """Begin checks: the peer's description is known. The same credentials again change nothing.

        Raises:
            UsageError: They are others than before, and there was no `restart` in between.
        """
        generation = self._generation
        if self.state is IceState.CLOSED or generation.remote == remote:
            return
        if generation.remote is not None:
            raise UsageError("ice: new remote credentials need a restart")
        self._move(On.CREDENTIALS)
        generation.remote = remote
        self._give_up_at = now + self._check_timeout
        for candidate in self._early:
            if not generation.is_for_later(candidate):
                self._learn_remote(candidate)
        self._early.clear()
        for pair in list(generation.checklist):
            self._follow_nomination(pair, now)
        self._send_next_check(now)

    def set_remote_lite(self, lite: bool) -> None:  # noqa: FBT001  the contract between the packages
        """Note whether the peer is lite: then we control (RFC 8445, section 6.1.1)."""
        if lite:
            self.set_role(controlling=True)

    def set_role(self, controlling: bool) -> None:  # noqa: FBT001  the contract between the packages
        """Take the controlling or the controlled role. A lite agent stays controlled."""
        if self.lite or controlling == self.controlling:
            return
        self.controlling = controlling
        self._nominating = None
        self._nominate_at = math.inf
        for pair in self._generation.checklist:
            pair.wanted = False
            pair.prioritise(controlling=controlling)

    def add_remote_candidate(self, candidate: Candidate, now: float) -> None:
        """Learn a way to the peer. Names, other components and TCP are ignored, as is what exceeds the bounds.

        A peer behind an ignored candidate is found when its own checks arrive. TCP peers connect to us, never we to
        them.
        """
        if self.state is IceState.CLOSED:
            return
        if not candidate.reachable or candidate.component != 1 or candidate.protocol != "udp":
            self.dropped["candidate_ignored"] += 1
        elif not self._generation.is_for_later(candidate):
            self._learn_remote(candidate)
            self._send_next_check(now)
        else:
            self.dropped["candidate_overflow"] += len(self._early) == MAX_EARLY_CANDIDATES
            self._early.append(candidate)

    def restart(self, local: Credentials, now: float) -> None:
        """Begin anew with `local`; the peer's new credentials follow by `set_remote_credentials`.

        A selected pair stays in use, and requests to the old credentials are answered, until a new pair is nominated
        (RFC 8445, section 9).
        """
        if self.state is IceState.CLOSED:
            return
        self._move(On.RESTART)
        self._generation = Generation(local)
        if self._selected is None:
            self._carrying = self._generation
        self._transactions.stop_repeating()
        self._role_switches = 0
        self._nominating = None
        self._nominate_at = self._give_up_at = math.inf
        self._pace_at = max(self._pace_at, now)

    # The sans-IO vocabulary

    def receive_datagram(self, data: bytes, source: Address, destination: Address, now: float) -> None:
        """Take in one STUN datagram that came from `source` to our socket at `destination`.

        Raises:
            MalformedPacket: It is not STUN, or its attributes are nonsense. Nothing has changed.
        """
        message = Message.parse(data)
        if self.state in (IceState.FAILED, IceState.CLOSED) or message.method != wire.BINDING or source[1] == 0:
            self.dropped["unwanted"] += 1
        elif message.kind is Kind.REQUEST:
            self._receive_request(message, source, destination, now)
        elif message.kind is not Kind.INDICATION:
            self._receive_response(message, source, destination, now)
        self._send_next_check(now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due; nothing, when called early."""
        for transaction in self._transactions.pop_expired(now):
            self._expire(transaction, now)
        for transaction in self._transactions.due(now):
            transaction.sent_again(now)
            self._send(transaction.request, *transaction.pair.addresses)
        self._watch_consent(now)
        if now >= self._give_up_at:
            self._give_up()
        self._nominate_if_ready(now)
        self._send_next_check(now)

    def next_timeout(self) -> float:
        """When `handle_timeout` is wanted; math.inf for never."""
        return min(
            self._transactions.next_timeout(),
            self._give_up_at,
            self._nominate_at,
            math.inf if self._consent is None else self._consent.next_timeout(),
            self._pace_at if self._may_check and self._generation.checklist.has_work else math.inf,
        )

    def datagrams_to_send(self) -> list[Transmit]:
        """Take what is to be sent."""
        drained = list(self._outbox)
        self._outbox.clear()
        return drained

    def events(self) -> list[Event]:
        """Take what has happened."""
        drained, self._events = self._events, []
        return drained

    def close(self) -> None:
        """End everything now: nothing is sent or answered any more."""
        if self.state is not IceState.CLOSED:
            self._move(On.CLOSE)
            self._forget_path()
            self._outbox.clear()

    # Requests: what the peer asks (RFC 8445, section 7.3)

    def _receive_request(self, message: Message, source: Address, destination: Address, now: float) -> None:
        generation = self._generation_of(message)
        if generation is None or not message.signed_with(generation.local.key):
            # No answer: it would go to whoever stands in the source address.
            self.dropped["unauthenticated"] += 1
            return
        key = generation.local.key
        priority = message.number(Attribute.PRIORITY)
        conflict = self._role_conflict(message)
        unknown = message.unknown(binding.UNDERSTOOD)
        if unknown:
            self._send(binding.refusal(message, binding.UNKNOWN_ATTRIBUTE, key, unknown), destination, source)
            return
        if conflict is not None:
            if conflict:
                self._send(binding.refusal(message, binding.ROLE_CONFLICT, key), destination, source)
                return
            self._switch_role()
        self._send(binding.success(message, source, key), destination, source)
        self._events.append(TupleValidated(destination, source))
        if self.selected == (destination, source) and self._consent is not None and self._consent.heard(now):
            self._move(On.HEARD)
        if generation is self._generation:
            pair = self._pair_of_request(source, destination, priority)
            pair.heard_at = now
            pair.wanted |= not self.controlling and message.get(Attribute.USE_CANDIDATE) is not None
            self._answer_with_check(pair, now)

    def _generation_of(self, message: Message) -> Generation | None:
        """Whose local ufrag the request names; the peer's own half proves nothing (RFC 8445, section 7.3)."""
        username = message.text(Attribute.USERNAME) or ""
        ufrag, colon, _ = username.partition(":")
        for generation in self._generations():
            if colon and generation.local.ufrag == ufrag:
                return generation
        return None

    def _generations(self) -> tuple[Generation, ...]:
        if self._carrying is self._generation:
            return (self._generation,)
        return (self._generation, self._carrying)

    def _role_conflict(self, message: Message) -> bool | None:
        """None: no conflict. True: the peer has to change its role. False: we have to (RFC 8445, section 7.3.1.1)."""
        theirs = message.number(Attribute.ICE_CONTROLLING if self.controlling else Attribute.ICE_CONTROLLED, U64)
        if theirs is None or self.lite:
            return None
        # The larger tie-breaker is to control, and ours wins a draw.
        return (self._tie_breaker >= theirs) is self.controlling

    def _switch_role(self) -> None:
        if self._role_switches < MAX_ROLE_SWITCHES:
            self._role_switches += 1
            self.set_role(not self.controlling)

    def _pair_of_request(self, source: Address, destination: Address, priority: int | None) -> Pair:
        """The pair that the request came over; made now if the peer's address is new (peer-reflexive)."""
        checklist = self._generation.checklist
        pair = checklist.get(destination, source)
        if pair is not None:
            return pair
        local = self._bases.get(destination)
        if local is None:
            local = Candidate.host(destination)  # a socket that was not announced, and yet was found
        if priority is None:
            priority = priority_of("prflx", local_preference=0, protocol=local.protocol)
        remote = self._generation.remotes.get(source)
        if remote is None:
            remote = Candidate("prflx", 1, local.protocol, priority, source, "prflx")
        pair = Pair(destination, local, remote)
        pair.prioritise(controlling=self.controlling)
        checklist.add(pair, keep=(self._selected, self._nominating), pressing=True)
        return pair

    def _answer_with_check(self, pair: Pair, now: float) -> None:
        """Check back over a pair on which the peer has just spoken (RFC 8445, section 7.3.1.4)."""
        if self.lite:
            pair.settle(PairState.SUCCEEDED)
            pair.valid_until = math.inf
        if pair.state is PairState.SUCCEEDED and now < pair.valid_until:
            self._follow_nomination(pair, now)
            self._nominate_if_ready(now)
        elif pair.state is not PairState.SUCCEEDED or pair.wanted:
            self._generation.checklist.trigger(pair)

    # Responses: what the peer answers (RFC 8445, section 7.2.5)

    def _receive_response(self, message: Message, source: Address, destination: Address, now: float) -> None:
        transaction = self._transactions.get(message.transaction)
        if transaction is None:
            self.dropped["unknown_transaction"] += 1
            return
        if not message.signed_with(transaction.key):
            self.dropped["unauthenticated"] += 1
            return
        error = message.error if message.kind is Kind.ERROR else None
        mapped = message.address(Attribute.XOR_MAPPED_ADDRESS) if message.kind is Kind.SUCCESS else None
        if error is None and mapped is None:
            raise MalformedPacket("ice: a response without what it should tell")
        self._transactions.close(transaction)
        if transaction.generation not in self._generations():
            return
        if (destination, source) != transaction.pair.addresses:
            self.dropped["asymmetric"] += 1
            self._fail(transaction, now)
        elif mapped is not None:
            self._succeed(transaction, mapped, now)
        elif error is not None and error.code == binding.ROLE_CONFLICT.code:
            self._yield_role(transaction, now)
        else:
            self._fail(transaction, now)

    def _succeed(self, transaction: Transaction, mapped: Address, now: float) -> None:
        pair = transaction.pair
        self._events.append(TupleValidated(*pair.addresses))
        if transaction.sends == 1:  # else nobody knows which of them was answered
            sample = now - transaction.sent_at
            self.rtt = sample if self.rtt == 0.0 else 0.875 * self.rtt + 0.125 * sample
        pair.settle(PairState.SUCCEEDED)
        pair.valid_until = now + CONSENT_LIFETIME
        if pair is self._selected and self._consent is not None and self._consent.answered(now):
            self._move(On.HEARD)
        if transaction.generation is not self._generation:
            return
        self._generation.checklist.dismiss(pair)
        self._learn_reflexive(pair, mapped)
        if transaction.nominating and self._nominating is pair:
            self._select(pair, now)
        else:
            self._follow_nomination(pair, now)
            self._nominate_if_ready(now)

    def _fail(self, transaction: Transaction, now: float) -> None:
        """The check led to nothing. A newer check of the same pair is not touched, nor is the selected pair."""
        pair = transaction.pair
        if self._nominating is pair and transaction.nominating:
            self._nominating = None
            pair.settle(PairState.FAILED)
        elif pair.transaction is transaction:
            pair.settle(PairState.FAILED)
        self._nominate_if_ready(now)

    def _expire(self, transaction: Transaction, now: float) -> None:
        if not transaction.keepalive:
            self._fail(transaction, now)

    def _yield_role(self, transaction: Transaction, now: float) -> None:
        """The peer says that both of us have one role: take the other one (RFC 8445, section 7.2.5.1)."""
        if transaction.controlling == self.controlling:
            if self._role_switches >= MAX_ROLE_SWITCHES:
                self._fail(transaction, now)
                return
            self._switch_role()
            self._tie_breaker = self._rng.getrandbits(64)  # RFC 8445, section 16.1
        if transaction.pair.transaction is transaction:
            self._generation.checklist.trigger(transaction.pair)

    # Candidates and pairs

    def _learn_remote(self, candidate: Candidate) -> None:
        remotes = self._generation.remotes
        if candidate.address in remotes:
            return
        if len(remotes) >= MAX_REMOTE_CANDIDATES:
            self.dropped["candidate_overflow"] += 1
            return
        remotes[candidate.address] = candidate
        for base in self._bases:
            self._pair_up(base, candidate)

    def _pair_up(self, base: Address, remote: Candidate) -> None:
        local = self._bases[base]
        if local.protocol != "udp" or is_ipv6(base) != is_ipv6(remote.address):
            return
        pair = self._generation.checklist.get(base, remote.address)
        if pair is not None:
            pair.remote = remote  # the peer's check was faster than its signalling
            pair.prioritise(controlling=self.controlling)
        elif not self.lite:
            pair = Pair(base, local, remote)
            pair.prioritise(controlling=self.controlling)
            if self._selected_now is not None and pair.priority < self._selected_now.priority:
                pair.state = PairState.FROZEN
            self._generation.checklist.add(pair, keep=(self._selected, self._nominating), pressing=False)

    def _learn_reflexive(self, pair: Pair, mapped: Address) -> None:
        """The peer saw us at an address that is none of ours: a NAT stands between (RFC 8445, section 7.2.5.3.1)."""
        known = (*self.local_candidates, *self.reflexive_candidates)
        if mapped in self._bases or any(mapped == candidate.address for candidate in known):
            return
        if len(self.reflexive_candidates) < MAX_LOCAL_CANDIDATES:
            priority = self._reflexive_priority(pair)
            reflexive = Candidate("prflx", 1, pair.local.protocol, priority, mapped, "prflx", related=pair.base)
            self.reflexive_candidates.append(reflexive)

    def _reflexive_priority(self, pair: Pair) -> int:
        """The priority that a peer-reflexive candidate found by checking this pair is to have (section 7.1.1)."""
        local_preference = pair.local.priority >> 8 & 0xFFFF
        return priority_of("prflx", local_preference=local_preference, protocol=pair.local.protocol)

    # Checks

    @property
    def _may_check(self) -> bool:
        return not self.lite and self.remote is not None and self.state not in (IceState.FAILED, IceState.CLOSED)

    def _send_next_check(self, now: float) -> None:
        """Send the check whose turn it is, if the last one is long enough ago."""
        if now < self._pace_at or not self._may_check:
            return
        pair = self._generation.checklist.next_check()
        if pair is not None:
            pair.transaction = self._check(self._generation, pair, now)
            pair.state = PairState.IN_PROGRESS
            self._pace_at = now + PACE

    def _check(
        self, generation: Generation, pair: Pair, now: float, *, nominating: bool = False, keepalive: bool = False
    ) -> Transaction:
        remote = generation.remote
        if remote is None:
            raise UsageError("ice: a check needs the peer's credentials")
        identifier = self._prefix + self._rng.randbytes(TRANSACTION_SIZE - len(self._prefix))
        request = binding.request(
            identifier,
            local=generation.local,
            remote=remote,
            priority=self._reflexive_priority(pair),
            controlling=self.controlling,
            tie_breaker=self._tie_breaker,
            nominating=nominating,
        )
        timeout = max(FIRST_TIMEOUT, PACE * generation.checklist.busy)
        lifetime = NOMINATION_LIFETIME if nominating else KEEPALIVE_LIFETIME if keepalive else math.inf
        transaction = Transaction(
            identifier,
            pair,
            generation,
            request,
            remote.key,
            controlling=self.controlling,
            nominating=nominating,
            keepalive=keepalive,
            sent_at=now,
            timeout=timeout,
            resend_at=math.inf if keepalive else now + timeout,
            expires_at=now + lifetime,
        )
        crowded_out = self._transactions.add(transaction)
        if crowded_out is not None:
            self._expire(crowded_out, now)
        self._send(request, *pair.addresses)
        return transaction

    def _send(self, data: bytes, source: Address, destination: Address) -> None:
        self._outbox.append(Transmit(data, source, destination))

    # Nomination and selection (RFC 8445, section 8)

    @property
    def _selected_now(self) -> Pair | None:
        """The selected pair, if it is one of the present generation."""
        return self._selected if self._carrying is self._generation else None

    def _nominate_if_ready(self, now: float) -> None:
        """As controlling agent: nominate the best valid pair, once nothing better is to be expected soon."""
        self._nominate_at = math.inf
        if not self.controlling or self._nominating is not None or not self._may_check:
            return
        if self._selected_now is not None and not self._stale(now):
            return
        pairs = self._generation.checklist
        valid = [pair for pair in pairs if pair.state is PairState.SUCCEEDED and now < pair.valid_until]
        if self._selected_now is not None:
            # The peer moved: take the path it uses now, though RFC 8445 would have it restart first.
            valid = [pair for pair in valid if pair.heard_at > now - STALE_AFTER]
        best = max(valid, key=lambda pair: pair.priority, default=None)
        if best is None or best is self._selected_now:
            return
        hopes = (PairState.WAITING, PairState.IN_PROGRESS)
        wait_until = min(pair.valid_until for pair in valid) - CONSENT_LIFETIME
        wait_until += RELAYED_NOMINATION_WAIT if best.remote.type == "relay" else NOMINATION_WAIT
        if now < wait_until and any(pair.priority > best.priority and pair.state in hopes for pair in pairs):
            self._nominate_at = wait_until
            return
        self._nominating = best
        self._check(self._generation, best, now, nominating=True)

    def _follow_nomination(self, pair: Pair, now: float) -> None:
        """As controlled agent: use the pair that the peer nominated, once it works both ways.

        A peer that nominates aggressively nominates several, and means the best. A peer whose network has changed
        nominates a worse one, and means it too: the better one has fallen silent.
        """
        if not pair.wanted or pair.state is not PairState.SUCCEEDED or self.remote is None:
            return
        pair.wanted = False
        current = self._selected_now
        if current is None or pair.priority > current.priority or self._stale(now):
            self._select(pair, now)

    def _stale(self, now: float) -> bool:
        return self._consent is not None and now >= self._consent.heard_at + STALE_AFTER

    def _select(self, pair: Pair, now: float) -> None:
        self._nominating = None
        self._give_up_at = math.inf
        if pair is self._selected:
            return
        self._selected = pair
        self._carrying = self._generation
        self._consent = Consent(
            now=now,
            valid_until=pair.valid_until,
            rng=self._rng,
            interval=self._keepalive,
            disconnected_after=self._disconnected_after,
            failed_after=self._failed_after,
        )
        self._generation.checklist.freeze_below(pair.priority)
        self._events.append(SelectedPair(*pair.addresses))
        self._move(On.SELECTED)

    # Consent and the end

    def _watch_consent(self, now: float) -> None:
        consent, pair = self._consent, self._selected
        if consent is None or pair is None:
            return
        if consent.lost(now):
            self._lose()
            return
        if consent.falls_silent(now):
            self._move(On.SILENT)
        if consent.ask_due(now):
            self._check(self._carrying, pair, now, keepalive=True)

    def _lose(self) -> None:
        """The selected path is dead. The checks of a restart under way go on, to their own deadline."""
        if self._carrying is not self._generation and self._give_up_at < math.inf:
            self._selected = self._consent = None
            self._carrying = self._generation
            self._move(On.PATH_LOST)
        else:
            self._forget_path()
            self._move(On.LOST)

    def _give_up(self) -> None:
        """The checks led to nothing. Where they were those of a restart, the old path may still be good."""
        self._give_up_at = math.inf
        if self._selected is None:
            self._forget_path()
            self._move(On.LOST)

    def _forget_path(self) -> None:
        self._selected = self._consent = self._nominating = None
        self._carrying = self._generation
        self._give_up_at = self._nominate_at = math.inf
        self._transactions.clear()

    def _move(self, on: On) -> None:
        before, self.state = self.state, after(self.state, on)
        if self.state is not before:
            self._events.append(StateChanged(self.state))
