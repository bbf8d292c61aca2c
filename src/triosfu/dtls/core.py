"""One DTLS 1.2 association over an ICE-validated path: a sans-IO core around OpenSSL.

Time is the caller's. OpenSSL's own retransmission timer reads the wall clock and starts at a second; ours keeps the
last flight and sends it again after 100 ms, doubling, until the peer's next flight shows that it arrived. Whatever
bytes arrive, nothing is raised: the association goes on, or ends with exactly one `Closed`.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from triosfu.dtls.binding import records_of
from triosfu.dtls.certificate import OFFERED, Certificate, Fingerprint
from triosfu.dtls.records import (
    ALERT,
    APPLICATION_DATA,
    HANDSHAKE,
    PlaintextNumbers,
    Record,
    is_one_of_data,
    pack,
    split,
)
from triosfu.errors import MalformedPacket, UsageError
from triosfu.srtp.profiles import SrtpKeys

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ApplicationData", "Closed", "Connected", "DtlsConnection", "Event", "Fingerprint", "Role", "State"]

EXPORTER_LABEL = b"EXTRACTOR-dtls_srtp"  # RFC 5764, section 4.2
FIRST_RETRANSMISSION, LONGEST_RETRANSMISSION = 0.1, 1.6  # seconds
MAX_EARLY = 8  # datagrams kept for `start`
MAX_FINAL_ANSWERS = 32  # repetitions of our last flight for a peer that seems not to have it
MAX_MESSAGE = 2**14  # bytes of one record's content
EVERYTHING = 2**16  # records; OpenSSL itself keeps a hundred that overtook the end of the handshake


class Role(Enum):
    """Who sends the ClientHello: `a=setup:active` is the client (RFC 8842)."""

    CLIENT = "client"
    SERVER = "server"


class State(Enum):
    """The life of an association; it only moves down this list."""

    NEW = "new"
    HANDSHAKING = "handshaking"
    CONNECTED = "connected"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Connected:
    """The peer has proven to own the signalled certificate; `srtp` is None on a data-only association."""

    srtp: SrtpKeys | None


@dataclass(frozen=True, slots=True)
class ApplicationData:
    """One record of the peer's data: an SCTP packet."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The end, whoever caused it; nothing follows."""

    reason: str


Event: TypeAlias = Connected | ApplicationData | Closed


