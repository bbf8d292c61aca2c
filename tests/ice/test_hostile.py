"""Strangers and hostile peers: nothing unauthenticated is answered or remembered, nothing grows without bound."""

from __future__ import annotations

import math
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ice.world import CLIENT, OTHER, SERVER, Peer, World, connected, introduce, request_to, restart
from triosfu.errors import MalformedPacket
from triosfu.ice import Candidate, Credentials, IceAgent, IceState
from triosfu.ice.checklist import MAX_PAIRS
from triosfu.ice.events import TupleValidated
from triosfu.ice.generation import MAX_REMOTE_CANDIDATES
from triosfu.ice.role import MAX_SWITCHES
from triosfu.ice.transactions import MAX_TRANSACTIONS, Purpose, Transactions
from triosfu.stun import Attribute, Kind, Message, StunError
from triosfu.stun.wire import U64, pack_xor_address

if TYPE_CHECKING:
    from collections.abc import Callable

STRANGER = ("203.0.113.66", 6666)
STAGES = ["new", "checking", "connected", "restarting", "restarted", "disconnected", "failed", "closed"]


def at_stage(stage: str, *, lite: bool = False) -> tuple[World, Peer, Peer]:
    """A server (and its client) brought into this stage of life."""
    world = World(seed=3)
    server = world.peer(SERVER, controlling=not lite, lite=lite)
    client = world.peer(CLIENT, controlling=lite)
    if stage == "new":
        return world, server, client
    if stage == "checking":
        world.blocked = lambda _: True
        introduce(server, client)
        world.run(1.0)
        return world, server, client
    introduce(server, client)
    world.run_until(lambda: connected(server, client), within=2.0)
    if stage == "restarting":
        restart(server)
    elif stage == "restarted":
        restart(server)
        server.agent.set_remote_credentials(Credentials.generate(world.rng), world.now)
    elif stage in ("disconnected", "failed"):
        world.blocked = lambda _: True
        world.run(12.0 if stage == "disconnected" else 20.0)
    elif stage == "closed":
        server.agent.close()
    world.run(0.1)
    return world, server, client


def snapshot(agent: IceAgent) -> tuple[object, ...]:
    """Everything about an agent that a datagram could have changed, apart from its counters."""
    return (
        agent.state,
        agent.selected,
        agent.controlling,
        agent.local_ufrags(),
        agent.next_timeout(),
        agent.rtt,
        list(agent.reflexive_candidates),
        [(p.addresses, p.state, p.wanted, p.probed, p.heard_at, p.valid_until) for p in agent._generation.checklist],
        len(agent._transactions),
    )


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("key", [b"", b"wrong" * 5])
def test_forged_requests_change_nothing_and_get_no_reply(stage: str, lite: bool, key: bytes) -> None:
    world, server, _ = at_stage(stage, lite=lite)
    agent = server.agent
    before = snapshot(agent)
    forgeries = [
        request_to(agent, (Attribute.USE_CANDIDATE, b""), key=key),
        request_to(agent, (Attribute.ICE_CONTROLLING, U64.pack(2**64 - 1)), key=key),
        request_to(agent, (Attribute.ICE_CONTROLLED, U64.pack(2**64 - 1)), key=key),
        request_to(agent, (0x7FFF, b""), key=key),
        request_to(agent, (Attribute.USERNAME, b"nobody:peer")),
        request_to(agent, (Attribute.USERNAME, b"")),
        request_to(agent, (Attribute.USERNAME, agent.local.ufrag.encode())),
        Message(Kind.REQUEST, bytes(12), ((Attribute.USERNAME, f"{agent.local.ufrag}:x".encode()),)).serialize(),
        Message(Kind.REQUEST, bytes(12)).serialize(),
        Message(Kind.INDICATION, bytes(12)).serialize(),
        Message(Kind.SUCCESS, bytes(12)).serialize(key=agent.local.key),
        Message(Kind.ERROR, bytes(12)).serialize(key=agent.local.key),
    ]
    for source in (STRANGER, CLIENT):
        for forgery in forgeries:
            agent.receive_datagram(forgery, source, SERVER, world.now)
            assert agent.datagrams_to_send() == []
            assert agent.events() == []
    assert snapshot(agent) == before


