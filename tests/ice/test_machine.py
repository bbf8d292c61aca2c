"""Any life of two agents: what must always hold, and that a healed network and a restart always bring them together."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.ice.world import CLIENT, OTHER, SERVER, Peer, World, connected, introduce, restart, trickle
from triosfu.ice import Candidate, IceState
from triosfu.ice.checklist import MAX_PAIRS
from triosfu.ice.transactions import MAX_TRANSACTIONS

SIDES = st.sampled_from([0, 1])
ALIVE = (IceState.CONNECTED, IceState.DISCONNECTED)


class TwoAgents(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 1000),
        roles=st.tuples(st.booleans(), st.booleans()),
        lite=st.booleans(),
        loss=st.sampled_from([0.0, 0.2]),
    )
    def begin(self, seed: int, roles: tuple[bool, bool], lite: bool, loss: float) -> None:
        self.world = World(seed=seed, delay=0.03, jitter=0.05, loss=loss)
        self.inner = ("10.0.0.5", 5000)
        self.world.nat[self.inner] = CLIENT
        self.server = self.world.peer(SERVER, controlling=roles[0], lite=lite)
        self.client = self.world.peer(self.inner, OTHER, controlling=roles[1] or lite)
        self.sides = (self.server, self.client)
        self.cut: set[tuple[str, int]] = set()
        self.world.blocked = lambda t: t.source in self.cut or t.destination in self.cut

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 2.0, 4.0, 9.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule()
    def descriptions_are_exchanged(self) -> None:
        """Only credentials that the other side does not know yet can be told; a side that knows others must restart."""
        for here, there in (self.sides, self.sides[::-1]):
            if here.agent.remote not in (None, there.agent.local):
                restart(here)
        introduce(*self.sides)

    @rule(side=SIDES)
    def one_side_restarts(self, side: int) -> None:
        restart(self.sides[side])

    @rule(side=SIDES, port=st.integers(1, 200))
    def a_candidate_arrives(self, side: int, port: int) -> None:
        self.sides[side].agent.add_remote_candidate(Candidate.host(("203.0.113.77", port)), self.world.now)

    @rule(side=SIDES, controlling=st.booleans())
    def a_role_is_given(self, side: int, controlling: bool) -> None:
        # The peer of a lite agent is told that it is one, and controls.
        self.sides[side].agent.set_role(controlling or self.server.agent.lite)

    @rule(which=st.sampled_from([SERVER, CLIENT, OTHER, ("10.0.0.5", 5000)]))
    def a_path_breaks_or_heals(self, which: tuple[str, int]) -> None:
        self.cut ^= {which}

    @rule(port=st.integers(1, 5))
    def the_nat_forgets(self, port: int) -> None:
        self.world.nat[self.inner] = ("203.0.113.99", port)

    @rule(side=SIDES)
    def a_timeout_comes_early(self, side: int) -> None:
        self.world.collect()
        agent = self.sides[side].agent
        if self.world.now < agent.next_timeout():
            state = agent.state
            agent.handle_timeout(self.world.now)
            assert agent.datagrams_to_send() == []
            assert agent.state is state

    @invariant()
    def a_path_is_there_exactly_when_the_state_says_so(self) -> None:
        for side in self.sides:
            assert (side.agent.selected is not None) is (side.agent.state in ALIVE)

    @invariant()
    def nothing_grows(self) -> None:
        for side in self.sides:
            agent = side.agent
            assert len(agent._generation.checklist) <= MAX_PAIRS
            assert len(agent._transactions) <= MAX_TRANSACTIONS
            assert 1 <= len(agent.local_ufrags()) <= 2
            assert len(set(agent.local_ufrags())) == len(agent.local_ufrags())

    @invariant()
    def at_most_the_selected_and_the_nominated_pair_are_in_use(self) -> None:
        for side in self.sides:
            agent = side.agent
            in_use = {pair for pair in agent._generation.checklist if pair.in_use}
            assert in_use <= {agent._selected_now, agent._nominating}

    def teardown(self) -> None:
        """However it went: with the network whole again and new credentials on both sides, they find each other."""
        if not hasattr(self, "world"):
            return
        self.cut.clear()
        self.world.loss = 0.0
        self.world.run(0.5)
        for side in self.sides:
            restart(side)
        introduce(*self.sides)
        trickle(*self.sides)
        # Also where one of them still lives on the old pair: the new one is what both must agree on.
        self.world.run_until(lambda: all(self._settled(side) for side in self.sides), within=5.0)
        self.world.run(60.0)
        assert connected(*self.sides)
        here, there = self.server.agent.selected, self.client.agent.selected
        assert here is not None
        assert there is not None
        source = self.world.nat.get(there[0], there[0])
        assert here == (there[1], source)

    @staticmethod
    def _settled(side: Peer) -> bool:
        return side.agent.state is IceState.CONNECTED and len(side.agent.local_ufrags()) == 1


TestTwoAgents = TwoAgents.TestCase
TestTwoAgents.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)
