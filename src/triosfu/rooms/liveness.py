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
GOING_AWAY = 1001  # WebSocket close code


class Liveness:
    """Watches over one participant's ways to its client."""

    def __init__(self, owner: Participant) -> None:
        self._owner = owner
        self._ever_connected: set[str] = set()  # names of peers
        self._resumed_without: float | None = None  # when the client first resumed while a transport was not up

    def start(self) -> None:
        """The participant is admitted: its client must open the socket, and bring its transport up."""
        now, times = trio.current_time(), self._owner.settings.times
        self._owner.deadlines.arm(JOIN, now + times.join, self._join_overdue)
        self._owner.deadlines.arm(ATTACH, now + times.attach, self._not_attached)

    def link_opened(self) -> None:
        """The client's socket is open."""
        self._owner.deadlines.disarm(ATTACH)

    def expect_transport(self, seconds: float) -> None:
        """Give a client that cannot be seen to vanish before it has a transport `seconds` for it, and no more."""
        self._owner.deadlines.arm(JOIN, trio.current_time() + seconds, self._join_overdue)

    def link_lost(self) -> None:
        """The client's socket is gone; media may go on, if there ever was any."""
        if not self._ever_connected:
            self._owner.close(Reason.SIGNAL_CLOSE, tell=False)
        elif any(peer.state in BROKEN for peer in self._owner.shape.peers):
            self._owner.close(Reason.CONNECTION_TIMEOUT, tell=False)

    def resumed(self) -> None:
        """The client is back; its transports must follow. Coming back again gives them no more time."""
        owner, now = self._owner, trio.current_time()
        owner.deadlines.disarm(RESUME)
        if any(peer.closed for peer in owner.shape.peers):
            owner.negotiation_failed("a closed transport cannot follow a resume")
            return
        if not self._lost():
            self._resumed_without = None
        elif self._resumed_without is None:
            self._resumed_without = now
        began = now if self._resumed_without is None else self._resumed_without
        owner.deadlines.arm(ATTACH, now + owner.settings.times.attach, self._not_attached)
        owner.deadlines.arm(RECOVER, began + RECOVERY, self._recovery_overdue)

    def _lost(self) -> list[PeerConnection]:
        """The transports that were up once and are not now."""
        known = [peer for peer in self._owner.shape.peers if peer.name in self._ever_connected]
        return [peer for peer in known if peer.state is not PeerState.CONNECTED]

    def transport_changed(self, peer: PeerConnection, state: PeerState) -> None:
        """A transport came up, fell silent, or ended."""
        owner = self._owner
        silent = ("silent", peer.name)
        owner.deadlines.disarm(silent)
        if state is PeerState.CONNECTED:
            self._ever_connected.add(peer.name)
            if not self._lost():
                self._resumed_without = None
                if owner.shape.fixed:
                    owner.deadlines.disarm(RESUME)
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
        """Ask the client to resume, if it can be asked, and give it five seconds."""
        owner = self._owner
        if not owner.active:
            owner.close(Reason.JOIN_FAILURE)
        elif not owner.linked:
            owner.close(Reason.CONNECTION_TIMEOUT, tell=False)
        elif peer.name not in self._ever_connected:
            owner.negotiation_failed("a transport never came up")
        else:
            if not owner.shape.fixed:  # else its transport may come back by itself as well as by a restart
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
        link = self._owner.link
        self._owner.link_lost(link)
        if link is not None:
            link.close(GOING_AWAY)  # should its socket open after all, it must not wait for words from nobody

    def _recovery_overdue(self) -> None:
        owner = self._owner
        if not owner.linked:
            return  # watched by the transports' own deadlines
        if self._lost():
            owner.negotiation_failed("the transports did not follow a resume")