@pytest.mark.parametrize("kind", [Kind.SUCCESS, Kind.ERROR])
def test_a_forged_response_to_a_true_transaction_changes_nothing(kind: Kind) -> None:
    world, server, _ = at_stage("checking")
    check = Message.parse(server.sent[-1][1].data)
    attributes = (
        (Attribute.XOR_MAPPED_ADDRESS, pack_xor_address(SERVER, check.transaction)),
        (Attribute.ERROR_CODE, StunError(487).serialize()),
    )
    before = snapshot(server.agent)
    # Our own password signs what we are sent, not what we are answered.
    for key in (None, b"", server.agent.local.key):
        forged = Message(kind, check.transaction, attributes).serialize(key=key)
        server.agent.receive_datagram(forged, CLIENT, SERVER, world.now)
        assert server.agent.events() == []
    assert snapshot(server.agent) == before


def test_a_signed_response_without_an_address_is_a_response_as_ffmpeg_makes_it() -> None:
    world, server, client = at_stage("checking")
    check = Message.parse(server.sent[-1][1].data)
    signed = Message(Kind.SUCCESS, check.transaction).serialize(key=client.agent.local.key)
    server.agent.receive_datagram(signed, CLIENT, SERVER, world.now)
    assert TupleValidated(SERVER, CLIENT) in server.agent.events()


AGENTS = {(stage, lite): at_stage(stage, lite=lite) for stage in STAGES for lite in (False, True)}
AUTHENTIC = st.lists(
    st.tuples(
        st.sampled_from([a.value for a in Attribute if "INTEGRITY" not in a.name and a.name != "FINGERPRINT"]),
        st.binary(max_size=24) | st.sampled_from([b"", bytes(4), bytes(8), b"\xff" * 8, b"\0\1" + bytes(6)]),
    ),
    max_size=6,
)


@given(data=st.binary(max_size=200), stage=st.sampled_from(STAGES), lite=st.booleans())
def test_any_bytes_in_any_state_are_harmless(data: bytes, stage: str, lite: bool) -> None:
    world, server, _ = AGENTS[stage, lite]
    before = snapshot(server.agent)
    for source in (STRANGER, CLIENT):
        try:
            server.agent.receive_datagram(data, source, SERVER, world.now)
        except MalformedPacket:
            continue
    assert server.agent.datagrams_to_send() == []
    assert server.agent.events() == []
    assert snapshot(server.agent) == before


