"""An ICE agent lives through any sequence of candidates, checks, answers, restarts and silence."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING

from fuzz.script import Script
from triosfu.errors import MalformedPacket, UsageError
from triosfu.ice import binding
from triosfu.ice.candidate import Candidate
from triosfu.ice.checklist import MAX_PAIRS
from triosfu.ice.core import (
    MAX_OUTBOX,
    NOTHING,
    Credentials,
    IceAgent,
    IceState,
    SelectedPair,
    StateChanged,
    Transmit,
)
from triosfu.ice.state import TRANSITIONS
from triosfu.ice.transactions import MAX_TRANSACTIONS
from triosfu.stun.wire import Attribute, Kind, Message, StunError, pack_xor_address

if TYPE_CHECKING:
    from triosfu.ice.candidate import Address

SOCKETS: tuple[Address, ...] = (("192.0.2.1", 7882), ("2001:db8::1", 7882), ("192.0.2.2", 7883))
STRANGERS: tuple[Address, ...] = (
    *((f"198.51.100.{n}", 4000 + n) for n in range(6)),
    ("2001:db8::2", 5),
    ("", 0),
)
CREDENTIALS = tuple(Credentials(f"ufrag{n}", f"{n}" * 24) for n in range(4))
AT_ONCE = 3  # datagrams that one may cause: its answer, a nomination, and the check whose turn it is
MOVES = {(before, after) for (before, _), after in TRANSITIONS.items()}


def check_ice_agent(data: bytes) -> None:
    """Operations of an agent's owner, and of a peer that knows the password, or does not."""
    story = Story(Script(data))
    story.run()
    forgetful = Story(Script(data), forgetful=True)
    forgetful.run()
    assert story.told == forgetful.told


