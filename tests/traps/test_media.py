"""Traps of media: from a publisher's packets, through the cores, to a subscriber's (sections 4.4, 5.4, 5.5)."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from tests.media.codecs.test_send_codecs import red
from tests.media.receive_publisher import DELTA, KEYFRAME, media, new_ingress, new_video, receive, run_until
from tests.media.receive_publisher import Recorder as Ear
from tests.media.send_path import MEDIA, PUBLISHED, SSRC, Path, vp8
from tests.sdp.client import corpus, negotiation, parsed, sender
from triosfu.errors import UsageError
from triosfu.media.down_track import DownTrack
from triosfu.media.timeline import ahead
from triosfu.rtp.rtcp import Pli, ReceiverReport, Sdes, SenderReport, TransportFeedback
from triosfu.sdp import extmap
from triosfu.sdp.sections import AnswerPreferences

FRAME = 1 / 30
RIDS = {"q": 1000, "h": 1001, "f": 1002}


def test_trap_40_the_answer_promises_transport_feedback_and_the_ingress_gives_it() -> None:
    server = negotiation()
    server.accept_offer(corpus("chromium_publish_simulcast"))
    section = server.sections[2]
    answered = parsed(server.create_answer()).media[2]
    assert all("transport-cc" in codec.feedback for codec in answered.codecs)
    assert extmap.TRANSPORT_CC in {extension.uri for extension in answered.extensions}

    incoming = section.incoming
    assert incoming is not None
    ids = {uri: number for number, uri in incoming.extensions.items()}
    ingress = new_ingress()
    ingress.add_track(
        new_video(),
        mid=section.mid,
        rids=incoming.rids,
        payload_types={codec.payload_type: codec.mime for codec in incoming.codecs},
        extension_ids=ids,
    )
    said = []
    for number in range(30):
        now = number * FRAME
        said += run_until(ingress, now)
        labels = {ids[extmap.RID]: incoming.rids[0].encode(), ids[extmap.MID]: section.mid.encode()}
        labels[ids[extmap.TRANSPORT_CC]] = number.to_bytes(2, "big")
        receive(ingress, media(number, payload=KEYFRAME, extensions=labels), now)
    feedback = [one for _, one in said if isinstance(one, TransportFeedback)]
    assert len(feedback) >= 3
    told = {one.base_sequence + distance for one in feedback for distance, _ in one.received}
    assert told >= set(range(20))


def test_trap_41_layers_are_known_when_their_rids_stop_coming_after_the_first_report() -> None:
    server = negotiation()
    server.accept_offer(corpus("chromium_publish_simulcast"))
    server.create_answer()
    section = server.sections[2]
    incoming = section.incoming
    assert incoming is not None
    ids = {uri: number for number, uri in incoming.extensions.items()}
    ingress, receiver, ear = new_ingress(), new_video(), Ear()
    receiver.subscribe(ear)
    ingress.add_track(
        receiver,
        mid=section.mid,
        rids=list(RIDS),
        payload_types={codec.payload_type: codec.mime for codec in incoming.codecs},
        extension_ids=ids,
    )
    reported: set[int] = set()
    for number in range(90):
        now = number * FRAME
        for _, said in run_until(ingress, now):
            if isinstance(said, ReceiverReport):
                reported |= {block.ssrc for block in said.reports}
        for rid, ssrc in RIDS.items():
            named = {} if ssrc in reported else {ids[extmap.MID]: section.mid.encode(), ids[extmap.RID]: rid.encode()}
            receive(ingress, media(number, ssrc=ssrc, payload=DELTA if number else KEYFRAME, extensions=named), now)
    assert reported == set(RIDS.values())
    for layer, ssrc in enumerate(RIDS.values()):
        assert sum((one.spatial, one.ssrc) == (layer, ssrc) for one in ear.packets) == 90


def test_trap_41_subscribers_get_a_sender_report_every_three_seconds() -> None:
    path = Path()
    reports = []
    for number in range(300):
        if number % 30 == 0:
            path.report(0, number * 3000)
        path.publish(number, vp8(number, key=number == 0))
        told = path.wait(FRAME)
        reports += [(path.now, one, path.media[-1]) for one in told if isinstance(one, SenderReport)]
    assert [one.ssrc for _, one, _ in reports] == [SSRC] * len(reports)
    assert 3 <= len(reports) <= 4
    for (at, first, _), (later, second, _) in itertools.pairwise(reports):
        assert later - at == pytest.approx(3.0, abs=FRAME)
        assert ahead(second.rtp_timestamp, first.rtp_timestamp) == pytest.approx(3 * 90000, abs=3000)
    for _, report, newest in reports:
        # On the timeline of what is sent: without this, sound and picture drift apart.
        assert ahead(report.rtp_timestamp, newest.timestamp) == pytest.approx(0, abs=6000)
    names = [chunk for one in path.heard if isinstance(one, Sdes) for chunk in one.chunks]
    assert {(chunk.ssrc, chunk.items[0]) for chunk in names} == {(SSRC, (1, b"PA_x|TR_y"))}


def subscribe(path: Path, number: int) -> DownTrack:
    """One more subscriber, on the same transport."""
    track = DownTrack(
        receiver=path.receiver,
        sink=path.sink,
        ssrc=900 + number,
        rtx_ssrc=None,
        rng=Random(number),
        now=path.now,
        cname="c",
    )
    path.sender.add(track)
    track.bind(payload_types={"video/VP8": MEDIA}, rtx_payload_types={}, extension_ids={}, now=path.now)
    return track


def test_trap_42_who_subscribes_to_a_running_stream_gets_a_keyframe_asked_for_and_not_too_often() -> None:
    path = Path()
    path.publish(0, vp8(0, key=True))
    for number in range(1, 60):
        path.publish(number, vp8(number))
        path.wait(FRAME)
    path.heard.clear()
    assert path.wait(0.0) == []  # nobody needs one
    tracks = [subscribe(path, number) for number in range(5)]
    asked = [path.now for _ in path.plis(FRAME)]
    assert len(asked) == 1  # at once, for all of them
    for number in range(60, 120):
        path.publish(number, vp8(number))  # the publisher takes its time
        asked += [path.now for _ in path.plis(FRAME)]
    assert all(track.current_layer == -1 for track in tracks)
    assert 3 <= len(asked) <= 5
    assert all(later - at >= 0.5 - FRAME for at, later in itertools.pairwise(asked))
    path.publish(120, vp8(120, key=True))
    assert all(track.current_layer == 0 for track in tracks)
    assert not any(isinstance(one, Pli) for one in path.wait(3.0))


@pytest.mark.parametrize("kind", ["audio/opus", "video/VP8"])
def test_trap_43_subscribers_of_a_muted_track_learn_of_it_by_padding(kind: str) -> None:
    path = Path(kind, muted=True)
    path.wait(1.0)
    assert 5 <= len(path.media) <= 10
    assert {(one.ssrc, one.payload_type, one.payload) for one in path.media} == {(SSRC, MEDIA, b"")}


def test_trap_43_the_padding_waits_for_a_transport_that_comes_up_late() -> None:
    path = Path("audio/opus", muted=True)
    path.wait(8.0)
    lost = len(path.media)
    path.sender.resync(path.now)  # it is up: what was sent before reached nobody
    path.wait(1.0)
    assert len(path.media) - lost >= 5
    path.track.set_muted(False, path.now)
    path.publish(10, b"sound")
    padded = sum(not one.payload for one in path.media)
    path.track.set_muted(True, path.now)
    path.sender.resync(path.now)
    path.wait(9.0)
    assert sum(not one.payload for one in path.media) == padded  # the client knows the track by now


def test_trap_56_red_goes_to_those_only_who_negotiated_it() -> None:
    for name, expected in (("aiortc_recvonly", ["audio/opus"]), ("chromium_single_join", ["audio/red", "audio/opus"])):
        server = negotiation(single=True)
        audio = sender("audio", 1, ["audio/red", "audio/opus"])
        server.add_sender(audio)
        server.accept_offer(corpus(name))
        server.create_answer()
        assert [codec.mime for codec in audio.negotiated] == expected
        path = Path("audio/red", sent_as=expected[0])
        payload = red((960, b"old"), primary=b"new")
        (sent,) = path.publish(10, payload, timestamp=960)
        assert sent.payload == (payload if expected[0] == "audio/red" else b"new")


def test_trap_56_red_that_cannot_be_opened_is_not_sent_at_all() -> None:
    with pytest.raises(UsageError):
        Path("audio/red", sent_as="audio/opus", encrypted=True)


def test_trap_56_a_publisher_without_red_is_not_asked_for_it() -> None:
    server = negotiation()
    server.accept_offer(corpus("chromium_publish_audio"))
    server.sections[1].preferences = AnswerPreferences(red=False)
    answered = parsed(server.create_answer()).media[1]
    assert "audio/red" not in [codec.mime for codec in answered.codecs]


def check_continuous(path: Path) -> None:
    """One SSRC, no number missing, and time that goes forward as the packets do."""
    sent = path.media
    assert {one.ssrc for one in sent} == {SSRC}
    assert [(one.sequence - sent[0].sequence) & 0xFFFF for one in sent] == [at & 0xFFFF for at in range(len(sent))]
    steps = [ahead(after.timestamp, before.timestamp) for before, after in itertools.pairwise(sent)]
    assert all(0 <= step <= 2 * 90000 for step in steps), steps


def simulcast(path: Path, number: int, *, key: bool = False) -> None:
    """A frame on each of two layers that have nothing in common."""
    path.wait(FRAME)
    for layer in range(2):
        timestamp = number * 3000 + layer * 2_000_000_000
        path.report(layer, timestamp)
        path.publish(number + layer * 30_000, vp8(number, key=key), layer=layer, timestamp=timestamp)


def test_trap_59_numbers_and_time_are_continuous_over_layer_switches() -> None:
    path = Path(layers=2)
    layers = []
    for number in range(300):
        if number % 60 == 0:
            path.track.set_max_layer(number // 60 % 2, 3, path.now)
        simulcast(path, number, key=number % 15 == 0)
        layers.append(path.track.current_layer)
    assert sum(before != after for before, after in itertools.pairwise(layers)) >= 4
    assert 290 <= len(path.media) <= 310
    check_continuous(path)
    assert ahead(path.media[-1].timestamp, path.media[0].timestamp) / 90000 == pytest.approx(299 / 30, abs=0.3)


def test_traps_58_59_a_publisher_that_starts_anew_changes_nothing_for_its_subscribers() -> None:
    path = Path()
    for life in range(4):
        ssrc, first, clock = 5000 + life, 50_000 * life, 3_000_000_000 * life
        path.ingress.add_track(path.receiver, mid="0", ssrcs=[ssrc], payload_types={96: "video/VP8"}, extension_ids={})
        for number in range(30):
            path.publish(
                first + number, vp8(life * 777 + number, key=number == 0), ssrc=ssrc, timestamp=clock + number * 3000
            )
            path.wait(FRAME)
        path.wait(0.5)
    assert len(path.media) >= 4 * 29
    assert PUBLISHED not in {one.ssrc for one in path.sink.packets}
    check_continuous(path)
    lasted = ahead(path.media[-1].timestamp, path.media[0].timestamp) / 90000
    assert lasted == pytest.approx(4 * 1.0 + 3 * 0.5, abs=0.2)


def test_trap_59_a_mute_leaves_no_gap_in_the_numbers() -> None:
    path = Path()
    number = 0
    for _ in range(4):
        for at in range(30):
            path.publish(number, vp8(number, key=at == 0))
            number += 1
            path.wait(FRAME)
        path.track.set_muted(True, path.now)
        number += 40  # what is still on its way when the mute is told
        path.wait(1.0)
        path.track.set_muted(False, path.now)
    assert len(path.media) == 120
    check_continuous(path)
