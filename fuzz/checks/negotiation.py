"""A negotiation lives through any sequence of offers and answers made of real clients' sections, and of tracks."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from fuzz.checks.sdp import answered_rightly
from fuzz.script import Script
from triosfu.errors import MalformedPacket, PeerError, UsageError
from triosfu.sdp.directions import Direction, Setup
from triosfu.sdp.media import Fingerprint, IceCredentials
from triosfu.sdp.negotiation import LocalTransport, MediaPolicy, Negotiation, Sender, State
from triosfu.sdp.wire import SessionDescription

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.sdp.media import MediaDescription

DESCRIPTIONS = Path(__file__).parent.parent.parent / "tests" / "sdp" / "corpus"
KINDS = {"audio": "audio/opus", "video": "video/VP8"}
SECTIONS = 12  # of one connection; more would only be slower


@cache
def _pool() -> list[MediaDescription]:
    """Sections that real clients wrote, one of each shape."""
    found: dict[object, MediaDescription] = {}
    for path in sorted(DESCRIPTIONS.glob("*.sdp")):
        for media in SessionDescription.parse(path.read_bytes().decode()).media:
            shape = (path.stem, media.kind, media.direction, bool(media.rids))
            found.setdefault(shape, media)
    return list(found.values())


def check_negotiation(data: bytes) -> None:
    """Operations of a connection's owner and of its client, which need not keep to the rules."""
    Talk(Script(data)).run()


