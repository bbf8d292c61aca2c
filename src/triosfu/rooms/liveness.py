"""When a participant is taken for gone: what follows from a lost signalling connection, and from a lost transport.

Protocol reference, section 3.8. The two ways to the client fail separately, and either may come back: signalling while
media flows, media (by an ICE restart) while signalling stands. Every state in between has a deadline here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from livekit.protocol import models

from triosfu.peer import PeerState
from triosfu.rooms.signals import LeaveAction, leave

if TYPE_CHECKING:
    from triosfu.peer import PeerConnection
    from triosfu.rooms.participant import Participant

JOIN, ATTACH, RESUME, RECOVER = "join", "attach", "resume", "recover"
Reason = models.DisconnectReason
BROKEN = frozenset({PeerState.FAILED, PeerState.CLOSED})
RECOVERY = 15.0  # seconds that clients themselves give a resume


class Liveness:
    """Watches over one participant's ways to its client."""

    def __init__(self, owner: Participant) -> None:
        self._owner = owner
        self._ever_connected: set[str] = set()  # names of peers

    def start(self) -> None:
        """The participant is admitted: its client must open the socket, and bring its transport up."""
        now, times = trio.current_time(), self._owner.settings.times
        self._owner.deadlines.arm(JOIN, now + times.join, self._join_overdue)
        self._owner.deadlines.arm(ATTACH, now + times.attach, self._not_attached)

    def link_opened(self) -> None:
        """The client's socket is open."""
        self._owner.deadlines.disarm(ATTACH)

    def link_lost(self) -> None:
        """The client's socket is gone; media may go on, if there ever was any."""
        if not self._ever_connected:
            self._owner.close(Reason.SIGNAL_CLOSE, tell=False)
        elif any(peer.state in BROKEN for peer in self._owner.shape.peers):
            self._owner.close(Reason.CONNECTION_TIMEOUT, tell=False)

    def resumed(self) -> None:
        """The client is back; its transports must follow."""
        now, deadlines = trio.current_time(), self._owner.deadlines
        deadlines.disarm(RESUME)
        deadlines.arm(ATTACH, now + self._owner.settings.times.attach, self._not_attached)
        deadlines.arm(RECOVER, now + RECOVERY, self._recovery_overdue)

    def transport_changed(self, peer: PeerConnection, state: PeerState) -> None:
        """A transport came up, fell silent, or ended."""
        owner = self._owner
        silent = ("silent", peer.name)
        owner.deadlines.disarm(silent)
        if state is PeerState.CONNECTED:
            self._ever_connected.add(peer.name)
            if peer is owner.shape.primary:
                owner.deadlines.disarm(JOIN)
                owner.became_active()
        elif state is PeerState.DISCONNECTED:
            at = trio.current_time() + owner.settings.times.disconnected
            owner.deadlines.arm(silent, at, lambda: self._transport_lost(peer))
        elif state is PeerState.FAILED:
            self._transport_lost(peer)
        elif state is PeerState.CLOSED and not owner.closed:
            self._transport_ended()

    def _transport_lost(self, peer: PeerConnection) -> None:
        """Ask the client to resume, and give it five seconds."""
        owner = self._owner
        if not owner.active:
            owner.close(Reason.JOIN_FAILURE)
        elif not owner.linked:
            owner.close(Reason.CONNECTION_TIMEOUT, tell=False)
        elif peer.name not in self._ever_connected:
            owner.negotiation_failed("a transport never came up")
        else:
            owner.send(leave(LeaveAction.RESUME, Reason.CONNECTION_TIMEOUT))
            owner.drop_link()
            at = trio.current_time() + owner.settings.times.resume
            owner.deadlines.arm(RESUME, at, lambda: owner.close(Reason.CONNECTION_TIMEOUT, tell=False))

    def _transport_ended(self) -> None:
        """The client closed a transport: its `leave` may be on the way, but this session cannot go on."""
        owner = self._owner
        if not owner.linked:
            owner.close(Reason.CONNECTION_TIMEOUT, tell=False)
            return
        at = trio.current_time() + owner.settings.times.resume
        owner.deadlines.arm(RESUME, at, lambda: owner.negotiation_failed("the client closed its transport"))

    def _join_overdue(self) -> None:
        self._owner.close(Reason.JOIN_FAILURE)

    def _not_attached(self) -> None:
        self._owner.link_lost(self._owner.link)

    def _recovery_overdue(self) -> None:
        owner = self._owner
        if not owner.linked:
            return  # watched by the transports' own deadlines
        lost = [peer for peer in owner.shape.peers if peer.name in self._ever_connected]
        if any(peer.state is not PeerState.CONNECTED for peer in lost):
            owner.negotiation_failed("the transports did not follow a resume")
