"""One DTLS 1.2 association over an ICE-validated path: a sans-IO core around OpenSSL.

Time is the caller's. OpenSSL's own retransmission timer reads the wall clock and starts at a second; ours keeps the
last flight and sends it again after 100 ms, doubling, until the peer's next flight shows that it arrived. OpenSSL's
part ends with the handshake: its memory is let go of, and `dtls.protection` does the rest. Whatever bytes arrive,
nothing is raised: the association goes on, or ends with exactly one `Closed`.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from triosfu.dtls.certificate import OFFERED, Certificate, Fingerprint
from triosfu.dtls.protection import Keys, Opener, Sealer
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
MAX_AHEAD = 32  # records kept that overtook the end of the handshake
MAX_FINAL_ANSWERS = 32  # repetitions of our last flight for a peer that seems not to have it
MAX_MESSAGE = 2**14  # bytes of one record's content
READ = 4096  # bytes asked of OpenSSL at once: most flights; a much larger buffer is a mapping of its own each time
WARNING, CLOSE_NOTIFY = 1, 0  # the level and the description of an alert (RFC 5246, section 7.2)


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
        self.dropped = 0  # datagrams without a whole record, and records that are forged or repeated
        self._deadline = now + handshake_timeout
        self._numbers = PlaintextNumbers()
        self._flight: list[Record] = []  # our latest, as OpenSSL made it
        self._retransmit_at = math.inf
        self._retransmit_after = FIRST_RETRANSMISSION
        self._final_answers = 0
        self._early: list[bytes] = []
        self._outbox: list[bytes] = []
        self._events: list[Event] = []
        self._ahead: list[Record] = []  # of the next epoch, until there are keys
        self._sealed = b""  # our latest record of that epoch, as OpenSSL made it
        self._sealer: Sealer | None = None  # these two once connected
        self._opener: Opener | None = None
        ssl = SSL.Connection(certificate.context(), None)
        self._ssl: SSL.Connection | None = ssl  # until the end of the handshake
        ssl.set_ciphertext_mtu(mtu)
        if role is Role.CLIENT:
            ssl.set_connect_state()
        else:
            ssl.set_accept_state()

    # --- what the owner calls --------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin the handshake, which fails `handshake_timeout` seconds from now; a second call does nothing."""
        if self.state is not State.NEW:
            return
        self.state = State.HANDSHAKING
        self._deadline = now + self._handshake_timeout
        if self._role is Role.CLIENT and self._ssl is not None:
            self._advance(self._ssl, now)
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
        opener = self._opener
        if opener is not None and is_one_of_data(data):
            self._open(opener, APPLICATION_DATA, data)
            return
        try:
            records = split(data)
        except MalformedPacket:
            self.dropped += 1
            return
        if opener is None:
            self._receive_flight(records, now)
        else:
            self._receive(opener, records)

    def handle_timeout(self, now: float) -> None:
        """Retransmit or give up, if it is time for either."""
        if self.state is not State.HANDSHAKING or self._ssl is None:
            return
        if now >= self._deadline:
            self._end("handshake timed out")
        elif now >= self._retransmit_at:
            self._retransmit_after = min(2 * self._retransmit_after, LONGEST_RETRANSMISSION)
            self._retransmit_at = now + self._retransmit_after
            self._retransmit(self._ssl)

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
        if self._sealer is None:
            raise UsageError("dtls: data before the handshake is complete")
        if len(data) > MAX_MESSAGE:
            raise UsageError(f"dtls: {len(data)} bytes do not fit one record")
        if not data:
            return
        self._outbox.append(self._sealer.seal(APPLICATION_DATA, data))

    def close(self, reason: str) -> None:
        """End the association, saying close_notify if there is a peer to say it to; later calls do nothing."""
        self._end(reason)

    # --- the handshake ---------------------------------------------------------------------------------------------

    def _receive_flight(self, records: list[Record], now: float) -> None:
        """Give OpenSSL what is the handshake's; the rest has overtaken its end, and waits for the keys."""
        ours = b"".join(record.data for record in records if not record.epoch or record.content_type == HANDSHAKE)
        ahead = [record for record in records if record.epoch and record.content_type != HANDSHAKE]
        self._ahead += ahead[: MAX_AHEAD - len(self._ahead)]
        if ours and self._ssl is not None:
            self._ssl.bio_write(ours)
            self._advance(self._ssl, now)
        if self._opener is not None:
            ahead, self._ahead = self._ahead, []
            self._receive(self._opener, ahead)

    def _advance(self, ssl: SSL.Connection, now: float) -> None:
        """Let the handshake go as far as the bytes received allow."""
        try:
            ssl.do_handshake()
        except SSL.WantReadError:
            self._take_flight(ssl, now)
            return
        except SSL.Error as error:
            self._fail(ssl, error)
            return
        try:
            self._establish(ssl, now)
        except _Refused as refusal:
            with suppress(SSL.Error):  # for OpenSSL it is connected: the peer is told by close_notify
                ssl.shutdown()
            self._transmit(self._written(ssl))
            self._end(str(refusal))

    def _establish(self, ssl: SSL.Connection, now: float) -> None:
        """Check the peer's identity, export the keys, and let go of OpenSSL.

        Raises:
            _Refused: Why not; no event has happened.
        """
        certificate = ssl.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            raise _Refused("peer has no certificate")
        der = certificate.public_bytes(Encoding.DER)
        if not any(fingerprint.matches(der) for fingerprint in self._fingerprints):
            raise _Refused("fingerprint mismatch")
        name = ssl.get_selected_srtp_profile().decode()
        profile = next((profile for profile in OFFERED if profile.openssl_name == name), None)
        client = self._role is Role.CLIENT
        srtp = None
        if profile is not None:
            material = ssl.export_keying_material(EXPORTER_LABEL, profile.export_length)
            srtp = SrtpKeys.from_exporter(profile, material, client=client)
        elif not self._data_only:
            raise _Refused("no common srtp profile")
        keys = Keys.of(ssl, client=client)
        if keys is None:
            raise _Refused("unknown cipher")
        self._take_flight(ssl, now)
        self._retransmit_at = math.inf
        self._opener, self._sealer = Opener(keys), Sealer(keys, self._sealed)
        self.state = State.CONNECTED
        self._events.append(Connected(srtp))
        self._ssl = None
        if client:
            self._flight.clear()  # the peer has it: it has answered

    def _take_flight(self, ssl: SSL.Connection, now: float) -> None:
        """Send what OpenSSL has written; as it answers whole flights only, this also acknowledges our previous one."""
        records = self._written(ssl)
        self._transmit(records)
        if any(record.content_type == HANDSHAKE for record in records):  # not a mere alert
            self._flight = records
            self._retransmit_after = FIRST_RETRANSMISSION
            self._retransmit_at = now + FIRST_RETRANSMISSION

    def _retransmit(self, ssl: SSL.Connection) -> None:
        # When OpenSSL's own timer has run out too, it numbers encrypted records anew, which we cannot: prefer its copy.
        try:
            ssl.DTLSv1_handle_timeout()
        except SSL.Error as error:
            self._fail(ssl, error)
            return
        self._flight = self._written(ssl) or self._flight
        self._transmit(self._flight)

    def _transmit(self, records: list[Record]) -> None:
        self._outbox += pack([self._numbers.renumber(record) for record in records], self._mtu)

    def _written(self, ssl: SSL.Connection) -> list[Record]:
        """What OpenSSL wants to send. It writes whole records only."""
        written = b""
        with suppress(SSL.WantReadError):  # there is no more
            while not len(written) % READ:
                written += ssl.bio_read(READ)
        records = split(written) if written else []
        for record in records:
            if record.epoch:
                self._sealed = record.data
        return records

    # --- connected -------------------------------------------------------------------------------------------------

    def _receive(self, opener: Opener, records: list[Record]) -> None:
        """Take the records of one datagram."""
        for record in records:
            if record.epoch:
                self._open(opener, record.content_type, record.data)
            elif record.content_type == ALERT:
                self.dropped += 1  # anybody on the path can write it; nobody honest does after the handshake
        if any(record.content_type == HANDSHAKE for record in records):
            self._answer_repetition()

    def _open(self, opener: Opener, content_type: int, record: bytes) -> None:
        """Take what one protected record holds, if it is genuine and new."""
        data = opener.open(record)
        if data is None:
            self.dropped += 1
        elif content_type == APPLICATION_DATA:
            if data and self.state is State.CONNECTED:
                self._events.append(ApplicationData(data))
        elif content_type == ALERT and len(data) == 2:
            level, description = data
            if description == CLOSE_NOTIFY:
                self._end("close_notify")
            elif level != WARNING:
                self._end(f"the peer's alert {description}", goodbye=False)

    def _answer_repetition(self) -> None:
        """A peer that repeats its last flight lacks ours: send it again, its protected part under new numbers.

        Bounded in number, as plaintext records prove nothing about who sent them.
        """
        sealer = self._sealer
        if sealer is None or self._role is Role.CLIENT or self._final_answers == MAX_FINAL_ANSWERS:
            return
        self._final_answers += 1
        self._transmit([sealer.seal_again(record) if record.epoch else record for record in self._flight])

    # --- the end ---------------------------------------------------------------------------------------------------

    def _fail(self, ssl: SSL.Connection, error: SSL.Error) -> None:
        """End after OpenSSL gave up; the alert it wrote still leaves."""
        self._transmit(self._written(ssl))
        self._end(_describe(error))

    def _end(self, reason: str, *, goodbye: bool = True) -> None:
        if self.state is State.CLOSED:
            return
        if goodbye and self._sealer is not None:
            self._outbox.append(self._sealer.seal(ALERT, bytes([WARNING, CLOSE_NOTIFY])))
        self.state = State.CLOSED
        self._ssl = self._sealer = self._opener = None
        self._flight.clear()
        self._early.clear()
        self._ahead.clear()
        self._events.append(Closed(reason))


class _Refused(Exception):
    """The peer is not the one we expect, or agrees with us on too little."""


def _describe(error: SSL.Error) -> str:
    """OpenSSL's reason, in a word or two."""
    try:
        return f"openssl: {error.args[0][-1][-1]}"
    except (IndexError, TypeError):
        return "openssl: the connection failed"
