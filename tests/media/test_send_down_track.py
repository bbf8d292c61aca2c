from __future__ import annotations

from itertools import pairwise

import pytest
from aiortc.codecs.vpx import VpxPayloadDescriptor

from tests.media.codecs.test_send_codecs import red, two_by_two
from tests.media.send_path import EPOCH, MEDIA, PUBLISHED, RTX_SSRC, SSRC, Path, vp8
from triosfu.errors import UsageError
from triosfu.media.burst import Burst
from triosfu.media.codecs import DEPENDENCY_DESCRIPTOR
from triosfu.media.codecs.red import parse_red
from triosfu.media.codecs.silence import OPUS, silence
from triosfu.media.down_track import Hold
from triosfu.media.shape import ABS_CAPTURE_TIME, ABS_SEND_TIME, MAX_PACKET, TRANSPORT_SEQUENCE
from triosfu.media.timeline import ahead
from triosfu.rtp.rtcp import Nack, Pli, ReportBlock, SenderReport
from triosfu.rtp.wire import RtpPacket, build_rtp


def started(**settings: object) -> Path:
    """A VP8 path on which a keyframe has come through."""
    path = Path(**settings)  # type: ignore[arg-type]
    path.publish(10, vp8(1, key=True))
    assert len(path.media) == 1
    return path


def seconds(path: Path, packet: RtpPacket, other: RtpPacket) -> float:
    return ahead(packet.timestamp, other.timestamp) / path.clock_rate


# --- beginning -------------------------------------------------------------------------------------------------------


def test_video_begins_at_a_keyframe_which_is_asked_for() -> None:
    path = Path()
    assert path.publish(10, vp8(1)) == []
    assert 0 in path.plis(0.1)
    assert len(path.publish(11, vp8(2, key=True))) == 1
    assert len(path.publish(12, vp8(3))) == 1
    assert path.track.current_layer == 0
    path.wait(2.0)
    path.told()
    assert path.plis(3.0) == []  # locked: nothing more to ask for


def test_a_keyframe_is_asked_for_until_it_comes() -> None:
    path = Path()
    asked = 0
    for number in range(10, 70):
        path.publish(number, vp8(number))
        asked += len(path.plis(0.1))
    assert asked >= 5  # the receiver lets one through each half second


def test_audio_begins_at_once() -> None:
    path = Path("audio/opus")
    (sent,) = path.publish(10, b"sound", timestamp=960)
    assert (sent.ssrc, sent.payload_type, sent.payload, sent.marker) == (SSRC, MEDIA, b"sound", True)
    assert 2**15 <= sent.sequence < 2**15 + 2**14  # far from a wrap at the start
    assert 2**31 <= sent.timestamp < 2**31 + 2**30


def test_a_codec_that_was_not_negotiated_cannot_be_bound() -> None:
    with pytest.raises(UsageError):
        Path("video/VP8", sent_as="video/H264")
    with pytest.raises(UsageError):
        Path("audio/red", sent_as="audio/opus", encrypted=True)  # it cannot be taken apart


def test_binding_again_changes_numbers_only() -> None:
    path = started()
    path.track.bind(payload_types={"video/vp8": 120}, rtx_payload_types={}, extension_ids={}, now=path.now)
    (sent,) = path.publish(11, vp8(2))
    assert sent.payload_type == 120
    assert (sent.sequence - path.media[0].sequence) & 0xFFFF == 1
    assert len(path.receiver.subscribers) == 1


def test_an_unbound_track_is_fed_no_more() -> None:
    path = started()
    path.sender.remove(path.track)
    assert path.receiver.subscribers == []
    assert path.track.holds == {Hold.UNBOUND}
    path.track.receive_nack([path.media[0].sequence], path.now)
    assert len(path.sink.packets) == 1


