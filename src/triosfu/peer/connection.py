"""One peer connection: composes the cores, owns their clock, and closes all of it at once.

It holds no protocol rule. Datagrams come in through `Transport`, media goes to `Ingress` and `Sender`, SCTP to
`DataChannels`, descriptions to `Negotiation`; after every call that changes any of them `_drain` empties all outputs,
wakes the parked writers, and moves the deadline of its alarm. What happens most, an ICE check, a report on media or a
message, changes one core alone; `_drain_touched` and `_drain_channels` then do for that one what `_drain` does for all,
and leave it to `_drain` as soon as anything follows from it for another.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import structlog
import trio

from triosfu.datachannel.core import ChannelClosed, ChannelMessage, ChannelOpened, DataChannels, Ended
from triosfu.dtls.core import Fingerprint, Role
from triosfu.errors import MalformedPacket, UsageError
from triosfu.ice.candidate import Candidate
from triosfu.ice.core import Credentials, IceState
from triosfu.media.ingress import Ingress
from triosfu.media.runs import intake_of
from triosfu.media.sender import Sender
from triosfu.net.clock import Alarm
from triosfu.peer.channel import OVER, ChannelState, DataChannel
from triosfu.peer.state import PeerSettings, PeerState
from triosfu.peer.transport import Touched, Transport
from triosfu.peer.waiting import WaitingPlace
from triosfu.rtp.rtcp import ReceiverReport, Remb, Sdes, parse_compound
from triosfu.sctp.core import Association
from triosfu.sdp.negotiation import Changes, LocalTransport, Negotiation
from triosfu.srtp.binding import unprotect_address

if TYPE_CHECKING:
    from random import Random

    from triosfu.datachannel.core import Event
    from triosfu.dtls.certificate import Certificate
    from triosfu.net.udp import UdpMux
    from triosfu.peer.state import PeerHandler
    from triosfu.sdp.negotiation import MediaPolicy

ONLY_KNOWN = (ReceiverReport, Remb, Sdes)  # these add to what is known, and to nothing that is to be sent
MAX_REMOTE_CANDIDATES = 64  # that one client may add to one ICE session of a peer connection

log = structlog.get_logger(__name__)


class PeerConnection:
    """A WebRTC peer connection of the server's side.

    Everything but `run` and `DataChannel.send` is synchronous: descriptions are applied and channels opened without
    waiting for the network, so nothing that the network does can hold up who calls them.
    """

    def __init__(
        self,
        *,
        name: str,
        mux: UdpMux,
        certificate: Certificate,
        handler: PeerHandler,
        policy: MediaPolicy,
        single: bool,
        offerer: bool,
        rng: Random,
        settings: PeerSettings | None = None,
        tcp_only: bool = False,
        ntp_offset: float = 0.0,
        counters: Counter[str] | None = None,
    ) -> None:
        now = trio.current_time()
        self.name = name
        self.settings = settings or PeerSettings()
        self.state = PeerState.NEW
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.waiting = WaitingPlace()
        self.turn = 0  # how often it was handed over
        self._handler = handler
        self._mux = mux
        self._certificate = certificate
        self._transport = Transport(
            mux=mux,
            certificate=certificate,
            owner=self,
            controlling=offerer,
            settings=self.settings,
            rng=rng,
            now=now,
            tcp_only=tcp_only or self.settings.tcp_only,
            counters=counters,
        )
        self.sink = self._transport.sink
        self.negotiation = Negotiation(local=self._local_transport(), policy=policy, single=single, rng=rng)
        intake = intake_of(mux.egress.kernel_queue, unprotect_address())
        self.ingress = Ingress(rng=rng, now=now, counters=counters, intake=intake)
        self.transport_run = self.ingress.receive_run  # of the hot path: without a step between
        self.ingress.wake = self.drain_soon
        compiled = self.sink.compiled
        kernel = None if compiled is None else compiled.queue.kernel
        self.sender = Sender(rng=rng, now=now, ntp_offset=ntp_offset, kernel=kernel)
        self._transport.feedback_lane = self.sender.feedback_lane
        association = Association(now=now, rng=rng, max_message_size=self.settings.max_message_size, over_dtls=True)
        self.sctp_drops = association.dropped
        """Packets and chunks of SCTP that were dropped, by reason."""
        self._data = DataChannels(association, dtls_client=None)
        self._channels: dict[int, DataChannel] = {}
        self._remote_candidates = 0
        self._connect_by = math.inf
        self._draining = False
        self._again = False
        self._scope = trio.CancelScope()
        self._bug: Exception | None = None
        self._alarm = Alarm(mux.clock, self._time_has_come)
        # By when each of the cores wants to be called at the latest; whoever changes one says so anew.
        self._ice_at = self._dtls_at = self._data_at = self._media_at = math.inf

    def __repr__(self) -> str:
        return f"<PeerConnection {self.name} {self.state.value}>"

    # --- life ------------------------------------------------------------------------------------------------------

    async def run(self, turn: int = 0) -> None:
        """Own the connection until it is closed; returns then, whoever closed it. Its time is kept by the mux's clock.

        Cancelled, the connection is closed: its writers are woken, its tuples and timers are gone. When it is handed
        over, `turn` is over, and this returns and leaves the connection as it is. A bug that showed when the time of
        one of the cores had come is raised here, and closes the connection.
        """
        if turn != self.turn:
            return
        try:
            with self._scope:
                await self._alarm.wait()
            if self._bug is not None and turn == self.turn:
                raise self._bug
        finally:
            if turn == self.turn:
                self.close("cancelled")

    def hand_over(self) -> None:
        """Begin another turn, for whoever starts `run` with it in the same step; the connection stays open."""
        self.turn += 1
        before, self._scope = self._scope, trio.CancelScope()
        if before.cancel_called:
            self._scope.cancel()
        before.cancel()

    def _time_has_come(self) -> None:
        try:
            self._handle_timeout(trio.current_time())
        except Exception as error:  # noqa: BLE001  whatever it is, `run` tells its owner
            self._bug = error
            self._scope.cancel()

    def _handle_timeout(self, now: float) -> None:
        """Call those cores whose time has come."""
        touched = Touched.NOTHING
        if now >= min(self._dtls_at, self._data_at, self._connect_by):
            self._transport.handle_timeout(now)
            self._data.handle_timeout(now)
            if now >= self._connect_by:
                self._connect_by = math.inf
                self._move(PeerState.FAILED, "the transport did not come up in time")
            touched = Touched.ALL
        elif now >= self._ice_at:
            self._transport.ice.handle_timeout(now)
            touched = Touched.ICE
        if now >= self._media_at:
            self.ingress.handle_timeout(now)
            self.sender.handle_timeout(now)
            touched |= Touched.MEDIA
        self._drain_touched(touched, now)

    def close(self, reason: str) -> None:
        """End the connection: synchronous, first, and final.

        Parked writers wake with PeerGone, channels are closed, the goodbyes (SCTP ABORT, DTLS close_notify) leave
        without waiting, the routing tables forget the peer, and `run` returns. Closing again does nothing.
        """
        if self.state is PeerState.CLOSED:
            return
        self.state = PeerState.CLOSED
        self._scope.cancel()
        self.waiting.end(reason)
        self._alarm.cancel()
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            channel.over(ChannelState.CLOSED)
        try:
            self.ingress.close()
            self.sender.close()
            self._data.abort(reason, trio.current_time())
            for datagram in self._data.datagrams_to_send():
                self._transport.send_data(datagram)
        except Exception:  # a bug in a core must not keep the rest of it from being taken apart
            log.exception("bug", peer=self.name, doing="close")
            self.counters["bugs"] += 1
        finally:
            self._transport.close(reason)
        self.counters.update({f"sctp: {why}": count for why, count in self.sctp_drops.items()})
        for channel in channels:
            self._handler.peer_channel_closed(self, channel, reason)
        self._handler.peer_state_changed(self, PeerState.CLOSED, reason)

    @property
    def closed(self) -> bool:
        """Whether this connection is over for good."""
        return self.state is PeerState.CLOSED

    @property
    def parked(self) -> int:
        """How many tasks wait to send on a data channel."""
        return len(self.waiting) + sum(channel.queued for channel in self._channels.values())

    @property
    def round_trip_time(self) -> float:
        """The smoothed round trip to the client in seconds, from ICE checks; 0.07 while unknown."""
        return self._transport.ice.rtt or 0.07

    @property
    def srtp(self) -> str:
        """The name of the protection profile that DTLS has chosen (RFC 5764, section 4.1.2); "" while there is none."""
        outbound = self._transport.outbound
        return "" if outbound is None else outbound.profile.name

    # --- descriptions ----------------------------------------------------------------------------------------------

    def accept_offer(self, sdp: str) -> Changes:
        """Apply the client's offer; `create_answer` gives the reply. Returns at once whatever the network does.

        Raises:
            MalformedPacket: The text is not a session description; nothing was changed.
            PeerError: It breaks the rules of offer and answer; nothing was changed.
        """
        changes = self.negotiation.accept_offer(sdp)
        now = trio.current_time()
        if changes.ice_restart:
            self._restart_ice(now)
        self._apply(changes, now)
        return changes

    def create_answer(self) -> str:
        """Return the answer to the offer accepted last."""
        return self.negotiation.create_answer()

    def create_offer(self, *, ice_restart: bool = False) -> str:
        """Return an offer of what this side wants to send; the client's answer goes to `accept_answer`."""
        if ice_restart:
            self._restart_ice(trio.current_time())
        offer = self.negotiation.create_offer()
        if ice_restart:
            self._drain(trio.current_time())
        return offer

    def accept_answer(self, sdp: str) -> Changes:
        """Apply the client's answer to our offer. Errors as `accept_offer`."""
        changes = self.negotiation.accept_answer(sdp)
        self._apply(changes, trio.current_time())
        return changes

    def restart_ice(self, remote: Credentials) -> None:
        """Begin a new ICE session with the client's new credentials; ours are then in `negotiation.local`.

        The old path carries on until the new session has one; the client's earlier candidates are forgotten.

        Raises:
            UsageError: There was no description yet.
        """
        self.negotiation.restart_ice(remote.ufrag, remote.pwd)
        now = trio.current_time()
        self._restart_ice(now)
        self._apply(Changes(ice_restart=True), now)

    def add_remote_candidate(self, text: str) -> None:
        """Add one trickled candidate; what is malformed, foreign or too much is counted and dropped."""
        now = trio.current_time()
        self._add_candidate(text, now)
        self._drain(now)

    def _add_candidate(self, text: str, now: float) -> None:
        if self._remote_candidates >= MAX_REMOTE_CANDIDATES or self.state is PeerState.CLOSED:
            self.counters["candidates_dropped"] += 1
            return
        self._remote_candidates += 1
        try:
            self._transport.add_remote_candidate(Candidate.parse(text), now)
        except MalformedPacket:
            self.counters["malformed_candidates"] += 1

    @property
    def local_candidates(self) -> list[str]:
        """Our candidates as `candidate:…` lines."""
        return [str(candidate) for candidate in self._transport.ice.local_candidates]

    def _restart_ice(self, now: float) -> None:
        self._transport.restart_ice(now)
        self._remote_candidates = 0
        self.negotiation.local = self._local_transport()

    def _local_transport(self) -> LocalTransport:
        ice = self._transport.ice
        return LocalTransport(
            ufrag=ice.local.ufrag,
            pwd=ice.local.pwd,
            fingerprint=self._certificate.fingerprint,
            candidates=self.local_candidates,
            ice_lite=self.settings.ice_lite,
        )

    def _apply(self, changes: Changes, now: float) -> None:
        remote = self.negotiation.remote
        if remote is None:
            raise UsageError("peer: a description was applied that names no transport")
        if self.closed:
            return
        client = bool(self.negotiation.dtls_client)
        self._transport.connect(
            remote=Credentials(remote.ufrag, remote.pwd),
            lite=remote.ice_lite,
            role=Role.CLIENT if client else Role.SERVER,
            fingerprints=[Fingerprint(item.algorithm, item.value) for item in remote.fingerprints],
            now=now,
        )
        self._data.set_role(dtls_client=client, now=now)
        self._data.remote_max_message_size = remote.max_message_size
        self._data.remote_max_packet_size(remote.max_packet_size)
        if self._transport.secured and self.negotiation.has_data:
            self._data.connect(now)  # a section for data may come long after the transport is up
        for candidate in remote.candidates:
            self._add_candidate(candidate, now)
        if self.state in {PeerState.NEW, PeerState.FAILED}:
            self._connect_by = now + self.settings.connect_timeout
            self._move(PeerState.CONNECTING, "")
        for section in changes.ended:
            self._handler.peer_incoming_ended(self, section)
        for section in [*changes.added, *changes.changed]:
            if self.closed:  # a handler may close us
                return
            self._handler.peer_incoming_track(self, section)
        self._drain(now)

    # --- data channels ---------------------------------------------------------------------------------------------

    def open_channel(
        self,
        label: str,
        *,
        protocol: str = "",
        ordered: bool = True,
        max_retransmits: int | None = None,
        lifetime: float | None = None,
    ) -> DataChannel:
        """Return a new data channel at once; its OPEN goes out when the transport is up, armed with a deadline."""
        if self.state is PeerState.CLOSED:
            raise UsageError("peer: closed")
        now = trio.current_time()
        handle = self._data.open(
            label,
            protocol=protocol,
            ordered=ordered,
            max_retransmits=max_retransmits,
            lifetime=lifetime,
            now=now,
        )
        channel = self._channels[handle] = DataChannel(self, handle, label=label, protocol=protocol)
        self._drain(now)
        return channel

    def buffered(self, channel: DataChannel) -> int:
        """Bytes of `channel` that were accepted and not yet acknowledged."""
        return self._data.buffered(channel.id) if self._channels.get(channel.id) is channel else 0

    def send_message(self, channel: DataChannel, data: bytes, *, binary: bool) -> bool:
        """Queue one message on an open channel; use `DataChannel.send` or `send_nowait`.

        Returns False when the channel is over in the cores already, and the news of it not yet told.

        Raises:
            UsageError: The message is larger than the peer accepts.
        """
        limit = self._data.remote_max_message_size
        if limit and len(data) > limit:
            raise UsageError(f"peer: a message of {len(data)} bytes; the client takes {limit}")
        now = trio.current_time()
        try:
            self._data.send(channel.id, data, binary=binary, now=now)
        except UsageError:
            return False
        self._drain_channels(now)
        return True

    def withhold(self, size: int) -> None:
        """Let the peer send less by `size` bytes, which it has sent and nobody has taken yet; 0 is as usual."""
        now = trio.current_time()
        self._data.withhold(size, now)
        self._drain_channels(now)

    def close_channel(self, channel: DataChannel) -> None:
        """Close one channel; use `DataChannel.close`."""
        if self._channels.get(channel.id) is not channel:
            return
        now = trio.current_time()
        self._data.close(channel.id, now)
        self._drain(now)

    # --- what the transport tells (TransportOwner) -----------------------------------------------------------------

    def transport_rtp(self, packet: bytes, now: float) -> None:
        """Give a decrypted packet to the receive side."""
        self.ingress.receive_rtp(packet, now)

    def transport_rtcp(self, packet: bytes, now: float) -> bool:
        """Give a decrypted compound to both media sides; False if nothing follows from it for what is to be sent."""
        try:
            if self.sender.receive_feedback(packet, now):
                return False
            reports = parse_compound(packet)
        except MalformedPacket:
            self.counters["malformed_rtcp"] += 1
            return False
        self.ingress.receive_rtcp(reports, now)
        self.sender.receive_rtcp(reports, now)
        return not all(isinstance(report, ONLY_KNOWN) for report in reports)

    def transport_data(self, packet: bytes, now: float) -> None:
        """Give an SCTP packet to the association."""
        try:
            self._data.receive_datagram(packet, now)
        except MalformedPacket:
            self.counters["malformed_sctp"] += 1

    def transport_rerouted(self, now: float) -> None:
        """Have SCTP find out anew how large packets may be."""
        self._data.path_changed(now)

    def transport_secured(self, now: float) -> None:
        """Start SCTP, if negotiated, now that there is a secure path."""
        if self.negotiation.has_data:
            self._data.connect(now)
        self._update_state()
        self.sender.resync(now)

    def transport_ice_state(self, state: IceState) -> None:
        """Follow ICE."""
        if state is IceState.FAILED:
            self._connect_by = math.inf
            self._move(PeerState.FAILED, "no answer from the client")
        elif state is IceState.DISCONNECTED and self.state is PeerState.CONNECTED:
            self._move(PeerState.DISCONNECTED, "the client fell silent")
        else:
            self._update_state()

    def transport_ended(self, reason: str) -> None:
        """Close: there is no path any more."""
        self.close(reason)

    def transport_media(self, now: float) -> None:
        """Forward; media changes no other core than this one."""
        ingress = self.ingress
        ingress.forward(now)
        if ingress.reports_due:
            self._drain_touched(Touched.MEDIA, now)
        elif (at := ingress.next_timeout()) < self._media_at:
            self._media_at = at
            self._alarm.deadline = min(self._alarm.deadline, at)

    def transport_drain(self, touched: int, now: float) -> None:
        """Drain after a batch of datagrams."""
        self._drain_touched(touched, now)

    def transport_failed(self, error: Exception) -> None:
        """Close because of a bug of ours; it has been logged where it was caught."""
        self.close(f"internal error: {type(error).__name__}")

    def _update_state(self) -> None:
        if self._transport.ice.state is IceState.CONNECTED and self._transport.secured:
            self._connect_by = math.inf
            self._move(PeerState.CONNECTED, "")

    def _move(self, state: PeerState, reason: str) -> None:
        if self.state in {state, PeerState.CLOSED}:
            return
        self.state = state
        self._handler.peer_state_changed(self, state, reason)

    # --- draining --------------------------------------------------------------------------------------------------

    def drain_soon(self) -> None:
        """Drain because another peer connection asked something of our media, such as a keyframe.

        Never raises: what is wrong with this connection is not the other one's business.
        """
        try:
            self._drain(trio.current_time())
        except Exception as error:
            log.exception("bug", peer=self.name, doing="drain")
            self.counters["bugs"] += 1
            self.transport_failed(error)

    def _drain(self, now: float) -> None:
        # A handler may call back into this connection while its events are being told. The loop then goes round
        # again instead of recursing, so that events are told in order and each output is drained.
        self._again = True
        if self._draining:
            return
        self._draining = True
        try:
            while self._again and self.state is not PeerState.CLOSED:
                self._again = False
                self.ingress.forward(now)
                self._transport.drain(now)  # first, as what DTLS brings is SCTP's
                if not self.closed:
                    self._drain_data()
        finally:
            self._draining = False
        if self.state is PeerState.CLOSED:
            return
        self._send_reports()
        self.waiting.notify()
        self._ice_at = self._transport.ice.next_timeout()
        self._dtls_at = self._transport.dtls_timeout()
        self._data_at = self._data.next_timeout()
        self._arm()

    def _drain_touched(self, touched: int, now: float) -> None:
        """Drain the cores that were touched, and all of them if more than what they have to send follows from it."""
        if touched & Touched.ALL or self._draining:
            self._drain(now)
            return
        self.ingress.forward(now)  # media touches nothing, and may have come in the same batch
        if touched & Touched.ICE:
            if not self._transport.drain_checks():
                self._drain(now)
                return
            self._ice_at = self._transport.ice.next_timeout()
        if touched & Touched.MEDIA or self.ingress.reports_due:
            self._send_reports()
        if touched & Touched.DATA:
            self._drain_channels(now, received=True)
        if self.state is not PeerState.CLOSED:
            self._arm()

    def _drain_channels(self, now: float, *, received: bool = False) -> None:
        """Drain SCTP, and DTLS ahead of it if something was `received`; all cores if a handler calls back meanwhile."""
        self._again = self._draining
        if self._draining:
            return
        self._draining = True
        try:
            if received:
                self._transport.drain_dtls(now)
            if not self.closed:
                self._drain_data()
        finally:
            self._draining = False
        if self._again:
            self._drain(now)
        elif self.state is not PeerState.CLOSED:
            self.waiting.notify()
            self._data_at = self._data.next_timeout()
            self._set_alarm()

    def _send_reports(self) -> None:
        if self._transport.outbound is not None:
            for compound in self.ingress.rtcp_to_send():
                self._transport.send_rtcp(compound)
            for compound in self.sender.rtcp_to_send():
                self._transport.send_rtcp(compound)

    def _arm(self) -> None:
        self._media_at = min(self.ingress.next_timeout(), self.sender.next_timeout())
        self._set_alarm()

    def _set_alarm(self) -> None:
        self._alarm.deadline = min(self._ice_at, self._dtls_at, self._data_at, self._media_at, self._connect_by)

    def _drain_data(self) -> None:
        for event in self._data.events():
            self._tell(event)
            if self.state is PeerState.CLOSED:
                return
        if self._data.ending:
            # The peer shuts SCTP down: what is queued still goes, but who waits to queue more would wait in vain.
            for channel in self._channels.values():
                if channel.state not in OVER:
                    channel.over(ChannelState.CLOSING)
        if packets := self._data.datagrams_to_send():
            for packet in packets:
                self._transport.send_data(packet)
            self._transport.flush()
        for probe in self._data.probes_to_send():
            self._transport.send_probe(probe)

    def _tell(self, event: Event) -> None:
        match event:
            case ChannelMessage(id=handle, data=data, binary=binary):
                if channel := self._channels.get(handle):
                    self._handler.peer_message(self, channel, data, binary)
            case ChannelOpened():
                self._channel_opened(event)
            case ChannelClosed(id=handle, reason=reason):
                if channel := self._channels.pop(handle, None):
                    channel.over(ChannelState.CLOSED)
                    self._handler.peer_channel_closed(self, channel, reason)
            case Ended():
                self.counters["associations_ended"] += 1

    def _channel_opened(self, event: ChannelOpened) -> None:
        channel = self._channels.get(event.id)
        if channel is None:
            channel = DataChannel(self, event.id, label=event.label, protocol=event.protocol)
            self._channels[event.id] = channel
        channel.state = ChannelState.OPEN
        self._handler.peer_channel_opened(self, channel)
