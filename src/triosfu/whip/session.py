"""A participant whose client signals by HTTP requests: what it can be told, and what it may ask for.

Such a client cannot be told anything but the answer to a request. It needs little else: its sections never change
(`FixedShape`), media and its end travel on the transport, and what else there is to say of a room is not its business.
"""

from __future__ import annotations

import hmac
from collections import deque
from hashlib import sha256
from typing import TYPE_CHECKING

import trio
from livekit.protocol import models

from triosfu.rooms.joining import JoinOptions, JoinRefused
from triosfu.whip.fragment import describe

if TYPE_CHECKING:
    from livekit.protocol import rtc

    from triosfu.rooms.participant import Participant
    from triosfu.rooms.publication import Publication
    from triosfu.rooms.room import Room
    from triosfu.whip.fragment import Fragment

CONNECT = 20.0  # seconds from the offer to a working transport; before there is one, a client vanishes unseen
EVERY, BURST = 0.1, 20  # seconds that one request of a session costs, and how many may come at once
RESTART = 5  # requests that an ICE restart counts for
REMEMBERED = 8  # earlier ICE sessions whose late news are known as such


class HttpLink:
    """The `SignalLink` of a client that can only be answered: of all that it is told, the answer is kept for it."""

    def __init__(self) -> None:
        self.answer = ""

    def send(self, message: rtc.SignalResponse) -> None:
        """Keep the answer to the client's offer; the rest has nowhere to go."""
        if message.WhichOneof("message") == "answer":
            self.answer = message.answer.sdp

    def close(self, code: int = 1000) -> None:
        """Do nothing: there is no connection."""


class Session:
    """One WHIP or WHEP session, from its offer to the end of its participant."""

    def __init__(self, participant: Participant, link: HttpLink, token: str) -> None:
        """Begin the session of somebody who has just joined by a request with `token`, answered through `link`."""
        self.participant = participant
        self._token = sha256(token.encode()).digest()
        self._former: deque[str] = deque(maxlen=REMEMBERED)  # username fragments of the client
        self._paid_until = 0.0
        participant.link_opened(link)
        participant.liveness.expect_transport(CONNECT)

    @property
    def etag(self) -> str:
        """The entity tag of the present ICE session: our username fragment, as the reference server has it."""
        return f'"{self.participant.shape.primary.negotiation.local.ufrag}"'

    @property
    def owner(self) -> tuple[str, str]:
        """Room and identity of the participant."""
        return self.participant.room.name, self.participant.identity

    def opened_by(self, token: str) -> bool:
        """Whether this very token has opened the session; then it may end it, too, when it has long expired."""
        return hmac.compare_digest(self._token, sha256(token.encode()).digest())

    def pay(self, requests: int = 1) -> None:
        """Count requests; who sends too many at once is refused (RFC 9725, section 5).

        Raises:
            JoinRefused: With 429.
        """
        now = trio.current_time()
        paid = max(now, self._paid_until) + requests * EVERY
        if paid > now + BURST * EVERY:
            raise JoinRefused(429, "too many requests")
        self._paid_until = paid

    def is_restart(self, fragment: Fragment) -> bool:
        """Whether the client has begun another ICE session.

        Raises:
            JoinRefused: With 412 it is an earlier one, whose news come late.
        """
        remote = self.participant.shape.primary.negotiation.remote
        if fragment.credentials is None or remote is None:
            return False
        if fragment.credentials.ufrag in self._former:
            raise JoinRefused(412, "that ICE session is over")
        return fragment.credentials.ufrag != remote.ufrag  # the fragment is what names a session

    def trickle(self, fragment: Fragment) -> None:
        """Add the client's candidates; those that are unfit, or too many, are counted and dropped."""
        with self.participant.guard("trickle"):
            for candidate in fragment.candidates:
                self.participant.shape.primary.add_remote_candidate(candidate)

    def restart(self, fragment: Fragment) -> str:
        """Restart ICE; returns our side of the new ICE session.

        A session that was about to be given up, because its transport had fallen silent, goes on.

        Raises:
            JoinRefused: With 409 the transport is over, and the session with it.
        """
        participant, peer = self.participant, self.participant.shape.primary
        remote, credentials = peer.negotiation.remote, fragment.credentials
        if remote is None or credentials is None or peer.closed:
            raise JoinRefused(409, "there is nothing to restart")
        link = HttpLink()
        options = JoinOptions(single=True, fixed=True, reconnect=True, participant_sid=participant.sid)
        with participant.guard("ICE restart"):
            participant.resume(link, options)
            participant.link_opened(link)
            self._former.append(remote.ufrag)
            peer.restart_ice(credentials)
            self.trickle(fragment)
        if participant.closed:
            raise JoinRefused(409, "the session is over")
        mids = [section.mid for section in peer.negotiation.sections if not section.rejected]
        first = next(section.remote for section in peer.negotiation.sections if section.mid == mids[0])
        media = "audio 9 UDP/TLS/RTP/SAVPF 0" if first is None else first.lines()[0].removeprefix("m=")
        return describe(peer.negotiation.local, mids=mids, media=media)

    def end(self) -> None:
        """End it, as its client wishes."""
        self.participant.close(models.DisconnectReason.CLIENT_INITIATED, tell=False)


class Sessions:
    """The sessions of one server by the sids of their participants. A `RoomListener`, to know who has left."""

    def __init__(self) -> None:
        self._by_sid: dict[str, Session] = {}
        self._sids: dict[Participant, str] = {}  # when their sessions began: who is moved has another one

    def __len__(self) -> int:
        return len(self._by_sid)

    def add(self, session: Session) -> None:
        """Keep `session` until its participant leaves."""
        self._by_sid[session.participant.sid] = session
        self._sids[session.participant] = session.participant.sid

    def find(self, sid: str) -> Session | None:
        """The session whose participant had this sid when it began."""
        return self._by_sid.get(sid)

    def participant_left(self, participant: Participant) -> None:
        """Forget the session of a participant that is gone."""
        if participant.closed and (sid := self._sids.pop(participant, None)):
            self._by_sid.pop(sid, None)

    def room_started(self, room: Room) -> None:
        """Do nothing; so for the rest."""

    def room_finished(self, room: Room) -> None:
        """Everybody in it has left before."""

    def participant_active(self, participant: Participant) -> None:
        """A session does not depend on it."""

    def track_published(self, publication: Publication) -> None:
        """Nor on tracks."""

    def track_unpublished(self, publication: Publication) -> None:
        """Nor on their end."""