@pytest.mark.parametrize("mime", ["video/VP8", "audio/opus"])
def test_a_track_goes_on_where_another_was_left_as_one_stream(mime: str) -> None:
    video = mime == "video/VP8"
    first = Path(mime)
    for number in range(10, 13):
        first.now += 0.1
        first.publish(number, vp8(number, key=number == 10, tl0=number) if video else b"first")
    first.sender.remove(first.track)
    # Two seconds later there is another publisher, on whose numbers nothing depends.
    second = Path(mime, continuing=first.track.left_off(), now=first.now + 2, seed=2)
    second.track.set_muted(False, second.now)
    sent = second.publish(60_000, vp8(500, key=True, tl0=200) if video else b"second", timestamp=12)
    sent += second.publish(60_001, vp8(501, tl0=201) if video else b"second", timestamp=3012)
    last = first.media[-1]
    assert [(one.sequence - last.sequence) & 0xFFFF for one in sent] == [1, 2]
    assert seconds(first, sent[0], last) == pytest.approx(2.0)
    if video:
        pictures = [VpxPayloadDescriptor.parse(one.payload)[0] for one in (last, *sent)]
        assert [one.picture_id for one in pictures] == [12, 13, 14]
        assert [one.tl0picidx for one in pictures] == [12, 13, 14]
    stats = second.track.stats
    assert stats.earlier_packets + stats.packets == 5, "its receiver counts on, too"
    second.track.receive_nack([last.sequence], second.now)
    assert len(second.sink.packets) == 2, "what the other has sent is not ours to repeat"


# --- header extensions -----------------------------------------------------------------------------------------------


def test_extensions_are_renumbered_and_the_rest_stays_behind() -> None:
    path = Path(extension_ids={ABS_SEND_TIME: 9, ABS_CAPTURE_TIME: 2})
    path.now = 1.5
    (sent,) = path.publish(10, vp8(1, key=True), extensions={6: b"capture!", 12: b"\xc0\0\1", 4: b"mid"})
    assert sent.extension(9) == (int(1.5 * 2**18) & 0xFFFFFF).to_bytes(3, "big")
    assert sent.extension(2) == b"capture!"
    assert [number for number, _, _ in sent.elements()] == [9, 2]


def test_without_negotiated_extensions_there_is_no_block() -> None:
    path = Path(extension_ids={})
    (sent,) = path.publish(10, vp8(1, key=True), extensions={6: b"capture!"})
    assert sent.extension_profile == 0
    assert len(sent.data) == 12 + len(vp8())


def test_a_long_dependency_descriptor_takes_the_two_byte_form() -> None:
    path = Path("video/AV1", extension_ids={ABS_SEND_TIME: 3, DEPENDENCY_DESCRIPTOR: 4})
    descriptor = two_by_two(resolutions=True)
    assert len(descriptor) > 16
    (sent,) = path.publish(10, b"\x18av1", extensions={12: descriptor})
    assert sent.extension_profile == 0x1000
    assert sent.extension(4) == descriptor
    assert sent.extension(3) is not None


def test_transport_wide_numbers_count_all_packets_of_the_transport() -> None:
    path = Path(extension_ids={TRANSPORT_SEQUENCE: 5, ABS_SEND_TIME: 3})
    path.publish(10, vp8(1, key=True))
    path.publish(11, vp8(2))
    path.track.receive_nack([path.media[0].sequence], path.now)
    assert [packet.extension(5) for packet in path.sink.packets] == [b"\0\0", b"\0\1", b"\0\2"]
    assert path.sink.packets[0].extension(3) is None


def test_a_packet_that_would_not_fit_goes_out_empty() -> None:
    path = started()
    (sent,) = path.publish(11, vp8(2) + bytes(MAX_PACKET))
    assert sent.payload == b""
    assert (sent.sequence - path.media[0].sequence) & 0xFFFF == 1


def test_subscribers_with_the_same_identifiers_share_the_work() -> None:
    path = Path()
    other = Path()
    path.receiver.subscribe(other.track._forwarder)
    other.track._receiver = path.receiver
    other.track.bind(payload_types={"video/VP8": 99}, rtx_payload_types={}, extension_ids={ABS_SEND_TIME: 3}, now=0.0)
    assert other.track._forwarder.shape is path.track._forwarder.shape
    path.publish(10, vp8(1, key=True))
    assert other.sink.packets[0].payload == path.sink.packets[0].payload
    assert other.sink.packets[0].payload_type == 99


