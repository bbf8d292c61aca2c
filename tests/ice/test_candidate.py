"""Candidate lines: those of real clients, round trips, priorities, and whatever text there is."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.checks.candidate import check_candidate
from triosfu.errors import MalformedPacket
from triosfu.ice import Candidate, Credentials
from triosfu.ice.candidate import priority_of

CHROMIUM_HOST = (
    "candidate:1467250027 1 udp 2122260223 192.168.0.196 46243 typ host generation 0 ufrag Kx3f network-id 1"
)
CHROMIUM_RELAY = (
    "candidate:842163049 1 udp 41885439 203.0.113.5 55000 typ relay raddr 198.51.100.7 rport 40000 "
    "generation 0 ufrag Kx3f network-id 1 network-cost 10"
)
CHROMIUM_TCP = "candidate:1876313031 1 tcp 1518280447 192.168.0.196 9 typ host tcptype active generation 0 ufrag Kx3f"
FIREFOX_MDNS = "candidate:0 1 UDP 2122252543 4f5c1d1e-6a41-4a3c-a0f0-c2a0fd6ac24e.local 54321 typ host"


def test_a_host_candidate_of_chromium() -> None:
    candidate = Candidate.parse(CHROMIUM_HOST)
    assert candidate.foundation == "1467250027"
    assert (candidate.component, candidate.protocol, candidate.priority) == (1, "udp", 2122260223)
    assert candidate.address == ("192.168.0.196", 46243)
    assert (candidate.type, candidate.related, candidate.tcptype) == ("host", None, None)
    assert candidate.ufrag == "Kx3f"
    assert candidate.extensions == (("generation", "0"), ("network-id", "1"))
    assert candidate.reachable


def test_a_relayed_candidate_of_chromium() -> None:
    candidate = Candidate.parse(CHROMIUM_RELAY)
    assert (candidate.type, candidate.related) == ("relay", ("198.51.100.7", 40000))


def test_a_tcp_candidate_of_chromium() -> None:
    candidate = Candidate.parse(CHROMIUM_TCP)
    assert (candidate.protocol, candidate.tcptype) == ("tcp", "active")


def test_a_hidden_host_candidate_of_firefox_is_read_and_cannot_be_reached() -> None:
    candidate = Candidate.parse(FIREFOX_MDNS)
    assert candidate.address == ("4f5c1d1e-6a41-4a3c-a0f0-c2a0fd6ac24e.local", 54321)
    assert candidate.protocol == "udp"
    assert not candidate.reachable


@pytest.mark.parametrize("line", [CHROMIUM_HOST, CHROMIUM_RELAY, CHROMIUM_TCP, FIREFOX_MDNS])
def test_the_prefixes_are_optional(line: str) -> None:
    candidate = Candidate.parse(line)
    assert Candidate.parse(f"a={line}\r\n") == candidate
    assert Candidate.parse(line.removeprefix("candidate:")) == candidate
    assert Candidate.parse(str(candidate)) == candidate


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("HOST.Local", "host.local"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_hosts_are_spelt_in_one_way(written: str, canonical: str) -> None:
    line = f"candidate:1 1 udp 1 {written} 5 typ host"
    assert Candidate.parse(line).address == (canonical, 5)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "candidate:",
        "candidate:1 1 udp 1 192.0.2.1 5",
        "candidate:1 1 udp 1 192.0.2.1 5 typ",
        "candidate:1 1 udp 1 192.0.2.1 5 type host",
        "candidate:1 1 udp 1 192.0.2.1 5 typ guest",
        "candidate:1 1 sctp 1 192.0.2.1 5 typ host",
        "candidate:1 0 udp 1 192.0.2.1 5 typ host",
        "candidate:1 257 udp 1 192.0.2.1 5 typ host",
        "candidate:1 1 udp -1 192.0.2.1 5 typ host",
        "candidate:1 1 udp 4294967296 192.0.2.1 5 typ host",
        "candidate:1 1 udp 1 192.0.2.1 65536 typ host",
        "candidate:1 1 udp 1_0 192.0.2.1 5 typ host",
        "candidate:1 1 udp 1 192.0.2.1 5 typ host tcptype both",
        "candidate:1 1 udp 1 192.0.2.1 5 typ srflx raddr 1.2.3.4 rport x",
        "candidate:" + "1" * 33 + " 1 udp 1 192.0.2.1 5 typ host",
        "candidate:1 1 udp 1 192.0.2.1 5 typ host" + " a b" * 300,
        "candidate:1 1 udp 1 192.0.2.1 5 typ host" + " a b" * 17,
        "candidate:1 1 udp 1 192.0.2.\u0661 5 typ host",
    ],
)
def test_what_is_no_candidate_is_refused(line: str) -> None:
    with pytest.raises(MalformedPacket):
        Candidate.parse(line)


def test_priorities_are_those_of_the_rfc() -> None:
    # RFC 8445, section 5.1.2.1: 2^24 * type + 2^8 * local + 256 - component
    assert priority_of("host", local_preference=65535) == 2130706431
    assert priority_of("relay", local_preference=65535) == 16777215
    assert priority_of("relay", local_preference=65535, protocol="tcp") == 16777215
    order = [
        priority_of("host", local_preference=65535),
        priority_of("host", local_preference=65534),
        priority_of("prflx", local_preference=65535),
        priority_of("srflx", local_preference=65535),
        priority_of("host", local_preference=65535, protocol="tcp"),
        priority_of("relay", local_preference=65535),
    ]
    assert order == sorted(order, reverse=True)


def test_a_host_candidate_of_ours() -> None:
    candidate = Candidate.host(("192.0.2.1", 7882))
    again = Candidate.host(("192.0.2.1", 7883), local_preference=1)
    assert str(candidate).endswith(" 1 udp 2130706431 192.0.2.1 7882 typ host")
    # The foundation depends on type, address and protocol, and on nothing else.
    assert candidate.foundation == again.foundation
    assert candidate.foundation != Candidate.host(("192.0.2.1", 7882), protocol="tcp").foundation
    assert candidate.foundation != Candidate.host(("192.0.2.2", 7882)).foundation
    assert Candidate.parse(str(candidate)) == candidate


def test_generated_credentials_are_long_enough_and_all_different() -> None:
    rng = Random(1)
    many = [Credentials.generate(rng) for _ in range(100)]
    assert len({each.ufrag for each in many} | {each.pwd for each in many}) == 200
    assert all(len(each.ufrag) >= 8 and len(each.pwd) >= 24 for each in many)


@pytest.mark.parametrize(
    ("ufrag", "pwd"),
    [
        ("abc", "p" * 22),
        ("a" * 257, "p" * 22),
        ("abcd", "p" * 21),
        ("abcd", "p" * 257),
        ("ab:d", "p" * 22),
        ("ab d", "p" * 22),
        ("ab\nd", "p" * 22),
        ("abcd", "p" * 21 + "é"),
    ],
)
def test_senseless_credentials_are_refused(ufrag: str, pwd: str) -> None:
    with pytest.raises(MalformedPacket):
        Credentials(ufrag, pwd)


def test_the_password_does_not_show() -> None:
    assert "secret" not in repr(Credentials("abcd", "secret" * 5))


GOOD = [*CHROMIUM_RELAY.split(), *CHROMIUM_TCP.split()]
WORDS = st.sampled_from([*GOOD, "::1", "x.local", "99999999999", "-1", "²"]) | st.text(max_size=8)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    check_candidate(data)


@given(st.lists(WORDS, max_size=20))
def test_almost_candidates(words: list[str]) -> None:
    check_candidate(("candidate:" + " ".join(words)).encode("utf-8", "replace"))


@given(st.lists(WORDS, max_size=8))
def test_any_end_of_a_good_candidate(words: list[str]) -> None:
    check_candidate(f"{CHROMIUM_HOST} {' '.join(words)}".encode("utf-8", "replace"))
