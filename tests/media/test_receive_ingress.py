"""Which SSRC is which, and what is reported for all of them."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.checks.rtp import check_ingress
from tests.media.receive_publisher import (
    AUDIO,
    DELTA,
    EXTENSIONS,
    KEYFRAME,
    VIDEO,
    Recorder,
    media,
    new_audio,
    new_ingress,
    new_video,
    receive,
    run_until,
    sent,
    with_video,
)
from triosfu.media.counts import received
from triosfu.media.ingress import HOLD_FOR, MAX_HELD_PACKETS, MAX_HELD_SSRCS, Ingress
from triosfu.rtp.rtcp import (
    DelaySinceLastRr,
    Dlrr,
    ReceiverReferenceTime,
    ReceiverReport,
    TransportFeedback,
    Xr,
    parse_compound,
)
from triosfu.rtp.wire import build_rtp

if TYPE_CHECKING:
    from triosfu.media.receiver import TrackReceiver

MID, RID, REPAIRED = 4, 10, 11  # identifiers
LAYERS = {"q": 1000, "h": 1001, "f": 1002}


def with_simulcast() -> tuple[Ingress, TrackReceiver, Recorder]:
    ingress, receiver, recorder = new_ingress(), new_video(), Recorder()
    ingress.add_track(receiver, mid="0", rids=["q", "h", "f"], payload_types=VIDEO, extension_ids=EXTENSIONS)
    receiver.subscribe(recorder)
    return ingress, receiver, recorder


def labelled(sequence: int, ssrc: int, rid: str, mid: bytes = b"0") -> bytes:
    return media(sequence, ssrc=ssrc, extensions={MID: mid, RID: rid.encode()})


def test_layers_are_told_by_rid_and_stay_known_when_the_rid_stops_coming() -> None:
    ingress, receiver, recorder = with_simulcast()
    for rid, ssrc in LAYERS.items():
        receive(ingress, labelled(1, ssrc, rid), 0.0)
    for ssrc in LAYERS.values():
        receive(ingress, media(2, ssrc=ssrc), 0.1)
    assert [(packet.spatial, packet.ssrc) for packet in recorder.packets] == [
        (0, 1000), (1, 1001), (2, 1002), (0, 1000), (1, 1001), (2, 1002)
    ]  # fmt: skip
    assert receiver.available == (0, 1, 2)


def test_a_renegotiation_that_adds_the_track_again_keeps_its_layers() -> None:
    ingress, receiver, recorder = with_simulcast()
    receive(ingress, labelled(1, 1001, "h"), 0.0)
    stream = receiver.streams[1]
    ingress.remove_track(receiver)
    ingress.add_track(receiver, mid="0", rids=["q", "h", "f"], payload_types=VIDEO, extension_ids=EXTENSIONS)
    receive(ingress, media(3, ssrc=1001), 0.1)
    assert recorder.indexes == [0, 2]
    assert receiver.streams == {1: stream}
    assert ingress.counters["replaced"] == 0


def test_another_receiver_for_the_section_gets_the_layers_that_were_named_before() -> None:
    ingress, receiver, recorder = with_simulcast()
    receive(ingress, labelled(1, 1002, "f"), 0.0)
    ingress.remove_track(receiver)
    receive(ingress, media(2, ssrc=1002), 0.1)
    other = new_video("video/VP9")
    ingress.add_track(other, mid="0", rids=["q", "h", "f"], payload_types=VIDEO, extension_ids=EXTENSIONS)
    receive(ingress, media(3, ssrc=1002, payload_type=98), 0.2)
    assert len(recorder.packets) == 1
    assert list(other.streams) == [2]


def test_simulcast_retransmissions_are_told_by_the_repaired_rid() -> None:
    ingress, receiver, recorder = with_simulcast()
    receive(ingress, labelled(1, 1001, "h"), 0.0)
    receive(ingress, labelled(3, 1001, "h"), 0.0)
    for sequence, extensions in ((1, {MID: b"0", REPAIRED: b"h"}), (2, {})):
        repeat = build_rtp(
            ssrc=2001, payload_type=97, sequence=sequence, timestamp=6000,
            payload=b"\x00\x02" + DELTA, extensions=extensions,
        )  # fmt: skip
        receive(ingress, repeat, 0.1)
    assert recorder.indexes == [0, 2, 1]
    assert recorder.packets[2].ssrc == 1001
    assert receiver.streams[1].duplicates == 1
    counts = received(receiver)
    assert (counts.packets, counts.resent_packets, counts.duplicates) == (2, 2, 1)
    assert counts.resent_octets == 2 * len(repeat) + 8  # the first one has extensions


def test_layers_without_rids_are_told_by_their_ssrcs_in_order() -> None:
    ingress, receiver = new_ingress(), new_video()
    ingress.add_track(
        receiver, mid="0", ssrcs=[5, 6, 7], rtx={5: 15, 6: 16, 7: 17}, payload_types=VIDEO, extension_ids=EXTENSIONS
    )
    for ssrc in (7, 5, 6):
        receive(ingress, media(1, ssrc=ssrc), 0.0)
    assert {spatial: stream.ssrc for spatial, stream in receiver.streams.items()} == {0: 5, 1: 6, 2: 7}


def test_in_simulcast_the_rid_says_more_than_incomplete_ssrc_lines() -> None:
    ingress, receiver = new_ingress(), new_video()
    ingress.add_track(receiver, mid="0", rids=["q", "h"], ssrcs=[1001], payload_types=VIDEO, extension_ids=EXTENSIONS)
    receive(ingress, labelled(1, 1001, "h"), 0.0)
    assert list(receiver.streams) == [1]


def test_tracks_are_told_by_mid_or_else_by_a_payload_type_that_only_one_has() -> None:
    ingress, audio, video, screen = new_ingress(), new_audio(), new_video(), new_video()
    ingress.add_track(audio, mid="a", payload_types=AUDIO, extension_ids=EXTENSIONS)
    ingress.add_track(video, mid="v", payload_types=VIDEO, extension_ids=EXTENSIONS)
    ingress.add_track(screen, mid="s", payload_types=VIDEO, extension_ids=EXTENSIONS)
    receive(ingress, media(1, ssrc=1, payload_type=111), 0.0)
    receive(ingress, media(1, ssrc=2, extensions={MID: b"s"}), 0.0)
    assert (list(audio.streams), list(video.streams), list(screen.streams)) == ([0], [], [0])
    receive(ingress, media(1, ssrc=3), 0.0)
    assert video.streams[0].ssrc == 3  # the only one of that payload type that has no source yet
    receive(ingress, media(1, ssrc=4), 0.0)
    assert {stream.ssrc for track in (video, screen) for stream in track.streams.values()} == {2, 3}


def test_a_mid_that_nobody_has_is_not_guessed_from_the_payload_type() -> None:
    ingress, audio = new_ingress(), new_audio()
    ingress.add_track(audio, mid="a", payload_types=AUDIO, extension_ids=EXTENSIONS)
    receive(ingress, media(1, ssrc=1, payload_type=111, extensions={MID: b"b"}), 0.0)
    assert audio.streams == {}


def test_what_comes_before_the_track_is_known_is_held_and_replayed_in_order() -> None:
    ingress, receiver, recorder = new_ingress(), new_video(), Recorder()
    receive(ingress, labelled(1, 1000, "q"), 10.0)
    for sequence in range(2, 6):
        receive(ingress, media(sequence, ssrc=1000), 10.1)
    receiver.subscribe(recorder)
    ingress.add_track(receiver, mid="0", rids=["q"], payload_types=VIDEO, extension_ids=EXTENSIONS)
    ingress.forward(10.1)
    assert recorder.indexes == [0, 1, 2, 3, 4]
    receive(ingress, media(6, ssrc=1000), 10.2)
    assert recorder.indexes[-1] == 5


def test_a_batch_brings_packets_of_several_tracks_and_streams() -> None:
    ingress, video, sound = new_ingress(), new_video(), new_audio()
    seen, heard = Recorder(), Recorder()
    ingress.add_track(video, mid="v", ssrcs=[1000, 1001], payload_types=VIDEO, extension_ids=EXTENSIONS)
    ingress.add_track(sound, mid="a", ssrcs=[2000], payload_types=AUDIO, extension_ids=EXTENSIONS)
    video.subscribe(seen)
    sound.subscribe(heard)
    for sequence in (1, 2):
        ingress.receive_rtp(media(sequence), 0.0)
        ingress.receive_rtp(media(sequence, ssrc=2000, payload_type=111), 0.0)
        ingress.receive_rtp(media(sequence, ssrc=1001), 0.0)
    assert seen.packets == heard.packets == []
    ingress.forward(0.0)
    assert [(packet.ssrc, packet.sequence) for packet in seen.packets] == [(1000, 1), (1000, 2), (1001, 1), (1001, 2)]
    assert [packet.sequence for packet in heard.packets] == [1, 2]
    ingress.forward(0.0)
    assert len(seen.packets) == 4


def test_old_media_is_not_replayed() -> None:
    ingress, receiver, recorder = new_ingress(), new_video(), Recorder()
    receiver.subscribe(recorder)
    receive(ingress, media(1), 10.0)
    receive(ingress, media(2), 10.0 + HOLD_FOR + 0.1)
    ingress.add_track(receiver, mid="0", ssrcs=[1000], payload_types=VIDEO, extension_ids=EXTENSIONS)
    ingress.forward(10.0 + HOLD_FOR + 0.1)
    assert [packet.sequence for packet in recorder.packets] == [2]


def test_what_was_held_grows_old_while_other_media_flows() -> None:
    ingress, _, _ = with_simulcast()
    receive(ingress, media(1, ssrc=77), 10.0)
    receive(ingress, labelled(1, 1000, "q"), 60.0)
    receiver, recorder = new_video(), Recorder()
    receiver.subscribe(recorder)
    ingress.add_track(receiver, mid="1", ssrcs=[77], payload_types=VIDEO, extension_ids=EXTENSIONS)
    assert recorder.packets == []


def test_unbound_sources_are_bounded_and_counted() -> None:
    ingress, _, _ = with_simulcast()
    for sequence in range(3 * MAX_HELD_PACKETS):
        receive(ingress, media(sequence, ssrc=1), 0.0)
    for ssrc in range(100_000, 101_000):
        receive(ingress, media(1, ssrc=ssrc), 0.0)
    assert len(ingress._held) == MAX_HELD_SSRCS
    assert len(ingress._bindings._said) <= 64
    assert ingress.counters["unbound"] == 3 * MAX_HELD_PACKETS + 1000 - MAX_HELD_SSRCS


def test_forward_error_correction_is_no_layer() -> None:
    ingress, receiver = new_ingress(), new_video()
    ingress.add_track(receiver, mid="0", ssrcs=[5, 6], payload_types=VIDEO, extension_ids=EXTENSIONS)
    receive(ingress, media(1, ssrc=6, payload_type=49, extensions={MID: b"0"}), 0.0)
    assert receiver.streams == {}


def test_a_layer_that_moves_to_another_ssrc_is_followed_and_stragglers_do_not_pull_it_back() -> None:
    ingress, receiver, recorder = with_simulcast()
    receive(ingress, labelled(1, 1000, "q"), 0.0)
    receive(ingress, labelled(500, 3000, "q"), 0.1)
    receive(ingress, media(2, ssrc=1000), 0.2)
    receive(ingress, media(501, ssrc=3000), 0.3)
    assert [packet.ssrc for packet in recorder.packets] == [1000, 3000, 3000]
    assert ingress.counters["retired"] == 1
    assert received(receiver).packets == 3  # those on both, and none that was a straggler
    receive(ingress, labelled(3, 1000, "q"), 5.0)
    assert (received(receiver).packets, received(receiver).nacks) == (4, 0)
    assert received(receiver).octets > received(receiver).packets * 12
    assert receiver.streams[0].ssrc == 1000
    assert len(receiver.streams) == 1


def test_a_removed_track_gets_nothing_more_and_costs_nothing() -> None:
    ingress, receiver, recorder = with_video()
    receive(ingress, media(1), 0.0)
    ingress.remove_track(receiver)
    receive(ingress, media(2), 0.1)
    run_until(ingress, 0.2)
    assert len(recorder.packets) == 1
    assert not [packet for _, packet in run_until(ingress, 5.0) if isinstance(packet, ReceiverReport)]


def test_malformed_packets_are_counted() -> None:
    ingress = new_ingress()
    receive(ingress, b"\x80", 0.0)
    assert ingress.counters["malformed"] == 1


# --- reports --------------------------------------------------------------------------------------------------------


def test_every_second_each_source_heard_is_reported_together_with_our_clock() -> None:
    ingress, _, _ = with_simulcast()
    for rid, ssrc in LAYERS.items():
        receive(ingress, labelled(1, ssrc, rid), 5.0)
    reports = [(at, p) for at, p in run_until(ingress, 8.5) if isinstance(p, ReceiverReport | Xr)]
    assert [at for at, _ in reports] == [6.0, 6.0]  # nothing came after that
    _, report = reports[0]
    assert isinstance(report, ReceiverReport)
    assert [block.ssrc for block in report.reports] == [1000, 1001, 1002]
    _, xr = reports[1]
    assert isinstance(xr, Xr)
    assert xr.blocks == (ReceiverReferenceTime(6 << 32),)


def test_many_sources_are_split_over_reports_and_datagrams() -> None:
    ingress = new_ingress()
    for ssrc in range(1, 101):
        receiver = new_audio()
        ingress.add_track(receiver, mid=str(ssrc), ssrcs=[ssrc], payload_types=AUDIO, extension_ids=EXTENSIONS)
        receive(ingress, media(1, ssrc=ssrc, payload_type=111), 0.0)
    ingress.handle_timeout(1.0)
    compounds = ingress.rtcp_to_send()
    assert [len(compound) <= 1100 for compound in compounds] == [True] * 3
    reports = [packet for compound in compounds for packet in parse_compound(compound)]
    blocks = [block for packet in reports if isinstance(packet, ReceiverReport) for block in packet.reports]
    assert [block.ssrc for block in blocks] == list(range(1, 101))
    assert ingress.rtcp_to_send() == []


def test_the_round_trip_is_measured_by_the_publishers_answer_and_smoothed() -> None:
    ingress, receiver, _ = with_video()
    assert receiver.rtt == ingress.rtt == pytest.approx(0.07)
    ours = ingress._feedback.ssrc
    answer = DelaySinceLastRr(ours, 100 << 16, 1 << 15)  # our clock at 100 s, answered after half a second
    ingress.receive_rtcp([Xr(1000, (Dlrr((answer,)),))], 100.53)
    assert ingress.rtt == pytest.approx(0.07 * 0.25 + 0.03 * 0.75, abs=1e-4)
    for wrong in (
        DelaySinceLastRr(ours + 1, 100 << 16, 0),  # not ours
        DelaySinceLastRr(ours, 200 << 16, 0),  # from the future
    ):
        ingress.receive_rtcp([Xr(1000, (Dlrr((wrong,)),))], 101.0)
    ingress.receive_rtcp([Xr(1000, (Dlrr((DelaySinceLastRr(ours, 0, 0),)),))], 1.0)  # it has not heard of us yet
    assert ingress.rtt == pytest.approx(0.07 * 0.25 + 0.03 * 0.75, abs=1e-4)


def test_the_publishers_clock_is_answered_at_once() -> None:
    ingress = new_ingress()
    ingress.receive_rtcp([Xr(9, (ReceiverReferenceTime(0x11112222_33334444),))], 1.0)
    (answer,) = sent(ingress)
    assert isinstance(answer, Xr)
    assert answer.blocks == (Dlrr((DelaySinceLastRr(9, 0x22223333, 0),)),)


def test_every_packet_with_a_transport_number_is_reported_whatever_it_is() -> None:
    ingress, _, _ = with_video()
    kinds = [
        {"ssrc": 1000, "payload_type": 96, "payload": KEYFRAME},
        {"ssrc": 1000, "payload_type": 96, "payload": b"", "padding": 200},
        {"ssrc": 2000, "payload_type": 97, "payload": b"", "padding": 200},
        {"ssrc": 4242, "payload_type": 120, "payload": b"?"},
    ]
    for number, kind in enumerate(kinds):
        packet = build_rtp(sequence=number, timestamp=0, extensions={3: bytes([0, number])}, **kind)  # type: ignore[arg-type]
        receive(ingress, packet, 1.0 + number / 100)
    (feedback,) = [packet for _, packet in run_until(ingress, 1.3) if isinstance(packet, TransportFeedback)]
    assert [number for number, _ in feedback.arrivals()] == [0, 1, 2, 3]


def test_feedback_flows_at_the_pace_of_the_packets() -> None:
    ingress, _, _ = with_video()
    feedbacks = 0
    for number in range(1000):
        packet = media(number, timestamp=0, extensions={3: number.to_bytes(2, "big")})
        receive(ingress, packet, number / 500)
        ingress.handle_timeout(number / 500)
        feedbacks += sum(isinstance(packet, TransportFeedback) for packet in sent(ingress))
    assert feedbacks == 19  # two seconds, one each 100 ms, rounded up to whole packets


@given(st.binary(max_size=300))
def test_no_bytes_disturb_an_ingress(data: bytes) -> None:
    check_ingress(data)


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_no_sequence_of_plausible_packets_disturbs_an_ingress(seed: int, count: int) -> None:
    rng = Random(seed)
    datagrams = b""
    for _ in range(count):
        packet = media(
            rng.choice([1, 2, 3, 9, 40_000, 65_535]),
            ssrc=rng.choice([1, 2, 3, 4]),
            payload_type=rng.choice([96, 97, 98, 111, 63]),
            payload=rng.choice([b"", KEYFRAME, DELTA, b"\x00\x02" + DELTA]),
            extensions=rng.choice([{}, {MID: b"0", RID: b"q"}, {MID: b"0", REPAIRED: b"q"}, {3: rng.randbytes(2)}]),
        )
        datagrams += bytes([len(packet)]) + packet
    check_ingress(datagrams)


def test_an_ingress_without_packets_never_wakes() -> None:
    ingress = new_ingress()
    assert ingress.next_timeout() == math.inf
    ingress.handle_timeout(1.0)
    assert ingress.rtcp_to_send() == []


def test_what_nobody_drains_does_not_pile_up() -> None:
    ingress = new_ingress()
    for number in range(5000):
        ingress.receive_rtcp([Xr(9, (ReceiverReferenceTime(number << 16),))], 1.0)
    answers = sent(ingress)
    assert len(answers) <= 512
    assert answers[-1] == Xr(ingress._feedback.ssrc, (Dlrr((DelaySinceLastRr(9, 4999, 0),)),))