# --- layers ----------------------------------------------------------------------------------------------------------


def simulcast(path: Path, number: int, *, key: bool = False, report: bool = True) -> list[RtpPacket]:
    """One frame on every layer, 33 ms after the one before; layers differ in all their numbers."""
    path.wait(1 / 30)
    sent = []
    for layer in range(path.layers):
        timestamp = number * 3000 + layer * 1_000_000
        if report:
            path.report(layer, timestamp)
        sent += path.publish(
            number + layer * 1000, vp8(number * 2 + layer * 100, key=key), layer=layer, timestamp=timestamp
        )
    return sent


def test_a_layer_switch_waits_for_a_keyframe_and_keeps_the_time() -> None:
    path = Path(layers=2)
    path.track.set_max_layer(0, 3, 0.0)
    simulcast(path, 1)
    for number in range(2, 6):
        simulcast(path, number, key=number == 2)
    assert path.track.current_layer == 0
    path.track.set_max_layer(1, 3, path.now)
    path.heard.clear()
    number = 6
    while not any(isinstance(one, Pli) and one.media_ssrc == PUBLISHED + 1 for one in path.heard):
        (before,) = simulcast(path, number)
        number += 1
        assert number < 40, "not asked for within a second"
    assert path.track.current_layer == 0
    switch = simulcast(path, number, key=True)
    assert path.track.current_layer == 1
    # The keyframe of the old layer came first, at the same media time: the new one follows it by one tick.
    assert [ahead(packet.timestamp, before.timestamp) for packet in switch] == [3000, 3001]
    (following,) = simulcast(path, number + 1)
    assert ahead(following.timestamp, switch[0].timestamp) == 3000 + 1
    assert (following.sequence - before.sequence) & 0xFFFF == 3


def test_without_sender_reports_a_switch_is_put_off_for_a_second_at_most() -> None:
    path = Path(layers=2)
    path.track.set_max_layer(0, 3, 0.0)
    simulcast(path, 1, report=False)
    simulcast(path, 2, key=True, report=False)
    path.track.set_max_layer(1, 3, path.now)
    number = 3
    simulcast(path, number, key=True, report=False)
    refused = path.now
    while path.track.current_layer == 0:
        number += 1
        last = path.media[-1]
        simulcast(path, number, key=True, report=False)
        assert path.now - refused < 1.1
    assert path.now - refused >= 1.0
    assert ahead(path.media[-1].timestamp, last.timestamp) > 0


def test_packets_are_kept_for_those_who_may_ask_and_of_other_layers_for_a_moment() -> None:
    """Also of a layer that the subscriber has just left."""
    path = Path(layers=2)
    path.track.set_max_layer(0, 7, path.now)

    def go_on(first: int, end: int, *, key: bool = False) -> None:
        for number in range(first, end):
            simulcast(path, number, key=key and number == first)

    def kept() -> list[int]:
        return [len(list(stream.buffer)) for _, stream in sorted(path.receiver.streams.items())]

    go_on(100, 132, key=True)
    assert path.track.current_layer == 0
    assert 32 >= kept()[0] >= 31
    assert kept()[1] <= 10, "0.2 seconds, and up to 0.1 until somebody looks"
    of_layer_0 = path.media[-1].sequence
    path.track.set_max_layer(1, 7, path.now)
    go_on(132, 142, key=True)
    assert path.track.current_layer == 1
    asked = [of_layer_0, *(packet.sequence for packet in path.media[-9:])]
    before = len(path.sink.packets)
    path.track.receive_nack(asked, path.now)
    assert len(path.sink.packets) == before + len(asked)
    go_on(142, 174)
    assert kept()[0] <= 10
    assert 33 >= kept()[1] >= 31