class DtlsConnection:
    """A DTLS association with the peer whose certificate has one of `remote_fingerprints`.

    `data_only` tolerates a peer without SRTP, for connections that carry no media.
    """

    def __init__(
        self,
        *,
        certificate: Certificate,
        role: Role,
        remote_fingerprints: Sequence[Fingerprint],
        now: float,
        mtu: int = 1200,
        handshake_timeout: float = 15.0,
        data_only: bool = False,
    ) -> None:
        self._role = role
        self._fingerprints = tuple(remote_fingerprints)
        self._mtu = mtu
        self._handshake_timeout = handshake_timeout
        self._data_only = data_only
        self.state = State.NEW
        self.dropped = 0  # datagrams without a whole record, and forged alerts
        self._deadline = now + handshake_timeout
        self._numbers = PlaintextNumbers()
        self._flight: list[Record] = []  # our latest, as OpenSSL made it
        self._retransmit_at = math.inf
        self._retransmit_after = FIRST_RETRANSMISSION
        self._final_answers = 0
        self._early: list[bytes] = []
        self._outbox: list[bytes] = []
        self._events: list[Event] = []
        self._ssl = SSL.Connection(certificate.context(), None)
        self._ssl.set_ciphertext_mtu(mtu)
        self._records = records_of(self._ssl)
        if role is Role.CLIENT:
            self._ssl.set_connect_state()
        else:
            self._ssl.set_accept_state()

    # --- what the owner calls --------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin the handshake, which fails `handshake_timeout` seconds from now; a second call does nothing."""
        if self.state is not State.NEW:
            return
        self.state = State.HANDSHAKING
        self._deadline = now + self._handshake_timeout
        if self._role is Role.CLIENT:
            self._advance(now)
        early, self._early = self._early, []
        for datagram in early:
            self.receive_datagram(datagram, now)

    def receive_datagram(self, data: bytes, now: float) -> None:
        """Take one datagram; never raises for its content. Before `start` a few are kept for it."""
        if self.state is State.NEW:
            if len(self._early) < MAX_EARLY:
                self._early.append(data)
            return
        if self.state is State.CLOSED:
            return
        if self.state is State.CONNECTED and is_one_of_data(data):
            self._open(data)
            return
        try:
            records = split(data)
        except MalformedPacket:
            self.dropped += 1
            return
        if self.state is State.HANDSHAKING:
            self._write(records)
            self._advance(now)
            self._read(EVERYTHING)
        elif genuine := self._without_plaintext_alerts(records):
            self._write(genuine)
            self._read(len(genuine))
            if any(record.content_type != APPLICATION_DATA for record in genuine):
                self._answer_repetition(genuine)

    def handle_timeout(self, now: float) -> None:
        """Retransmit or give up, if it is time for either."""
        if self.state is not State.HANDSHAKING:
            return
        if now >= self._deadline:
            self._end("handshake timed out")
        elif now >= self._retransmit_at:
            self._retransmit_after = min(2 * self._retransmit_after, LONGEST_RETRANSMISSION)
            self._retransmit_at = now + self._retransmit_after
            self._retransmit()

    def next_timeout(self) -> float:
        """When `handle_timeout` has something to do; infinity once connected or closed."""
        return min(self._deadline, self._retransmit_at) if self.state is State.HANDSHAKING else math.inf

    def datagrams_to_send(self) -> list[bytes]:
        """Drain what has to leave, in order."""
        drained, self._outbox = self._outbox, []
        return drained

    def events(self) -> list[Event]:
        """Drain what has happened, in order."""
        drained, self._events = self._events, []
        return drained

    def send(self, data: bytes) -> None:
        """Send `data` in one record and one datagram; dropped once closed. Its size is the caller's duty.

        Raises:
            UsageError: Not connected yet, or more than 16,384 bytes.
        """
        if self.state is State.CLOSED:
            return
        if self.state is not State.CONNECTED:
            raise UsageError("dtls: data before the handshake is complete")
        if len(data) > MAX_MESSAGE:
            raise UsageError(f"dtls: {len(data)} bytes do not fit one record")
        if not data:
            return
        try:
            self._outbox.append(self._records.seal(data))
        except SSL.Error as error:
            self._fail(error)

    def close(self, reason: str) -> None:
        """End the association, saying close_notify if there is a peer to say it to; later calls do nothing."""
        self._end(reason)

    # --- the handshake ---------------------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        """Let the handshake go as far as the bytes received allow."""
        try:
            self._ssl.do_handshake()
        except SSL.WantReadError:
            self._take_flight(now)
            return
        except SSL.Error as error:
            self._fail(error)
            return
        if refusal := self._establish():
            self._take_flight(now)
            self.state = State.CONNECTED  # for OpenSSL it is one: the peer is told by close_notify
            self._end(refusal)
            return
        self._take_flight(now)
        self._retransmit_at = math.inf

    def _establish(self) -> str | None:
        """Check the peer's identity, then export keys; returns why not, and no event has happened."""
        certificate = self._ssl.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            return "peer has no certificate"
        der = certificate.public_bytes(Encoding.DER)
        if not any(fingerprint.matches(der) for fingerprint in self._fingerprints):
            return "fingerprint mismatch"
        name = self._ssl.get_selected_srtp_profile().decode()
        profile = next((profile for profile in OFFERED if profile.openssl_name == name), None)
        keys = None
        if profile is not None:
            material = self._ssl.export_keying_material(EXPORTER_LABEL, profile.export_length)
            keys = SrtpKeys.from_exporter(profile, material, client=self._role is Role.CLIENT)
        elif not self._data_only:
            return "no common srtp profile"
        self.state = State.CONNECTED
        self._events.append(Connected(keys))
        return None

    def _take_flight(self, now: float) -> None:
        """Send what OpenSSL has written; as it answers whole flights only, this also acknowledges our previous one."""
        records = self._written()
        self._transmit(records)
        if any(record.content_type == HANDSHAKE for record in records):  # not a mere alert
            self._flight = records
            self._retransmit_after = FIRST_RETRANSMISSION
            self._retransmit_at = now + FIRST_RETRANSMISSION

    def _retransmit(self) -> None:
        # When OpenSSL's own timer has run out too, it numbers encrypted records anew, which we cannot: prefer its copy.
        try:
            self._ssl.DTLSv1_handle_timeout()
        except SSL.Error as error:
            self._fail(error)
            return
        self._flight = self._written() or self._flight
        self._transmit(self._flight)

    def _transmit(self, records: list[Record]) -> None:
        self._outbox += pack([self._numbers.renumber(record) for record in records], self._mtu)

    def _written(self) -> list[Record]:
        """What OpenSSL wants to send. It writes whole records only."""
        written = self._records.written()
        return split(written) if written else []

    # --- connected -------------------------------------------------------------------------------------------------

    def _without_plaintext_alerts(self, records: list[Record]) -> list[Record]:
        """Anybody on the path can write those; nobody honest does after the handshake."""
        kept = [record for record in records if record.epoch or record.content_type != ALERT]
        self.dropped += len(kept) < len(records)
        return kept

    def _write(self, records: list[Record]) -> None:
        self._ssl.bio_write(b"".join(record.data for record in records))

    def _read(self, records: int) -> None:
        """Deliver what came in `records` records, all of it: bytes left in the BIO would run into the next datagram's.

        Each call of OpenSSL's returns one record's data, or finds nothing in all that is left.
        """
        if self.state is not State.CONNECTED:
            return
        try:
            for _ in range(records):
                self._events.append(ApplicationData(self._ssl.recv(MAX_MESSAGE)))
        except SSL.Error as error:
            self._stopped(error)

    def _open(self, record: bytes) -> None:
        """Deliver what one record of data holds, if it is genuine; it is most of what comes."""
        try:
            self._events.append(ApplicationData(self._records.open(record)))
        except SSL.Error as error:
            self._stopped(error)

    def _stopped(self, error: SSL.Error) -> None:
        """There is no more to read: for now, or for good."""
        match error:
            case SSL.WantReadError():
                pass
            case SSL.ZeroReturnError():
                self._end("close_notify")
            case _:
                self._fail(error)

    def _answer_repetition(self, records: list[Record]) -> None:
        """A peer that repeats its last flight lacks ours: send it again, be it OpenSSL's copy or the one we kept.

        Bounded in number, as plaintext records prove nothing about who sent them.
        """
        if self.state is not State.CONNECTED:
            return
        answer = self._written()
        repeated = any(record.content_type == HANDSHAKE for record in records)
        if not answer and repeated and self._role is Role.SERVER and self._final_answers < MAX_FINAL_ANSWERS:
            self._final_answers += 1
            answer = self._flight
        self._transmit(answer)

    # --- the end ---------------------------------------------------------------------------------------------------

    def _fail(self, error: SSL.Error) -> None:
        """End after OpenSSL gave up; the alert it wrote still leaves."""
        self._transmit(self._written())
        self._end(_describe(error), goodbye=False)

    def _end(self, reason: str, *, goodbye: bool = True) -> None:
        if self.state is State.CLOSED:
            return
        if goodbye and self.state is State.CONNECTED:
            with suppress(SSL.Error):  # a goodbye is best effort
                self._ssl.shutdown()
            self._transmit(self._written())
        self.state = State.CLOSED
        self._flight.clear()
        self._early.clear()
        self._events.append(Closed(reason))


def _describe(error: SSL.Error) -> str:
    """OpenSSL's reason, in a word or two."""
    try:
        return f"openssl: {error.args[0][-1][-1]}"
    except (IndexError, TypeError):
        return "openssl: the connection failed"
