"""Two DTLS cores on virtual time: through loss, damage, duplication and reordering; identity; the end."""

from __future__ import annotations

import hashlib
import math
import weakref
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from triosfu.dtls import certificate as certificate_module
from triosfu.dtls.certificate import OFFERED, Certificate
from triosfu.dtls.core import (
    MAX_FINAL_ANSWERS,
    ApplicationData,
    Closed,
    Connected,
    DtlsConnection,
    Event,
    Fingerprint,
    Role,
)
from triosfu.dtls.records import ALERT, CHANGE_CIPHER_SPEC, HEADER, split
from triosfu.errors import UsageError
from triosfu.srtp import Inbound, Outbound, SrtpProfile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LATENCY = 0.02  # seconds, one way


@cache
def identity(name: str) -> Certificate:
    """One certificate per name for the whole session: making them is slow."""
    return Certificate.generate()


def sha256(certificate: Certificate) -> tuple[Fingerprint, ...]:
    return (Fingerprint("sha-256", certificate.fingerprint),)


def make(
    role: Role, *, expects: Sequence[Fingerprint] | None = None, mtu: int = 1200, data_only: bool = False
) -> DtlsConnection:
    ours, theirs = ("client", "server") if role is Role.CLIENT else ("server", "client")
    return DtlsConnection(
        certificate=identity(ours),
        role=role,
        remote_fingerprints=sha256(identity(theirs)) if expects is None else expects,
        now=0.0,
        mtu=mtu,
        data_only=data_only,
    )


@dataclass
class Wire:
    """Carries datagrams between two cores on virtual time. `route` turns one into those that arrive, with delays."""

    client: DtlsConnection
    server: DtlsConnection
    route: Callable[[int, bytes], list[tuple[float, bytes]]] = lambda _, data: [(0.0, data)]
    now: float = 0.0
    sent: list[bytes] = field(default_factory=list)
    happened: dict[DtlsConnection, list[Event]] = field(default_factory=dict)
    _flying: list[tuple[float, int, DtlsConnection, bytes]] = field(default_factory=list)

    def drain(self) -> None:
        for core, other in ((self.client, self.server), (self.server, self.client)):
            self.happened.setdefault(core, []).extend(core.events())
            for data in core.datagrams_to_send():
                number = len(self.sent)
                self.sent.append(data)
                for copy, (delay, arriving) in enumerate(self.route(number, data)):
                    self._flying.append((self.now + LATENCY + delay, 100 * number + copy, other, arriving))

    def run(self, until: float = math.inf) -> None:
        """Go on until nothing is left to happen."""
        self.drain()
        while True:
            self._flying.sort(key=lambda entry: entry[:2])
            arrival = self._flying[0][0] if self._flying else math.inf
            alarm = min(self.client.next_timeout(), self.server.next_timeout())
            if min(arrival, alarm) > until or min(arrival, alarm) == math.inf:
                return
            self.now = max(self.now, min(arrival, alarm))
            if arrival <= alarm:
                _, _, core, data = self._flying.pop(0)
                core.receive_datagram(data, self.now)
            else:
                for core in (self.client, self.server):
                    core.handle_timeout(self.now)
                    assert core.next_timeout() > self.now
            self.drain()

    def start(self) -> None:
        self.client.start(self.now)
        self.server.start(self.now)
        self.run()

    def keys(self, core: DtlsConnection) -> Connected:
        [connected] = [event for event in self.happened[core] if isinstance(event, Connected)]
        return connected

    def data(self, core: DtlsConnection) -> list[bytes]:
        return [event.data for event in self.happened[core] if isinstance(event, ApplicationData)]

    def ends(self, core: DtlsConnection) -> list[str]:
        return [event.reason for event in self.happened[core] if isinstance(event, Closed)]


def pair(*, mtu: int = 1200) -> Wire:
    return Wire(make(Role.CLIENT, mtu=mtu), make(Role.SERVER, mtu=mtu))