def test_a_layer_that_stops_gives_way_to_a_lower_one() -> None:
    path = Path(layers=2)
    simulcast(path, 1)
    simulcast(path, 2, key=True)
    assert path.track.current_layer == 1
    path.layers = 1
    number, asked = 3, []
    while path.track.current_layer != 0:
        sent = simulcast(path, number, key=0 in asked)
        asked = path.plis()
        number += 1
        assert number < 90, "frozen for three seconds"
    gap = seconds(path, path.media[-1], path.media[-2])
    assert gap == pytest.approx((number - 3) / 30, abs=0.05)
    assert sent


def test_a_flowing_layer_that_was_believed_dead_is_not_asked_for_again() -> None:
    path = Path(layers=2)
    simulcast(path, 1)
    for number in range(2, 20):
        simulcast(path, number, key=number == 2)
    assert path.track.current_layer == 1
    known, path.receiver.available = path.receiver.available, (0,)
    path.track.layers_changed(path.now)
    path.receiver.available = known
    path.track.layers_changed(path.now)
    for number in range(20, 60):
        simulcast(path, number)
    path.heard.clear()
    for number in range(60, 150):
        simulcast(path, number)
    assert not any(isinstance(one, Pli) for one in path.heard)


def test_frames_of_a_dropped_temporal_layer_leave_no_trace() -> None:
    path = started()
    path.track.set_max_layer(0, 0, path.now)
    for number in range(11, 31):
        path.publish(number, vp8(number - 9, temporal=number % 2))
    pictures = [VpxPayloadDescriptor.parse(packet.payload)[0].picture_id for packet in path.media]
    assert len(pictures) == 11
    assert pictures == list(range(1, 12))
    assert [packet.sequence - path.media[0].sequence for packet in path.media] == list(range(11))


def test_the_place_of_a_late_unwanted_packet_is_filled() -> None:
    path = started()
    path.track.set_max_layer(0, 0, path.now)
    assert path.publish(11, vp8(2, temporal=1)) == []
    path.publish(12, vp8(3))
    path.publish(14, vp8(5))
    (filler,) = path.publish(13, vp8(4, temporal=1))
    assert filler.payload == b""
    assert [packet.sequence - path.media[0].sequence for packet in path.media] == [0, 1, 3, 2]


def vp9(spatial: int, *, key: bool = False, temporal: int = 0, switch: bool = False, last: bool = True) -> bytes:
    head = 0x20 | 0x08 | (0x04 if last else 0) | (0 if key else 0x40)
    return bytes([head, temporal << 5 | switch << 4 | spatial << 1 | (spatial > 0), 0]) + b"vp9"


def test_the_marker_moves_to_the_top_layer_that_is_forwarded() -> None:
    path = Path("video/VP9")
    path.track.set_max_layer(1, 3, 0.0)
    number = 10
    for picture in range(3):
        for spatial in range(3):
            path.publish(number, vp9(spatial, key=picture == 0), timestamp=picture * 3000, marker=spatial == 2)
            number += 1
    assert [packet.marker for packet in path.media] == [False, True] * 3
    assert [packet.sequence - path.media[0].sequence for packet in path.media] == list(range(6))
    path.track.receive_nack([path.media[1].sequence], path.now)
    assert path.sink.packets[-1].ssrc == RTX_SSRC
    assert path.sink.packets[-1].marker


def test_spatial_layers_are_added_at_the_next_keyframe_which_is_asked_for() -> None:
    path = Path("video/VP9")
    path.track.set_max_layer(0, 3, 0.0)
    path.publish(10, vp9(0, key=True), timestamp=0, marker=False)
    path.publish(11, vp9(1, key=True), timestamp=0)
    path.wait(2.0)
    path.track.set_max_layer(1, 3, path.now)
    assert path.plis(0.5)
    path.publish(12, vp9(0), timestamp=3000, marker=False)
    assert path.publish(13, vp9(1), timestamp=3000) == []
    path.publish(14, vp9(0, key=True), timestamp=6000, marker=False)
    assert len(path.publish(15, vp9(1, key=True), timestamp=6000)) == 1


