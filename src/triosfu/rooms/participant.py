"""One participant: who it is, what it is made of, and how it ends. What it does is in the modules it is made of."""

from __future__ import annotations

import time
from collections import deque
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio
from livekit.protocol import models, rtc

from triosfu.errors import PeerError
from triosfu.peer import PeerState
from triosfu.rooms.data import DataPort
from triosfu.rooms.data_blobs import DataBlobs
from triosfu.rooms.data_tracks import DataTracks
from triosfu.rooms.deadlines import Deadlines
from triosfu.rooms.devices import client_configuration, may_publish, negotiable
from triosfu.rooms.joining import SUBSCRIBER_PRIMARY_SINCE
from triosfu.rooms.liveness import Liveness
from triosfu.rooms.negotiation import Negotiator
from triosfu.rooms.permissions import SubscriptionRules
from triosfu.rooms.publication import Publications
from triosfu.rooms.resume import bring_up_to_date, take_options
from triosfu.rooms.retelling import TOLD_AGAIN, Retelling
from triosfu.rooms.session_shape import DualShape, FixedShape, SessionShape, SingleShape
from triosfu.rooms.sids import PARTICIPANT, new_sid
from triosfu.rooms.signals import LeaveAction, SignalLink, leave
from triosfu.rooms.simulation import Simulation
from triosfu.rooms.subscription import Subscriptions
from triosfu.rooms.welcome import join_response

if TYPE_CHECKING:
    from triosfu.peer import DataChannel, PeerConnection
    from triosfu.rooms.forwarding import ForwardedParticipant
    from triosfu.rooms.joining import Applicant, JoinOptions, Services
    from triosfu.rooms.moving import Departure
    from triosfu.rooms.permissions import Permission
    from triosfu.rooms.room import Room
    from triosfu.sdp.sections import Section

log = structlog.get_logger(__name__)

MAX_DEPARTURES = 4  # that a client may have missed
State = models.ParticipantInfo.State
Reason = models.DisconnectReason
REFRESH = "refresh token"
NORMAL, GOING_AWAY = 1000, 1001  # WebSocket close codes