def assert_works(wire: Wire) -> None:
    """Both are connected with the same keys, and data flows both ways."""
    ours, theirs = wire.keys(wire.client).srtp, wire.keys(wire.server).srtp
    assert ours is not None
    assert theirs is not None
    assert ours.swapped() == theirs
    wire.route = lambda _, data: [(0.0, data)]
    for core, other in ((wire.client, wire.server), (wire.server, wire.client)):
        core.send(b"a packet of sctp")
        wire.run()
        assert wire.data(other)[-1] == b"a packet of sctp"
    assert wire.ends(wire.client) == wire.ends(wire.server) == []


def test_a_handshake_takes_two_round_trips_and_gives_keys_that_work() -> None:
    wire = pair()
    wire.start()
    assert wire.now == pytest.approx(4 * LATENCY)
    assert len(wire.sent) == 4
    records = [record for datagram in wire.sent for record in split(datagram)]
    assert max(len(record.data) for record in records) > 256, "OpenSSL has not forgotten the MTU"
    assert_works(wire)
    keys = wire.keys(wire.client).srtp
    assert keys is not None
    assert keys.profile is SrtpProfile.AEAD_AES_128_GCM
    theirs = wire.keys(wire.server).srtp
    assert theirs is not None
    packet = b"\x80\x60" + bytes(30)
    assert Inbound(theirs).unprotect(Outbound(keys).protect(packet)) == packet


@pytest.mark.parametrize("profile", OFFERED, ids=lambda profile: profile.name)
def test_the_profile_that_both_know_is_taken(profile: SrtpProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(certificate_module, "OFFERED", (profile,))
        limited = Certificate.generate()
        limited.context()
    client = DtlsConnection(
        certificate=limited, role=Role.CLIENT, remote_fingerprints=sha256(identity("server")), now=0.0
    )
    wire = Wire(client, make(Role.SERVER, expects=sha256(limited)))
    wire.start()
    assert_works(wire)
    keys = wire.keys(client).srtp
    assert keys is not None
    assert keys.profile is profile
    assert len(keys.local_key) == profile.key_length
    assert len(keys.remote_salt) == profile.salt_length


def certificate_without_srtp() -> Certificate:
    certificate = Certificate.generate()
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_options(SSL.OP_NO_QUERY_MTU)
    context.use_certificate(certificate._certificate)
    context.use_privatekey(certificate._key)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    certificate._context = context
    return certificate


def test_no_common_profile_is_a_failure_that_the_peer_hears_of() -> None:
    plain = certificate_without_srtp()
    client = DtlsConnection(
        certificate=plain, role=Role.CLIENT, remote_fingerprints=sha256(identity("server")), now=0.0, data_only=True
    )
    wire = Wire(client, make(Role.SERVER, expects=sha256(plain)))
    wire.start()
    assert wire.happened[wire.server] == [Closed("no common srtp profile")]
    assert wire.ends(client) == ["close_notify"]


def test_data_only_tolerates_a_peer_without_srtp() -> None:
    plain = certificate_without_srtp()
    client = DtlsConnection(
        certificate=plain, role=Role.CLIENT, remote_fingerprints=sha256(identity("server")), now=0.0, data_only=True
    )
    wire = Wire(client, make(Role.SERVER, expects=sha256(plain), data_only=True))
    wire.start()
    assert wire.happened == {client: [Connected(None)], wire.server: [Connected(None)]}
    client.send(b"data")
    wire.run()
    assert wire.data(wire.server) == [b"data"]


# --- loss and damage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mtu", [1200, 400])
@pytest.mark.parametrize("lost", range(12))
def test_any_one_datagram_may_be_lost(lost: int, mtu: int) -> None:
    wire = pair(mtu=mtu)
    wire.route = lambda number, data: [] if number == lost else [(0.0, data)]
    wire.start()
    assert wire.now < 1.0, "recovered by our timer, not by OpenSSL's of one second"
    assert_works(wire)


@pytest.mark.parametrize("flight", range(4))
@pytest.mark.parametrize("times", [1, 3, 6])
def test_any_whole_flight_may_be_lost_several_times(flight: int, times: int) -> None:
    """A flight is known by who sends it and by how far its sender is."""
    wire = pair(mtu=400)
    seen: set[bytes] = set()

    def route(_: int, data: bytes) -> list[tuple[float, bytes]]:
        nonlocal times
        kind = flight_of(data)
        if kind == flight and times > 0:
            # What is protected looks different each time.
            key = b"".join(record.data[HEADER.size :] for record in split(data) if not record.epoch)
            if key in seen:  # the flight comes again
                seen.clear()
                times -= 1
            if times > 0:
                seen.add(key)
                return []
        return [(0.0, data)]

    wire.route = route
    wire.start()
    assert_works(wire)


def flight_of(data: bytes) -> int:
    """0 ClientHello, 1 ServerHello to its Done, 2 the client's certificate to Finished, 3 the server's Finished."""
    records = split(data)
    if records[0].content_type == CHANGE_CIPHER_SPEC or records[0].epoch:
        return 2 if len(records) > 2 else 3
    return {1: 0, 2: 1, 11: 2, 12: 1, 13: 1, 14: 1, 15: 2, 16: 2}.get(records[0].data[HEADER.size], 2)


@pytest.mark.parametrize("k", range(2, 8))
def test_every_kth_datagram_may_be_lost(k: int) -> None:
    wire = pair(mtu=400)
    # Not for ever: retransmissions in lock-step with the loss would lose the same part of a flight each time.
    wire.route = lambda number, data: [] if number % k == k - 1 and number < 20 else [(0.0, data)]
    wire.start()
    assert_works(wire)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), loss=st.floats(0, 0.4), mtu=st.sampled_from([300, 1200]))
