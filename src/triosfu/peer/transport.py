"""The secured path to one client: ICE finds and watches it, DTLS makes the keys, SRTP guards the media.

`Transport` is what the UDP mux routes datagrams to. It composes three cores and holds no protocol rule of its own; all
its methods are synchronous. After every call that may change a core its owner calls `drain`.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from triosfu.dtls.core import ApplicationData, Closed, Connected, DtlsConnection, Fingerprint, Role
from triosfu.errors import MalformedPacket, PeerError
from triosfu.ice.core import Credentials, IceAgent, IceState, SelectedPair, StateChanged, TupleValidated
from triosfu.peer.sink import TransportSink
from triosfu.srtp.core import Inbound, Outbound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from triosfu.dtls.certificate import Certificate
    from triosfu.ice.candidate import Candidate
    from triosfu.media.feedback_lane import FeedbackLane
    from triosfu.media.runs import Datagrams
    from triosfu.net.udp import Address, Destination, UdpMux
    from triosfu.peer.state import PeerSettings
    from triosfu.srtp.core import SrtpKeys

WITHOUT_CONSENT = {IceState.CHECKING, IceState.FAILED}  # while no pair is selected (RFC 7675, section 5.1)
TRANSPORT_FEEDBACK = 205  # the packet type of transport-wide feedback and of NACKs (RFC 4585, section 6.2)
MAX_EARLY_DTLS = 8  # datagrams kept for a handshake that waits for the peer's description
MAX_DTLS_TRIES = 3  # handshakes against one ICE session; a mismatch may be an attacker's race (RFC 8827, section 6.5)


class Touched:
    """What something may have changed: that has to be drained, and what follows from it. Bits: an enum is slow."""

    NOTHING: Final = 0  # but the media's way from its publisher to its subscribers
    ICE: Final = 1
    MEDIA: Final = 2  # what the two sides of media report
    DATA: Final = 4  # SCTP, over a DTLS that is up
    ALL: Final = 8  # everything


class TransportOwner(Protocol):
    """Whom a transport serves; every method is synchronous and must not raise for bad bytes."""

    def transport_rtp(self, packet: bytes, now: float) -> None:
        """Take one decrypted and authenticated RTP packet."""

    @property
    def transport_run(self) -> Callable[[int, Datagrams, float], tuple[int, int]]:
        """Opens SRTP packets with libsrtp's session, of which the address is given, and takes the first ones; how many.

        What is not taken is left as it is. The second number says how many of them were not authentic, and dropped.
        """

    def transport_rtcp(self, packet: bytes, now: float) -> bool:
        """Take one decrypted and authenticated RTCP compound; whether media may have something to send then."""

    def transport_data(self, packet: bytes, now: float) -> None:
        """Take one SCTP packet."""

    def transport_secured(self, now: float) -> None:
        """Learn that DTLS is up and media keys are in place."""

    def transport_rerouted(self, now: float) -> None:
        """Learn that datagrams take another way from now on."""

    def transport_ice_state(self, state: IceState) -> None:
        """Learn of an ICE state change."""

    def transport_ended(self, reason: str) -> None:
        """Learn that the transport cannot carry anything any more."""

    def transport_media(self, now: float) -> None:
        """Send on the media of a batch in which there was nothing else."""

    def transport_drain(self, touched: int, now: float) -> None:
        """Drain what a batch of datagrams may have changed: see `Touched`."""

    def transport_failed(self, error: Exception) -> None:
        """Learn that one of our own cores raised what it must not; the mux has already let go of this transport."""


class Transport:
    """ICE, DTLS and SRTP of one peer connection over the shared sockets; `tcp_only`, over TCP if that is served."""

    def __init__(
        self,
        *,
        mux: UdpMux,
        certificate: Certificate,
        owner: TransportOwner,
        controlling: bool,
        settings: PeerSettings,
        rng: Random,
        now: float,
        tcp_only: bool = False,
        counters: Counter[str] | None = None,
    ) -> None:
        self._mux = mux
        self._owner = owner
        self._certificate = certificate
        self._settings = settings
        self._rng = rng
        self._closed = False
        self._touched = Touched.ALL  # in this batch
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.ice = IceAgent(
            local=Credentials.generate(rng),
            controlling=controlling,
            lite=settings.ice_lite,
            now=now,
            rng=rng,
            transaction_prefix=mux.transaction_prefix(self),
            disconnected_after=settings.disconnected_after,
            failed_after=settings.failed_after,
        )
        streams = mux.stream_candidates()
        self._stream_locals = {candidate.address for candidate in streams}
        for candidate in streams if tcp_only and streams else (*mux.host_candidates(), *streams):
            self.ice.add_local_candidate(candidate)
        mux.register(self.ice.local.ufrag, self)
        self._registered = {self.ice.local.ufrag}
        self._dtls: DtlsConnection | None = None
        self._dtls_role: Role | None = None
        self._fingerprints: tuple[Fingerprint, ...] = ()
        self._dtls_tries = 0
        self._dtls_begun = False
        self._early_dtls: list[bytes] = []
        self.secured = False
        self._inbound: Inbound | None = None
        self.feedback_lane: FeedbackLane | None = None
        """What takes transport-wide feedback out of SRTCP, compiled; set by the owner before anything can come."""
        self._open_lane: FeedbackLane | None = None  # while it can
        self.sink = TransportSink(mux.egress)
        """What media is written to; it knows the keys and the way out."""
        self._destinations: dict[tuple[Address, Address], Destination] = {}

    # --- what the owner sets ---------------------------------------------------------------------------------------

    def connect(
        self, *, remote: Credentials, lite: bool, role: Role, fingerprints: Sequence[Fingerprint], now: float
    ) -> None:
        """Start towards the peer that a description names; known credentials start nothing again.

        Raises:
            PeerError: The credentials are new ones, and neither side restarts ICE.
        """
        if self._closed:
            return
        if self.ice.remote not in {None, remote}:
            raise PeerError("ice: new credentials without a restart")
        if self._dtls_role is None:
            self._dtls_role, self._fingerprints = role, tuple(fingerprints)
        if self.ice.remote != remote:
            self.ice.set_remote_lite(lite)
            self.ice.set_remote_credentials(remote, now)

    def restart_ice(self, now: float) -> None:
        """Begin an ICE restart with fresh local credentials; the old pair carries on until a new one is chosen."""
        if self._closed:
            return
        self.ice.restart(Credentials.generate(self._rng), now)
        self._register_ufrags()

    def add_remote_candidate(self, candidate: Candidate, now: float) -> None:
        """Give ICE one more candidate of the peer."""
        self.ice.add_remote_candidate(candidate, now)

    def send_data(self, packet: bytes) -> None:
        """Queue one SCTP packet for the next `flush`; dropped unless DTLS is up."""
        if self._dtls is not None and self.secured:
            self._dtls.send(packet)

    def flush(self) -> None:
        """Send what DTLS has queued."""
        # Without a path there is nobody to send to; to keep datagrams for later would keep them without a bound.
        destination = self.destination
        for datagram in () if self._dtls is None else self._dtls.datagrams_to_send():
            if destination is None:
                self.counters["dtls_unsent"] += 1
            else:
                self._mux.egress.send(datagram, destination)

    def send_probe(self, packet: bytes) -> None:
        """Send one SCTP packet that must not be fragmented on its way; dropped unless DTLS is up and has a path."""
        if self._dtls is None or not self.secured or self.destination is None:
            return
        self.flush()
        self._dtls.send(packet)
        for datagram in self._dtls.datagrams_to_send():
            self._mux.egress.probe(datagram, self.destination)

    def send_rtcp(self, compound: bytes) -> None:
        """Protect and send one RTCP compound; dropped unless the transport is up."""
        if self.outbound is None or self.destination is None:
            self.counters["rtcp_unsent"] += 1
            return
        self._mux.egress.send(self.outbound.protect_rtcp(compound), self.destination)

    @property
    def outbound(self) -> Outbound | None:
        """What protects what we send; None until DTLS is up, and after the end."""
        return self.sink.outbound

    @property
    def destination(self) -> Destination | None:
        """Where everything goes; None while ICE knows of no way."""
        return self.sink.destination

    @property
    def dtls_client(self) -> bool | None:
        """Whether we are the DTLS client, or None while no description has decided."""
        return None if self._dtls_role is None else self._dtls_role is Role.CLIENT

    def next_timeout(self) -> float:
        """The earliest deadline of ICE and DTLS."""
        return min(self.ice.next_timeout(), self.dtls_timeout())

    def dtls_timeout(self) -> float:
        """The deadline of DTLS alone."""
        return math.inf if self._dtls is None else self._dtls.next_timeout()

    def handle_timeout(self, now: float) -> None:
        """Let ICE and DTLS act on time having passed."""
        self.ice.handle_timeout(now)
        if self._dtls is not None:
            self._dtls.handle_timeout(now)

    # --- Route: what the UDP mux delivers --------------------------------------------------------------------------

    def receive_stun(self, data: bytes, source: Address, local: Address, now: float) -> None:
        """Give one STUN message to ICE."""
        self._touched |= Touched.ICE
        try:
            self.ice.receive_datagram(data, source, local, now)
        except MalformedPacket:
            self.counters["malformed_stun"] += 1

    def receive_dtls(self, data: bytes, source: Address, now: float) -> None:  # noqa: ARG002  of the Route contract
        """Give one datagram from an ICE-validated tuple to DTLS."""
        self._touched |= Touched.DATA if self.secured else Touched.ALL
        if self._closed:
            return
        if self._dtls is None:
            # Who answers our offer begins as soon as a check of its own succeeds, which may be before the answer is
            # here. What it has sent by then it repeats at the earliest after a second, if it is OpenSSL.
            if len(self._early_dtls) < MAX_EARLY_DTLS:
                self._early_dtls.append(data)
            else:
                self.counters["early_dtls"] += 1
        else:
            self._take_dtls(self._dtls, data, now)

    def _take_dtls(self, dtls: DtlsConnection, data: bytes, now: float) -> None:
        try:
            dtls.receive_datagram(data, now)
        except MalformedPacket:
            self.counters["malformed_dtls"] += 1

    def receive_rtp(self, arena: memoryview, pointer: object, length: int, now: float, following: int = 0) -> int:
        """Unprotect a media packet where it lies in the receive arena and pass it on, and of those that follow many."""
        inbound = self._inbound
        if inbound is None:
            self.counters["early_rtp"] += 1
            return 0
        if inbound.address and inbound.kept(bytes(arena[8:12])):
            datagrams = arena, pointer, length + following, length
            taken, failed = self._owner.transport_run(inbound.address, datagrams, now)
            if taken:
                if failed:
                    self.counters["unauthentic_rtp"] += failed
                return taken - 1
        try:
            size = inbound.unprotect_in_place(pointer, length)
        except MalformedPacket:
            self.counters["unauthentic_rtp"] += 1
            return 0
        self._owner.transport_rtp(bytes(arena[:size]), now)
        return 0

    def receive_rtcp(self, arena: memoryview, pointer: object, length: int, now: float) -> bool:
        """Unprotect one RTCP compound where it lies in the receive arena and pass it on; whether anything follows."""
        inbound = self._inbound
        if inbound is None:
            self.counters["early_rtcp"] += 1
            return False
        try:
            if self._open_lane is not None and arena[1] == TRANSPORT_FEEDBACK:
                size = self._open_lane.receive(pointer, length, now)
                inbound.unprotected_rtcp(pointer)
                if not size:
                    return False
            else:
                size = inbound.unprotect_rtcp_in_place(pointer, length)
        except MalformedPacket:
            self.counters["unauthentic_rtcp"] += 1
            return False
        if not self._owner.transport_rtcp(bytes(arena[:size]), now):
            return False
        self._touched |= Touched.MEDIA
        return True

    def end_of_batch(self, now: float) -> None:
        """Drain the cores that a batch of datagrams may have changed."""
        if self._closed:
            return
        touched = self._touched
        if touched:
            self._touched = Touched.NOTHING
            self._owner.transport_drain(touched, now)
        else:
            self._owner.transport_media(now)

    def receive_failed(self, error: Exception) -> None:
        """Pass on that the mux removed this transport because one of the methods above raised."""
        if not self._closed:
            self._owner.transport_failed(error)

    # --- draining --------------------------------------------------------------------------------------------------

    def drain(self, now: float) -> None:
        """Act on the cores' events and send what they have to send."""
        if not self._closed:
            self._drain_ice(now)
        self.drain_dtls(now)

    def drain_dtls(self, now: float) -> None:
        """Act on the events of DTLS alone, and send what it has to send."""
        if not self._closed and self._dtls is not None:
            self._drain_dtls(self._dtls, now)

    # The owner may close this transport while it is told of an event. The events behind that one are void then: a
    # tuple bound for them would stay in the mux for ever.

    def drain_checks(self) -> bool:
        """Send what ICE has to send, if nothing else has come of it than that a known tuple has proved itself again.

        Otherwise nothing has happened, and the answer is False: `drain` has to act on it.
        """
        ice = self.ice
        if self._closed or not self._dtls_begun or self.destination is None or ice.has_news:
            return False
        for event in ice.events():
            if isinstance(event, TupleValidated):  # as `has_news` has promised
                self._bind(event)
        for transmit in ice.datagrams_to_send():
            self._mux.egress.send(transmit.data, self._destination(transmit.source, transmit.destination))
        return True

    def _bind(self, event: TupleValidated) -> None:
        if event.local in self._stream_locals:
            self._mux.bind_stream(event.remote, event.local, self)
        else:
            self._mux.bind(event.remote, self, proven=event.proven)

    def _drain_ice(self, now: float) -> None:
        for event in self.ice.events():
            if self._closed:
                return
            match event:
                case TupleValidated(local=local, remote=remote, proven=proven):
                    self._bind(event)
                    # A request alone may be a copy with a forged source: nothing goes there before it has answered.
                    # A lite agent never asks; its peer's word has to do (RFC 8445, section 2.5).
                    if self.destination is None and (proven or self.ice.lite):
                        self.sink.destination = self._destination(local, remote)
                    self._start_dtls(now)
                case SelectedPair(local=local, remote=remote):
                    before, self.sink.destination = self.destination, self._destination(local, remote)
                    if before is not self.destination:
                        self._owner.transport_rerouted(now)
                    self._register_ufrags()
                    self._start_dtls(now)
                case StateChanged(state=state):
                    if self.ice.selected is None and state in WITHOUT_CONSENT:
                        self.sink.destination = None
                    self._owner.transport_ice_state(state)
        for transmit in self.ice.datagrams_to_send():
            self._mux.egress.send(transmit.data, self._destination(transmit.source, transmit.destination))

    def _drain_dtls(self, dtls: DtlsConnection, now: float) -> None:
        for event in dtls.events():
            if self._closed:
                return
            match event:
                case Connected(srtp=keys):
                    self._secure(keys)
                    self._owner.transport_secured(now)
                case ApplicationData(data=data):
                    self._owner.transport_data(data, now)
                case Closed(reason=reason):
                    self._dtls_closed(reason, now)
        self.flush()

    def _start_dtls(self, now: float) -> None:
        # Only here, behind an authenticated ICE check, does a DTLS instance come into being (P22). It keeps what comes
        # early, and begins when there is somebody to answer.
        if self._dtls_role is None:
            return
        if self._dtls is None:
            self._dtls_tries += 1
            self._dtls_begun = False
            self._dtls = DtlsConnection(
                certificate=self._certificate,
                role=self._dtls_role,
                remote_fingerprints=self._fingerprints,
                now=now,
                mtu=self._settings.mtu,
            )
            early, self._early_dtls = self._early_dtls, []
            for datagram in early:
                self._take_dtls(self._dtls, datagram, now)
        if not self._dtls_begun and self.destination is not None:
            self._dtls_begun = True
            self._dtls.start(now)

    def _secure(self, keys: SrtpKeys | None) -> None:
        self.secured = True
        if keys is not None:
            inbound = Inbound(keys)
            self._inbound, self.sink.outbound = inbound, Outbound(keys)
            if self.feedback_lane is not None and self.feedback_lane.secure(inbound.address):
                self._open_lane = self.feedback_lane

    def _dtls_closed(self, reason: str, now: float) -> None:
        if not self.secured and self._dtls_tries < MAX_DTLS_TRIES and self._dtls is not None:
            # Somebody else's handshake may have won the race; the ICE session is still the right one.
            self.flush()
            self._dtls = None
            self._start_dtls(now)
            return
        self._owner.transport_ended(reason)

    def _destination(self, local: Address, remote: Address) -> Destination:
        known = self._destinations.get((local, remote))
        if known is None:
            if len(self._destinations) >= 64:
                self._destinations.clear()  # prepared addresses are a cache; candidates are bounded by ICE
            known = self._destinations[local, remote] = self._mux.egress.destination(remote, local)
        return known

    def _register_ufrags(self) -> None:
        current = set(self.ice.local_ufrags())
        for ufrag in current - self._registered:
            self._mux.register(ufrag, self)
        for ufrag in self._registered - current:
            self._mux.unregister(ufrag)
        self._registered = current

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self, reason: str) -> None:
        """Say a best-effort DTLS goodbye and leave every routing table. Synchronous; the second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._mux.remove(self)
        try:
            if self._dtls is not None:
                self._dtls.close(reason)
                self.flush()
            self.ice.close()
        finally:
            self._inbound = self.sink.outbound = None
            if self._open_lane is not None:
                self._open_lane.secure(0)
                self._open_lane = None
            self.sink.destination = None
            # DTLS is 80 KiB that the collector knows nothing of, and what was closed may be found by it late.
            self._dtls = None
            self._early_dtls.clear()
            self._destinations.clear()
            del self._owner
