"""Offer and answer for one peer connection (RFC 8829), with LiveKit's rules. No time, no I/O.

One object plays one role for life: the answerer (publisher connection, single connection) or the offerer
(subscriber connection). After an exception nothing has changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from triosfu.errors import PeerError, UsageError
from triosfu.sdp.codecs import Codec
from triosfu.sdp.descriptions import Writer
from triosfu.sdp.directions import Direction, Setup
from triosfu.sdp.incoming import in_answered_order, read_incoming
from triosfu.sdp.policy import MediaPolicy, answered_extensions, choose, forwarded_codecs, forwarded_extensions
from triosfu.sdp.sections import AnswerPreferences, Incoming, Section, Sender
from triosfu.sdp.transport import LocalTransport, RemoteTransport, answer_setup, answered_setup, bundled
from triosfu.sdp.wire import MAX_SECTIONS, SessionDescription

if TYPE_CHECKING:
    from random import Random

    from triosfu.sdp.media import MediaDescription

__all__ = [
    "AnswerPreferences",
    "Changes",
    "Codec",
    "Direction",
    "Incoming",
    "LocalTransport",
    "MediaPolicy",
    "Negotiation",
    "RemoteTransport",
    "Section",
    "Sender",
    "Setup",
    "State",
]


class State(Enum):
    """Where an exchange of descriptions stands (W3C webrtc-pc, RTCSignalingState)."""

    STABLE = "stable"
    OFFERED = "have-local-offer"
    ASKED = "have-remote-offer"


@dataclass(slots=True, kw_only=True)
class Changes:
    """What a description changed. Treat `ended` first: a section may end one track and begin another."""

    ended: list[Section] = field(default_factory=list)
    added: list[Section] = field(default_factory=list)
    changed: list[Section] = field(default_factory=list)  # same track, other codecs, layers or sources
    senders_negotiated: list[Sender] = field(default_factory=list)  # or `refused`, or without a section again
    ice_restart: bool = False  # the client has new ICE credentials: replace ours before the answer


class Negotiation:
    """The sections of one peer connection, and the descriptions that both sides agree on."""

    def __init__(self, *, local: LocalTransport, policy: MediaPolicy, single: bool, rng: Random) -> None:
        self.local = local
        self.remote: RemoteTransport | None = None
        self.sections: list[Section] = []
        self.waiting: list[Sender] = []  # without a section
        self.setup: Setup | None = None  # our DTLS role: ACTIVE is the client
        self.policy = policy
        self.single = single
        self._state = State.STABLE
        self._offerer: bool | None = None  # decided by the first description
        self._session_id = rng.getrandbits(62)
        self._version = 0
        self._allow_mixed = True
        self._offered: list[tuple[Section, Sender | None]] = []  # what the unanswered offer says
        self._unheard = False  # an offer was forgotten: what it said may be news to the client

    @property
    def dtls_client(self) -> bool | None:
        """Whether we start DTLS; None before the first description of the client."""
        return None if self.setup is None else self.setup is Setup.ACTIVE

    @property
    def has_data(self) -> bool:
        """Whether data channels may travel: there is an application section that nobody refused."""
        return any(section.kind == "application" and not section.rejected for section in self.sections)

    # --- the client's offers -------------------------------------------------------------------------------

    def accept_offer(self, sdp: str) -> Changes:
        """Take the client's offer; `create_answer` must follow. Another offer may take its place before that.

        Raises:
            MalformedPacket: It is not SDP.
            PeerError: It is not an offer that may follow what was agreed before.
        """
        offer = SessionDescription.parse(sdp)
        if self._offerer:
            raise PeerError("sdp: the client may not offer on this connection")
        self._check_order(offer)
        bundle = bundled(offer)
        remote = self._remote(offer, bundle)
        setup = self.setup if remote is self.remote else answer_setup(remote.setup, self.setup, self.policy.answers)
        # Everything is checked: from here on, act.
        self._offerer = False
        self._state = State.ASKED
        changes = Changes(ice_restart=remote.restarted(self.remote))
        self.remote, self.setup = remote, setup
        self._allow_mixed = offer.extmap_allow_mixed
        mids = {media.mid for media in bundle}
        displaced: list[Sender] = []
        data_is_taken = False
        for at, media in enumerate(offer.media):
            section = self._section_at(at, media)
            usable = media.mid in mids and not (media.is_data and data_is_taken)
            data_is_taken = data_is_taken or (media.is_data and usable)
            self._read_section(section, media, changes, displaced, usable=usable)
        self._place_waiting(changes, displaced)
        return changes

    def create_answer(self) -> str:
        """The answer to the offer taken last; with it the client learns which track is in which section."""
        if self._state is not State.ASKED or self.setup is None:
            raise UsageError("sdp: there is no offer to answer")
        writer = Writer(self.local, self.setup, self.policy, self.single)
        first = self._first_live()
        media = tuple(writer.answer(section, first=section is first) for section in self.sections)
        for section, answered in zip(self.sections, media, strict=True):
            section.direction = answered.direction
            section.announced = section.outgoing
            if section.incoming is not None:
                section.incoming = in_answered_order(section.incoming, answered)
        self._state = State.STABLE
        self._unheard = False
        return self._describe(media)

    def restart_ice(self, ufrag: str, pwd: str) -> None:
        """Note new ICE credentials of the client that came without a description (RFC 9725, section 4.3.3)."""
        if self.remote is None:
            raise UsageError("sdp: there is no description whose ICE could restart")
        self.remote = replace(self.remote, ufrag=ufrag, pwd=pwd, candidates=[])

    # --- our offers ----------------------------------------------------------------------------------------

    @property
    def pending_offer(self) -> bool:
        """Whether an offer of ours waits for its answer."""
        return self._state is State.OFFERED

    def create_offer(self) -> str:
        """An offer of all sections; one at a time (`pending_offer`)."""
        if self._offerer is False:
            raise UsageError("sdp: only the client offers on this connection")
        if self._state is not State.STABLE or not self.sections:
            raise UsageError("sdp: an offer is pending, or there is nothing to offer")
        writer = Writer(self.local, Setup.ACTPASS, self.policy, self.single)
        first = self._first_live()
        media = tuple(writer.offer(section, first=section is first) for section in self.sections)
        for section, offered in zip(self.sections, media, strict=True):
            section.direction = offered.direction
            section.announced = section.outgoing or section.announced
        self._offered = [(section, section.outgoing) for section in self.sections]
        self._offerer = True
        self._state = State.OFFERED
        return self._describe(media)

    def accept_answer(self, sdp: str) -> Changes:
        """Take the client's answer to our offer.

        Raises:
            MalformedPacket: It is not SDP.
            PeerError: It does not answer the pending offer, or there is none.
        """
        answer = SessionDescription.parse(sdp)
        if self._state is not State.OFFERED:
            raise PeerError("sdp: an answer without an offer")
        sections = [section for section, _ in self._offered]
        if [(media.mid, media.kind) for media in answer.media] != [(item.mid, item.kind) for item in sections]:
            raise PeerError("sdp: the answer has other sections than the offer")
        bundle = bundled(answer)
        remote = self._remote(answer, bundle)
        setup = self.setup if remote is self.remote else answered_setup(remote.setup, self.setup)
        changes = Changes(ice_restart=remote.restarted(self.remote))
        self._state = State.STABLE
        self.remote, self.setup = remote, setup
        mids = {media.mid for media in bundle}
        for (section, sender), media in zip(self._offered, answer.media, strict=True):
            section.remote = media
            section.rejected = section.rejected or media.mid not in mids
            section.remote_direction = Direction.INACTIVE if section.rejected else media.direction
            section.announced = sender
            if sender is not None and sender is section.outgoing:
                self._negotiate(sender, section, changes)
        self._offered = []
        self._unheard = False
        return changes

    def rollback(self) -> None:
        """Forget the pending offer, ours or the client's; sections and their order stay."""
        self._unheard |= self._state is State.OFFERED
        self._state = State.STABLE
        self._offered = []

    # --- tracks and data -----------------------------------------------------------------------------------

    def add_sender(self, sender: Sender) -> Section | None:
        """Give `sender` a section; the client learns of it with the next description.

        As offerer a vacant one of its kind or a new one. As answerer a vacant one in which the client only receives;
        without one the sender waits (None) and every further offer is tried.
        """
        if sender in self.waiting or any(section.outgoing is sender for section in self.sections):
            raise UsageError("sdp: the sender is already there")
        if self._answers:
            section = next((section for section in self._vacant(sender.kind) if self._fits(sender, section)), None)
        else:
            vacant = self._vacant(sender.kind) if self.policy.reuse_sections else []
            section = vacant[0] if vacant else self._append(sender.kind)
        if section is None:
            self.waiting.append(sender)
            return None
        self._occupy(section, sender)
        if self._state is State.ASKED:
            self._negotiate(sender, section, Changes())  # the answer in the making carries it already
        return section

    def remove_sender(self, sender: Sender) -> None:
        """Take `sender` out; its section may be used again once the client has seen it inactive."""
        if sender in self.waiting:
            self.waiting.remove(sender)
        for section in self.sections:
            if section.outgoing is sender:
                section.outgoing = None
        sender.reset()

    def enable_data(self) -> None:
        """As offerer, add the application section (once)."""
        if self._answers:
            raise UsageError("sdp: the client opens the data section on this connection")
        if all(section.kind != "application" for section in self.sections):
            self._append("application")

    def mid_to_track_id(self) -> dict[str, str]:
        """Every outgoing track by the mid of its section, as descriptions are sent with it."""
        return {section.mid: section.outgoing.track_id for section in self.sections if section.outgoing is not None}

    def missing_sections(self) -> dict[str, int]:
        """How many more receiving sections the client must offer, by kind, for every waiting sender to find one."""
        return {
            kind: max(0, sum(sender.kind == kind for sender in self.waiting) - len(self._vacant(kind)))
            for kind in ("audio", "video")
        }

    @property
    def needs_negotiation(self) -> bool:
        """Whether the client was not yet told of what goes out now."""
        told = all(section.outgoing is section.announced for section in self.sections)
        new = not self._answers and any(item.remote is None for item in self.sections)
        return bool(self.waiting) or not told or new or self._unheard

    @property
    def _answers(self) -> bool:
        """Whether this side only answers."""
        return self.single or self._offerer is False

    # --- details -------------------------------------------------------------------------------------------

    def _check_order(self, offer: SessionDescription) -> None:
        """Sections keep their place and mid for ever; only a rejected one may be replaced (RFC 8829, section 5.2.2)."""
        if not offer.media or len(offer.media) < len(self.sections):
            raise PeerError("sdp: the offer has too few sections")
        if any(media.mid is None for media in offer.media):
            raise PeerError("sdp: a section without a mid")
        for section, media in zip(self.sections, offer.media, strict=False):
            if (section.mid, section.kind) != (media.mid, media.kind) and not section.rejected:
                raise PeerError("sdp: the offer moved or replaced a section")

    def _remote(self, description: SessionDescription, bundle: list[MediaDescription]) -> RemoteTransport:
        """The client's transport; the earlier one while it has no live section."""
        if not bundle and self.remote is not None:
            return self.remote
        remote = RemoteTransport.of(description, bundle)
        if not remote.same_certificate(self.remote):
            raise PeerError("sdp: the certificate changed")
        return remote

    def _section_at(self, at: int, media: MediaDescription) -> Section:
        """The section for an offered one: the one at its place, or a new one at the end or over a rejected one."""
        if at < len(self.sections) and self.sections[at].mid == media.mid and self.sections[at].kind == media.kind:
            return self.sections[at]
        section = Section(mid=media.mid or "", kind=media.kind)
        if at < len(self.sections):
            self.sections[at] = section
        else:
            self.sections.append(section)
        return section

    def _read_section(
        self, section: Section, media: MediaDescription, changes: Changes, displaced: list[Sender], *, usable: bool
    ) -> None:
        """Update a section from the client's words; a sender that may no longer send there is added to `displaced`."""
        before = section.incoming
        section.remote = media
        section.remote_direction = self._direction(media) if usable else Direction.INACTIVE
        incoming = self._incoming(section, media) if usable else None
        section.rejected = not usable or not self._has_codec(media, sends=incoming is not None)
        if before is not None and (incoming is None or incoming.track_id != before.track_id):
            changes.ended.append(section)
            section.preferences = AnswerPreferences()
            incoming = self._incoming(section, media) if incoming else None  # as the next track is offered
            before = None
        section.incoming = incoming
        if incoming is not None and before is None:
            changes.added.append(section)
        elif incoming is not None and incoming != before:
            changes.changed.append(section)
        sender = section.outgoing
        if sender is None:
            return
        if section.rejected or section.remote_direction is not Direction.RECVONLY:
            section.outgoing = None
            sender.reset()
            displaced.append(sender)
        else:
            self._negotiate(sender, section, changes)

    def _direction(self, media: MediaDescription) -> Direction:
        """The client's direction; where nothing may be sent to us, an offer to do both is one to receive."""
        only_receives = not self.policy.receive and media.direction is Direction.SENDRECV
        return Direction.RECVONLY if only_receives else media.direction

    def _incoming(self, section: Section, media: MediaDescription) -> Incoming | None:
        return read_incoming(media, self.policy, section.preferences, single=self.single)

    def _has_codec(self, media: MediaDescription, *, sends: bool) -> bool:
        """Whether anything in the section could be used, now or once its direction changes."""
        if media.kind not in {"audio", "video"}:
            return media.is_data
        return sends or bool(forwarded_codecs(media.codecs, media.kind, self.policy))

    def _place_waiting(self, changes: Changes, displaced: list[Sender]) -> None:
        """Bind waiting senders to vacant sections; give up on those that no section can carry."""
        candidates, self.waiting = [*displaced, *self.waiting], []
        for sender in candidates:
            vacant = self._vacant(sender.kind)
            section = next((section for section in vacant if self._fits(sender, section)), None)
            if section is not None:
                self._occupy(section, sender)
                self._negotiate(sender, section, changes)
                continue
            if vacant:
                sender.refused = True
            else:
                self.waiting.append(sender)
            if vacant or sender in displaced:
                changes.senders_negotiated.append(sender)

    def _vacant(self, kind: str) -> list[Section]:
        """Sections that an outgoing track of `kind` may move into now, in order."""
        return [
            section
            for section in self.sections
            if section.kind == kind
            and section.is_vacant
            and (not self._answers or section.remote_direction is Direction.RECVONLY)
        ]

    def _fits(self, sender: Sender, section: Section) -> bool:
        return section.remote is not None and bool(self._codecs(sender, section.remote))

    def _codecs(self, sender: Sender, media: MediaDescription) -> list[Codec]:
        """How `sender` would travel in a section that the client describes so."""
        codecs = forwarded_codecs(media.codecs, media.kind, self.policy, red=sender.has_red, stereo=sender.stereo)
        return choose(sender, codecs)

    def _occupy(self, section: Section, sender: Sender) -> None:
        section.outgoing = sender
        sender.mid = section.mid

    def _negotiate(self, sender: Sender, section: Section, changes: Changes) -> None:
        """Work out how `sender` travels, from the client's latest words on its section."""
        media = section.remote
        if media is None:
            return
        usable = not section.rejected and media.direction.receives
        codecs = self._codecs(sender, media) if usable else []
        allowed = forwarded_extensions(section.kind, self.policy)
        extensions = {item.uri: item.id for item in answered_extensions(media.extensions, allowed, Direction.SENDONLY)}
        if (codecs, extensions, not codecs) != (sender.negotiated, sender.extensions, sender.refused):
            sender.negotiated, sender.extensions, sender.refused = codecs, extensions, not codecs
            changes.senders_negotiated.append(sender)

    def _append(self, kind: str) -> Section | None:
        if len(self.sections) >= MAX_SECTIONS:
            return None
        section = Section(mid=str(len(self.sections)), kind=kind)
        self.sections.append(section)
        return section

    def _first_live(self) -> Section | None:
        return next((section for section in self.sections if not section.rejected), None)

    def _describe(self, media: tuple[MediaDescription, ...]) -> str:
        self._version += 1
        description = SessionDescription(
            session_id=self._session_id,
            session_version=self._version,
            bundle=tuple(item.mid for item in media if item.mid is not None and not item.is_rejected),
            ice_lite=self.local.ice_lite,
            extmap_allow_mixed=self._allow_mixed,
            media=media,
        )
        return description.serialize()