def test_loss_duplication_and_reordering_delay_a_handshake_and_do_not_break_it(
    seed: int, loss: float, mtu: int
) -> None:
    rng = Random(seed)

    def route(number: int, data: bytes) -> list[tuple[float, bytes]]:
        if number < 60 and rng.random() < loss:
            return []
        copies = 2 if rng.random() < 0.2 else 1
        return [(rng.random() * 0.05, data) for _ in range(copies)]

    wire = pair(mtu=mtu)
    wire.route = route
    wire.start()
    assert_works(wire)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_during_the_handshake_ends_in_a_state_and_never_in_an_exception(data: st.DataObject) -> None:
    """On-path damage of plaintext may end the handshake; it ends with one reason, or with keys."""
    hit = data.draw(st.integers(0, 5))
    kind = data.draw(st.sampled_from(["flip", "cut", "noise", "append"]))
    rng = Random(data.draw(st.integers(0, 2**32)))

    def damage(number: int, datagram: bytes) -> list[tuple[float, bytes]]:
        if number != hit:
            return [(0.0, datagram)]
        if kind == "flip":
            damaged = bytearray(datagram)
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            return [(0.0, bytes(damaged))]
        if kind == "cut":
            return [(0.0, datagram[: rng.randrange(len(datagram))])]
        noise = rng.randbytes(rng.randrange(1, 200))
        return [(0.0, noise if kind == "noise" else datagram + noise)]

    wire = pair(mtu=400)
    wire.route = damage
    wire.start()
    for core in (wire.client, wire.server):
        outcomes = [event for event in wire.happened[core] if not isinstance(event, ApplicationData)]
        assert len(outcomes) - len(wire.ends(core)) <= 1
        assert len(wire.ends(core)) <= 1
        assert outcomes
    if kind != "flip":
        assert_works(wire)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_after_the_handshake_leaves_no_trace(data: st.DataObject) -> None:
    wire = pair()
    wire.start()
    wire.client.send(b"the packet")
    [whole] = wire.client.datagrams_to_send()
    kind = data.draw(st.sampled_from(["flip", "cut", "noise"]))
    if kind == "flip":
        bit = data.draw(st.integers(0, 8 * len(whole) - 1))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        arriving = bytes(damaged)
    elif kind == "cut":
        arriving = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        arriving = data.draw(st.binary(max_size=60))
    wire.server.receive_datagram(arriving, wire.now)
    wire.server.receive_datagram(whole, wire.now)
    assert wire.server.events() == [ApplicationData(b"the packet")]
    assert_works(wire)


