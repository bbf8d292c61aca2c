"""Two agents find each other: roles, lite, loss, NAT, trickle, role conflicts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ice.world import CLIENT, OTHER, SERVER, World, connected, introduce, request_to, trickle
from triosfu.errors import UsageError
from triosfu.ice import Candidate, Credentials, IceState, Transmit
from triosfu.stun import Attribute, Kind, Message, StunError

BOTH = [(True, False), (False, True)]


@pytest.mark.parametrize(("server_controls", "client_controls"), BOTH)
def test_two_agents_connect_and_agree_on_the_pair(server_controls: bool, client_controls: bool) -> None:
    world = World()
    server = world.peer(SERVER, controlling=server_controls)
    client = world.peer(CLIENT, controlling=client_controls)
    introduce(server, client)
    took = world.run_until(lambda: connected(server, client), within=1.0)
    assert took < 0.2  # a check, its answer, the nomination, its answer
    assert server.agent.selected == (SERVER, CLIENT)
    assert client.agent.selected == (CLIENT, SERVER)
    assert server.states == client.states == [IceState.CHECKING, IceState.CONNECTED]
    assert server.validated == {CLIENT}
    world.run(120.0)
    assert connected(server, client)
    assert len(server.selections) == len(client.selections) == 1


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("server_controls", "client_controls"), BOTH)
def test_connects_over_a_network_that_loses_and_reorders(
    server_controls: bool, client_controls: bool, seed: int
) -> None:
    world = World(seed=seed, delay=0.05, jitter=0.2, loss=0.3)
    server = world.peer(SERVER, controlling=server_controls)
    client = world.peer(CLIENT, OTHER, controlling=client_controls)
    introduce(server, client)
    world.run_until(lambda: connected(server, client), within=20.0)
    world.loss = 0.0
    world.run(60.0)
    assert connected(server, client)
    assert server.agent.selected is not None
    assert server.agent.selected[::-1] == client.agent.selected


def test_a_lite_server_sends_no_request_and_follows_the_nomination() -> None:
    world = World()
    server = world.peer(SERVER, controlling=True, lite=True)
    client = world.peer(CLIENT, controlling=False)
    client.agent.set_remote_lite(True)
    introduce(server, client)
    world.run_until(lambda: connected(server, client), within=1.0)
    world.run(60.0)
    assert connected(server, client)
    assert client.agent.controlling
    assert not server.agent.controlling
    assert server.agent.selected == (SERVER, CLIENT)
    assert {Message.parse(transmit.data).kind for _, transmit in server.sent} == {Kind.SUCCESS}


def test_two_lite_agents_fail_after_the_check_timeout() -> None:
    world = World()
    one = world.peer(SERVER, controlling=True, lite=True)
    other = world.peer(CLIENT, controlling=False, lite=True)
    introduce(one, other)
    world.run(31.0)
    assert one.agent.state is other.agent.state is IceState.FAILED
    assert one.when(IceState.FAILED) == 30.0
    assert one.sent == []


@pytest.mark.parametrize("claim", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_a_role_conflict_is_settled(claim: bool, seed: int) -> None:
    world = World(seed=seed)
    one = world.peer(SERVER, controlling=claim)
    other = world.peer(CLIENT, controlling=claim)
    introduce(one, other)
    world.run_until(lambda: connected(one, other), within=2.0)
    assert one.agent.controlling is not other.agent.controlling


def test_only_the_smaller_tie_breaker_yields_control() -> None:
    winners = set()
    for seed in range(8):
        world = World(seed=seed)
        one, other = world.peer(SERVER, controlling=True), world.peer(CLIENT, controlling=True)
        introduce(one, other)
        introduced = {peer: peer.agent._role.tie_breaker for peer in (one, other)}
        world.run_until(lambda: connected(one, other), within=2.0)  # noqa: B023  it runs at once
        larger = max(introduced, key=introduced.__getitem__)
        assert larger.agent.controlling
        winners.add(larger is one)
    assert winners == {True, False}


def test_a_draw_of_tie_breakers_goes_to_the_side_that_was_asked() -> None:
    world = World()
    server = world.peer(SERVER, controlling=True)
    same = server.agent._role.tie_breaker.to_bytes(8)
    request = request_to(server.agent, (Attribute.ICE_CONTROLLING, same))
    server.agent.receive_datagram(request, CLIENT, SERVER, world.now)
    assert server.agent.controlling
    [reply] = server.agent.datagrams_to_send()
    assert Message.parse(reply.data).error == StunError(487, "Role Conflict")


def test_after_a_487_role_and_tie_breaker_change() -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=True), world.peer(CLIENT, controlling=True)
    world.blocked = lambda _: True
    introduce(server, client)
    world.run(0.1)
    first = Message.parse(server.sent[-1][1].data)
    error = (Attribute.ERROR_CODE, StunError(487).serialize())
    refusal = Message(Kind.ERROR, first.transaction, (error,)).serialize(key=client.agent.local.key)
    server.agent.receive_datagram(refusal, CLIENT, SERVER, world.now)
    world.run(0.1)
    second = Message.parse(server.sent[-1][1].data)
    assert second.transaction != first.transaction
    assert second.get(Attribute.ICE_CONTROLLING) is None
    assert second.get(Attribute.ICE_CONTROLLED) != first.get(Attribute.ICE_CONTROLLING)


def test_once_a_pair_is_selected_worse_ones_are_not_checked_any_more() -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=True), world.peer(CLIENT, controlling=False)
    introduce(server, client)
    dead = [Candidate("1", 1, "udp", 1000, ("203.0.113.50", port), "srflx") for port in range(1, 20)]
    for candidate in dead[:10]:
        server.agent.add_remote_candidate(candidate, world.now)
    world.run_until(lambda: connected(server, client), within=1.0)
    selected_at = world.now
    for candidate in dead[10:]:
        server.agent.add_remote_candidate(candidate, world.now)
    world.run(30.0)
    assert {t.destination for at, t in server.sent if at > selected_at} == {CLIENT}


def test_a_peer_behind_a_nat_is_found_by_its_checks() -> None:
    world = World()
    world.nat[("10.0.0.5", 5000)] = CLIENT
    server = world.peer(SERVER, controlling=False)
    client = world.peer(("10.0.0.5", 5000), controlling=True)
    # Only the client hears of candidates: the server cannot reach 10.0.0.5 anyway.
    introduce(server, client, candidates=False)
    trickle(server, client)
    world.run_until(lambda: connected(server, client), within=1.0)
    assert server.agent.selected == (SERVER, CLIENT)
    [reflexive] = client.agent.reflexive_candidates
    assert (reflexive.type, reflexive.address, reflexive.related) == ("prflx", CLIENT, ("10.0.0.5", 5000))
    assert client.agent.local_candidates == [Candidate.host(("10.0.0.5", 5000), local_preference=65534)]


def test_a_nat_in_front_of_the_server_is_mapped_back() -> None:
    world = World()
    outer = ("192.0.2.50", 7882)
    world.nat[SERVER] = outer
    server = world.peer(controlling=True)
    world.open(server, SERVER, announced=False)
    server.agent.add_local_candidate(Candidate.host(outer), base=SERVER)
    client = world.peer(CLIENT, controlling=False)
    introduce(server, client)
    world.run_until(lambda: connected(server, client), within=1.0)
    assert server.agent.selected == (SERVER, CLIENT)
    assert client.agent.selected == (CLIENT, outer)
    assert server.agent.reflexive_candidates == []


def test_a_request_at_a_socket_that_was_not_announced_is_served() -> None:
    world = World()
    server = world.peer(controlling=False)
    world.open(server, SERVER, announced=False)
    client = world.peer(CLIENT, controlling=True)
    introduce(server, client)
    client.agent.add_remote_candidate(Candidate.host(SERVER), world.now)
    world.run_until(lambda: connected(server, client), within=1.0)
    assert server.agent.selected == (SERVER, CLIENT)


def test_candidates_before_credentials_wait_for_them() -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=True), world.peer(CLIENT, controlling=False)
    client.agent.set_remote_credentials(server.agent.local, world.now)
    trickle(client, server)
    world.run(1.0)
    assert server.agent.state is IceState.NEW
    assert server.sent == []
    server.agent.set_remote_credentials(client.agent.local, world.now)
    world.run_until(lambda: connected(server, client), within=1.0)


def test_checks_before_our_side_knows_the_peer_are_answered_and_remembered() -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=True), world.peer(CLIENT, controlling=False)
    client.agent.set_remote_credentials(server.agent.local, world.now)
    trickle(server, client)
    world.run(1.0)
    assert server.validated == {CLIENT}
    assert server.agent.state is IceState.NEW
    server.agent.set_remote_credentials(client.agent.local, world.now)
    world.run_until(lambda: connected(server, client), within=1.0)
    assert server.agent.selected == (SERVER, CLIENT)


def test_a_check_that_is_faster_than_its_candidate_is_matched_with_it_later() -> None:
    world = World()
    server = world.peer(SERVER, controlling=True)
    server.agent.set_remote_credentials(Credentials.generate(world.rng), world.now)
    server.agent.receive_datagram(request_to(server.agent), CLIENT, SERVER, world.now)
    [pair] = server.agent._generation.checklist
    before = pair.priority
    assert (pair.remote.type, pair.remote.priority) == ("prflx", 1000)
    signalled = Candidate("7", 1, "udp", 2000, CLIENT, "srflx")
    server.agent.add_remote_candidate(signalled, world.now)
    assert list(server.agent._generation.checklist) == [pair]
    assert pair.remote == signalled
    assert pair.priority > before


def test_a_lite_agent_keeps_an_early_nomination_until_it_knows_the_peer() -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=False, lite=True), world.peer(CLIENT, controlling=True)
    client.agent.set_remote_credentials(server.agent.local, world.now)
    trickle(server, client)
    world.run(1.0)
    assert server.agent.selected is None
    server.agent.set_remote_credentials(client.agent.local, world.now)
    world.collect()
    assert server.agent.selected == (SERVER, CLIENT)


def test_names_other_components_tcp_and_senseless_addresses_are_ignored() -> None:
    world = World()
    server = world.peer(SERVER, controlling=True)
    server.agent.set_remote_credentials(Credentials.generate(world.rng), world.now)
    lines = [
        "candidate:1 1 udp 2113937151 8a5d7d0c-0c3f-4c5f.local 50000 typ host",
        "candidate:1 2 udp 2113937151 198.51.100.7 50000 typ host",
        "candidate:1 1 tcp 2113937151 198.51.100.7 9 typ host tcptype active",
        "candidate:1 1 udp 2113937151 0.0.0.0 50000 typ host",
        "candidate:1 1 udp 2113937151 239.1.2.3 50000 typ host",
        "candidate:1 1 udp 2113937151 255.255.255.255 50000 typ host",
        "candidate:1 1 udp 2113937151 198.51.100.7 0 typ host",
        "candidate:1 1 udp 2113937151 fe80::1 50000 typ host",
        "candidate:1 1 udp 2113937151 2001:db8::1 50000 typ host",  # a good one, of a family that we have not
    ]
    for line in lines:
        server.agent.add_remote_candidate(Candidate.parse(line), world.now)
    world.run(29.0)
    assert server.sent == []
    assert server.agent.dropped["candidate_ignored"] == len(lines) - 1


def test_each_family_is_checked_from_its_own_socket() -> None:
    world = World()
    six, client_six = ("2001:db8::1", 7882), ("2001:db8:1::7", 40000)
    server = world.peer(six, SERVER, controlling=True)
    client = world.peer(CLIENT, client_six, controlling=False)
    introduce(server, client)
    world.run_until(lambda: connected(server, client), within=1.0)
    assert {(transmit.source, transmit.destination) for _, transmit in server.sent} == {
        (six, client_six),
        (SERVER, CLIENT),
    }


def test_checks_are_paced() -> None:
    world = World()
    server = world.peer(SERVER, controlling=True)
    server.agent.set_remote_credentials(Credentials.generate(world.rng), world.now)
    for port in range(10):
        server.agent.add_remote_candidate(Candidate.host(("198.51.100.7", 1000 + port)), world.now)
    world.run(0.47)
    times = [at for at, _ in server.sent]
    assert times == pytest.approx([index * 0.05 for index in range(10)])


def test_a_check_is_sent_seven_times_with_growing_pauses_and_then_given_up() -> None:
    world = World()
    server = world.peer(SERVER, controlling=True, check_timeout=100.0)
    server.agent.set_remote_credentials(Credentials.generate(world.rng), world.now)
    server.agent.add_remote_candidate(Candidate.host(CLIENT), world.now)
    world.run(60.0)
    assert [at for at, _ in server.sent] == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert len({transmit.data for _, transmit in server.sent}) == 1


def test_without_success_checking_fails_after_thirty_seconds() -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=True), world.peer(CLIENT, controlling=False)
    world.blocked = lambda _: True
    world.run(5.0)
    introduce(server, client)
    world.run(100.0)
    assert server.states == client.states == [IceState.CHECKING, IceState.FAILED]
    assert server.when(IceState.FAILED) == 35.0
    assert server.agent.next_timeout() == float("inf")


def test_every_transaction_id_begins_with_the_prefix() -> None:
    world = World()
    server = world.peer(SERVER, controlling=True, transaction_prefix=b"\x01\x02\x03\x04")
    client = world.peer(CLIENT, controlling=False)
    introduce(server, client)
    world.run(20.0)
    requests = [m for _, t in server.sent if (m := Message.parse(t.data)).kind is Kind.REQUEST]
    assert len(requests) > 5
    assert all(request.transaction[:4] == b"\x01\x02\x03\x04" for request in requests)
    assert all(len(request.transaction) == 12 for request in requests)


def nominations(sent: list[tuple[float, Transmit]]) -> list[tuple[float, Transmit]]:
    return [(at, t) for at, t in sent if Message.parse(t.data).get(Attribute.USE_CANDIDATE) is not None]


def test_the_controlling_side_nominates_once_and_the_controlled_side_never() -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=True), world.peer(CLIENT, OTHER, controlling=False)
    introduce(server, client)
    world.run(60.0)
    assert len(nominations(server.sent)) == 1
    assert nominations(client.sent) == []


def test_a_valid_pair_waits_a_moment_for_a_better_one() -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=True), world.peer(CLIENT, OTHER, controlling=False)
    world.slow[CLIENT] = 0.1
    introduce(server, client)
    world.run_until(lambda: connected(server, client), within=2.0)
    assert server.agent.selected == (SERVER, CLIENT)


def test_a_dead_better_pair_delays_the_nomination_only_a_moment() -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=True), world.peer(CLIENT, OTHER, controlling=False)
    world.blocked = lambda transmit: CLIENT in (transmit.source, transmit.destination)
    introduce(server, client)
    took = world.run_until(lambda: connected(server, client), within=2.0)
    assert server.agent.selected == (SERVER, OTHER)
    assert 0.3 < took < 0.6


@pytest.mark.parametrize(("others", "took"), [({}, 1.0), ({"blocked": True}, 0.0)])
def test_a_relayed_pair_waits_longer_unless_nothing_else_is_hoped_for(others: dict[str, Any], took: float) -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=True), world.peer(OTHER, controlling=False)
    relay = Candidate("9", 1, "udp", 0x00FFFFFF, OTHER, "relay")
    if not others:
        server.agent.add_remote_candidate(Candidate.host(CLIENT), world.now)
    server.agent.add_remote_candidate(relay, world.now)
    server.agent.set_remote_credentials(client.agent.local, world.now)
    client.agent.set_remote_credentials(server.agent.local, world.now)
    world.run_until(lambda: connected(server), within=2.0)
    assert took < world.now < took + 0.3


def test_a_nomination_without_an_answer_moves_on_to_another_pair() -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=True), world.peer(CLIENT, OTHER, controlling=False)
    world.blocked = lambda transmit: (
        transmit.destination == CLIENT and Message.parse(transmit.data).get(Attribute.USE_CANDIDATE) is not None
    )
    introduce(server, client)
    world.run_until(lambda: connected(server), within=5.0)
    assert server.agent.selected == (SERVER, OTHER)


def test_a_nomination_is_repeated_twice_a_second_until_it_is_answered() -> None:
    world = World()
    server, client = world.peer(SERVER, controlling=True), world.peer(CLIENT, controlling=False)
    world.blocked = lambda t: Message.parse(t.data).get(Attribute.USE_CANDIDATE) is not None
    introduce(server, client)
    world.run(3.9)
    times = [at for at, _ in nominations(server.sent)]
    assert [at - times[0] for at in times] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0])


def test_new_remote_credentials_without_a_restart_are_our_own_mistake() -> None:
    world = World()
    server = world.peer(SERVER, controlling=True)
    known = Credentials.generate(world.rng)
    server.agent.set_remote_credentials(known, world.now)
    server.agent.set_remote_credentials(known, world.now)
    with pytest.raises(UsageError):
        server.agent.set_remote_credentials(Credentials.generate(world.rng), world.now)


def test_a_tcp_candidate_of_ours_waits_for_the_peer_to_connect() -> None:
    world = World()
    listener, remote = ("192.0.2.1", 7881), ("198.51.100.7", 41000)
    server, client = world.peer(controlling=True), world.peer(remote, controlling=False)
    world.open(server, listener, announced=False)
    passive = Candidate.host(listener, protocol="tcp", tcptype="passive")
    server.agent.add_local_candidate(passive)
    introduce(server, client)
    world.run(2.0)
    assert server.sent == []
    # The client's side of the connection is played by a UDP agent: to ICE, the frames are datagrams.
    client.agent.add_remote_candidate(Candidate.host(listener), world.now)
    world.run_until(lambda: connected(server, client), within=2.0)
    assert server.agent.selected == (listener, remote)
    path = server.agent._path
    assert path is not None
    assert (path.pair.local.protocol, path.pair.remote.type) == ("tcp", "prflx"), (
        "not its UDP candidate of that address"
    )