def test_frame_numbers_of_the_dependency_descriptor_continue_on_another_layer() -> None:
    path = Path("video/AV1", layers=2, extension_ids={DEPENDENCY_DESCRIPTOR: 4})
    path.track.set_max_layer(0, 3, 0.0)
    path.publish(10, b"\x18", timestamp=0, extensions={12: two_by_two(frame=65535)})
    path.track.set_max_layer(1, 3, 0.0)
    path.now = 1.0
    (switched,) = path.publish(700, b"\x18", layer=1, timestamp=5, extensions={12: two_by_two(frame=500)})
    value = switched.extension(4)
    assert value is not None
    assert int.from_bytes(value[1:3], "big") == 0
    assert value[3:] == two_by_two(frame=0)[3:]


# --- sources that end and begin --------------------------------------------------------------------------------------


def test_a_publisher_that_starts_anew_on_another_ssrc_is_followed() -> None:
    path = started()
    path.publish(11, vp8(2))
    path.wait(0.5)
    last = path.media[-1]
    assert path.publish(40000, vp8(900), ssrc=5555, timestamp=77) == []
    # Until the receiver knows the ssrc by its mid it holds packets; here it is bound by hand.
    path.ingress.add_track(path.receiver, mid="0", ssrcs=[5555], payload_types={96: "video/VP8"}, extension_ids={})
    (first,) = path.publish(40001, vp8(901, key=True), ssrc=5555, timestamp=3077)
    assert (first.sequence - last.sequence) & 0xFFFF == 1
    assert seconds(path, first, last) == pytest.approx(0.5, abs=0.01)
    assert VpxPayloadDescriptor.parse(first.payload)[0].picture_id == 3


def test_audio_whose_numbers_jump_carries_on() -> None:
    path = Path("audio/opus")
    path.publish(100, b"a", timestamp=0)
    path.wait(0.02)
    sent: list[RtpPacket] = []
    for number in range(30):
        sent += path.publish(20000 + number, b"b", timestamp=9_000_000 + number * 960)
        path.wait(0.02)
    assert len(sent) >= 28
    assert (sent[0].sequence - path.media[0].sequence) & 0xFFFF == 1
    assert seconds(path, sent[0], path.media[0]) < 2.5


def test_audio_whose_numbers_jump_back_carries_on_though_each_looks_late() -> None:
    path = Path("audio/opus")
    path.publish(1, b"a", timestamp=0)
    (start,) = path.media
    base = path.track._forwarder.munger.next_index - 3000
    for number in range(40):
        packet = RtpPacket.parse(
            build_rtp(ssrc=PUBLISHED, payload_type=96, sequence=5000 + number, timestamp=number * 960, payload=b"b"),
            path.now + number * 0.02,
        )
        packet.index = base + number
        burst = Burst(packet.ssrc)
        burst.add(packet)
        path.track._forwarder.forward(burst, packet.arrival)
    assert [one.sequence - start.sequence for one in path.media[:3]] == [0, 1, 2]
    assert len(path.media) == 1 + 21


def test_all_packets_of_a_keyframe_are_vital_and_no_others() -> None:
    path = Path()
    path.publish(1, vp8(1, key=True), timestamp=0, marker=False)
    path.publish(2, vp8(1, start=False), timestamp=0)
    path.publish(3, vp8(2), timestamp=3000)
    path.publish(4, vp8(3, key=True), timestamp=6000)
    path.publish(5, vp8(4), timestamp=9000)
    assert path.sink.vital == [True, True, False, True, False]


@pytest.mark.parametrize("stop", ["muted", "disabled", "paused"])
def test_a_hold_stops_the_stream_and_a_keyframe_resumes_it(stop: str) -> None:
    path = started()
    hold = getattr(path.track, f"set_{stop}")
    hold(True, path.now)
    assert path.publish(11, vp8(2)) == []
    assert path.track.target_layer == -1
    path.wait(2.0)
    hold(False, path.now)
    assert path.publish(12, vp8(3), timestamp=90000 * 3) == []
    assert path.plis(0.6) != []
    (resumed,) = path.publish(13, vp8(4, key=True), timestamp=90000 * 3)
    first = path.media[0]
    assert (resumed.sequence - first.sequence) & 0xFFFF == 1
    assert VpxPayloadDescriptor.parse(resumed.payload)[0].picture_id == 2


