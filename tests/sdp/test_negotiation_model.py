"""Two sides negotiate in random order; what RFC 8829 and LiveKit's clients rely on holds after every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.sdp.client import Client, local, negotiation, parsed, sender
from triosfu.sdp.directions import Direction

if TYPE_CHECKING:
    from triosfu.sdp.negotiation import Changes, Negotiation, Sender
    from triosfu.sdp.wire import SessionDescription

KINDS = st.sampled_from(["audio", "video"])


class Eyes:
    """What a JavaScript client makes of our descriptions: `ontrack` when a section begins to send."""

    def __init__(self) -> None:
        self.tracks: dict[str, str] = {}  # by mid

    def look(self, description: SessionDescription) -> None:
        for media in description.media:
            mid = media.mid or ""
            if media.kind == "application" or not media.direction.sends:
                self.tracks.pop(mid, None)
            elif mid not in self.tracks:
                self.tracks[mid] = media.msids[0].track
            else:
                assert self.tracks[mid] == media.msids[0].track, "a track took a section over unseen"


def order(description: SessionDescription) -> list[tuple[str | None, str]]:
    return [(media.mid, media.kind) for media in description.media]


class OurOffers(RuleBasedStateMachine):
    """A subscriber connection; the client is the answering half of the same code."""

    def __init__(self) -> None:
        super().__init__()
        self.server = negotiation()
        self.client = negotiation()
        self.eyes = Eyes()
        self.alive: list[Sender] = []
        self.offered: SessionDescription | None = None
        self.history: list[tuple[str | None, str]] = []
        self.generation = 0
        self.count = 0

    @rule(kind=KINDS)
    def add(self, kind: str) -> None:
        self.count += 1
        one = sender(kind, self.count)
        self.alive.append(one)
        assert self.server.add_sender(one) is not None

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.alive))
        self.alive.remove(one)
        self.server.remove_sender(one)

    @rule()
    def open_data(self) -> None:
        self.server.enable_data()

    @rule()
    def restart_ice(self) -> None:
        self.generation += 1
        self.server.local = local(self.generation)

    @precondition(lambda self: self.server.sections and not self.server.pending_offer)
    @rule()
    def offer(self) -> None:
        self.sdp = self.server.create_offer()
        self.offered = parsed(self.sdp)
        mids = [media.mid for media in self.offered.media]
        assert mids == [str(at) for at in range(len(mids))], "mids are ascending decimals"
        assert order(self.offered)[: len(self.history)] == self.history, "the order is append-only"
        self.history = order(self.offered)
        for media in self.offered.media:
            assert media.setup == "actpass"

    @precondition(lambda self: self.server.pending_offer)
    @rule()
    def lose_the_offer(self) -> None:
        self.server.rollback()

    @precondition(lambda self: self.server.pending_offer)
    @rule(lost=st.booleans())
    def answer(self, lost: bool) -> None:
        assert self.offered is not None
        self.eyes.look(self.offered)
        self.client.accept_offer(self.sdp)
        answer = self.client.create_answer()
        assert order(parsed(answer)) == order(self.offered)
        heard = {section.incoming.track_id for section in self.client.sections if section.incoming}
        assert heard == set(self.eyes.tracks.values())
        if lost:
            self.server.rollback()
        else:
            self.server.accept_answer(answer)

    @invariant()
    def every_track_has_a_section_of_its_own(self) -> None:
        tracks = self.server.mid_to_track_id()
        assert sorted(tracks.values()) == sorted(one.track_id for one in self.alive)
        assert {one.mid: one.track_id for one in self.alive} == tracks

    @invariant()
    def agreement_is_complete(self) -> None:
        if not self.server.needs_negotiation and not self.server.pending_offer:
            assert all(one.negotiated for one in self.alive)
            assert self.eyes.tracks == self.server.mid_to_track_id()

    def teardown(self) -> None:
        """Whatever happened, two more rounds settle everything."""
        if self.server.pending_offer:
            self.answer(lost=False)
        if self.server.sections:
            self.offer()
            self.answer(lost=False)
        assert not self.server.needs_negotiation
        self.agreement_is_complete()


class TheirOffers(RuleBasedStateMachine):
    """One connection for both directions; the client adds, turns and stops sections as browsers do."""

    def __init__(self) -> None:
        super().__init__()
        self.server: Negotiation = negotiation(single=True)
        self.client = Client()
        self.client.data()
        self.eyes = Eyes()
        self.alive: list[Sender] = []
        self.published: dict[str, str] = {}  # track by mid, as rooms would know it
        self.count = 0
        self.asked: SessionDescription | None = None

    @rule(kind=KINDS)
    def add(self, kind: str) -> None:
        self.count += 1
        one = sender(kind, self.count)
        self.alive.append(one)
        self.server.add_sender(one)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.alive))
        self.alive.remove(one)
        self.server.remove_sender(one)

    @rule(kind=KINDS)
    def client_receives(self, kind: str) -> None:
        self.client.receive(kind)

    @rule(kind=KINDS)
    def client_publishes(self, kind: str) -> None:
        self.count += 1
        self.client.publish(kind, f"client-{self.count}")

    @rule(data=st.data(), direction=st.sampled_from([Direction.INACTIVE, Direction.RECVONLY, Direction.SENDONLY]))
    def client_turns(self, data: st.DataObject, direction: Direction) -> None:
        at = data.draw(st.sampled_from(range(len(self.client.sections))))
        section = self.client.sections[at]
        if section.kind != "application" and not section.is_rejected and (section.msids or not direction.sends):
            self.client.turn(at, direction)

    @rule(data=st.data())
    def client_stops(self, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from(range(len(self.client.sections))))
        if self.client.sections[at].kind != "application":
            self.client.stop(at)

    @rule()
    def client_restarts_ice(self) -> None:
        self.client.restart_ice()

    @rule()
    def ask(self) -> None:
        sdp = self.client.offer()
        self.asked = parsed(sdp)
        before = self.server.remote
        changes = self.server.accept_offer(sdp)
        assert changes.ice_restart == (before is not None and before.ufrag != self.client.ice.ufrag)
        self.follow(changes)

    @precondition(lambda self: self.asked)
    @rule()
    def answer(self) -> None:
        assert self.asked is not None
        answer = self.client.answered(self.server.create_answer())
        assert order(answer) == order(self.asked)
        self.eyes.look(answer)
        for asked, answered in zip(self.asked.media, answer.media, strict=True):
            offered = {(codec.mime, codec.payload_type, codec.rtx_payload_type) for codec in asked.codecs}
            assert {(each.mime, each.payload_type, each.rtx_payload_type) for each in answered.codecs} <= offered
            assert {item.id: item.uri for item in answered.extensions}.items() <= {
                item.id: item.uri for item in asked.extensions
            }.items()
            assert answered.is_rejected == asked.is_rejected
            if asked.direction.sends and answered.kind != "application":
                assert answered.direction is Direction.RECVONLY
        self.asked = None
        # The full map goes with every answer, and names just what sends (trap 13).
        assert self.eyes.tracks == self.server.mid_to_track_id()

    def follow(self, changes: Changes) -> None:
        """Keep the published tracks as rooms do: ended first."""
        for section in changes.ended:
            self.published.pop(section.mid)
        for section in changes.added:
            assert section.incoming is not None
            assert section.mid not in self.published
            self.published[section.mid] = section.incoming.track_id

    @invariant()
    def a_track_waits_or_has_a_section_of_its_own(self) -> None:
        placed = self.server.mid_to_track_id()
        waiting = [one.track_id for one in self.server.waiting]
        assert sorted([*placed.values(), *waiting]) == sorted(one.track_id for one in self.alive)
        assert all(not one.negotiated for one in self.server.waiting)

    @invariant()
    def mids_are_unique(self) -> None:
        mids = [section.mid for section in self.server.sections]
        assert len(set(mids)) == len(mids)

    def teardown(self) -> None:
        """Whatever happened: with the sections that we ask for, everything is placed after two rounds."""
        for _ in range(2):
            if self.asked is None:
                self.ask()
            self.answer()
            for kind, missing in self.server.missing_sections().items():
                for _ in range(missing):
                    self.client.receive(kind)
        self.ask()
        self.answer()
        assert not self.server.needs_negotiation
        assert all(one.negotiated for one in self.alive)
        sending = {
            section.mid: section.msids[0].track
            for section in self.client.sections
            if section.direction.sends and section.msids
        }
        assert self.published == sending


SETTINGS = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestOurOffers = pytest.mark.timeout(300)(OurOffers.TestCase)
TestOurOffers.settings = SETTINGS
TestTheirOffers = pytest.mark.timeout(300)(TheirOffers.TestCase)
TestTheirOffers.settings = SETTINGS


def test_the_model_notices_a_track_that_takes_a_section_over() -> None:
    one = parsed_with_track("a")
    eyes = Eyes()
    eyes.look(one)
    with pytest.raises(AssertionError):
        eyes.look(parsed_with_track("b"))


def parsed_with_track(track: str) -> SessionDescription:
    client = Client()
    client.publish("audio", track)
    return parsed(client.offer())