def test_a_replayed_datagram_is_delivered_once() -> None:
    wire = pair()
    wire.start()
    wire.client.send(b"the packet")
    [whole] = wire.client.datagrams_to_send()
    for _ in range(3):
        wire.server.receive_datagram(whole, wire.now)
    assert wire.server.events() == [ApplicationData(b"the packet")]


def test_several_records_in_one_datagram_are_all_delivered() -> None:
    wire = pair()
    wire.start()
    for number in range(5):
        wire.client.send(b"packet %d" % number)
    wire.server.receive_datagram(b"".join(wire.client.datagrams_to_send()), wire.now)
    assert [event.data for event in wire.server.events() if isinstance(event, ApplicationData)] == [
        b"packet %d" % number for number in range(5)
    ]


def test_data_that_overtakes_the_last_flight_is_delivered_after_the_keys() -> None:
    """The server is done one flight earlier, and may speak at once."""
    wire = pair()
    wire.client.start(0.0)
    wire.server.start(0.0)
    flights = 0
    while not any(isinstance(event, Connected) for event in wire.server.events()):
        for datagram in wire.client.datagrams_to_send():
            wire.server.receive_datagram(datagram, 0.0)
        flights += 1
        if flights < 2:
            for datagram in wire.server.datagrams_to_send():
                wire.client.receive_datagram(datagram, 0.0)
    last_flight = wire.server.datagrams_to_send()
    wire.server.send(b"early")
    for datagram in wire.server.datagrams_to_send() + last_flight:
        wire.client.receive_datagram(datagram, 0.0)
    connected, early = wire.client.events()
    assert isinstance(connected, Connected)
    assert early == ApplicationData(b"early")


def test_no_datagram_of_a_handshake_is_larger_than_the_mtu() -> None:
    for mtu in (300, 576, 1200):
        wire = pair(mtu=mtu)
        wire.start()
        assert max(map(len, wire.sent)) <= mtu
        assert_works(wire)


def test_a_client_hello_of_two_datagrams_is_understood() -> None:
    wire = pair()
    assert wire.client._ssl is not None
    wire.client._ssl.set_tlsext_host_name(b"a" * 200 + b".example")
    wire.client._ssl.set_ciphertext_mtu(256)
    wire.client._mtu = 256
    wire.start()
    assert [flight_of(datagram) for datagram in wire.sent[:2]] == [0, 0]
    assert_works(wire)


def test_datagrams_before_the_start_are_not_lost() -> None:
    wire = pair()
    wire.client.start(0.0)
    wire.run(until=0.05)  # the ClientHello waits at a server that has not started
    wire.server.start(0.05)
    wire.run(until=0.05 + 4 * LATENCY)
    assert_works(wire)


# --- identity --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [Role.CLIENT, Role.SERVER], ids=lambda role: role.name)
def test_a_wrong_fingerprint_ends_it_before_keys_and_data(wrong: Role) -> None:
    other = sha256(Certificate.generate())
    wire = Wire(
        make(Role.CLIENT, expects=other if wrong is Role.CLIENT else None),
        make(Role.SERVER, expects=other if wrong is Role.SERVER else None),
    )
    wire.start()
    deceived = wire.client if wrong is Role.CLIENT else wire.server
    assert wire.happened[deceived] == [Closed("fingerprint mismatch")]
    assert wire.ends(wire.server if wrong is Role.CLIENT else wire.client) == ["close_notify"]


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-384", "SHA-512"])
def test_strong_hashes_identify(algorithm: str) -> None:
    digest = hashlib.new(algorithm.lower().replace("-", ""), identity("server").der).digest()
    noise = Fingerprint("sha-256", "00" * 32)
    wire = Wire(make(Role.CLIENT, expects=(noise, Fingerprint(algorithm, digest.hex(":")))), make(Role.SERVER))
    wire.start()
    assert_works(wire)