class Story:
    """One agent, and what is known of it from outside.

    One that is forgetful reads every message as if it were the first, and makes each anew. That must be no difference.
    """

    def __init__(self, script: Script, *, forgetful: bool = False) -> None:
        self.script = script
        self.forgetful = forgetful
        self.told: list[object] = []
        self.asked: tuple[bytes, Address, Address] | None = None  # the last good check
        self.now = 0.0
        what = script.number()
        self.lite = bool(what & 1)
        self.agent = IceAgent(local=CREDENTIALS[0], controlling=bool(what & 2), lite=self.lite, now=0.0, rng=Random(1))
        for socket in SOCKETS[: 1 + (what >> 2 & 1)]:
            self.agent.add_local_candidate(Candidate.host(socket))
        self.generation = 0
        self.state = IceState.NEW
        self.sent: list[Transmit] = []
        self.answered: set[tuple[Address, Address]] = set()  # ours to theirs, where an answer of the peer came from
        if what & 8:
            self.agent.set_remote_credentials(CREDENTIALS[1], 0.0)

    def run(self) -> None:
        """All of the script, then silence."""
        steps = (
            self.time_passes, self.time_passes, self.peer_asks, self.peer_asks, self.peer_answers, self.peer_answers,
            self.stranger_asks, self.anything_arrives, self.candidate, self.credentials, self.restart, self.role,
            self.local_candidate, self.an_old_one_again, self.close, self.peer_asks_again,
        )  # fmt: skip
        while self.script:
            steps[self.script.number() % len(steps)]()
            self.look()
        self.silence()

    # What happens

    def time_passes(self) -> None:
        """So many tenths of a second, or all until something is due."""
        tenths = self.script.number()
        self.now = min(self.agent.next_timeout(), self.now + 60) if tenths == 0 else self.now + tenths / 10
        self.agent.handle_timeout(self.now)
        assert self.agent.next_timeout() > self.now

    def peer_asks(self) -> None:
        """A good check by whoever knows our password: the peer."""
        what, source = self.script.number(), self.address()
        remote = self.agent.remote or CREDENTIALS[1]
        local = self.agent.local
        request = binding.request(
            self.script.number().to_bytes(12, "big"),
            local=remote,
            remote=local,
            priority=what << 20,
            controlling=bool(what & 1),
            tie_breaker=what << 56,
            nominating=bool(what & 2),
        )
        if what & 0xC0 == 0xC0:
            parsed = Message.parse(request)
            odd = (*parsed.attributes, (self.script.number(), self.script.chunk()))
            request = Message(parsed.kind, parsed.transaction, odd).serialize(key=local.key)
        self.asked = request, source, SOCKETS[what >> 2 & 1]
        self.arrives(*self.asked)

    def peer_asks_again(self) -> None:
        """The same as before in another transaction, signed with the password of now or with any."""
        if self.asked is None:
            return
        request, source, destination = self.asked
        what = self.script.number()
        message = Message.parse(request)
        key = CREDENTIALS[what >> 1 & 3].key if what & 8 else self.agent.local.key
        again = Message(message.kind, bytes([*bytes(11), what]), message.attributes)
        self.arrives(again.serialize(key=key), self.address() if what & 1 else source, destination)

    def stranger_asks(self) -> None:
        """The same with another password: nothing may come of it."""
        before = (self.agent.state, self.agent.selected, self.agent.next_timeout())
        wrong = Credentials(self.agent.local.ufrag, "wrong" * 6)
        for one in (wrong, Credentials("nobody", self.agent.local.pwd)):
            request = binding.request(
                bytes(12),
                local=CREDENTIALS[1],
                remote=one,
                priority=1,
                controlling=True,
                tie_breaker=1,
                nominating=True,
            )
            pace = self.agent.next_timeout() <= self.now  # then any datagram lets the next check out
            sent = self.arrives(request, self.address(), SOCKETS[0])
            assert pace or not sent
            if not pace:
                assert (self.agent.state, self.agent.selected, self.agent.next_timeout()) == before

    def peer_answers(self) -> None:
        """An answer to one of our latest checks, from where it went or from elsewhere."""
        what, which = self.script.number(), self.script.number()
        if not self.sent:
            return
        asked = self.sent[-1 - which % min(len(self.sent), 32)]
        message = Message.parse(asked.data)
        if message.kind is not Kind.REQUEST:
            return
        source = self.address() if what & 1 else asked.destination
        mapped = (Attribute.XOR_MAPPED_ADDRESS, pack_xor_address(asked.source, message.transaction))
        kind, attributes = Kind.SUCCESS, [mapped]
        if what & 2:
            code = StunError((487, 420, 300, 699)[what >> 2 & 3], "no")
            kind, attributes = Kind.ERROR, [(Attribute.ERROR_CODE, code.serialize())]
        elif what & 4:
            attributes = [(Attribute.XOR_MAPPED_ADDRESS, self.script.chunk())]
        # The peer signs what it sends with the password of whom it answers: its own, which our request was signed with.
        signers = [one for one in CREDENTIALS if message_was_for(asked.data, one)]
        key = signers[0].key if signers else b"?"
        if kind is Kind.SUCCESS and source == asked.destination:
            self.answered.add((asked.source, asked.destination))
        self.arrives(Message(kind, message.transaction, tuple(attributes)).serialize(key=key), source, asked.source)

    def anything_arrives(self) -> None:
        """Bytes of nobody in particular."""
        self.arrives(self.script.chunk(), self.address(), SOCKETS[0])

    def an_old_one_again(self) -> None:
        """A datagram of ours comes back, with one byte changed or none."""
        which, at, change = self.script.number(), self.script.number(), self.script.number()
        if self.sent:
            again = self.sent[which % len(self.sent)]
            copy = bytearray(again.data)
            copy[at % len(copy)] ^= change
            self.arrives(bytes(copy), again.destination, again.source)

    def candidate(self) -> None:
        """The peer names an address, as signalling would or in its own words."""
        what = self.script.number()
        if what & 1:
            try:
                candidate = Candidate.parse(self.script.chunk().decode("latin-1"))
            except MalformedPacket:
                return
        else:
            host, port = STRANGERS[what >> 1 & 3]
            candidate = Candidate("1", 1, "udp", what << 16, (host, port + (what >> 4)), "host")
        self.agent.add_remote_candidate(candidate, self.now)

    def credentials(self) -> None:
        """The peer's description arrives."""
        remote = CREDENTIALS[1 + self.script.number() % 3]
        known = self.agent.remote
        try:
            self.agent.set_remote_credentials(remote, self.now)
        except UsageError:
            assert known not in (None, remote)

    def restart(self) -> None:
        """Our side begins anew."""
        self.generation += 1
        self.agent.restart(Credentials(f"local{self.generation}", "p" * 24), self.now)

    def role(self) -> None:
        """A description says who controls."""
        what = self.script.number()
        if what & 2:
            self.agent.set_remote_lite(bool(what & 1))
        else:
            self.agent.set_role(controlling=bool(what & 1))

    def local_candidate(self) -> None:
        """One more socket."""
        what = self.script.number()
        full = len(self.agent.local_candidates) >= 16
        address = (SOCKETS[what % 3][0], SOCKETS[what % 3][1] + (what >> 4))
        try:
            self.agent.add_local_candidate(Candidate.host(address, protocol="tcp" if what & 8 else "udp"))
        except UsageError:
            assert full

    def close(self) -> None:
        """Our side is done; seldom, as little happens after it."""
        if self.script.number() > 0xE0:
            self.agent.close()

    def address(self) -> Address:
        """Where somebody speaks from."""
        return STRANGERS[self.script.number() % len(STRANGERS)]

    def arrives(self, data: bytes, source: Address, destination: Address) -> list[Transmit]:
        """One datagram comes in; what it makes the agent send."""
        self.look()
        try:
            self.agent.receive_datagram(data, source, destination, self.now)
        except MalformedPacket:
            assert self.agent.datagrams_to_send() == []
            assert self.agent.events() == []
            return []
        sent = self.look()
        assert len(sent) <= AT_ONCE
        return sent

    # What must hold

    def look(self) -> list[Transmit]:
        """Drain the agent and check what it tells."""
        events = self.agent.events()
        told = events, self.agent.state, self.agent.selected, self.agent.rtt, self.agent.dropped.copy()
        self.told.append((*told, self.agent.next_timeout()))
        if self.forgetful:
            self.agent._usual, self.agent._usual_answer = None, NOTHING  # noqa: SLF001
            self.agent._transactions._template = None  # noqa: SLF001
        for event in events:
            if isinstance(event, StateChanged):
                assert (self.state, event.state) in MOVES
                self.state = event.state
            elif isinstance(event, SelectedPair) and not self.lite:
                assert (event.local, event.remote) in self.answered
        assert self.state is self.agent.state
        sent = self.agent.datagrams_to_send()
        assert len(sent) <= MAX_OUTBOX
        self.told.append(sent)
        if self.state is IceState.CLOSED:
            assert sent == []
            assert self.agent.next_timeout() == math.inf
        self.sent = (self.sent + sent)[-256:]
        assert len(list(self.agent._generation.checklist)) <= MAX_PAIRS  # noqa: SLF001
        assert len(self.agent._transactions) <= MAX_TRANSACTIONS  # noqa: SLF001
        return sent

    def silence(self) -> None:
        """Nobody says anything any more: within a minute the agent has given up, or it was never under way."""
        until = self.now + 61.0
        for _ in range(5000):
            if (due := self.agent.next_timeout()) > until:
                break
            self.now = max(self.now, due)
            self.agent.handle_timeout(self.now)
            assert self.agent.next_timeout() > self.now
            self.look()
        assert self.agent.next_timeout() == math.inf
        assert self.agent.selected is None
        assert self.state in (IceState.NEW, IceState.FAILED, IceState.CLOSED)


def message_was_for(request: bytes, credentials: Credentials) -> bool:
    """Whether the request is signed with the password of these credentials."""
    return Message.parse(request).signed_with(credentials.key)
