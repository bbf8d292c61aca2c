"""Agents on virtual time, and a network between them that delays, loses, reorders, translates and blocks."""

from __future__ import annotations

import heapq
import math
from random import Random
from typing import TYPE_CHECKING, Any

from triosfu.errors import MalformedPacket
from triosfu.ice import Candidate, Credentials, IceAgent, IceState, SelectedPair, StateChanged, Transmit, TupleValidated
from triosfu.stun import Attribute, Kind, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.ice import Event

Address = tuple[str, int]

SERVER: Address = ("192.0.2.1", 7882)
CLIENT: Address = ("198.51.100.7", 40000)
OTHER: Address = ("203.0.113.9", 50000)


def never(_: Transmit) -> bool:
    return False


class Peer:
    """An agent, its sockets, and what it told."""

    def __init__(self, world: World, agent: IceAgent, sockets: list[Address]) -> None:
        self.world, self.agent, self.sockets = world, agent, sockets
        self.told: list[tuple[float, Event]] = []
        self.sent: list[tuple[float, Transmit]] = []

    @property
    def states(self) -> list[IceState]:
        return [event.state for _, event in self.told if isinstance(event, StateChanged)]

    @property
    def selections(self) -> list[tuple[Address, Address]]:
        return [(event.local, event.remote) for _, event in self.told if isinstance(event, SelectedPair)]

    @property
    def validated(self) -> set[Address]:
        return {event.remote for _, event in self.told if isinstance(event, TupleValidated)}

    def when(self, state: IceState) -> float:
        """The last time that this state was entered."""
        return max(at for at, event in self.told if event == StateChanged(state))


class World:
    def __init__(self, *, seed: int = 1, delay: float = 0.02, jitter: float = 0.0, loss: float = 0.0) -> None:
        self.now = 0.0
        self.rng = Random(seed)
        self.delay, self.jitter, self.loss = delay, jitter, loss
        self.blocked: Callable[[Transmit], bool] = never
        self.slow: dict[Address, float] = {}  # additional delay from and to this socket
        self.nat: dict[Address, Address] = {}  # socket -> how others see it
        self.peers: list[Peer] = []
        self._sockets: dict[Address, Peer] = {}
        self._flying: list[tuple[float, int, Transmit]] = []
        self._count = 0

    def peer(self, *sockets: Address, controlling: bool, **settings: Any) -> Peer:  # noqa: ANN401
        agent = IceAgent(
            local=Credentials.generate(self.rng),
            controlling=controlling,
            now=self.now,
            rng=Random(self.rng.random()),
            **settings,
        )
        peer = Peer(self, agent, [])
        self.peers.append(peer)
        for socket in sockets:
            self.open(peer, socket)
        return peer

    def open(self, peer: Peer, socket: Address, *, announced: bool = True) -> None:
        """Bind one more socket."""
        peer.sockets.append(socket)
        self._sockets[socket] = peer
        if announced:
            preference = 65535 - len(peer.sockets)
            peer.agent.add_local_candidate(Candidate.host(socket, local_preference=preference))

    def collect(self) -> None:
        """Drain all agents into the network."""
        for peer in self.peers:
            peer.told += [(self.now, event) for event in peer.agent.events()]
            for transmit in peer.agent.datagrams_to_send():
                peer.sent.append((self.now, transmit))
                assert transmit.source in peer.sockets
                if self.blocked(transmit) or self.rng.random() < self.loss:
                    continue
                seen = self.nat.get(transmit.source, transmit.source)
                at = self.now + self.delay + self.rng.uniform(0, self.jitter)
                at += self.slow.get(transmit.source, 0.0) + self.slow.get(transmit.destination, 0.0)
                self.inject(Transmit(transmit.data, seen, transmit.destination), at=at)

    def inject(self, transmit: Transmit, *, at: float | None = None) -> None:
        self._count += 1
        heapq.heappush(self._flying, (self.now if at is None else at, self._count, transmit))

    def _deliver(self, transmit: Transmit) -> None:
        inner = {outer: socket for socket, outer in self.nat.items()}
        destination = inner.get(transmit.destination, transmit.destination)
        peer = self._sockets.get(destination)
        if peer is not None:
            try:
                peer.agent.receive_datagram(transmit.data, transmit.source, destination, self.now)
            except MalformedPacket:
                return

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            self.collect()
            deadlines = [peer.agent.next_timeout() for peer in self.peers]
            upcoming = min([*deadlines, self._flying[0][0] if self._flying else math.inf])
            if upcoming > end:
                self.now = end
                return
            self.now = max(self.now, upcoming)
            while self._flying and self._flying[0][0] <= self.now:
                self._deliver(heapq.heappop(self._flying)[2])
            for peer in self.peers:
                if peer.agent.next_timeout() <= self.now:
                    peer.agent.handle_timeout(self.now)
                    assert peer.agent.next_timeout() > self.now

    def run_until(self, condition: Callable[[], bool], within: float) -> float:
        """Let time pass until it is so; returns how long that took."""
        started = self.now
        while not condition():
            assert self.now < started + within, "it never happened"
            self.run(0.005)
        return self.now - started


def introduce(one: Peer, other: Peer, *, candidates: bool = True) -> None:
    """Signal the present credentials and candidates of both to each other."""
    for here, there in ((one, other), (other, one)):
        here.agent.set_remote_credentials(there.agent.local, here.world.now)
        if candidates:
            trickle(there, here)


def trickle(sender: Peer, receiver: Peer) -> None:
    for candidate in sender.agent.local_candidates:
        receiver.agent.add_remote_candidate(Candidate.parse(str(candidate)), receiver.world.now)


def request_to(agent: IceAgent, *attributes: tuple[int, bytes], key: bytes | None = None) -> bytes:
    """A binding request to the agent, signed with its own password unless told otherwise."""
    username = f"{agent.local.ufrag}:peer".encode()
    given = {kind for kind, _ in attributes}
    defaults = [(Attribute.USERNAME, username), (Attribute.PRIORITY, (1000).to_bytes(4))]
    everything = (*(pair for pair in defaults if pair[0] not in given), *attributes)
    return Message(Kind.REQUEST, bytes(12), everything).serialize(key=agent.local.key if key is None else key)


def restart(peer: Peer) -> None:
    peer.agent.restart(Credentials.generate(peer.world.rng), peer.world.now)


def connected(*peers: Peer) -> bool:
    return all(peer.agent.state is IceState.CONNECTED for peer in peers)
