"""The faults that a client may ask for, to test how it copes with them (protocol reference, section 3.10)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog
import trio
from livekit.protocol import models, rtc

from triosfu.rooms.signals import LeaveAction, leave

if TYPE_CHECKING:
    from triosfu.rooms.participant import Participant

log = structlog.get_logger(__name__)

Reason = models.DisconnectReason
VALID = 5.0  # seconds within which a resume is cut
REMEMBERED = 300.0  # seconds for which a client that comes back gets the protocol that it asked for
MAX_REMEMBERED = 1000  # identities of one room
CUTS_UNTOLD = 3  # resumes that are cut before a word was said, for a client that asks for that


class TcpWishes:
    """Which members of a room have asked to be reached over TCP when they come next; TLS is answered by TCP, too."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def note(self, identity: str, protocol: rtc.CandidateProtocol) -> None:
        """Note what `identity` asks for."""
        self._until.pop(identity, None)
        if protocol != rtc.CandidateProtocol.UDP:
            if len(self._until) >= MAX_REMEMBERED:
                del self._until[next(iter(self._until))]
            self._until[identity] = trio.current_time() + REMEMBERED

    def has(self, identity: str) -> bool:
        """Whether `identity` has asked, and not too long ago."""
        return trio.current_time() < self._until.get(identity, -math.inf)


class Simulation:
    """What one client has asked for; it only ever concerns itself."""

    def __init__(self, owner: Participant) -> None:
        self._owner = owner
        self._until = {True: -math.inf, False: -math.inf}  # by whether the client is told something first
        self._left = {True: 0, False: 0}

    def request(self, scenario: rtc.SimulateScenario) -> None:
        """Do what a client asks for, or note it for its next resume."""
        owner = self._owner
        match scenario.WhichOneof("scenario"):
            case "speaker_update":
                owner.room.speakers.simulate(owner, scenario.speaker_update)
            case "node_failure" | "migration":
                owner.close(Reason.STATE_MISMATCH, tell=False)
            case "server_leave":
                owner.close(Reason.SERVER_SHUTDOWN)
            case "leave_request_full_reconnect":
                owner.close(Reason.UNKNOWN_REASON, action=LeaveAction.RECONNECT)
            case "switch_candidate_protocol":
                owner.room.tcp_wishes.note(owner.identity, scenario.switch_candidate_protocol)
                self._switch()
            case "disconnect_signal_on_resume":
                self._cut_next(told=True, times=1)
            case "disconnect_signal_on_resume_no_messages":
                self._cut_next(told=False, times=CUTS_UNTOLD)
            case _:
                log.debug("scenario not simulated", participant=owner.sid)

    def _switch(self) -> None:
        """Have the transports find their way anew; another protocol is for the next session, which clients begin."""
        owner = self._owner
        if owner.shape.single:  # where only the client can restart ICE
            owner.send(leave(LeaveAction.RESUME, Reason.CONNECTION_TIMEOUT))
            owner.drop_link()
        else:
            owner.negotiator.begin(ice_restart=True)

    def _cut_next(self, *, told: bool, times: int) -> None:
        self._until[told] = trio.current_time() + VALID
        self._left[told] = times

    def cuts_resume(self, *, told: bool) -> bool:
        """Whether the connection of a resume is to be cut: after the client was told how things are, or before."""
        if self._left[told] <= 0 or trio.current_time() > self._until[told]:
            return False
        self._left[told] -= 1
        return True