@pytest.mark.parametrize("algorithm", ["sha-1", "md5"])
def test_weak_hashes_do_not(algorithm: str) -> None:
    digest = hashlib.new(algorithm.replace("-", ""), identity("server").der).digest()
    wire = Wire(make(Role.CLIENT, expects=(Fingerprint(algorithm, digest.hex(":").upper()),)), make(Role.SERVER))
    wire.start()
    assert wire.happened[wire.client] == [Closed("fingerprint mismatch")]


@given(algorithm=st.text(max_size=10) | st.sampled_from(["sha-256"]), value=st.text(max_size=100))
def test_a_malformed_fingerprint_matches_nothing(algorithm: str, value: str) -> None:
    assert not Fingerprint(algorithm, value).matches(identity("server").der)


def test_no_fingerprint_matches_nothing() -> None:
    wire = Wire(make(Role.CLIENT, expects=()), make(Role.SERVER))
    wire.start()
    assert wire.happened[wire.client] == [Closed("fingerprint mismatch")]


def test_a_client_without_a_certificate_is_refused() -> None:
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_options(SSL.OP_NO_QUERY_MTU)
    context.set_tlsext_use_srtp(b"SRTP_AEAD_AES_128_GCM")
    nobody = Certificate.generate()
    nobody._context = context
    client = DtlsConnection(
        certificate=nobody, role=Role.CLIENT, remote_fingerprints=sha256(identity("server")), now=0.0
    )
    wire = Wire(client, make(Role.SERVER, expects=sha256(nobody)))
    wire.start()
    assert len(wire.ends(wire.server)) == 1
    assert wire.ends(wire.server)[0].startswith("openssl: ")
    assert not any(isinstance(event, Connected) for event in wire.happened[wire.server])


# --- the end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.CLIENT, Role.SERVER], ids=lambda role: role.name)
def test_a_silent_peer_ends_in_a_timeout_at_the_deadline(role: Role) -> None:
    core = make(role)
    core.start(100.0)
    times = []
    while (now := core.next_timeout()) < math.inf:
        core.handle_timeout(now - 0.001)  # early: nothing happens
        assert core.next_timeout() == now
        core.handle_timeout(now)
        times.append(round(now - 100.0, 3))
    assert core.events() == [Closed("handshake timed out")]
    retransmissions = [0.1, 0.3, 0.7, 1.5, *[3.1 + 1.6 * n for n in range(8)]] if role is Role.CLIENT else []
    assert times == pytest.approx([*retransmissions, 15.0])
    core.handle_timeout(1000.0)
    core.receive_datagram(b"\x16\xfe\xfd", 1000.0)
    core.close("again")
    assert core.events() == []


def test_close_notify_goes_both_ways_and_is_answered_once() -> None:
    wire = pair()
    wire.start()
    wire.client.send(b"last words")
    wire.client.close("done")
    before = len(wire.sent)
    wire.run()
    assert wire.data(wire.server) == [b"last words"]
    assert wire.ends(wire.client) == ["done"]
    assert wire.ends(wire.server) == ["close_notify"]
    assert len(wire.sent) - before == 3, "the words, the goodbye, the answer"
    for core in (wire.client, wire.server):
        core.send(b"dropped")
        core.close("again")
        assert core.next_timeout() == math.inf
    wire.run()
    assert len(wire.ends(wire.client)) == len(wire.ends(wire.server)) == 1
    assert len(wire.sent) - before == 3