class Talk:
    """One negotiation of ours, and the client that it talks to."""

    def __init__(self, script: Script) -> None:
        self.script = script
        what = script.number()
        self.offers = bool(what & 1)
        local = LocalTransport(ufrag="ufragufrag", pwd="p" * 24, fingerprint="AB:CD")
        self.ours = Negotiation(
            local=local, policy=MediaPolicy(), single=bool(what & 2) and not self.offers, rng=Random(1)
        )
        self.sections: list[MediaDescription] = []  # the client's
        self.generation = 0
        self.last = ""  # what we said last, or were told
        self.senders: list[Sender] = []

    def run(self) -> None:
        """All of the script."""
        common = (self.add_sender, self.remove_sender, self.rollback, self.nonsense)
        steps: tuple[Callable[[], None], ...] = (
            (*common, self.our_offer, self.our_offer, self.client_answers, self.client_answers, self.enable_data)
            if self.offers
            else (*common, self.client_changes, self.client_changes, self.client_offers, self.client_offers)
        )
        while self.script:
            steps[self.script.number() % len(steps)]()
            self.look()

    # Our side

    def add_sender(self) -> None:
        """A track goes out."""
        kind = ("audio", "video")[self.script.number() & 1]
        number = len(self.senders)
        if number < SECTIONS:
            sender = Sender(
                kind=kind,
                track_id=f"TR_{number}",
                stream_id=f"PA_a|TR_{number}",
                ssrc=number + 1,
                rtx_ssrc=number + 1000,
                codecs=[KINDS[kind]],
            )
            self.ours.add_sender(sender)
            self.senders.append(sender)

    def remove_sender(self) -> None:
        """A track is over."""
        if self.senders:
            self.ours.remove_sender(self.senders.pop(self.script.number() % len(self.senders)))

    def rollback(self) -> None:
        """The offer is forgotten."""
        self.ours.rollback()

    def enable_data(self) -> None:
        """Data channels are wanted."""
        self.ours.enable_data()

    def our_offer(self) -> None:
        """We offer, if that is possible now."""
        possible = not self.ours.pending_offer and bool(self.ours.sections)
        try:
            self.last = self.ours.create_offer()
        except UsageError:
            assert not possible
        else:
            assert possible
            SessionDescription.parse(self.last)

    # The client's side

    def client_changes(self) -> None:
        """A section more, another direction, another track, or its end."""
        what, which = self.script.number(), self.script.number()
        if (what & 3) < 2 and len(self.sections) < SECTIONS:
            section = _pool()[which % len(_pool())]
            self.sections.append(replace(section, mid=str(len(self.sections)), port=9, bundle_only=False))
        elif self.sections:
            at = which % len(self.sections)
            self.sections[at] = self._turned(self.sections[at], what >> 2)

    def _turned(self, section: MediaDescription, what: int) -> MediaDescription:
        match what & 7:
            case 0:
                return replace(section, port=0, direction=Direction.INACTIVE)
            case 1:
                return replace(section, mid=str(what))
            case 2:
                return replace(section, codecs=section.codecs[:: -1 if what & 8 else 2])
            case 3:
                return replace(section, extensions=section.extensions[::-1], rids=section.rids[:1])
            case _:
                return replace(section, direction=list(Direction)[what & 3], port=9)

    def client_offers(self) -> None:
        """The client offers what it has, with other credentials or another certificate now and then."""
        what = self.script.number()
        if what > 0xF0:
            self.generation += 1
        self.accept_offer(self._describe(Setup.ACTPASS, certificate=what & 0x0F == 0x0F))

    def _describe(self, setup: Setup, *, certificate: bool = False) -> str:
        """The client's sections, as it would write them; `certificate` is another one than before."""
        ice = IceCredentials(f"clnt{self.generation}", "password-of-the-client-0")
        fingerprints = (Fingerprint("sha-256", ":".join(["C2" if certificate else "C1"] * 32)),)
        live = (section for section in self.sections if not section.is_rejected)
        return SessionDescription(
            bundle=tuple(section.mid or "" for section in live),
            media=tuple(replace(section, ice=ice, fingerprints=fingerprints, setup=setup) for section in self.sections),
        ).serialize()

    def accept_offer(self, text: str) -> None:
        """Our side takes an offer and answers, or refuses it and is as before."""
        before = self.snapshot()
        try:
            self.ours.accept_offer(text)
        except (MalformedPacket, PeerError):
            assert self.snapshot() == before
            return
        again = self.script.number()
        if again == 0xFF:  # now and then another offer comes before the answer
            return
        offer = SessionDescription.parse(text)
        answered_rightly(offer, SessionDescription.parse(self.ours.create_answer()))
        assert len(self.ours.sections) == len(offer.media)

    def client_answers(self) -> None:
        """An answer made of our own last offer, turned around as a client would, or otherwise."""
        if not self.last:
            return
        offer = SessionDescription.parse(self.last)
        self.sections = []
        for media in offer.media:
            what = self.script.number()
            section = replace(media, direction=media.direction.reversed, msids=(), ssrcs=(), ssrc_groups=())
            self.sections.append(self._turned(section, what >> 2) if what & 1 else section)
        self.accept_answer(self._describe(Setup.ACTIVE if self.script.number() < 0xF0 else Setup.PASSIVE))

    def accept_answer(self, text: str) -> None:
        """Our side takes an answer, or refuses it and is as before."""
        before = self.snapshot()
        try:
            self.ours.accept_answer(text)
        except (MalformedPacket, PeerError):
            assert self.snapshot() == before
        else:
            assert not self.ours.pending_offer

    def nonsense(self) -> None:
        """Text with a damaged place, as an offer and as an answer, whatever may come now."""
        text = bytearray((self.last or self._describe(Setup.ACTPASS)).encode())
        at = self.script.number(2) % len(text)
        text[at : at + (self.script.number() & 7)] = self.script.chunk()
        damaged = text.decode("latin-1")
        if self.offers:
            self.accept_answer(damaged)
        else:
            self.accept_offer(damaged)

    # What must hold

    def snapshot(self) -> tuple[object, ...]:
        """All that a refused description must not change."""
        ours = self.ours
        sections = [
            (section.mid, section.kind, section.direction, section.remote_direction, section.rejected, section.incoming)
            for section in ours.sections
        ]
        senders = [(one.mid, tuple(one.negotiated), tuple(one.extensions.items()), one.refused) for one in self.senders]
        state: State = ours._state  # noqa: SLF001
        return (sections, senders, list(ours.waiting), ours.remote, ours.setup, state)

    def look(self) -> None:
        """Each track has one section or waits, and each section one track at most."""
        holders = [section.outgoing for section in self.ours.sections if section.outgoing is not None]
        assert len(set(map(id, holders))) == len(holders)
        assert {id(one) for one in (*holders, *self.ours.waiting)} <= {id(one) for one in self.senders}
        for sender in self.senders:
            assert (sender in self.ours.waiting) != any(one is sender for one in holders)
        mids = [section.mid for section in self.ours.sections]
        assert len(set(mids)) == len(mids)
        assert min(self.ours.missing_sections().values()) >= 0
        for section in self.ours.sections:
            assert section.outgoing is None or not (self.ours.single and section.incoming is not None)
