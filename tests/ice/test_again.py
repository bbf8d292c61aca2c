"""A check that says what the one before has said is not read anew: nobody may be able to tell."""

from __future__ import annotations

from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triosfu.errors import MalformedPacket
from triosfu.ice import Candidate, Credentials, IceAgent
from triosfu.ice.core import NOTHING
from triosfu.stun.wire import U32, U64, Attribute, Kind, Message, Template

SOCKET = ("192.0.2.1", 7882)
SOURCES = (("198.51.100.7", 4000), ("198.51.100.7", 4001), ("2001:db8::7", 4000))
OURS, NEXT, THEIRS = Credentials("ours1234", "o" * 24), Credentials("next1234", "n" * 24), Credentials("peer", "p" * 24)
CONTROLLING, CONTROLLED = Attribute.ICE_CONTROLLING, Attribute.ICE_CONTROLLED


def agent(*, controlling: bool = True) -> IceAgent:
    one = IceAgent(local=OURS, controlling=controlling, now=0.0, rng=Random(1))
    one.add_local_candidate(Candidate.host(SOCKET))
    one.set_remote_credentials(THEIRS, 0.0)
    return one


def check(
    number: int, *, ours: Credentials = OURS, claim: Attribute = CONTROLLED, nominating: bool = False, key: bytes = b""
) -> bytes:
    attributes = [
        (Attribute.USERNAME, f"{ours.ufrag}:{THEIRS.ufrag}".encode()),
        (Attribute.PRIORITY, U32.pack(1 << 24)),
        (claim, U64.pack(1)),
        *([(Attribute.USE_CANDIDATE, b"")] if nominating else []),
    ]
    return Message(Kind.REQUEST, number.to_bytes(12), tuple(attributes)).serialize(key=key or ours.key)


def answers(one: IceAgent, data: bytes, source: tuple[str, int] = SOURCES[0]) -> list[Message]:
    """What `source` is told for it, without our own checks."""
    one.receive_datagram(data, source, SOCKET, 1.0)
    told = [Message.parse(sent.data) for sent in one.datagrams_to_send() if sent.destination == source]
    return [message for message in told if message.kind is not Kind.REQUEST]


def test_each_check_has_an_answer_of_its_own() -> None:
    one = agent()
    for number in range(3):
        (answer,) = answers(one, check(number))
        assert (answer.kind, answer.transaction) == (Kind.SUCCESS, number.to_bytes(12))
        assert answer.signed_with(OURS.key)


def test_the_answer_tells_from_where_it_came_this_time() -> None:
    one = agent()
    for number, source in enumerate((*SOURCES, *SOURCES)):
        (answer,) = answers(one, check(number), source)
        assert answer.address(Attribute.XOR_MAPPED_ADDRESS) == source


def test_who_says_the_same_without_the_key_gets_no_answer() -> None:
    one = agent()
    assert answers(one, check(1))
    one.events()
    assert answers(one, check(2, key=b"wrong")) == []
    assert one.events() == []
    assert one.dropped["unauthenticated"] == 1


@pytest.mark.parametrize("at", [9, 25, -30, -1])
def test_a_changed_byte_is_noticed(at: int) -> None:
    one = agent()
    assert answers(one, check(1))
    data = bytearray(check(2))
    data[at] ^= 1
    with pytest.raises(MalformedPacket):
        one.receive_datagram(bytes(data), SOURCES[0], SOCKET, 1.0)


def test_with_another_role_of_ours_the_same_is_judged_anew() -> None:
    one = agent(controlling=True)
    assert answers(one, check(1))
    one.set_role(controlling=False)
    assert answers(one, check(2))
    assert one.controlling  # because the peer insists on being controlled


def test_a_check_for_credentials_of_the_past_is_not_for_us() -> None:
    one = agent()
    assert answers(one, check(1))
    one.restart(NEXT, 1.0)
    assert answers(one, check(2)) == []
    assert answers(one, check(3, ours=NEXT))


def test_an_agent_that_has_ended_answers_nothing() -> None:
    one = agent()
    assert answers(one, check(1))
    one.close()
    assert answers(one, check(2)) == []


STEPS = st.one_of(
    st.fixed_dictionaries(
        {
            "source": st.sampled_from(SOURCES),
            "ours": st.sampled_from([OURS, OURS, NEXT]),
            "claim": st.sampled_from([CONTROLLED, CONTROLLED, CONTROLLING]),
            "nominating": st.booleans(),
            "key": st.sampled_from([b"", b"", b"", b"wrong"]),
        }
    ),
    st.sampled_from(["again", "again", "again", "answer", "answer", "time", "role", "restart", "credentials"]),
)


def story(steps: list[Any], *, forgetful: bool) -> list[object]:
    """All that an agent tells; one that is forgetful reads every message as if it were the first."""
    one, told, numbers = agent(), list[object](), count()
    now, asked = 0.0, list[Any]()
    said: dict[str, Any] = {"source": SOURCES[0]}
    for step in steps:
        if forgetful:
            one._usual, one._usual_answer, one._transactions._template = None, NOTHING, None
        now += 0.1
        if step == "time":
            now += 2.0
            one.handle_timeout(now)
        elif step == "role":
            one.set_role(controlling=not one.controlling)
        elif step == "restart":
            one.restart(NEXT, now)
        elif step == "credentials":
            if one.remote is None:
                one.set_remote_credentials(THEIRS, now)
        elif step == "answer":
            for transmit in asked[-2:]:
                message = Message.parse(transmit.data)
                mapped = (Attribute.XOR_MAPPED_ADDRESS, b"\0\1\0\0abcd")
                data = Template(Kind.SUCCESS, (mapped,), THEIRS.key).message(message.transaction)
                try:
                    one.receive_datagram(data, transmit.destination, transmit.source, now)
                except MalformedPacket as error:
                    told.append(str(error))
        else:
            said = said if step == "again" else step
            arguments: dict[str, Any] = {name: value for name, value in said.items() if name != "source"}
            one.receive_datagram(check(next(numbers), **arguments), said["source"], SOCKET, now)
        sent = one.datagrams_to_send()
        asked += [transmit for transmit in sent if transmit.data[:2] == b"\0\1"]
        told += [sent, one.events(), one.state, one.selected, one.next_timeout(), one.dropped.copy(), one.controlling]
        told += [(pair.state, pair.probed, pair.wanted, pair.heard_at) for pair in one._generation.checklist]
    return told


@settings(deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_an_agent_that_remembers_tells_what_one_that_forgets_does(steps: list[Any]) -> None:
    assert story(steps, forgetful=False) == story(steps, forgetful=True)
