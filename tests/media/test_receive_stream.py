"""One layer, seen from its subscribers and from the publisher."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triosfu.media.burst import Burst

import math
from operator import attrgetter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.media.codecs.test_send_codecs import two_by_two
from tests.media.receive_publisher import (
    AUDIO,
    DELTA,
    EXTENSIONS,
    KEYFRAME,
    Recorder,
    media,
    new_audio,
    new_ingress,
    new_video,
    receive,
    rtx,
    run_until,
    sent,
    with_video,
)
from triosfu.media.codecs import DEPENDENCY_DESCRIPTOR
from triosfu.rtp.rtcp import Bye, Nack, Pli, ReceiverReport, SenderReport
from triosfu.rtp.wire import build_rtp

WHAT_A_PACKET_TELLS = (
    "arrival", "data", "descriptor", "extension_end", "extension_offset", "extension_profile", "index", "keyframe",
    "marker", "payload_end", "payload_offset", "payload_type", "sequence", "spatial", "ssrc", "temporal", "timestamp",
    "vital",
)  # fmt: skip


def test_packets_reach_the_subscriber_as_they_came_and_stay_for_retransmission() -> None:
    ingress, receiver, recorder = with_video()
    receive(ingress, media(0xFFFF, payload=KEYFRAME), 1.0)
    receive(ingress, media(0, payload=DELTA), 1.1)
    first, second = recorder.packets
    assert (first.keyframe, second.keyframe) == (True, False)
    assert (first.arrival, first.spatial, first.index & 0xFFFF) == (1.0, 0, 0xFFFF)
    assert second.index == first.index + 1
    told = attrgetter(*WHAT_A_PACKET_TELLS)
    for one in recorder.packets:
        assert told(receiver.packet(0, one.index)) == told(one)
    assert receiver.packet(0, second.index + 1) is None
    assert receiver.packet(1, second.index) is None


def test_what_only_the_packets_before_could_tell_of_a_packet_stays_with_it() -> None:
    ingress, receiver, recorder = new_ingress(), new_video("video/AV1"), Recorder()
    codecs: dict[int, str | int] = {45: "video/AV1"}
    extensions = EXTENSIONS | {DEPENDENCY_DESCRIPTOR: 12}
    ingress.add_track(receiver, mid="0", ssrcs=[1000], payload_types=codecs, extension_ids=extensions)
    receiver.subscribe(recorder)
    descriptors = [two_by_two(template=3), b"\x04\x00\x0a", two_by_two(template=6)]
    for sequence, descriptor in enumerate(descriptors):
        receive(ingress, media(sequence, payload_type=45, payload=b"\x18", extensions={12: descriptor}), 0.0)
    for packet in recorder.packets:
        again = receiver.packet(0, packet.index)
        assert again is not None
        assert packet.descriptor is not None
        assert (again.descriptor, again.data) == (packet.descriptor, packet.data)


def test_padding_is_taken_out_and_the_rest_has_no_gap() -> None:
    ingress, _, recorder = with_video()
    for sequence in range(10):
        padded = sequence in {3, 4, 8}
        receive(ingress, media(sequence, payload=b"" if padded else DELTA, padding=200 if padded else 0), 0.0)
    assert recorder.indexes == list(range(7))


def test_a_packet_that_comes_late_gets_the_index_it_would_have_had() -> None:
    ingress, receiver, recorder = with_video()
    for sequence in (0, 1, 4, 2, 5):
        receive(ingress, media(sequence, payload=b"" if sequence == 1 else DELTA, padding=9 * (sequence == 1)), 0.0)
    assert recorder.indexes == [0, 3, 1, 4]
    (stream,) = receiver.streams.values()
    assert stream.reordered == 1
    ingress.receive_rtp(media(2, payload=DELTA), 0.0)
    assert (stream.reordered, stream.duplicates) == (1, 1)


def test_padding_that_comes_late_is_forwarded_empty_because_its_number_is_a_gap_already() -> None:
    ingress, _, recorder = with_video()
    for sequence in (0, 2, 1):
        receive(ingress, media(sequence, payload=b"" if sequence == 1 else DELTA, padding=9 * (sequence == 1)), 0.0)
    assert recorder.indexes == [0, 2, 1]
    assert recorder.packets[2].payload == b""


@given(st.integers(0, 2**32), st.floats(0.0, 0.4), st.integers(0, 0xFFFF), st.integers(2, 120))
def test_whatever_the_network_does_each_packet_is_forwarded_once_and_in_its_place(
    seed: int, disorder: float, base: int, count: int
) -> None:
    rng = Random(seed)
    ingress, _, recorder = with_video()
    padding = {number for number in range(1, count) if rng.random() < 0.2}
    lost = {number for number in range(1, count) if rng.random() < disorder}
    order = sorted(
        (number for number in range(count) for _ in range(rng.choice([1, 1, 1, 2]))),
        key=lambda number: number + (rng.uniform(0, 20) if number and number not in padding else 0.0),
    )
    came: list[int] = []
    for number in order:
        if number in lost:
            continue
        payload = b"" if number in padding else number.to_bytes(2, "big") + DELTA
        receive(ingress, media(base + number, payload=payload, padding=8 * (number in padding)), number / 100)
        came.append(number)
    payloads = [packet.payload for packet in recorder.packets if packet.payload]
    expected = {number for number in came if number not in padding}
    assert sorted(int.from_bytes(payload[:2], "big") for payload in payloads) == sorted(expected)
    places = {int.from_bytes(packet.payload[:2], "big"): packet.index for packet in recorder.packets if packet.payload}
    in_order = sorted(places)
    assert [places[number] for number in in_order] == sorted(places.values())
    assert len(set(places.values())) == len(places)


def test_without_reordering_padding_leaves_no_gap_and_loss_leaves_one_for_each_packet() -> None:
    ingress, _, recorder = with_video()
    rng = Random(5)
    expected, index = [], 0
    for number in range(2000):
        padded, lost = number > 0 and rng.random() < 0.2, number > 0 and rng.random() < 0.1
        if not lost:
            receive(ingress, media(60_000 + number, payload=b"" if padded else DELTA, padding=8 * padded), 0.0)
            if not padded:
                expected.append(index)
        index += lost or not padded
    assert recorder.indexes == expected


def test_a_retransmission_on_its_own_ssrc_fills_the_gap() -> None:
    ingress, receiver, recorder = with_video()
    receive(ingress, media(10, payload=KEYFRAME), 0.0)
    receive(ingress, media(12), 0.0)
    original = media(11, payload=b"\x10\x01second")
    receive(ingress, rtx(11, payload=b"\x10\x01second"), 0.1)
    assert recorder.indexes == [0, 2, 1]
    assert recorder.packets[2].data == original
    assert (recorder.packets[2].ssrc, recorder.packets[2].payload_type) == (1000, 96)
    stream = receiver.streams[0]
    assert (stream.recovered, stream.reception.received) == (1, 2)


def test_padding_behind_a_retransmission_is_not_part_of_the_original() -> None:
    ingress, _, recorder = with_video()
    for sequence in (10, 12):
        receive(ingress, media(sequence), 0.0)
    padded = build_rtp(ssrc=2000, payload_type=97, sequence=1, timestamp=33_000, payload=b"\x00\x0b" + DELTA, padding=7)
    receive(ingress, padded, 0.1)
    assert recorder.packets[2].data == media(11)


def test_a_filled_gap_is_not_asked_for_any_more() -> None:
    ingress, _, _ = with_video()
    receive(ingress, media(10, payload=KEYFRAME), 0.0)
    receive(ingress, media(12), 0.0)
    receive(ingress, rtx(11), 0.01)
    assert not [packet for _, packet in run_until(ingress, 0.9) if isinstance(packet, Nack)]


@pytest.mark.parametrize("payload", [b"", b"\x00"])
def test_probes_on_the_retransmission_ssrc_are_dropped(payload: bytes) -> None:
    ingress, _, recorder = with_video()
    receive(ingress, media(10), 0.0)
    probe = build_rtp(ssrc=2000, payload_type=97, sequence=1, timestamp=0, payload=payload, padding=100)
    receive(ingress, probe, 0.1)
    receive(ingress, rtx(10), 0.1)  # a probe that repeats what came
    assert len(recorder.packets) == 1


def test_a_probe_that_repeats_what_has_not_come_yet_does_not_get_ahead_of_it() -> None:
    ingress, _, recorder = with_video()
    receive(ingress, media(10), 0.0)
    receive(ingress, rtx(12), 0.0)
    receive(ingress, media(11), 0.0)
    receive(ingress, media(12), 0.0)
    assert recorder.indexes == [0, 1, 2]


def test_a_stream_cannot_begin_with_a_retransmission() -> None:
    ingress, receiver, recorder = with_video()
    receive(ingress, rtx(10), 0.0)
    assert (receiver.streams, recorder.packets) == ({}, [])
    receive(ingress, media(11), 0.1)
    assert recorder.indexes == [0]


def test_lost_packets_are_asked_for_and_then_a_keyframe() -> None:
    ingress, _, _ = with_video()
    receive(ingress, media(10, payload=KEYFRAME), 0.0)
    for sequence in (11, 14, 15):
        receive(ingress, media(sequence), 0.1)
    said = [(at, packet) for at, packet in run_until(ingress, 5.0) if isinstance(packet, Nack | Pli)]
    nacks = [packet for _, packet in said if isinstance(packet, Nack)]
    assert said[0][0] == pytest.approx(0.12)
    assert {packet.sequences for packet in nacks} == {(12, 13)}
    assert {packet.media_ssrc for packet in nacks} == {1000}
    assert len(nacks) == 5
    assert [type(packet) for _, packet in said[5:]] == [Pli]


def test_without_nack_a_loss_asks_for_a_keyframe_at_once() -> None:
    ingress, receiver = new_ingress(), new_video(nack=False)
    ingress.add_track(receiver, mid="0", ssrcs=[1000], payload_types={96: "video/VP8"}, extension_ids={})
    receive(ingress, media(10, payload=KEYFRAME), 0.0)
    receive(ingress, media(12), 0.0)
    assert sent(ingress) == [Pli(ingress._feedback.ssrc, 1000)]


def test_red_audio_is_not_asked_for_again() -> None:
    ingress, receiver = new_ingress(), new_audio("audio/red")
    ingress.add_track(receiver, mid="0", ssrcs=[1000], payload_types=AUDIO, extension_ids={})
    for sequence in (1, 3):
        receive(ingress, media(sequence, payload_type=63), 0.0)
    assert {type(packet) for _, packet in run_until(ingress, 0.9)} == set()


def test_a_new_layer_is_asked_for_a_keyframe_unless_it_begins_with_one() -> None:
    for payload, expected in ((KEYFRAME, 0), (DELTA, 31)):
        ingress, _, _ = with_video()
        receive(ingress, media(1, payload=payload), 0.0)
        assert sum(isinstance(packet, Pli) for _, packet in run_until(ingress, 100.0)) == expected


def test_requests_for_keyframes_keep_their_distance_and_are_not_lost() -> None:
    ingress, receiver, _ = with_video()
    woken: list[bool] = []
    ingress.wake = lambda: woken.append(True)
    receive(ingress, media(1, payload=KEYFRAME), 0.0)
    receiver.request_keyframe(0, 1.0)
    assert [type(packet) for packet in sent(ingress)] == [Pli]
    receiver.request_keyframe(0, 1.1)
    receiver.request_keyframe(0, 1.2)
    assert sent(ingress) == []
    assert [at for at, packet in run_until(ingress, 9.0) if isinstance(packet, Pli)] == [1.5]
    assert len(woken) == 3


def test_layers_within_one_stream_share_its_keyframes() -> None:
    ingress, receiver, _ = with_video()
    receive(ingress, media(1, payload=KEYFRAME), 0.0)
    receiver.request_keyframe(2, 1.0)
    assert [type(packet) for packet in sent(ingress)] == [Pli]


def test_a_stream_that_begins_anew_leaves_a_hole_no_history_can_fill_and_is_not_asked_for() -> None:
    ingress, _, recorder = with_video()
    receive(ingress, media(8, payload=KEYFRAME), 0.0)
    receive(ingress, media(10), 0.0)
    for sequence in (40_000, 40_001, 40_002):
        receive(ingress, media(sequence), 0.01)
    assert recorder.indexes[3] == recorder.indexes[2] + 1
    assert recorder.indexes[2] > 3000
    said = [packet for _, packet in run_until(ingress, 0.9)]
    assert not [packet for packet in said if isinstance(packet, Nack)]
    assert [packet for packet in said if isinstance(packet, Pli)]


def test_other_payload_types_are_left_out_without_a_gap_and_the_codec_is_noted() -> None:
    ingress, receiver, recorder = with_video()
    for sequence, payload_type in ((1, 96), (2, 126), (3, 98), (4, 96)):
        receive(ingress, media(sequence, payload_type=payload_type), 0.0)
    assert recorder.indexes == [0, 1]
    assert receiver.streams[0].foreign == 2
    assert receiver.unexpected_mime == "video/VP9"


def test_bare_opus_among_red_becomes_red() -> None:
    ingress, receiver, recorder = new_ingress(), new_audio("audio/red"), Recorder()
    ingress.add_track(receiver, mid="0", ssrcs=[1000], payload_types=AUDIO, extension_ids=EXTENSIONS)
    receiver.subscribe(recorder)
    receive(ingress, media(1, payload_type=63, payload=b"\x6fone"), 0.0)
    receive(ingress, media(2, payload_type=111, payload=b"two", extensions={1: b"\x90"}, padding=2), 0.0)
    bare = recorder.packets[1]
    assert (bare.payload_type, bare.payload, bare.padding) == (63, b"\x6ftwo", 0)
    assert (bare.sequence, bare.timestamp, bare.extension(1)) == (2, 6000, b"\x90")


def test_opus_in_a_track_of_another_codec_stays_out() -> None:
    ingress, receiver, recorder = new_ingress(), new_audio("audio/PCMU"), Recorder()
    ingress.add_track(
        receiver, mid="0", ssrcs=[1000], payload_types={0: "audio/PCMU", 111: "audio/opus"}, extension_ids={}
    )
    receiver.subscribe(recorder)
    receive(ingress, media(1, payload_type=0), 0.0)
    receive(ingress, media(2, payload_type=111), 0.0)
    assert [packet.payload_type for packet in recorder.packets] == [0]


def test_a_failing_subscriber_costs_the_others_nothing() -> None:
    class Broken:
        lane = None
        source = -1

        def take(self, burst: Burst, now: float, start: int = 0) -> None:
            raise ZeroDivisionError

    ingress, receiver, before = with_video()
    broken, behind = Broken(), Recorder()
    receiver.subscribe(broken)
    receiver.subscribe(behind)
    for sequence in range(3):
        receive(ingress, media(sequence), 0.0)
    assert before.indexes == behind.indexes == [0, 1, 2]
    assert receiver.failed_subscribers == 1
    assert broken not in receiver.subscribers


def test_leaving_while_a_packet_is_handed_out_skips_nobody() -> None:
    ingress, receiver, first = with_video()

    class Leaver:
        lane = None
        source = -1

        def take(self, burst: Burst, now: float, start: int = 0) -> None:
            receiver.unsubscribe(self)

    leaver, last = Leaver(), Recorder()
    receiver.subscribe(leaver)
    receiver.subscribe(last)
    receiver.subscribe(last)
    receive(ingress, media(1), 0.0)
    assert len(first.packets) == len(last.packets) == 1
    assert receiver.subscribers == [first, last]


def test_reports_say_what_came_and_answer_sender_reports() -> None:
    ingress, receiver, _ = with_video()
    receive(ingress, media(10, payload=KEYFRAME), 0.0)
    receive(ingress, media(13), 0.2)
    ingress.receive_rtcp([SenderReport(1000, 0xB44DB705_20000000, 90_000, 1, 1)], 0.5)
    (block,) = [
        block for _, packet in run_until(ingress, 1.0) if isinstance(packet, ReceiverReport) for block in packet.reports
    ]
    assert (block.ssrc, block.highest_sequence, block.cumulative_lost) == (1000, 13, 2)
    assert (block.last_sr, block.delay_since_last_sr) == (0xB7052000, 0x8000)
    info = receiver.sender_report(0)
    assert info is not None
    assert (info.rtp_timestamp, info.arrival) == (90_000, 0.5)
    assert info.ntp == 0xB44DB705 + 0.125
    assert receiver.sender_report(1) is None


def test_a_layer_is_available_while_it_flows_and_has_a_bitrate() -> None:
    ingress, receiver, _ = with_video()
    assert not receiver.available
    now = 0.0
    for sequence in range(150):
        now = sequence / 100
        run_until(ingress, now)
        receive(ingress, media(sequence, payload=DELTA + bytes(988 - len(DELTA))), now)
    assert receiver.available == (0,)
    assert receiver.bitrate(0) == pytest.approx(800_000, rel=0.02)
    assert receiver.bitrate(1) == 0
    changes = receiver.changes
    run_until(ingress, now + 1.1)
    assert not receiver.available
    assert receiver.bitrate(0) == 0
    assert receiver.changes > changes


def test_a_goodbye_stops_the_layer_until_its_next_packet() -> None:
    ingress, receiver, _ = with_video()
    for sequence in range(10):
        receive(ingress, media(sequence), 0.1)
    ingress.receive_rtcp([Bye((1000, 77))], 0.2)
    assert not receiver.available
    receive(ingress, media(11), 0.3)
    assert receiver.available == (0,)


def test_an_expected_layer_is_available_from_its_first_packet() -> None:
    ingress, receiver, _ = with_video()
    for sequence in range(10):
        receive(ingress, media(sequence), 0.0)
    run_until(ingress, 1.1)
    receiver.expect([0, 1])
    receive(ingress, media(10), 1.2)
    assert receiver.available == (0,)


def test_the_level_comes_from_the_header_extension() -> None:
    ingress, receiver = new_ingress(), new_audio()
    ingress.add_track(receiver, mid="0", ssrcs=[1000], payload_types=AUDIO, extension_ids=EXTENSIONS)
    for frame in range(41):
        packet = media(frame, payload_type=111, timestamp=frame * 960, extensions={1: b"\x94"})
        receive(ingress, packet, frame / 50)
    assert receiver.audio_level(0.8) == pytest.approx(0.1 * (2 / 3 + 2 / 9), rel=1e-6)
    assert receiver.speaking(0.8)
    assert receiver.audio_level(1.7) == 0


def test_quiet_receivers_need_no_time() -> None:
    ingress, receiver, _ = with_video()
    assert ingress.next_timeout() == math.inf
    receiver.request_keyframe(0, 0.0)
    assert sent(ingress) == []


def test_another_codec_counts_as_a_change_only_when_nothing_comes_in_the_expected_one() -> None:
    ingress, receiver, _ = with_video()
    receive(ingress, media(1), 0.0)
    receive(ingress, media(2, payload_type=98), 0.0)
    assert receiver.changed_codec() is None  # a stray one, or the beginning of a change
    receive(ingress, media(3, payload_type=98), 0.0)
    receive(ingress, media(4), 0.0)
    assert receiver.changed_codec() is None
    assert receiver.changed_codec() is None
    receive(ingress, media(5, payload_type=98), 0.0)
    assert receiver.changed_codec() == "video/VP9"
