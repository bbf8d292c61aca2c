"""Traps of offers and answers, by descriptions of real clients (protocol reference, sections 3.6, 4.4 and 5.4)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.sdp.client import Client, corpus, corpus_names, negotiation, parsed, sender
from triosfu.sdp.codecs import parameters
from triosfu.sdp.directions import Direction
from triosfu.sdp.negotiation import AnswerPreferences, Negotiation

if TYPE_CHECKING:
    from triosfu.sdp.media import MediaDescription
    from triosfu.sdp.wire import SessionDescription

ANSWERS = {"chromium_answer"}
OFFERS = [name for name in corpus_names() if name not in ANSWERS]
BASELINE = {"packetization-mode": "1", "profile-level-id": "42e01f"}


def exchange(server: Negotiation, sdp: str) -> SessionDescription:
    server.accept_offer(sdp)
    return parsed(server.create_answer())


def mids_with_a_track(answer: SessionDescription) -> set[str | None]:
    live = [media for media in answer.media if not media.is_data]  # data has no direction
    return {media.mid for media in live if media.msids or media.ssrcs or media.direction.sends}


@pytest.mark.parametrize("name", ["chromium_single_join", "chromium_single_gathered", "aiortc_recvonly"])
def test_trap_14_a_section_that_is_not_in_the_map_has_no_track(name: str) -> None:
    server = negotiation(single=True)
    assert not mids_with_a_track(exchange(server, corpus(name)))
    video = sender("video", 1)
    server.add_sender(video)
    answer = exchange(server, corpus(name))
    mapped = server.mid_to_track_id()
    assert mapped == {video.mid: "TR_1"}
    assert mids_with_a_track(answer) == set(mapped)
    server.remove_sender(video)
    answer = exchange(server, corpus(name))
    assert server.mid_to_track_id() == {}
    assert not mids_with_a_track(answer)
    assert not any(media.is_rejected for media in answer.media)  # they are kept for later


def numbers(media: MediaDescription) -> dict[int, tuple[str, int, str]]:
    """What each payload type means; retransmissions mean what they repeat."""
    table = {codec.payload_type: (codec.mime, codec.clock_rate, "") for codec in media.codecs}
    repeats = {
        codec.rtx_payload_type: (codec.mime, codec.clock_rate, f"again {codec.payload_type}")
        for codec in media.codecs
        if codec.rtx_payload_type is not None
    }
    return table | repeats


@pytest.mark.parametrize("name", OFFERS)
def test_trap_38_an_answer_has_the_clients_numbers(name: str) -> None:
    offer = parsed(corpus(name))
    server = negotiation(single=True)
    for number, kind in enumerate(("audio", "video")):
        server.add_sender(sender(kind, number))
    answer = exchange(server, corpus(name))
    for offered, answered in zip(offer.media, answer.media, strict=True):
        assert (offered.mid, offered.kind) == (answered.mid, answered.kind)
        if offered.is_data:
            continue
        assert answered.codecs
        assert numbers(answered).items() <= numbers(offered).items()
        extensions = {extension.id: extension.uri for extension in offered.extensions}
        assert answered.extensions
        assert {extension.id: extension.uri for extension in answered.extensions}.items() <= extensions.items()
        for section in server.sections:
            if section.outgoing is not None and section.mid == offered.mid:
                for codec in section.outgoing.negotiated:
                    assert numbers(offered)[codec.payload_type][0] == codec.mime
                assert all(extensions[number] == uri for uri, number in section.outgoing.extensions.items())


def h264(media: MediaDescription) -> list[dict[str, str]]:
    """The forms of H.264 of a section, in order."""
    return [parameters(codec.fmtp) for codec in media.codecs if codec.mime == "video/H264"]


@pytest.mark.parametrize("preferred", [None, "video/H264"])
def test_trap_39_publishers_are_asked_for_the_form_of_h264_that_all_decode(preferred: str | None) -> None:
    offer = corpus("chromium_publish_simulcast")
    assert h264(parsed(offer).media[2])[0]["profile-level-id"] == "42001f"  # what Chromium would rather send
    server = negotiation()
    server.accept_offer(offer)
    server.sections[2].preferences = AnswerPreferences(mime=preferred)
    video = parsed(server.create_answer()).media[2]
    assert h264(video)[0].items() >= BASELINE.items()
    if preferred:
        assert video.codecs[0].mime == preferred


def test_trap_39_subscribers_are_not_offered_or_answered_high_profile() -> None:
    server = negotiation()
    server.add_sender(sender("video", 1, ["video/H264"]))
    offered = h264(parsed(server.create_offer()).media[0])
    assert offered
    assert {form["profile-level-id"] for form in offered} == {"42e01f"}

    # Chromium has four-four-four for High here; this one has High itself as well.
    for profile in ("f4001f", "640c1f"):
        server = negotiation(single=True)
        video = sender("video", 1, ["video/H264"])
        server.add_sender(video)
        (answered, *_) = [
            media
            for media in exchange(server, corpus("chromium_single_join").replace("f4001f", profile)).media
            if media.msids
        ]
        assert {form["profile-level-id"][:2] for form in h264(answered)} == {"42", "4d"}
        assert parameters(video.negotiated[0].fmtp).items() >= BASELINE.items()


def tracks(media: MediaDescription) -> list[str]:
    return [msid.track for msid in media.msids]


def check_moves(history: list[SessionDescription]) -> int:
    """Show that no section went from one track to another without being inactive between; how often one moved in."""
    moved = 0
    for before, after in pairwise(history):
        for old, new in zip(before.media, after.media, strict=False):
            if tracks(old) != tracks(new):
                assert not (tracks(old) and tracks(new)), "a track took another's place"
                assert (new.direction, bool(new.ssrcs)) == (
                    (Direction.SENDONLY, True) if tracks(new) else (Direction.INACTIVE, False)
                )
                moved += bool(tracks(new))
    return moved


def test_trap_57_the_servers_offer_moves_a_track_into_a_section_by_way_of_inactive() -> None:
    server, client = negotiation(), negotiation()
    history, heard = [], []
    current = sender("video", 1)
    server.add_sender(current)
    for number in range(2, 9):
        sdp = server.create_offer()
        history.append(parsed(sdp))
        changes = client.accept_offer(sdp)
        heard += [section.incoming.track_id for section in changes.added if section.incoming]
        server.accept_answer(client.create_answer())
        server.remove_sender(current)
        current = sender("video", number)
        server.add_sender(current)
    assert check_moves(history) >= 4
    assert heard == [f"TR_{number}" for number in range(1, 8)]  # each is a new track to the client, once
    assert len(server.sections) == 2  # two that take turns: it is reuse that is shown here


def test_trap_57_an_answer_moves_a_track_into_a_section_by_way_of_inactive() -> None:
    server, client = negotiation(single=True), Client()
    client.receive("video")
    history, seen = [], []
    current = sender("video", 1)
    server.add_sender(current)
    for number in range(2, 9):
        while True:
            answer = exchange(server, client.offer())
            history.append(answer)
            if tracks(answer.media[0]) == [current.track_id]:
                break
            assert len(history) < 30, "the track never got the section"
        seen.append(current.track_id)
        server.remove_sender(current)
        current = sender("video", number)
        server.add_sender(current)
    assert check_moves(history) == 6
    assert seen == [f"TR_{number}" for number in range(1, 8)]
