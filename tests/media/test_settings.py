"""What an operator may choose about media, where it acts."""

from __future__ import annotations

from random import Random

import pytest

from tests.media.receive_publisher import EXTENSIONS, VIDEO, Recorder, media, new_ingress, receive
from tests.media.send_path import Path
from triosfu.media.down_track import DownTrack
from triosfu.media.levels import SSRC_AUDIO_LEVEL, LevelSettings
from triosfu.media.receiver import ReceiveSettings, TrackReceiver
from triosfu.media.shape import PLAYOUT_DELAY, Shape, playout_delay
from triosfu.rtp.rtcp import Pli, parse_compound
from triosfu.rtp.wire import RtpPacket, build_rtp


def video(settings: ReceiveSettings) -> TrackReceiver:
    return TrackReceiver(kind="video", mime="video/VP8", clock_rate=90000, now=0.0, settings=settings)


@pytest.mark.parametrize("size", [10, 600])
def test_a_layer_keeps_as_many_packets_as_configured(size: int) -> None:
    ingress, receiver = new_ingress(), video(ReceiveSettings(buffer_video=size))
    ingress.add_track(receiver, mid="0", ssrcs=[1000], payload_types=VIDEO, extension_ids=EXTENSIONS)
    receiver.subscribe(Recorder())
    for sequence in range(1000):
        receive(ingress, media(sequence), 0.0)
    newest = receiver.streams[0]._number
    assert receiver.packet(0, newest - size + 1) is not None
    assert receiver.packet(0, newest - size) is None


@pytest.mark.parametrize(("size", "history"), [(1, 1), (200, 256), (500, 512), (513, 1024), (16_384, 16_384)])
def test_subscribers_can_ask_again_for_as_many(size: int, history: int) -> None:
    receiver = video(ReceiveSettings(buffer_video=size))
    down = DownTrack(receiver=receiver, sink=Path().sink, ssrc=1, rtx_ssrc=2, rng=Random(1), now=0.0, cname="c")
    assert down._forwarder.munger.history == history >= size


def test_keyframe_requests_keep_the_configured_distance() -> None:
    ingress, receiver = new_ingress(), video(ReceiveSettings(keyframe_distance=(4.0, 1.0, 1.0)))
    ingress.add_track(receiver, mid="0", ssrcs=[1000], payload_types=VIDEO, extension_ids=EXTENSIONS)
    receive(ingress, media(1), 0.0)
    asked = []
    now = 0.0
    while now < 9.0:
        receiver.request_keyframe(0, now)
        ingress.handle_timeout(now)
        sent = [packet for compound in ingress.rtcp_to_send() for packet in parse_compound(compound)]
        asked += [now for packet in sent if isinstance(packet, Pli)]
        now += 0.5
    assert asked == [0.0, 4.0, 8.0]


@pytest.mark.parametrize(("active_level", "heard"), [(35, False), (50, True)])
def test_who_speaks_is_configured(active_level: int, heard: bool) -> None:
    ingress = new_ingress()
    settings = ReceiveSettings(levels=LevelSettings(active_level=active_level))
    receiver = TrackReceiver(kind="audio", mime="audio/opus", clock_rate=48000, now=0.0, settings=settings)
    ingress.add_track(
        receiver, mid="0", ssrcs=[7], payload_types={111: "audio/opus"}, extension_ids={SSRC_AUDIO_LEVEL: 1}
    )
    for number in range(60):
        data = build_rtp(
            ssrc=7,
            payload_type=111,
            sequence=number,
            timestamp=number * 960,
            payload=b"x",
            extensions={1: bytes([45])},
        )
        receive(ingress, data, number * 0.02)
    assert (receiver.audio_level(1.2) > 0) is heard


def test_playout_delay_is_written_where_negotiated() -> None:
    assert playout_delay(100, 200) == bytes.fromhex("00a014")
    assert playout_delay(0, 99_999) == bytes.fromhex("000fff")
    data = build_rtp(ssrc=1, payload_type=96, sequence=1, timestamp=1, payload=b"payload")
    for ids, delay, written in (
        ({PLAYOUT_DELAY: 6}, playout_delay(100, 200), playout_delay(100, 200)),
        ({PLAYOUT_DELAY: 6}, b"", None),
        ({}, playout_delay(100, 200), None),
    ):
        shape = Shape(ids, primary_only=False, delay=delay)
        part = shape.part(RtpPacket.parse(data, 0.0), {}, 0.0)
        sent = RtpPacket.parse(bytes([part.first]) + data[1:12] + part.tail, 0.0)
        assert sent.payload == b"payload"
        assert sent.extension(6) == written
        assert shape.matches(ids, primary_only=False, delay=delay)
        assert not shape.matches(ids, primary_only=False, delay=b"other")