def test_a_muted_publishers_clock_that_stood_still_is_made_up_for() -> None:
    path = Path("audio/opus")
    path.publish(1, b"a", timestamp=960)
    path.track.set_muted(True, path.now)
    path.wait(10.0)
    path.track.set_muted(False, path.now)
    (sent,) = path.publish(2, b"b", timestamp=1920)
    assert seconds(path, sent, path.media[0]) == pytest.approx(10.0)
    path.wait(0.02)
    (following,) = path.publish(3, b"c", timestamp=2880)
    assert ahead(following.timestamp, sent.timestamp) == 960


@pytest.mark.parametrize("stop", ["muted", "disabled"])
def test_a_sound_that_stops_is_followed_by_a_second_of_silence(stop: str) -> None:
    path = Path("audio/opus")
    sounds = 300  # more than can be had again
    for number in range(1, sounds + 1):
        path.publish(number, b"sound", timestamp=960 * number)
        path.wait(0.02)
    hold = getattr(path.track, f"set_{stop}")
    hold(True, path.now)
    path.wait(3.0)
    assert [packet.payload for packet in path.media] == [b"sound"] * sounds + [OPUS] * 50
    assert {(later.sequence - one.sequence) & 0xFFFF for one, later in pairwise(path.media)} == {1}
    assert {ahead(later.timestamp, one.timestamp) for one, later in pairwise(path.media)} == {960}
    path.track.receive_nack([path.media[-1].sequence], path.now)
    assert len(path.sink.packets) == len(path.media) == sounds + 50, "it cannot be had again"
    hold(False, path.now)
    (sent,) = path.publish(sounds + 1, b"again", timestamp=960 * (sounds + 151))
    assert ahead(sent.timestamp, path.media[0].timestamp) == 960 * (sounds + 150), "by the publisher's clock"


def test_silence_ends_when_the_sound_comes_back_and_begins_once() -> None:
    path = Path("audio/opus")
    path.publish(1, b"sound", timestamp=960)
    path.track.set_muted(True, path.now)
    path.wait(0.1)
    assert 4 <= len(path.media) - 1 <= 6
    path.track.set_muted(False, path.now)
    heard = len(path.media)
    path.wait(3.0)
    assert len(path.media) == heard
    path.track.set_disabled(True, path.now)
    path.wait(0.1)
    path.track.set_muted(True, path.now)
    path.track.set_disabled(False, path.now)
    path.wait(3.0)
    assert len(path.media) == heard + 50, "it is held still, for another reason"
    path.track.set_muted(False, path.now)
    path.track.set_muted(True, path.now)
    path.track.unbind()
    path.wait(3.0)
    assert len(path.media) == heard + 50


def test_a_sound_that_had_paused_is_followed_where_its_time_is() -> None:
    path = Path("audio/opus")
    path.publish(1, b"sound", timestamp=960)
    path.wait(0.4)  # no packets of silence come: the publisher saves them
    path.track.set_muted(True, path.now)
    path.wait(0.1)
    first, following, *_ = path.media[1:]
    assert seconds(path, first, path.media[0]) == pytest.approx(0.4)
    assert ahead(following.timestamp, first.timestamp) == 960


def test_no_silence_where_clients_alone_have_the_key_nor_in_pictures() -> None:
    for path in (Path("audio/opus", encrypted=True), started()):
        path.publish(11, b"secret" if not path.video else vp8(2))
        sent = len(path.media)
        path.track.set_muted(True, path.now)
        path.wait(1.0)
        assert len(path.media) == sent