class Guard:
    """A block of what is done on a participant's behalf."""

    __slots__ = ("_participant", "_what")

    def __init__(self, participant: Participant, what: str) -> None:
        self._participant, self._what = participant, what

    def __enter__(self) -> None:
        """Nothing has happened yet."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """End the participant for an error, which goes no further; a cancellation does."""
        if not isinstance(error, Exception):
            return False
        participant = self._participant
        if isinstance(error, PeerError):
            log.info("client broke the protocol", participant=participant.sid, doing=self._what, error=str(error))
            participant.negotiation_failed(str(error))
        else:
            participant.failed(self._what, error)
        return True


class Participant:
    """A member of a room, from its admission to its end; survives the loss of its signalling connection.

    It is the `PeerHandler` of its peer connections, and the one through whom its modules reach the client.
    """

    def __init__(
        self, room: Room, applicant: Applicant, options: JoinOptions, link: SignalLink | None, services: Services
    ) -> None:
        self.room = room
        self.applicant = applicant
        self.options = options
        self.settings = services.settings
        self.rng = services.rng
        self.tally = services.tally
        self.sid = new_sid(PARTICIPANT, services.rng)
        self.identity = applicant.identity
        self.name = applicant.name
        self.metadata = applicant.metadata
        self.attributes = dict(applicant.attributes)
        self.permission = applicant.permission
        self.configuration = client_configuration(options.client)
        self.state: State = State.JOINING
        self.version = 0
        self.joined_ns = time.time_ns()
        self.disconnect_reason: Reason = Reason.UNKNOWN_REASON
        self.known_versions: dict[str, int] = {}  # of other participants, by sid, as this client was told them
        self.was_active = False  # once, if it has left meanwhile
        self.closed = False
        self.turn = 0  # how often it was handed over
        self.link = link
        self.departures: deque[Departure] = deque(maxlen=MAX_DEPARTURES)  # from other rooms, the latest last
        self.forwards: list[ForwardedParticipant] = []  # what other rooms see of this participant
        self.deadlines = Deadlines()
        self._refresh = services.refresh_token
        self.retelling = Retelling(doubtful=services.settings.times.ping_timeout)
        self.simulation = Simulation(self)
        self._scope = trio.CancelScope()
        self.shape = self._new_shape(services)
        for peer in self.shape.peers:
            peer.negotiation.policy = negotiable(options.client, self.configuration, peer.negotiation.policy)
        self.rules = SubscriptionRules()
        self.liveness = Liveness(self)
        self.negotiator = Negotiator(self)
        self.publications = Publications(self)
        self.subscriptions = Subscriptions(self)
        self.data = DataPort(self)
        self.data_tracks = DataTracks(self)
        self.data_blobs = DataBlobs(self)

    def __repr__(self) -> str:
        return f"<Participant {self.identity} {self.sid}>"

    def _new_shape(self, services: Services) -> SessionShape:
        wishes = self.room.tcp_wishes.has(self.identity)
        peers = partial(services.peers, tcp_only=True) if wishes else services.peers
        if self.options.fixed:
            return FixedShape(peers, self, self.sid, rng=services.rng, receives=self.options.sends)
        if self.options.single:
            return SingleShape(peers, self, self.sid)
        modern = self.options.client.protocol >= SUBSCRIBER_PRIMARY_SINCE
        return DualShape(peers, self, self.sid, subscriber_primary=modern and self.permission.can_subscribe)

    # --- what others ask -------------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether the primary transport has come up."""
        return self.state == State.ACTIVE

    @property
    def linked(self) -> bool:
        """Whether the client can be told anything now."""
        return self.link is not None

    @property
    def is_agent(self) -> bool:
        """Whether this is an agent, who may speak for others in data packets."""
        return self.permission.agent or self.applicant.kind == models.ParticipantInfo.Kind.AGENT

    @property
    def is_publisher(self) -> bool:
        """Whether anything is published."""
        return len(self.publications) + len(self.data_tracks) > 0

    @property
    def enabled_codecs(self) -> tuple[str, ...]:
        """The codecs that this client may publish in."""
        return may_publish(self.configuration, self.settings.enabled_codecs)

    def info(self) -> models.ParticipantInfo:
        """Return the complete description of this participant; a track that it lacks is unpublished (trap 19)."""
        return models.ParticipantInfo(
            sid=self.sid,
            identity=self.identity,
            name=self.name,
            state=self.state,
            tracks=[publication.info for publication in self.publications],
            data_tracks=self.data_tracks.infos(),
            metadata=self.metadata,
            attributes=self.attributes,
            joined_at=self.joined_ns // 1_000_000_000,
            joined_at_ms=self.joined_ns // 1_000_000,
            version=self.version,
            permission=self.permission.serialize(),
            region=self.settings.region,
            is_publisher=self.is_publisher,
            kind=self.applicant.kind,
            kind_details=self.applicant.kind_details,
            disconnect_reason=self.disconnect_reason,
            client_protocol=self.options.client.client_protocol,
            capabilities=self.options.client.capabilities,
        )

    # --- life ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Welcome the client and handle what it sent along with its request; the room runs us from now on."""
        self.liveness.start()
        self.send(join_response(self))  # nothing may come before it (trap 5)
        self.shape.prepare_data()
        self.subscriptions.auto_subscribe(self.room.publications())
        self.data_tracks.catch_up()
        if self.shape.subscriber_primary:
            self.negotiator.begin()
        with self.guard("join request"):
            take_options(self, self.options)
        # A request may be a megabyte: what is done is not kept.
        self.options = replace(self.options, add_tracks=(), publisher_offer=None, sync_state=None)
        self.refresh_token()

    async def run(self, turn: int = 0) -> None:
        """Run the peer connections and keep the deadlines, until closed; a bug in them ends here.

        Cancelled, it has closed the participant: the room has forgotten it, and its connections are closed. When it is
        handed over, `turn` is over, and this returns and leaves the participant as it is.
        """
        if turn != self.turn:
            return
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for peer in self.shape.peers:
                        nursery.start_soon(peer.run, peer.turn, name=f"peer {peer.name}")
                    await self.deadlines.run()
        except* Exception as error:  # noqa: BLE001  whatever it is, it is this participant's alone
            self.failed("running", error)  # a cancellation that came with it goes on
        finally:
            if turn == self.turn:
                self.close(Reason.UNKNOWN_REASON, tell=False)

    def hand_over(self) -> None:
        """Begin another turn, for whoever starts `run` with it in the same step; the session goes on."""
        self.turn += 1
        before, self._scope = self._scope, trio.CancelScope()
        for peer in self.shape.peers:
            peer.hand_over()
        if before.cancel_called:
            self._scope.cancel()
        before.cancel()

    def close(
        self,
        reason: Reason,
        *,
        action: rtc.LeaveRequest.Action = LeaveAction.DISCONNECT,
        tell: bool = True,
        replaced: bool = False,
    ) -> None:
        """End this participant: synchronous, first, and final. The room is told; closing again does nothing.

        Args:
            reason: What clients are told.
            action: What this client is to do next.
            tell: Whether this client gets a `leave`.
            replaced: The same identity comes back at once, so the others are not told.
        """
        if self.closed:
            return
        self.closed = True
        self.disconnect_reason = reason
        with ExitStack() as last:  # from the bottom up, and a bug in one step does not keep the others from being done
            last.callback(self._scope.cancel)
            last.callback(self.drop_link, NORMAL if tell else GOING_AWAY)
            last.callback(self.deadlines.clear)
            last.callback(self.retelling.clear)
            for peer in self.shape.peers:
                last.callback(peer.close, "the participant left")
            last.callback(self.room.left, self, replaced=replaced)
            last.callback(self._disconnected)
            last.callback(self.data.settle)
            last.callback(self.data_tracks.close)
            last.callback(self.data.close)
            last.callback(self.publications.close)
            last.callback(self.subscriptions.close)
            last.callback(self.end_forwards, reason)
            last.callback(self.room.forget, self)
            if tell:
                self.send(leave(action, reason))

    def end_forwards(self, reason: Reason) -> None:
        """Let no other room see anything of this participant any more."""
        for forward in list(self.forwards):
            with forward.guard("forward"):
                forward.close(reason)

    def _disconnected(self) -> None:
        self.state = State.DISCONNECTED
        self.version += 1

    def guard(self, what: str) -> Guard:
        """Do something on this participant's behalf: whatever goes wrong in the block ends it, and nobody else."""
        return Guard(self, what)

    def failed(self, what: str, error: Exception) -> None:
        """Log `error`, which is a bug of ours, and end this participant."""
        log.error("bug", participant=self.sid, room=self.room.name, doing=what, exc_info=error)
        self.room.counters["bugs"] += 1
        self.close(Reason.UNKNOWN_REASON, action=LeaveAction.RECONNECT)

    def negotiation_failed(self, why: str) -> None:
        """End the session, and ask the client to begin a new one."""
        log.info("session out of step", participant=self.sid, why=why)
        self.close(Reason.STATE_MISMATCH, action=LeaveAction.RECONNECT)

    def became_active(self) -> None:
        """The primary transport is up."""
        if self.state != State.ACTIVE and not self.closed:
            self.state = State.ACTIVE
            self.was_active = True
            self.data.connected()
            self.changed(at_once=self.is_publisher)
            self.room.became_active(self)
            self.subscriptions.auto_subscribe(self.room.publications())

    # --- signalling ------------------------------------------------------------------------------------------------

    def send(self, message: rtc.SignalResponse) -> None:
        """Send the client `message`, if it can be told anything now; what it misses it is told when it resumes."""
        kind = message.WhichOneof("message")
        if kind in TOLD_AGAIN and not self.closed:
            self.retelling.note(kind, message, trio.current_time(), sent=self.link is not None)
        if self.link is not None:
            with self.guard("send"):
                self.link.send(message)

    def link_opened(self, link: SignalLink) -> None:
        """The socket behind `link` is open."""
        if link is self.link:
            self.liveness.link_opened()

    def link_used(self, link: SignalLink) -> None:
        """The client has spoken over `link`, so it has been told what it had missed."""
        if link is self.link:
            self.retelling.heard()

    def link_lost(self, link: SignalLink | None) -> None:
        """The socket behind `link` is gone, without a word of ours."""
        if link is not None and link is self.link:
            self.link = None
            self._away()
            with self.guard("link lost"):
                self.liveness.link_lost()

    def drop_link(self, code: int = NORMAL) -> None:
        """Close the signalling connection from our side.

        The client was told why: without that a normal close means nothing to it (trap 27).
        """
        if self.link is not None:
            link, self.link = self.link, None
            self._away()
            link.close(code)

    def resume(self, link: SignalLink, options: JoinOptions, *, missed: Departure | None = None) -> None:
        """Go on over a new signalling connection; its client may have `missed` that it is in another room now."""
        self.drop_link()
        self.link = link
        self._away()  # even if we did not know
        if self.simulation.cuts_resume(told=False):
            self._cut(link)
            return
        self.liveness.resumed()
        if self.closed:
            return  # it has been told to begin anew
        if self.retelling.overflowed or self.data.missed:
            self.negotiation_failed("the client has missed more than is kept")
            return
        bring_up_to_date(self, departed=missed)
        self.data.resumed()
        if self.simulation.cuts_resume(told=True):
            self._cut(link)
            return
        self.negotiator.resumed()
        with self.guard("resume request"):
            take_options(self, options)
        self.refresh_token()

    def _away(self) -> None:
        """Nobody knows what the client hears now, nor what it has sent."""
        self.retelling.lost(trio.current_time())
        self.data.expect_repeats()

    def _cut(self, link: SignalLink) -> None:
        """Lose a connection as a network would, for a client that asked for it."""
        self.link_lost(link)
        link.close(GOING_AWAY)

    def changed(self, *, at_once: bool) -> None:
        """Tell the room that something in `info()` is different now; every change has a version (trap 20)."""
        if not self.closed:
            self.version += 1
            self.room.announcer.changed(self, at_once=at_once)
            self.room.counts_changed()
            for forward in list(self.forwards):
                with forward.guard("forward"):
                    forward.follow(at_once=at_once)

    def refresh_token(self) -> None:
        """Send a fresh token, and again every five minutes (trap 49)."""
        if self.closed:
            return
        self.retelling.prune(trio.current_time())
        if token := self.new_token():
            self.send(rtc.SignalResponse(refresh_token=token))
        self.deadlines.arm(REFRESH, trio.current_time() + self.settings.times.refresh_token, self.refresh_token)

    def new_token(self) -> str:
        """Return a token for this participant as it is now; empty where nobody makes them."""
        return "" if self._refresh is None else self._refresh(self)

    def set_permission(self, permission: Permission) -> None:
        """Change what this participant may do; what it may no longer do ends now."""
        if permission == self.permission:
            return
        before, self.permission = self.permission, permission
        self.publications.enforce_permission()
        self.data_tracks.permission_changed()
        self.subscriptions.permission_changed()
        if permission.hidden and not before.hidden:
            self.room.hidden(self)
        self.changed(at_once=True)  # the publisher itself learns of it by this (section 17, row 5)
        if before.hidden and not permission.hidden:
            self.room.shown(self)
        if permission.recorder != before.recorder:
            self.room.update()
        self.refresh_token()

    def set_rules(self, request: rtc.SubscriptionPermission) -> None:
        """Change who may receive this participant's tracks."""
        identities = {one.sid: one.identity for one in self.room.participants.values()}
        if self.rules.replace(request, identities.get):
            for seen in (self, *self.forwards):
                for other in seen.room.others(seen):
                    with other.guard("subscription permission"):
                        other.subscriptions.rules_changed(seen)

    # --- PeerHandler -----------------------------------------------------------------------------------------------

    def peer_state_changed(self, peer: PeerConnection, state: PeerState, reason: str) -> None:
        """A transport came up or went down."""
        if self.closed:
            return
        log.debug("transport", peer=peer.name, state=state.value, reason=reason, srtp=peer.srtp)
        with self.guard("transport"):
            self.liveness.transport_changed(peer, state)
            if state is PeerState.CONNECTED and not self.closed:
                self.data.look()
                if peer is self.shape.subscriber:
                    self.subscriptions.connected()

    def peer_incoming_track(self, peer: PeerConnection, section: Section) -> None:
        """The client sends in a section of its offer."""
        with self.guard("incoming track"):
            self.publications.incoming(peer, section)

    def peer_incoming_ended(self, peer: PeerConnection, section: Section) -> None:
        """The client stopped sending in a section."""
        if not self.closed:
            with self.guard("ended track"):
                self.publications.ended(peer, section)

    def peer_channel_opened(self, peer: PeerConnection, channel: DataChannel) -> None:
        """A data channel is open."""
        with self.guard("data channel"):
            self.data.opened(peer, channel)

    def peer_channel_closed(self, peer: PeerConnection, channel: DataChannel, reason: str) -> None:
        """A data channel is over."""
        log.debug("data channel closed", peer=peer.name, label=channel.label, reason=reason)
        if not self.closed:
            with self.guard("data channel"):
                self.data.closed(peer, channel)

    def peer_message(self, peer: PeerConnection, channel: DataChannel, data: bytes, binary: bool) -> None:  # noqa: ARG002, FBT001  PeerHandler
        """A message came on a data channel."""
        if not self.closed:
            with self.guard("data"):
                self.data.receive(channel, data)
