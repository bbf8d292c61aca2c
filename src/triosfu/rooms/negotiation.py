"""Offers, answers and candidates of one participant: in order, one at a time, each with a deadline.

The protocol rules of descriptions are `sdp.negotiation`; here is when they are exchanged, and with which ids. Nothing
here waits for the network: a description is applied, and its answer made, in one synchronous step. What can take
forever is the client's turn, so each of its turns is watched. Protocol reference, sections 3.4 to 3.6.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING

import structlog
import trio
from livekit.protocol import rtc

from triosfu.errors import MalformedPacket, PeerError
from triosfu.peer import PeerState
from triosfu.rooms.devices import offers_late

if TYPE_CHECKING:
    from triosfu.peer import PeerConnection
    from triosfu.rooms.participant import Participant

log = structlog.get_logger(__name__)

DEBOUNCE = "negotiate"
WATCHDOG = "negotiation answer"
EARLY = "early offer"
MAX_FRUITLESS = 8
MAX_CANDIDATE = 4096  # characters of one trickle message
TRIES = 2  # of asking a client to offer, before it is taken for stuck


class Negotiator:
    """Keeps the descriptions of one session in step with what is published and subscribed."""

    def __init__(self, owner: Participant) -> None:
        self._owner = owner
        self._candidates: dict[str, list[str]] = {}  # by peer name, until that peer has a description
        self._told_ufrag: dict[str, str] = {}  # by peer name: whose candidates the client was sent
        self._changed_at = -math.inf
        self._again = False
        self._waiting = False  # for the client's answer, or for the offer that it was asked for
        self._tries = 0
        self._offer_id = owner.rng.randint(1, 256)
        self._asked: Counter[str] = Counter()  # sections, by kind, that the client has been asked to add
        self._fruitless = 0  # rounds in a row after which tracks still waited for a section
        self._early: rtc.SessionDescription | None = None  # an offer whose answer the client could not take yet
        self.answering = False  # an offer has been read and its answer is in the making

    # --- the client's turns ----------------------------------------------------------------------------------------

    def receive_early_offer(self, offer: rtc.SessionDescription) -> None:
        """Apply the offer that came along with a request, once the client can take the answer.

        Raises:
            PeerError: As `receive_offer`.
        """
        owner = self._owner
        if not (owner.shape.single and offers_late(owner.options.client)):
            self.receive_offer(offer)
            return
        self._early = offer
        owner.deadlines.arm(EARLY, trio.current_time() + owner.settings.times.early_offer, self._early_overdue)

    def _early_overdue(self) -> None:
        """The client has no candidates, or is slow: it gets its answer all the same."""
        with self._owner.guard("join request"):
            self._take_early_offer()

    def _take_early_offer(self) -> None:
        offer, self._early = self._early, None
        self._owner.deadlines.disarm(EARLY)
        if offer is not None:
            self.receive_offer(offer)

    def receive_offer(self, offer: rtc.SessionDescription) -> None:
        """Apply a client's offer and answer it with its own id (traps 9 and 10).

        Raises:
            PeerError: The offer makes no sense; the session cannot go on with it.
        """
        owner = self._owner
        self._take_early_offer()
        if owner.closed:
            return
        peer = owner.shape.publisher
        try:
            self.answering = True
            peer.accept_offer(offer.sdp)
            if owner.closed:
                return  # what the offer brought has ended the session
            owner.publications.settle()  # sets how sections are to be answered
            owner.shape.prepare_answer()
            sdp = peer.create_answer()
        except MalformedPacket as error:
            raise PeerError(f"offer: {error}") from error
        finally:
            self.answering = False
        owner.send(
            rtc.SignalResponse(
                answer=rtc.SessionDescription(
                    type="answer", sdp=sdp, id=offer.id, mid_to_track_id=peer.negotiation.mid_to_track_id()
                )
            )
        )
        if owner.shape.single:
            owner.deadlines.disarm(DEBOUNCE)  # this answer carried all that had a place
        self._described(peer)
        owner.publications.answered()
        if owner.shape.single:
            self._round_ended()

    def receive_answer(self, answer: rtc.SessionDescription) -> None:
        """Apply a client's answer to our newest offer; one that nobody waits for is dropped.

        Raises:
            PeerError: The answer does not fit the offer.
        """
        peer = self._owner.shape.subscriber
        if self._owner.shape.single or not peer.negotiation.pending_offer:
            log.debug("answer without an offer", participant=self._owner.sid)
            return
        if answer.id and answer.id != self._offer_id:
            log.debug("answer to an older offer", participant=self._owner.sid)
            return
        try:
            peer.accept_answer(answer.sdp)
        except MalformedPacket as error:
            raise PeerError(f"answer: {error}") from error
        self._described(peer, tell=False)
        self._round_ended()

    def receive_trickle(self, request: rtc.TrickleRequest) -> None:
        """Add a client's candidate, or keep it until the description comes that it belongs to (trap 16)."""
        peer = self._owner.shape.peer(request.target)
        candidate = _candidate_of(request.candidateInit)
        if peer is None or not candidate:
            return
        self._take_early_offer()
        if peer.negotiation.remote is not None:
            peer.add_remote_candidate(candidate)
            return
        kept = self._candidates.setdefault(peer.name, [])
        if len(kept) < self._owner.settings.limits.candidates:
            kept.append(candidate)

    def _described(self, peer: PeerConnection, *, tell: bool = True) -> None:
        for candidate in self._candidates.pop(peer.name, []):
            peer.add_remote_candidate(candidate)
        if tell:
            self._trickle(peer)
        self._owner.subscriptions.negotiated()

    # --- our turns -------------------------------------------------------------------------------------------------

    def request(self) -> None:
        """Note that what this client is sent has changed: after a short while it is negotiated.

        Ten milliseconds after a pause, 150 during a flurry of changes, so that many changes make one round.
        """
        owner, now = self._owner, trio.current_time()
        if owner.shape.fixed:
            return  # what changes, changes within what was agreed upon
        if self.answering or self._early is not None:
            return  # the answer in the making carries it
        if self._waiting and owner.shape.single and not self._lacks_sections():
            return  # the offer that was asked for brings an answer that carries this too
        if self._waiting and not owner.shape.single:
            self._again = True
            return
        times = owner.settings.times
        if DEBOUNCE not in owner.deadlines:
            calm = now - self._changed_at >= times.debounce_slow
            owner.deadlines.arm(DEBOUNCE, now + (times.debounce_fast if calm else times.debounce_slow), self.begin)
        self._changed_at = now

    def begin(self, *, ice_restart: bool = False) -> None:
        """Start a round now, for what this client is sent."""
        owner = self._owner
        owner.deadlines.disarm(DEBOUNCE)
        if owner.closed or (not owner.linked and not ice_restart):
            self._again = True  # a resumed session starts over
            return
        self._again = False
        if not owner.shape.subscriber.negotiation.sections and not owner.shape.single:
            return  # there has never been anything to offer
        if owner.shape.single:
            self._ask_for_offer()
        else:
            self._offer(ice_restart=ice_restart)
        self._waiting = True
        self._tries += 1
        owner.deadlines.arm(WATCHDOG, trio.current_time() + owner.settings.times.negotiation, self._overdue)

    def _offer(self, *, ice_restart: bool) -> None:
        peer = self._owner.shape.subscriber
        if peer.negotiation.pending_offer:
            peer.negotiation.rollback()  # the client never got it, or lost the connection that carried its answer
        sdp = peer.create_offer(ice_restart=ice_restart)
        self._offer_id += 1
        self._owner.send(
            rtc.SignalResponse(
                offer=rtc.SessionDescription(
                    type="offer",
                    sdp=sdp,
                    id=self._offer_id,
                    mid_to_track_id=peer.negotiation.mid_to_track_id(),
                )
            )
        )
        self._trickle(peer)

    def _ask_for_offer(self) -> None:
        """Ask for what is missing, or with 0/0 just for an offer: nothing else makes the client re-offer (trap 12)."""
        missing = self._owner.shape.subscriber.negotiation.missing_sections()
        more = {kind: max(0, count - self._asked[kind]) for kind, count in missing.items()}
        for kind, count in more.items():
            self._asked[kind] += count
        requirement = rtc.MediaSectionsRequirement(num_audios=more["audio"], num_videos=more["video"])
        self._owner.send(rtc.SignalResponse(media_sections_requirement=requirement))

    def _lacks_sections(self) -> bool:
        missing = self._owner.shape.subscriber.negotiation.missing_sections()
        return any(count > self._asked[kind] for kind, count in missing.items())

    def _round_ended(self) -> None:
        negotiation = self._owner.shape.subscriber.negotiation
        self._waiting = False
        self._tries = 0
        self._asked.clear()
        self._owner.deadlines.disarm(WATCHDOG)
        # A client that is asked again and again for sections and adds none would make this a loop.
        self._fruitless = self._fruitless + 1 if negotiation.waiting else 0
        if self._owner.shape.single:
            if negotiation.needs_negotiation and self._fruitless < MAX_FRUITLESS:
                self.begin()
        elif self._again:
            self.begin()

    def _overdue(self) -> None:
        """The client's turn has lasted fifteen seconds."""
        owner = self._owner
        if not owner.linked:
            return  # it cannot answer now; the resume starts over, or the session ends without one
        if owner.shape.subscriber.state is not PeerState.CONNECTED:
            # The join deadline or the transport's own end this. Look again, so that nothing waits unwatched.
            owner.deadlines.arm(WATCHDOG, trio.current_time() + owner.settings.times.negotiation, self._overdue)
        elif owner.shape.single and self._tries < TRIES:
            self._asked.clear()
            self.begin()
        else:
            owner.negotiation_failed("no answer from the client")

    def resumed(self) -> None:
        """Start over on a new signalling connection: our side's ICE restarts, what the client lost is sent again.

        With one peer connection the client's own offer restarts ICE, and carries whatever waits.
        """
        self._waiting = False
        self._tries = 0
        self._asked.clear()
        self._owner.deadlines.disarm(WATCHDOG)
        peer = self._owner.shape.subscriber
        if not self._owner.shape.single:
            if peer.negotiation.remote is not None or self._owner.shape.subscriber_primary or self._again:
                self.begin(ice_restart=peer.negotiation.remote is not None)
        elif not self._owner.shape.fixed and (self._again or peer.negotiation.needs_negotiation):
            self.begin()

    # --- our candidates --------------------------------------------------------------------------------------------

    def _trickle(self, peer: PeerConnection) -> None:
        """Send our candidates, once per generation; they are all known from the start.

        Rust ends its task on a missing key or an empty candidate (trap 15).
        """
        ufrag = peer.negotiation.local.ufrag
        sections = peer.negotiation.sections
        if self._told_ufrag.get(peer.name) == ufrag or not sections:
            return
        self._told_ufrag[peer.name] = ufrag
        candidates = peer.local_candidates
        for number, candidate in enumerate(candidates, start=1):
            init = {
                "candidate": candidate,
                "sdpMid": sections[0].mid,
                "sdpMLineIndex": 0,
                "usernameFragment": ufrag,
            }
            self._owner.send(
                rtc.SignalResponse(
                    trickle=rtc.TrickleRequest(
                        candidateInit=json.dumps(init),
                        target=self._owner.shape.target(peer),
                        final=number == len(candidates),
                    )
                )
            )


def _candidate_of(init: str) -> str:
    """Return the candidate line of a trickle message; empty for the end of candidates and for nonsense."""
    if len(init) > MAX_CANDIDATE:
        return ""
    try:
        value = json.loads(init)
    except (ValueError, RecursionError):
        return ""
    candidate = value.get("candidate") if isinstance(value, dict) else None
    return candidate if isinstance(candidate, str) else ""