def test_silence_is_as_the_subscriber_reads_it() -> None:
    assert silence("audio/RED", 111) == bytes([111]) + OPUS
    assert parse_red(silence("audio/red", 111), 0, 81)[-1].start == 1
    assert (silence("audio/red", None), silence("video/VP8", 111)) == (b"", b"")
    assert len(silence("audio/PCMU", None)) == len(silence("audio/PCMA", None)) == 160


def test_resync_begins_again_at_a_keyframe() -> None:
    path = started()
    path.track.resync(path.now)
    assert path.publish(11, vp8(2)) == []
    assert path.plis(1.0)
    (sent,) = path.publish(12, vp8(3, key=True))
    assert (sent.sequence - path.media[0].sequence) & 0xFFFF == 1


def test_subscribers_of_a_muted_track_get_padding_for_five_seconds() -> None:
    path = Path(muted=True)
    path.wait(0.05)
    assert path.media == []
    path.wait(9.0)
    padding = list(path.media)
    assert 48 <= len(padding) <= 51
    assert all(packet.payload == b"" and packet.padding == 4 for packet in padding)
    assert [packet.sequence - padding[0].sequence for packet in padding] == list(range(len(padding)))
    path.track.set_muted(False, path.now)
    (media,) = path.publish(10, vp8(1, key=True))
    assert media.sequence - padding[-1].sequence == 1
    assert seconds(path, media, padding[0]) == pytest.approx(path.now - 0.1, abs=0.01)


# --- RED -------------------------------------------------------------------------------------------------------------


def test_red_is_passed_on_to_those_who_read_it() -> None:
    path = Path("audio/red")
    payload = red((960, b"old"), primary=b"new")
    (sent,) = path.publish(10, payload, timestamp=960)
    assert sent.payload == payload


def test_others_get_its_primary_block_and_what_it_mends() -> None:
    path = Path("audio/red", sent_as="audio/opus")
    assert [one.payload for one in path.publish(10, red((960, b"9"), primary=b"10"), timestamp=9600)] == [b"10"]
    sent = path.publish(13, red((1920, b"11"), (960, b"12"), primary=b"13"), timestamp=12480)
    assert [one.payload for one in sent] == [b"11", b"12", b"13"]
    assert [ahead(one.timestamp, path.media[0].timestamp) for one in sent] == [960, 1920, 2880]
    assert [one.sequence - path.media[0].sequence for one in sent] == [1, 2, 3]
    assert path.publish(12, red((960, b"11"), primary=b"12"), timestamp=11520) == []  # it has been mended
    (empty,) = path.publish(14, b"\xff", timestamp=13440)  # damaged, but its number is taken
    assert empty.payload == b""


# --- RTCP ------------------------------------------------------------------------------------------------------------


def test_a_packet_is_resent_three_times_at_most_and_not_too_soon() -> None:
    path = started()
    sequence = path.media[0].sequence
    resent = []
    for _ in range(60):
        before = len(path.sink.packets)
        path.sender.receive_rtcp([Nack(1, SSRC, (sequence,))], path.now)
        if len(path.sink.packets) > before:
            resent.append(path.now)
        path.now += 0.01
    assert resent == pytest.approx([0.0, 0.1, 0.2], abs=0.011)
    rtx = [packet for packet in path.sink.packets if packet.ssrc == RTX_SSRC]
    assert [packet.sequence - rtx[0].sequence for packet in rtx] == [0, 1, 2]
    assert path.track.stats.nacks == 60
    assert path.track.stats.nacks_missed == 57


def test_a_packet_that_never_came_is_not_resent_as_another() -> None:
    path = started()
    for number in range(11, 700):
        path.publish(number, vp8(number))
    newest = path.media[-1].sequence
    path.publish(701, vp8(701))
    path.track.receive_nack([newest + 1 & 0xFFFF], path.now)
    assert all(packet.ssrc == SSRC for packet in path.sink.packets)
    (late,) = path.publish(700, vp8(700))
    assert late.sequence == newest + 1 & 0xFFFF
    path.track.receive_nack([newest + 1 & 0xFFFF], path.now)
    assert path.sink.packets[-1].payload[2:] == vp8(700)


