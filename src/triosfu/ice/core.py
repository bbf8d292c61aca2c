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
from typing import TYPE_CHECKING, Final

from triosfu.errors import MalformedPacket, UsageError
from triosfu.ice import binding
from triosfu.ice.checklist import Pair, PairState
from triosfu.ice.consent import CONSENT_LIFETIME, Consent, Path
from triosfu.ice.credentials import Credentials
from triosfu.ice.events import Event, SelectedPair, StateChanged, Transmit, TupleValidated
from triosfu.ice.generation import Generation
from triosfu.ice.local import LocalAddresses
from triosfu.ice.nomination import follows, to_nominate
from triosfu.ice.role import Role, Verdict
from triosfu.ice.state import IceState, On, after
from triosfu.ice.transactions import PACE, Purpose, Transaction, Transactions
from triosfu.ice.usual import Usual
from triosfu.stun import wire
from triosfu.stun.wire import Attribute, Kind, Message

if TYPE_CHECKING:
    from random import Random

    from triosfu.ice.candidate import Address, Candidate

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

STALE_AFTER: Final = 3.0  # a selected pair so long unheard yields to any other that works
LITE_PATIENCE: Final = 10.0  # the same for a lite agent: it cannot ask, and some peers speak only every six seconds
MIN_CONSENT: Final = 15.0  # a pair whose consent ends sooner is checked again before it is used
MAX_EARLY_CANDIDATES: Final = 64
MAX_OUTBOX: Final = 256
NOTHING: Final = Message(Kind.INDICATION, bytes(wire.TRANSACTION_SIZE))  # like which no datagram is


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
        keepalive: Seconds for which the peer may say nothing on the selected pair before it is asked, give or take a
            fifth: a little more than what libwebrtc leaves between checks.
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
        keepalive: float = 3.2,
    ) -> None:
        self.state = IceState.NEW
        self.lite = lite
        self.rtt = 0.0
        self.dropped: Counter[str] = Counter()
        self._rng = rng
        self._role = Role(controlling=controlling and not lite, rng=rng)
        self._check_timeout = check_timeout
        self._disconnected_after = max(disconnected_after, LITE_PATIENCE) if lite else disconnected_after
        self._failed_after = failed_after
        self._keepalive = math.inf if lite else keepalive
        self._stale_after = LITE_PATIENCE if lite else STALE_AFTER
        self._addresses = LocalAddresses()
        self._early: deque[Candidate] = deque(maxlen=MAX_EARLY_CANDIDATES)
        self._generation = self._begin(local)
        self._transactions = Transactions(rng=rng, prefix=transaction_prefix)
        self._pace_at = now
        self._give_up_at = math.inf
        self._nominate_at = math.inf
        self._nominating: Pair | None = None
        self._path: Path | None = None
        self._usual: Usual | None = None
        self._usual_answer = NOTHING
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
        return None if self._path is None else self._path.pair.addresses

    @property
    def controlling(self) -> bool:
        """Whether we choose the pair."""
        return self._role.controlling

    @property
    def local_candidates(self) -> list[Candidate]:
        """What the peer is to be told, in the order it was added."""
        return self._addresses.candidates

    @property
    def reflexive_candidates(self) -> list[Candidate]:
        """How the peer sees us where a NAT stands between; nothing that it needs to be told."""
        return self._addresses.reflexive

    def local_ufrags(self) -> tuple[str, ...]:
        """The username fragments by which requests find this agent: two of them during a restart."""
        return tuple(generation.local.ufrag for generation in self._generations())

    def add_local_candidate(self, candidate: Candidate, *, base: Address | None = None) -> None:
        """Offer a way to reach us; `base` is the socket's address where it differs (a NAT that maps one to one)."""
        base = base or candidate.address
        if self._addresses.add(candidate, base):
            self._generation.learn_local(base, candidate)

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
                self._generation.learn_remote(candidate)
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
        if not self.lite and controlling != self.controlling:
            self._switch_role()

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
            self._generation.learn_remote(candidate)
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
        self._stop_nominating()
        self._generation = self._begin(local)
        self._transactions.stop_repeating()
        self._role.restart()
        self._give_up_at = math.inf
        self._pace_at = max(self._pace_at, now)

    # The sans-IO vocabulary

    def receive_datagram(self, data: bytes, source: Address, destination: Address, now: float) -> None:
        """Take in one STUN datagram that came from `source` to our socket at `destination`.

        Raises:
            MalformedPacket: It is not STUN, or its attributes are nonsense. Nothing has changed.
        """
        usual = self._usual
        message = usual.again(data) if usual is not None else None
        if message is None:
            usual, message = None, self._usual_answer.parse_again(data) or Message.parse(data)
        if self.state in (IceState.FAILED, IceState.CLOSED) or message.method != wire.BINDING or source[1] == 0:
            self.dropped["unwanted"] += 1
        elif message.kind is Kind.REQUEST:
            self._receive_request(message, usual, source, destination, now)
        elif message.kind is not Kind.INDICATION:
            self._receive_response(message, source, destination, now)
        self._send_next_check(now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due; nothing, when called early."""
        for transaction in self._transactions.pop_expired(now):
            self._fail(transaction, now)
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
            math.inf if self._path is None else self._path.consent.next_timeout(),
            self._pace_at if self._may_check and self._generation.checklist.has_work else math.inf,
        )

    def datagrams_to_send(self) -> list[Transmit]:
        """Take what is to be sent."""
        if not self._outbox:
            return []
        drained = list(self._outbox)
        self._outbox.clear()
        return drained

    @property
    def has_news(self) -> bool:
        """Whether anything has happened but that tuples were validated."""
        for event in self._events:  # noqa: SIM110  asked after each datagram: any() would cost a generator
            if not isinstance(event, TupleValidated):
                return True
        return False

    def events(self) -> list[Event]:
        """Take what has happened."""
        if not self._events:
            return []
        drained, self._events = self._events, []
        return drained

    def close(self) -> None:
        """End everything now: nothing is sent or answered any more."""
        if self.state is not IceState.CLOSED:
            self._end(On.CLOSE)
            self._outbox.clear()

    def _begin(self, local: Credentials) -> Generation:
        return Generation(local, addresses=self._addresses, role=self._role, lite=self.lite)

    # Requests: what the peer asks (RFC 8445, section 7.3)

    def _receive_request(
        self, message: Message, usual: Usual | None, source: Address, destination: Address, now: float
    ) -> None:
        generation = self._generation_of(binding.ufrag_of(message) if usual is None else usual.ufrag)
        if generation is None or not message.signed_with(generation.local.key):
            # No answer: it would go to whoever stands in the source address.
            self.dropped["unauthenticated"] += 1
            return
        if usual is None or usual.controlling is not self.controlling:
            usual = self._judge(message, generation, source, destination)
            if usual is None:
                return
        self._outbox.append(Transmit(usual.answer(message, source, generation.local.key), destination, source))
        self._events.append(TupleValidated(destination, source, proven=self.lite))  # a lite agent asks nothing
        path = self._path
        if path is not None and path.pair.addresses == (destination, source) and path.consent.heard(now):
            self._move(On.HEARD)
        if generation is self._generation:
            pair = generation.pair_of_request(source, destination, usual.priority)
            pair.heard_at = now
            pair.probed |= not usual.nominated
            pair.wanted |= usual.nominated and not self.controlling
            self._answer_with_check(pair, now)

    def _judge(self, message: Message, generation: Generation, source: Address, destination: Address) -> Usual | None:
        """What an authenticated request says; None if it cannot be served, and has been refused."""
        key = generation.local.key
        priority = message.number(Attribute.PRIORITY)
        verdict = Verdict.AGREED if self.lite else self._role.judge(message)
        unknown = message.unknown(binding.UNDERSTOOD)
        if unknown:
            self._send(binding.refusal(message, binding.UNKNOWN_ATTRIBUTE, key, unknown), destination, source)
            return None
        if verdict is Verdict.THEY_CHANGE:
            self._send(binding.refusal(message, binding.ROLE_CONFLICT, key), destination, source)
            return None
        if verdict is Verdict.WE_CHANGE and self._role.gives_way():
            self._switch_role()
        nominated = message.get(Attribute.USE_CANDIDATE) is not None
        usual = Usual(message, generation.local.ufrag, priority, nominated=nominated, controlling=self.controlling)
        if verdict is Verdict.AGREED:
            self._usual = usual
        return usual

    def _generation_of(self, ufrag: str | None) -> Generation | None:
        """Whose local ufrag the request names; the peer's own half proves nothing (RFC 8445, section 7.3)."""
        for generation in self._generations():
            if generation.local.ufrag == ufrag:
                return generation
        return None

    def _generations(self) -> tuple[Generation, ...]:
        if self._path is None or self._path.generation is self._generation:
            return (self._generation,)
        return (self._generation, self._path.generation)

    def _answer_with_check(self, pair: Pair, now: float) -> None:
        """Check back over a pair on which the peer has just spoken (RFC 8445, section 7.3.1.4)."""
        if self.lite:
            pair.confirm(now, math.inf)
        if pair.state is PairState.SUCCEEDED and now < pair.valid_until - MIN_CONSENT:
            self._follow_nomination(pair, now)
            self._nominate_if_ready(now)
        else:
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
        succeeded = message.kind is Kind.SUCCESS
        if error is None and not succeeded:
            raise MalformedPacket("ice: a response without what it should tell")
        # RFC 8445 has success tell the mapped address. FFmpeg's WHIP client leaves it out; the key proves it no less.
        mapped = message.address(Attribute.XOR_MAPPED_ADDRESS) if succeeded else None
        self._usual_answer = message
        self._transactions.close(transaction)
        if transaction.generation not in self._generations():
            return
        if (destination, source) != transaction.pair.addresses:
            self.dropped["asymmetric"] += 1
            self._fail(transaction, now)
        elif succeeded:
            self._succeed(transaction, mapped, now)
        elif error is not None and error.code == binding.ROLE_CONFLICT.code:
            self._yield_role(transaction, now)
        else:
            self._fail(transaction, now)

    def _succeed(self, transaction: Transaction, mapped: Address | None, now: float) -> None:
        pair = transaction.pair
        self._events.append(TupleValidated(*pair.addresses))
        if transaction.sends == 1:  # else nobody knows which of them was answered
            sample = now - transaction.sent_at
            self.rtt = sample if self.rtt == 0.0 else 0.875 * self.rtt + 0.125 * sample
        pair.confirm(now, now + CONSENT_LIFETIME)
        if self._path is not None and self._path.pair is pair and self._path.consent.answered(now):
            self._move(On.HEARD)
        if transaction.generation is not self._generation:
            return
        self._generation.checklist.dismiss(pair)
        if mapped is not None:
            self._addresses.learn_reflexive(mapped, pair.base)
        if transaction.purpose is Purpose.NOMINATION and self._nominating is pair:
            self._select(pair, now)
        else:
            self._follow_nomination(pair, now)
            self._nominate_if_ready(now)

    def _fail(self, transaction: Transaction, now: float) -> None:
        """The check led to nothing. A newer check of the same pair is not touched, nor is the selected pair."""
        pair = transaction.pair
        if self._nominating is pair and transaction.purpose is Purpose.NOMINATION:
            self._stop_nominating()
            pair.settle(PairState.FAILED)
        elif pair.transaction is transaction:
            pair.settle(PairState.FAILED)
        self._nominate_if_ready(now)

    def _yield_role(self, transaction: Transaction, now: float) -> None:
        """The peer says that both of us have one role: take the other one (RFC 8445, section 7.2.5.1)."""
        if transaction.controlling == self.controlling:
            if not self._role.gives_way():
                self._fail(transaction, now)
                return
            self._switch_role()
            self._role.renumber()
        if transaction.pair.transaction is transaction:
            self._generation.checklist.trigger(transaction.pair)

    def _switch_role(self) -> None:
        self._role.switch()
        self._stop_nominating()
        self._generation.switch_role()

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
            pair.transaction = self._check(self._generation, pair, Purpose.ORDINARY, now)
            pair.state = PairState.IN_PROGRESS
            self._pace_at = now + PACE

    def _check(self, generation: Generation, pair: Pair, purpose: Purpose, now: float) -> Transaction:
        transaction, crowded_out = self._transactions.open(generation, pair, self._role, purpose, now)
        if crowded_out is not None:
            self._fail(crowded_out, now)
        self._send(transaction.request, *pair.addresses)
        return transaction

    def _send(self, data: bytes, source: Address, destination: Address) -> None:
        self._outbox.append(Transmit(data, source, destination))

    # Nomination and selection (RFC 8445, section 8)

    @property
    def _selected_now(self) -> Pair | None:
        """The selected pair, if it is one of the present generation."""
        return self._path.pair if self._path is not None and self._path.generation is self._generation else None

    def _nominate_if_ready(self, now: float) -> None:
        """As controlling agent: nominate, if it is time."""
        self._nominate_at = math.inf
        if not self.controlling or self._nominating is not None or not self._may_check:
            return
        best, self._nominate_at = to_nominate(
            self._generation.checklist,
            current=self._selected_now,
            stale=self._stale(now),
            heard_since=now - self._stale_after,
            now=now,
        )
        if best is not None:
            self._nominating = best
            best.in_use = True
            self._check(self._generation, best, Purpose.NOMINATION, now)

    def _follow_nomination(self, pair: Pair, now: float) -> None:
        """As controlled agent: use this pair, if it works both ways and the peer means it."""
        if pair.state is not PairState.SUCCEEDED or self.remote is None or self.controlling:
            return
        wanted, pair.wanted = pair.wanted, False
        current = self._selected_now
        heard_since = now - self._stale_after
        if pair is not current and follows(
            pair, wanted=wanted, current=current, stale=self._stale(now), heard_since=heard_since
        ):
            pair.probed = False
            self._select(pair, now)

    def _stale(self, now: float) -> bool:
        return self._path is not None and now >= self._path.consent.heard_at + self._stale_after

    def _stop_nominating(self) -> None:
        if self._nominating is not None:
            self._nominating.in_use = self._nominating is self._selected_now
        self._nominating = None
        self._nominate_at = math.inf

    def _select(self, pair: Pair, now: float) -> None:
        self._stop_nominating()
        self._give_up_at = math.inf
        self._leave_path()
        pair.in_use = True
        consent = Consent(
            now=now,
            valid_until=pair.valid_until,
            rng=self._rng,
            interval=self._keepalive,
            disconnected_after=self._disconnected_after,
            failed_after=self._failed_after,
        )
        self._path = Path(pair, self._generation, consent)
        self._generation.checklist.freeze_below(pair.priority)
        self._events.append(SelectedPair(*pair.addresses))
        self._move(On.SELECTED)

    def _leave_path(self) -> None:
        if self._path is not None:
            self._path.pair.in_use = False
        self._path = None

    # Consent and the end

    def _watch_consent(self, now: float) -> None:
        path = self._path
        if path is None:
            return
        if path.consent.lost(now):
            self._lose(path)
            return
        if path.consent.falls_silent(now):
            self._move(On.SILENT)
        if path.consent.ask_due(now):
            self._check(path.generation, path.pair, Purpose.KEEPALIVE, now)

    def _lose(self, path: Path) -> None:
        """The selected path is dead. The checks of a restart under way go on, to their own deadline."""
        if path.generation is not self._generation and self._give_up_at < math.inf:
            self._leave_path()
            self._move(On.PATH_LOST)
        else:
            self._end(On.LOST)

    def _give_up(self) -> None:
        """The checks led to nothing. Where they were those of a restart, the old path may still be good."""
        self._give_up_at = math.inf
        if self._path is None:
            self._end(On.LOST)

    def _end(self, on: On) -> None:
        self._stop_nominating()
        self._leave_path()
        self._give_up_at = math.inf
        self._usual, self._usual_answer = None, NOTHING
        self._transactions.clear()
        self._move(on)

    def _move(self, on: On) -> None:
        before, self.state = self.state, after(self.state, on)
        if self.state is not before:
            self._events.append(StateChanged(self.state))