@given(
    attributes=AUTHENTIC,
    kind=st.sampled_from(Kind),
    life=st.tuples(st.sampled_from(STAGES), st.booleans()),
    source=st.sampled_from([CLIENT, STRANGER, ("2001:db8::7", 1), ("1.2.3.4", 0)]),
    answers=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_whatever_an_authenticated_peer_says_the_agent_lives(
    attributes: list[tuple[int, bytes]],
    kind: Kind,
    life: tuple[str, bool],
    source: tuple[str, int],
    answers: bool,
) -> None:
    stage, lite = life
    world, server, _ = at_stage(stage, lite=lite)
    agent = server.agent
    checks = [m for _, t in server.sent if (m := Message.parse(t.data)).kind is Kind.REQUEST]
    transaction = checks[-1].transaction if answers and checks else bytes(12)
    key = agent.local.key if kind is Kind.REQUEST or agent.remote is None else agent.remote.key
    username = (Attribute.USERNAME, f"{agent.local.ufrag}:peer".encode())
    data = Message(kind, transaction, (username, *attributes)).serialize(key=key)
    for _ in range(3):
        with suppress(MalformedPacket):
            agent.receive_datagram(data, source, SERVER, world.now)
        replies = [t for t in agent.datagrams_to_send() if Message.parse(t.data).kind is not Kind.REQUEST]
        assert len(replies) <= 1
        assert all((t.source, t.destination) == (SERVER, source) for t in replies)
        agent.events()
    for _ in range(300):
        at = agent.next_timeout()
        if at == math.inf:
            break
        agent.handle_timeout(at)
        assert agent.next_timeout() > at
        agent.datagrams_to_send()
        agent.events()
    assert agent.state in (IceState.NEW, IceState.FAILED, IceState.CLOSED)


def test_a_reply_is_about_as_long_as_its_request() -> None:
    world, server, _ = at_stage("connected")
    asked = request_to(server.agent)
    conflict = request_to(server.agent, (Attribute.ICE_CONTROLLING, bytes(8)))
    unknown = request_to(server.agent, *((0x7000 + n, b"") for n in range(30)))
    for data in (asked, conflict, unknown):
        server.agent.receive_datagram(data, CLIENT, SERVER, world.now)
        [reply] = (t for t in server.agent.datagrams_to_send() if Message.parse(t.data).kind is not Kind.REQUEST)
        assert len(reply.data) <= len(data)


def test_nothing_is_sent_to_port_zero() -> None:
    world, server, _ = at_stage("connected")
    server.agent.receive_datagram(request_to(server.agent), ("203.0.113.66", 0), SERVER, world.now)
    assert server.agent.datagrams_to_send() == []
    assert server.agent.events() == []


def test_an_attribute_that_must_be_understood_is_refused_with_420() -> None:
    world, server, _ = at_stage("connected")
    server.agent.receive_datagram(request_to(server.agent, (0x7001, b"")), STRANGER, SERVER, world.now)
    [reply] = server.agent.datagrams_to_send()
    message = Message.parse(reply.data)
    assert message.error == StunError(420, "Unknown Attribute")
    assert message.get(Attribute.UNKNOWN_ATTRIBUTES) == b"\x70\x01"
    assert message.signed_with(server.agent.local.key)
    assert server.agent.events() == []


def test_a_replayed_nomination_from_another_address_does_not_take_the_path() -> None:
    world, server, client = at_stage("connected")
    server.agent.set_role(controlling=False)
    nomination = request_to(server.agent, (Attribute.USE_CANDIDATE, b""))
    for _ in range(20):
        server.agent.receive_datagram(nomination, STRANGER, SERVER, world.now)
        world.run(1.0)
    # The stranger is asked whether it takes part, does not know the answer, and gets nothing.
    assert server.agent.selected == (SERVER, CLIENT)
    assert client.agent.state is IceState.CONNECTED


@pytest.mark.parametrize(("source", "destination"), [(STRANGER, SERVER), (CLIENT, OTHER)])
def test_an_answer_that_does_not_mirror_its_check_fails_the_pair(
    source: tuple[str, int], destination: tuple[str, int]
) -> None:
    world, server, client = at_stage("checking")
    check = Message.parse(server.sent[-1][1].data)
    mapped = (Attribute.XOR_MAPPED_ADDRESS, pack_xor_address(SERVER, check.transaction))
    answer = Message(Kind.SUCCESS, check.transaction, (mapped,)).serialize(key=client.agent.local.key)
    server.agent.receive_datagram(answer, source, destination, world.now)
    server.agent.receive_datagram(answer, CLIENT, SERVER, world.now)
    world.run(5.0)
    assert server.agent.dropped["asymmetric"] == 1
    assert server.agent.selected is None
    [pair] = server.agent._generation.checklist
    assert pair.state.name == "FAILED"


def flood(server: Peer, world: World, count: int, make: Callable[[int], tuple[bytes, tuple[str, int]]]) -> None:
    for index in range(count):
        data, source = make(index)
        world.now += 0.0001  # so that the pair in use becomes the one unheard for longest
        server.agent.receive_datagram(data, source, SERVER, world.now)
        server.agent.datagrams_to_send()
        server.agent.events()


@pytest.mark.parametrize("lite", [False, True])
def test_a_thousand_source_addresses_do_not_grow_the_agent_nor_cost_it_its_path(lite: bool) -> None:
    world, server, client = at_stage("connected", lite=lite)
    flood(server, world, 1000, lambda index: (request_to(server.agent), ("203.0.113.1", 1000 + index)))
    assert len(server.agent._generation.checklist) == MAX_PAIRS
    assert server.agent.selected == (SERVER, CLIENT)
    assert server.agent._generation.checklist.get(SERVER, CLIENT) is not None
    world.run(60.0)
    assert len(server.agent._generation.checklist) == MAX_PAIRS
    assert len(server.agent._transactions) <= MAX_TRANSACTIONS
    assert connected(server, client)


def test_after_a_flood_a_new_address_still_finds_a_place() -> None:
    world, server, _ = at_stage("connected")
    flood(server, world, 1000, lambda index: (request_to(server.agent), ("203.0.113.1", 1000 + index)))
    server.agent.receive_datagram(request_to(server.agent), STRANGER, SERVER, world.now)
    assert server.agent._generation.checklist.get(SERVER, STRANGER) is not None


def test_signalled_candidates_are_bounded_before_and_after_the_credentials() -> None:
    world = World()
    server = world.peer(SERVER, ("192.0.2.2", 7882), ("192.0.2.3", 7882), controlling=True)
    for index in range(1000):
        server.agent.add_remote_candidate(Candidate.host(("203.0.113.1", 1000 + index)), world.now)
    assert len(server.agent._early) == 64
    server.agent.set_remote_credentials(Credentials.generate(world.rng), world.now)
    for index in range(1000):
        server.agent.add_remote_candidate(Candidate.host(("203.0.113.2", 1000 + index)), world.now)
    assert len(server.agent._generation._remotes) == MAX_REMOTE_CANDIDATES
    assert len(server.agent._generation.checklist) == MAX_PAIRS
    world.run(40.0)
    assert len(server.agent._transactions) <= MAX_TRANSACTIONS


def test_open_transactions_are_bounded_and_the_oldest_makes_room() -> None:
    _, server, _ = at_stage("checking")
    agent = server.agent
    [pair] = agent._generation.checklist
    transactions = Transactions(rng=Random(1), prefix=b"")
    opened, crowded_out = [], []
    for now in range(MAX_TRANSACTIONS + 10):
        new, old = transactions.open(agent._generation, pair, agent._role, Purpose.ORDINARY, now)
        opened.append(new)
        if old is not None:
            crowded_out.append(old)
    assert len(transactions) == MAX_TRANSACTIONS
    assert crowded_out == opened[:10]


def test_answers_in_a_flood_of_requests_are_bounded_even_if_nobody_drains() -> None:
    world, server, _ = at_stage("connected")
    for _ in range(1000):
        server.agent.receive_datagram(request_to(server.agent), CLIENT, SERVER, world.now)
    assert len(server.agent.datagrams_to_send()) <= 256


def test_a_peer_that_always_claims_a_conflict_makes_us_switch_only_so_often() -> None:
    world, server, client = at_stage("checking")
    switches = 0
    role = server.agent.controlling
    for _ in range(200):
        world.run(0.05)
        check = Message.parse(server.sent[-1][1].data)
        error = (Attribute.ERROR_CODE, StunError(487).serialize())
        refusal = Message(Kind.ERROR, check.transaction, (error,)).serialize(key=client.agent.local.key)
        server.agent.receive_datagram(refusal, CLIENT, SERVER, world.now)
        switches += server.agent.controlling is not role
        role = server.agent.controlling
    assert switches == MAX_SWITCHES


def test_repeated_requests_on_a_silent_pair_cost_one_check_each_fifty_milliseconds() -> None:
    world, server, _ = at_stage("connected")
    server.sent.clear()
    for _ in range(1000):
        server.agent.receive_datagram(request_to(server.agent), STRANGER, SERVER, world.now)
        world.run(0.005)
    sent = [Message.parse(transmit.data).kind for _, transmit in server.sent if transmit.destination == STRANGER]
    assert 50 < sent.count(Kind.REQUEST) <= 101
    world.run(6.0)
    assert len(server.agent._transactions) <= 6  # the newest check of that pair, and keepalives