def test_after_a_pli_nothing_is_resent_until_the_keyframe() -> None:
    path = started()
    path.wait(1.0)
    path.sender.receive_rtcp([Pli(1, SSRC)], path.now)
    assert [one.media_ssrc for one in path.told() if isinstance(one, Pli)] == [PUBLISHED]
    path.publish(11, vp8(2))
    newest = path.media[-1].sequence
    path.sender.receive_rtcp([Nack(1, SSRC, (newest,))], path.now)
    assert all(packet.ssrc == SSRC for packet in path.sink.packets)
    path.publish(12, vp8(3, key=True))
    path.sender.receive_rtcp([Nack(1, SSRC, (newest,))], path.now)
    assert path.sink.packets[-1].ssrc == RTX_SSRC


def test_a_pli_is_answered_though_the_first_keyframe_gets_lost() -> None:
    path = started()
    path.wait(1.0)
    path.track.receive_pli(path.now)
    asked = 0
    for number in range(11, 41):
        path.publish(number, vp8(number - 9))
        asked += len(path.plis(0.1))
    assert asked >= 4


def reports(path: Path, seconds: float) -> list[SenderReport]:
    return [one for one in path.wait(seconds) if isinstance(one, SenderReport)]


def test_sender_reports_carry_the_publishers_clock_on() -> None:
    path = Path("audio/opus")
    path.report(0, 48_000)  # nothing is bound yet: not heard
    path.publish(1, b"a", timestamp=48_000)
    path.wait(0.5)
    path.report(0, 72_000)
    path.publish(2, b"bcd", timestamp=72_000)
    (report,) = reports(path, 3.0)
    sent = path.media[-1]
    elapsed = report.ntp / 2**32 - (EPOCH + 0.5)
    assert 0 <= elapsed <= 3.0
    assert ahead(report.rtp_timestamp, sent.timestamp) == pytest.approx(elapsed * 48_000, abs=2)
    assert (report.ssrc, report.packet_count, report.octet_count) == (SSRC, 2, 4)


def test_a_publisher_without_reports_gets_our_clock_after_a_while() -> None:
    path = Path("audio/opus")
    path.publish(1, b"a", timestamp=0)
    assert reports(path, 4.9) == []  # one would have been due meanwhile
    path.publish(2, b"a", timestamp=round(4.9 * 48_000))
    (report,) = reports(path, 3.0)
    elapsed = report.ntp / 2**32 - 4.9
    assert ahead(report.rtp_timestamp, path.media[-1].timestamp) / 48_000 == pytest.approx(elapsed, abs=0.001)


def test_a_sender_report_never_steps_back_unless_it_persists() -> None:
    path = Path("audio/opus")
    path.publish(1, b"a", timestamp=0)
    path.report(0, 0, ntp=EPOCH)
    (first,) = reports(path, 3.0)
    path.report(0, 144_000, ntp=EPOCH - 100)
    assert reports(path, 9.0) == []
    (later,) = reports(path, 3.0)
    assert later.ntp < first.ntp


def test_round_trip_loss_and_jitter_come_from_receiver_reports() -> None:
    path = Path("audio/opus")
    path.publish(1, b"a", timestamp=0)
    path.report(0, 0)
    (report,) = reports(path, 3.0)
    sent_at = report.ntp / 2**32 - EPOCH
    path.now = sent_at + 0.35
    block = ReportBlock(SSRC, 64, 12, 1, 480, report.ntp >> 16 & 0xFFFFFFFF, round(0.25 * 65536))
    path.track.receive_report(block, path.now)
    stats = path.track.stats
    assert stats.rtt == pytest.approx(0.1, abs=0.001)
    assert (stats.fraction_lost, stats.lost, stats.jitter) == (0.25, 12, 0.01)
    path.track.receive_report(ReportBlock(SSRC, 0, 0, 1, 0, 12345, 0), path.now)  # about a report we never sent
    assert stats.rtt == pytest.approx(0.1, abs=0.001)