def test_nothing_of_openssl_is_left_after_the_handshake_nor_after_a_failed_one() -> None:
    wire = pair()
    gone = [weakref.ref(core._ssl) for core in (wire.client, wire.server) if core._ssl is not None]
    wire.start()
    failing = make(Role.CLIENT)
    assert failing._ssl is not None
    gone.append(weakref.ref(failing._ssl))
    failing.start(0.0)
    failing.handle_timeout(15.0)
    assert failing.events() == [Closed("handshake timed out")]
    assert [reference() for reference in gone] == [None, None, None]


def test_a_cipher_without_aead_is_refused() -> None:
    """Our own contexts have none; this one is of somebody who has changed them."""
    certificate = Certificate.generate()
    certificate.context().set_cipher_list(b"ECDHE-ECDSA-AES128-SHA")
    client, server = (
        DtlsConnection(certificate=certificate, role=role, remote_fingerprints=sha256(certificate), now=0.0)
        for role in Role
    )
    wire = Wire(client, server)
    wire.start()
    assert wire.happened[server] == [Closed("unknown cipher")]
    assert not any(isinstance(event, Connected) for event in wire.happened[client])


def test_a_protected_alert_ends_it_unless_it_is_a_warning() -> None:
    wire = pair()
    wire.start()
    assert wire.client._sealer is not None
    for level, description in ((1, 100), (2, 80)):
        wire.server.receive_datagram(wire.client._sealer.seal(ALERT, bytes([level, description])), wire.now)
    assert wire.server.events() == [Closed("the peer's alert 80")]
    assert wire.server.datagrams_to_send() == []


def test_a_plaintext_alert_after_the_handshake_is_ignored() -> None:
    wire = pair()
    wire.start()
    for level, description in ((1, 0), (2, 40), (2, 80)):
        forged = HEADER.pack(ALERT, 0xFEFD, 0, 0, 1000 + description, 2) + bytes([level, description])
        for core in (wire.client, wire.server):
            core.receive_datagram(forged, wire.now)
    assert wire.client.dropped == wire.server.dropped == 3
    assert_works(wire)


def test_data_before_the_handshake_is_our_own_mistake() -> None:
    core = make(Role.CLIENT)
    with pytest.raises(UsageError):
        core.send(b"early")
    core.start(0.0)
    with pytest.raises(UsageError):
        core.send(b"still early")
    core.close("never mind")
    core.send(b"late: dropped")
    assert core.events() == [Closed("never mind")]


def test_what_does_not_fit_a_record_is_our_own_mistake() -> None:
    wire = pair()
    wire.start()
    with pytest.raises(UsageError):
        wire.client.send(bytes(2**14 + 1))
    wire.client.send(b"")
    wire.client.send(bytes(2**14))
    wire.run()
    assert wire.data(wire.server) == [bytes(2**14)]


def test_repeated_plaintext_handshakes_are_answered_a_bounded_number_of_times() -> None:
    """Anybody who can spoof the client's address could have us send our last flight for each datagram."""
    wire = pair()
    wire.start()
    first_flight = wire.sent[0]
    for _ in range(10 * MAX_FINAL_ANSWERS):
        wire.server.receive_datagram(first_flight, wire.now)
    assert len(wire.server.datagrams_to_send()) <= MAX_FINAL_ANSWERS
    assert_works(wire)


def test_each_repetition_of_the_last_flight_has_numbers_of_its_own() -> None:
    """A peer that has dropped the first for its number would never take it."""
    wire = pair()
    wire.start()
    first_flight = wire.sent[0]
    answers = [wire.sent[-1]]
    for _ in range(3):
        wire.server.receive_datagram(first_flight, wire.now)
        answers += wire.server.datagrams_to_send()
    numbers = [record.data[3:11] for answer in answers for record in split(answer)]
    assert len(numbers) == len(set(numbers)) == 4 * len(split(answers[0]))
    assert_works(wire)


def test_one_certificate_serves_many_connections_and_says_what_descriptions_carry() -> None:
    certificate = identity("server")
    assert certificate.context() is certificate.context()
    assert certificate.fingerprint == hashlib.sha256(certificate.der).digest().hex(":").upper()
    assert certificate.fingerprints() == sha256(certificate)
