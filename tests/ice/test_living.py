"""After the connection: keepalives, silence, consent, moving networks, restarts."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.ice.world import CLIENT, OTHER, SERVER, World, connected, introduce, request_to, restart, trickle
from triosfu.ice import Credentials, IceState
from triosfu.ice.consent import Consent
from triosfu.stun import Attribute, Kind, Message

if TYPE_CHECKING:
    from tests.ice.world import Peer

MOVED = ("203.0.113.200", 33333)


def couple(
    *, server_controls: bool = True, lite: bool = False, client: tuple[str, int] = CLIENT
) -> tuple[World, Peer, Peer]:
    world = World()
    server = world.peer(SERVER, controlling=server_controls, lite=lite)
    other = world.peer(client, controlling=not server_controls)
    introduce(server, other)
    world.run_until(lambda: connected(server, other), within=2.0)
    return world, server, other


def cut(world: World, *addresses: tuple[str, int]) -> None:
    """Nothing comes from, or goes to, these addresses any more."""
    world.blocked = lambda transmit: transmit.source in addresses or transmit.destination in addresses


def requests(peer: Peer, since: float) -> list[float]:
    return [at for at, t in peer.sent if at >= since and Message.parse(t.data).kind is Kind.REQUEST]


def test_the_selected_pair_is_checked_at_random_times() -> None:
    world, server, _ = couple()
    start = world.now
    world.run(200.0)
    times = requests(server, start + 5.0)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert len(pauses) > 40
    assert all(2.5 <= pause <= 4.9 for pause in pauses)
    assert len({round(pause, 3) for pause in pauses}) > 20
    sent = [Message.parse(transmit.data) for at, transmit in server.sent if at in times]
    assert len({message.transaction for message in sent if message.kind is Kind.REQUEST}) == len(times)


@pytest.mark.parametrize(
    ("speaks_every", "answers", "least", "most"),
    [
        (2.5, True, 2.5, 4.9),  # as libwebrtc does
        (math.inf, True, 2.5, 3.9),  # one that only answers
        (math.inf, False, 0.8, 1.35),  # one that is gone
        (2.5, False, 0.8, 4.9),  # one whose answers get lost
    ],
)
def test_how_often_a_peer_is_asked_follows_from_how_much_it_says(
    speaks_every: float, answers: bool, least: float, most: float
) -> None:
    consent = Consent(now=0.0, valid_until=1e9, rng=Random(1), interval=3.2, disconnected_after=5.0, failed_after=1e9)
    asked: list[float] = []
    speaks_at = speaks_every
    while len(asked) < 100:
        now = min(speaks_at, consent._ask_at)
        if consent.ask_due(now):
            asked.append(now)
            if answers:
                consent.answered(now + 0.05)
        if now == speaks_at:
            consent.heard(now)
            speaks_at += speaks_every
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert least <= min(pauses)
    assert max(pauses) <= most


@pytest.mark.parametrize("server_controls", [True, False])
def test_a_vanished_client_is_disconnected_after_five_seconds_and_failed_after_fifteen(server_controls: bool) -> None:
    world, server, client = couple(server_controls=server_controls)
    world.run(10.0)
    cut(world, CLIENT)
    gone_at = world.now
    world.run(60.0)
    assert server.states == [IceState.CHECKING, IceState.CONNECTED, IceState.DISCONNECTED, IceState.FAILED]
    # The last sign of life is at most one keepalive older than the cut.
    assert 1.1 <= server.when(IceState.DISCONNECTED) - gone_at <= 5.0
    assert server.when(IceState.FAILED) - server.when(IceState.DISCONNECTED) == pytest.approx(10.0)
    assert server.agent.next_timeout() == math.inf
    assert server.agent.selected is None
    after_failure = [at for at, _ in server.sent if at > server.when(IceState.FAILED)]
    assert after_failure == []
    assert client.agent.state is IceState.FAILED


def test_a_short_silence_ends_with_the_first_sign_of_life() -> None:
    world, server, client = couple()
    world.run(5.0)
    cut(world, CLIENT)
    world.run(8.0)
    assert server.agent.state is IceState.DISCONNECTED
    world.blocked = lambda _: False
    world.run(3.0)
    assert connected(server, client)
    assert server.selections == [(SERVER, CLIENT)]


def test_a_lite_agent_is_patient_for_ten_seconds_and_fails_after_fifteen() -> None:
    world, server, _ = couple(server_controls=False, lite=True)
    world.run(60.0)
    assert server.states == [IceState.CHECKING, IceState.CONNECTED]
    cut(world, CLIENT)
    gone_at = world.now
    world.run(60.0)
    assert server.states[2:] == [IceState.DISCONNECTED, IceState.FAILED]
    assert 6.1 <= server.when(IceState.DISCONNECTED) - gone_at <= 10.0
    assert 11.1 <= server.when(IceState.FAILED) - gone_at <= 15.0


def test_consent_ends_thirty_seconds_after_the_last_answer_though_requests_still_come() -> None:
    world, server, _ = couple()
    world.run(10.0)
    # The client speaks and hears, and its answers get lost.
    world.blocked = lambda t: t.source == CLIENT and Message.parse(t.data).kind is Kind.SUCCESS
    cut_at = world.now
    world.run(60.0)
    assert server.states == [IceState.CHECKING, IceState.CONNECTED, IceState.FAILED]
    assert 25.1 <= server.when(IceState.FAILED) - cut_at <= 30.0


def test_the_round_trip_time_is_measured() -> None:
    world, server, _ = couple()
    world.run(20.0)
    assert server.agent.rtt == pytest.approx(2 * world.delay)


@pytest.mark.parametrize("server_controls", [True, False])
@pytest.mark.parametrize("lite", [True, False])
def test_a_client_whose_address_changes_is_followed(server_controls: bool, lite: bool) -> None:
    world = World()
    inner = ("10.0.0.5", 5000)
    world.nat[inner] = CLIENT
    server = world.peer(SERVER, controlling=server_controls, lite=lite)
    client = world.peer(inner, controlling=not server_controls or lite)
    introduce(server, client)
    world.run_until(lambda: connected(server, client), within=2.0)
    world.run(10.0)
    world.nat[inner] = MOVED  # another network, or a NAT that forgot
    world.run_until(lambda: server.agent.selected == (SERVER, MOVED), within=13.0 if lite else 6.0)
    assert server.agent.state is IceState.CONNECTED
    world.run(60.0)
    assert server.agent.state is IceState.CONNECTED
    assert server.selections == [(SERVER, CLIENT), (SERVER, MOVED)]


def test_an_aggressive_peer_that_nominates_everything_gets_the_best_pair() -> None:
    world = World()
    server = world.peer(SERVER, controlling=False)
    client = world.peer(CLIENT, OTHER, controlling=True)
    _nominate_always(client)
    world.slow[CLIENT] = 0.05  # so that the worse pair comes first
    introduce(server, client)
    world.run(5.0)
    assert server.selections == [(SERVER, OTHER), (SERVER, CLIENT)]
    world.run(60.0)
    assert server.agent.selected == (SERVER, CLIENT)
    assert server.agent.state is IceState.CONNECTED


def _nominate_always(peer: Peer) -> None:
    """Turn the agent into one as RFC 5245 allowed: USE-CANDIDATE in every check of its own."""
    honest = peer.agent.datagrams_to_send
    key = None

    def aggressive() -> list[object]:
        nonlocal key
        remote = peer.agent.remote
        key = remote.key if remote is not None else key
        out: list[object] = []
        for transmit in honest():
            message = Message.parse(transmit.data)
            if message.kind is Kind.REQUEST and message.get(Attribute.USE_CANDIDATE) is None:
                attributes = (*message.attributes, (Attribute.USE_CANDIDATE, b""))
                data = Message(message.kind, message.transaction, attributes).serialize(key=key)
                transmit = type(transmit)(data, transmit.source, transmit.destination)  # noqa: PLW2901
            out.append(transmit)
        return out

    peer.agent.datagrams_to_send = aggressive  # type: ignore[method-assign,assignment]


def test_a_deliberate_nomination_of_a_worse_pair_is_followed() -> None:
    world = World()
    server = world.peer(SERVER, controlling=False)
    client = world.peer(CLIENT, OTHER, controlling=True)
    world.slow[CLIENT] = 1.0
    introduce(server, client)
    world.run(20.0)
    # The client did not wait for the slow pair, which is the better one, and said so.
    assert client.agent.selected == (OTHER, SERVER)
    assert server.agent.selected == (SERVER, OTHER)
    world.run(60.0)
    assert connected(server, client)


def two_ways(*, at: float) -> tuple[World, Peer, Peer]:
    """A controlled server that has a pair in use, and another one that worked in the beginning."""
    world = World()
    server = world.peer(SERVER, controlling=False)
    client = world.peer(CLIENT, OTHER, controlling=True)
    world.slow[CLIENT] = 0.01
    world.slow[OTHER] = 0.001
    introduce(server, client)
    world.run(at)
    assert server.agent.selected == (SERVER, CLIENT)
    other = server.agent._generation.checklist.get(SERVER, OTHER)
    assert other is not None
    assert other.valid_since < 1.0
    other.probed = False  # as if that had been the first and only kind of check
    return world, server, client


NOMINATE = (Attribute.USE_CANDIDATE, b"")


def test_a_nomination_of_a_worse_pair_counts_only_if_the_peer_has_probed_it() -> None:
    world, server, _ = two_ways(at=5.0)
    server.agent.receive_datagram(request_to(server.agent, NOMINATE), OTHER, SERVER, world.now)
    assert server.agent.selected == (SERVER, CLIENT)
    server.agent.receive_datagram(request_to(server.agent), OTHER, SERVER, world.now)
    assert server.agent.selected == (SERVER, CLIENT)
    server.agent.receive_datagram(request_to(server.agent, NOMINATE), OTHER, SERVER, world.now)
    assert server.agent.selected == (SERVER, OTHER)


def test_a_pair_whose_consent_is_about_to_end_is_checked_again_before_it_is_used() -> None:
    world, server, _ = two_ways(at=29.5)
    server.sent.clear()
    server.agent.receive_datagram(request_to(server.agent), OTHER, SERVER, world.now)
    server.agent.receive_datagram(request_to(server.agent, NOMINATE), OTHER, SERVER, world.now)
    assert server.agent.selected == (SERVER, CLIENT)
    world.run(1.0)
    assert server.agent.selected == (SERVER, OTHER)
    world.run(10.0)
    assert server.agent.state is IceState.CONNECTED


@pytest.mark.parametrize("server_controls", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_a_restart_carries_on_over_the_old_pair_until_the_new_one_is_nominated(
    server_controls: bool, seed: int
) -> None:
    world, server, client = couple(server_controls=server_controls)
    world.rng.seed(seed)
    world.jitter, world.loss = 0.05, 0.1
    world.run(5.0)
    old = server.agent.local
    restart(server)
    assert server.agent.selected == (SERVER, CLIENT)
    assert set(server.agent.local_ufrags()) == {old.ufrag, server.agent.local.ufrag}
    assert server.agent.remote is None
    world.run(10.0)  # the answer takes its time; the old pair is kept alive with the old credentials
    assert connected(server, client)
    restart(client)
    introduce(server, client)
    world.run_until(lambda: len(server.agent.local_ufrags()) == len(client.agent.local_ufrags()) == 1, within=10.0)
    world.run(60.0)
    assert connected(server, client)
    # So many keepalives may be lost in a row that it looks like silence; the path is kept all the same.
    assert set(server.states) <= {IceState.CHECKING, IceState.CONNECTED, IceState.DISCONNECTED}
    assert server.states.count(IceState.CHECKING) == 1
    assert server.agent.local_ufrags() == (server.agent.local.ufrag,)
    assert old.ufrag not in server.agent.local_ufrags()


def test_both_ufrags_are_answered_during_a_restart_and_the_old_one_not_after_it() -> None:
    world, server, client = couple(server_controls=True)
    old_server, old_client = server.agent.local, client.agent.local
    restart(server)
    world.collect()

    def old_request_is_answered() -> bool:
        message = Message(
            Kind.REQUEST,
            world.rng.randbytes(12),
            ((Attribute.USERNAME, f"{old_server.ufrag}:{old_client.ufrag}".encode()), (Attribute.PRIORITY, bytes(4))),
        )
        server.agent.receive_datagram(message.serialize(key=old_server.key), CLIENT, SERVER, world.now)
        return any(t.data[8:20] == message.transaction for t in server.agent.datagrams_to_send())

    assert old_request_is_answered()
    restart(client)
    introduce(server, client)
    assert old_request_is_answered()
    world.run_until(lambda: server.agent.local_ufrags() == (server.agent.local.ufrag,), within=2.0)
    assert not old_request_is_answered()


def test_an_unanswered_restart_changes_nothing_for_the_old_pair() -> None:
    world, server, client = couple()
    restart(server)
    world.run(120.0)
    assert connected(server, client)
    cut(world, CLIENT)
    world.run(20.0)
    assert server.agent.state is IceState.FAILED


def test_a_restart_that_leads_nowhere_leaves_the_old_pair() -> None:
    world, server, client = couple()
    restart(server)
    server.agent.set_remote_credentials(Credentials.generate(world.rng), world.now)
    server.agent.add_remote_candidate(client.agent.local_candidates[0], world.now)
    world.run(120.0)
    assert server.agent.state is IceState.CONNECTED
    assert server.agent.selected == (SERVER, CLIENT)


def test_a_restart_outlives_the_old_pair_and_fails_on_its_own_deadline() -> None:
    world, server, client = couple()
    cut(world, CLIENT)
    world.run(10.0)
    restart(server)
    server.agent.set_remote_credentials(Credentials.generate(world.rng), world.now)
    began = world.now
    world.run(10.0)
    assert server.agent.state is IceState.CHECKING
    assert server.agent.selected is None
    world.run(60.0)
    assert server.when(IceState.FAILED) - began == pytest.approx(30.0)
    assert client.agent.state is IceState.FAILED


def test_a_client_that_changed_networks_comes_back_by_restart() -> None:
    world, server, client = couple(server_controls=False)
    world.run(5.0)
    cut(world, CLIENT)
    world.run(7.0)
    assert server.agent.state is IceState.DISCONNECTED
    world.open(client, MOVED)
    restart(client)
    restart(server)
    introduce(server, client)
    world.run_until(lambda: connected(server, client), within=2.0)
    assert server.agent.selected == (SERVER, MOVED)
    assert server.states[-2:] == [IceState.DISCONNECTED, IceState.CONNECTED]


def test_a_restart_revives_a_failed_agent() -> None:
    world, server, client = couple()
    cut(world, CLIENT)
    world.run(60.0)
    world.blocked = lambda _: False
    assert server.agent.state is IceState.FAILED
    restart(server)
    restart(client)
    introduce(server, client)
    world.run_until(lambda: connected(server, client), within=2.0)
    assert server.states[-3:] == [IceState.NEW, IceState.CHECKING, IceState.CONNECTED]


def test_an_answer_to_our_restart_that_comes_after_the_failure_still_counts() -> None:
    world, server, client = couple()
    restart(server)
    cut(world, CLIENT)
    world.run(20.0)
    assert server.agent.state is IceState.FAILED
    world.blocked = lambda _: False
    restart(client)
    introduce(server, client)
    world.run_until(lambda: connected(server, client), within=2.0)


def test_candidates_of_the_next_generation_wait_for_it() -> None:
    world, server, client = couple()
    restart(client)
    line = str(client.agent.local_candidates[0]) + f" ufrag {client.agent.local.ufrag}"
    before = len(server.agent._generation.checklist)
    server.agent.add_remote_candidate(type(client.agent.local_candidates[0]).parse(line), world.now)
    assert len(server.agent._generation.checklist) == before
    restart(server)
    for here, there in ((server, client), (client, server)):
        here.agent.set_remote_credentials(there.agent.local, world.now)
    trickle(server, client)
    assert len(server.agent._generation.checklist) == 1


def test_candidates_of_an_earlier_generation_do_not_come_back() -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=True), world.peer(CLIENT, controlling=False)
    trickle(client, server)
    for _ in range(2):
        server.agent.set_remote_credentials(client.agent.local, world.now)
        restart(server)
        restart(client)
    server.agent.set_remote_credentials(client.agent.local, world.now)
    assert len(server.agent._generation.checklist) == 0


def test_a_restart_ends_the_checks_of_the_generation_before() -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=True), world.peer(CLIENT, controlling=False)
    world.blocked = lambda _: True
    introduce(server, client)
    world.run(0.2)
    restart(server)
    server.sent.clear()
    world.run(20.0)
    assert server.sent == []


def test_close_is_silent_and_final() -> None:
    world, server, client = couple()
    server.agent.close()
    server.agent.close()
    world.run(5.0)
    sent = len(server.sent)
    introduce(server, client)
    restart(server)
    trickle(client, server)
    world.run(60.0)
    assert server.states[-1] is IceState.CLOSED
    assert server.states.count(IceState.CLOSED) == 1
    assert len(server.sent) == sent
    assert server.agent.next_timeout() == math.inf
    assert server.agent.selected is None
