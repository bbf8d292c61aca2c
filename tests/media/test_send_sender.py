from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from tests.media.send_path import PUBLISHED, RTX_SSRC, SSRC, Path, Recorder, vp8
from triosfu.errors import UsageError
from triosfu.grid import SPACING
from triosfu.media.down_track import DownTrack
from triosfu.media.receiver import TrackReceiver
from triosfu.media.sender import REPORT_BYTES, REPORT_EVERY, Sender
from triosfu.media.shape import TRANSPORT_SEQUENCE
from triosfu.rtp.rtcp import (
    Dlrr,
    Fir,
    Nack,
    Pli,
    ReceiverReferenceTime,
    ReceiverReport,
    Remb,
    ReportBlock,
    Sdes,
    SenderReport,
    TransportFeedback,
    Xr,
    parse_compound,
)
from triosfu.rtp.wire import RtpPacket, build_rtp


def audio_track(ssrc: int, *, now: float = 0.0) -> DownTrack:
    """A bound track on which a packet has gone out."""
    receiver = TrackReceiver(kind="audio", mime="audio/opus", clock_rate=48000, now=now)
    track = DownTrack(
        receiver=receiver,
        sink=Recorder(),
        ssrc=ssrc,
        rtx_ssrc=None,
        rng=Random(ssrc),
        now=now,
        cname=f"PA_someone|TR_{ssrc:020}",
        mid=str(ssrc),
    )
    track.bind(payload_types={"audio/opus": 111}, rtx_payload_types={}, extension_ids={}, now=now)
    receiver.deliver(RtpPacket.parse(build_rtp(ssrc=1, payload_type=96, sequence=1, timestamp=0), now), now)
    receiver.forward(now)
    return track


def test_those_who_came_together_do_not_report_together() -> None:
    slots, rng = Counter[float](), Random(1)
    for _ in range(500):
        sender = Sender(rng=rng, now=100.0)
        sender.add(audio_track(1, now=100.0))
        for _ in range(3):
            at = sender.next_timeout()
            sender.handle_timeout(at)
            slots[at] += 1
    assert slots.total() == 1500
    share = 500 * SPACING / (0.8 * REPORT_EVERY)  # of one place on the grid
    assert max(slots.values()) < 2.5 * share


def test_many_tracks_are_reported_in_compounds_that_fit_a_datagram() -> None:
    sender = Sender(rng=Random(1), now=0.0, ntp_offset=3_900_000_000.0)
    tracks = [audio_track(number + 1) for number in range(70)]
    for track in tracks:
        sender.add(track)
    compounds: list[bytes] = []
    while not compounds:
        at = sender.next_timeout()
        sender.handle_timeout(at)
        assert sender.next_timeout() > at
        compounds += sender.rtcp_to_send()
    assert sender.rtcp_to_send() == []
    assert all(len(compound) <= REPORT_BYTES + 40 for compound in compounds)
    reported: list[int] = []
    for compound in compounds:
        *reports, names = parse_compound(compound)
        assert isinstance(names, Sdes)
        assert 1 <= len(reports) <= 30
        assert [chunk.ssrc for chunk in names.chunks] == [
            report.ssrc for report in reports if isinstance(report, SenderReport)
        ]
        assert dict(names.chunks[0].items) == {
            1: tracks[names.chunks[0].ssrc - 1].cname.encode(),
            15: str(names.chunks[0].ssrc).encode(),
        }
        reported += [chunk.ssrc for chunk in names.chunks]
    assert reported == [track.ssrc for track in tracks]


def test_reports_are_three_seconds_apart() -> None:
    path = Path("audio/opus")
    path.publish(1, b"a", timestamp=0)
    path.report(0, 0)
    times = [path.now for _ in range(192) if any(isinstance(one, SenderReport) for one in path.wait(0.0625))]
    assert {later - earlier for earlier, later in pairwise(times)} == {3.0}
    assert len(times) in {3, 4}


def test_two_tracks_cannot_have_one_ssrc() -> None:
    sender = Sender(rng=Random(1), now=0.0)
    sender.add(audio_track(5))
    with pytest.raises(UsageError):
        sender.add(audio_track(5))


def test_requests_reach_the_track_they_name_and_no_other() -> None:
    path = Path()
    path.publish(10, vp8(1, key=True))
    path.sender.add(audio_track(5))
    path.sender.receive_rtcp(
        [Pli(1, SSRC), Pli(1, 999), Nack(1, 999, (1,)), Fir(1, ((SSRC, 1), (999, 1))), Nack(1, SSRC, (1,))], 1.0
    )
    stats = path.track.stats
    assert (stats.plis, stats.firs) == (1, 1)
    assert path.sender.unknown_ssrcs == 3


def test_a_repeated_fir_is_one_request() -> None:
    path = Path()
    path.publish(10, vp8(1, key=True))
    path.wait(1.0)
    for number in (7, 7, 8):
        path.sender.receive_rtcp([Fir(1, ((SSRC, number),))], path.now)
    assert path.track.stats.firs == 2
    assert any(isinstance(one, Pli) and one.media_ssrc == PUBLISHED for one in path.told())


def test_reports_about_the_repair_stream_are_known_and_ignored() -> None:
    path = Path()
    blocks = tuple(ReportBlock(ssrc, 128, 3, 0, 90, 0, 0) for ssrc in (RTX_SSRC, SSRC, 31))
    path.sender.receive_rtcp([ReceiverReport(9, blocks[:1])], 1.0)
    assert not path.track.stats.fraction_lost
    path.sender.receive_rtcp([ReceiverReport(9, blocks)], 1.0)
    assert (path.track.stats.reported_at, path.track.stats.lost) == (1.0, 3)
    assert path.sender.unknown_ssrcs == 1


def test_a_reference_time_is_answered_with_the_next_reports() -> None:
    path = Path("audio/opus")
    path.now = 0.1
    path.sender.receive_rtcp([Xr(4242, (ReceiverReferenceTime(0x1234_5678_9ABC_DEF0),))], path.now)
    told = path.wait(3.1)
    (answer,) = [one for one in told if isinstance(one, Xr)]
    (block,) = answer.blocks
    assert isinstance(block, Dlrr)
    (delay,) = block.reports
    assert (delay.ssrc, delay.last_rr) == (4242, 0x5678_9ABC)
    assert 0 < delay.delay <= 3.1 * 65536
    assert not any(isinstance(one, Xr) for one in path.wait(6.0))


def test_the_subscribers_own_estimate_is_kept() -> None:
    sender = Sender(rng=Random(1), now=0.0)
    sender.receive_rtcp([Remb(1, 750_000, (SSRC,))], 2.0)
    estimate = sender.estimate
    assert (estimate.remb, estimate.remb_at) == (750_000, 2.0)


def feedback(base: int, arrivals: dict[int, float], count: int) -> TransportFeedback:
    """What came at which second of the subscriber's clock, out of `count` from `base` on."""
    ticks, received = 0, []
    for number, at in arrivals.items():
        received.append((number - base, round(at * 4000) - ticks))
        ticks = round(at * 4000)
    return TransportFeedback(1, SSRC, base, count, 0, 0, tuple(received))


def test_transport_feedback_tells_rate_loss_and_queueing() -> None:
    path = Path("audio/opus", extension_ids={TRANSPORT_SEQUENCE: 5})
    for number in range(50):
        path.publish(number, bytes(80), timestamp=number * 960)
        path.now += 0.02
    assert len(path.media) == 50
    # The subscriber's clock is 3 s ahead, the way takes 20 ms at first and 60 ms in the end; every tenth is lost.
    arrivals = {n: 3.02 + n * 0.02 + 0.04 * n / 49 for n in range(50) if n % 10}
    path.sender.receive_rtcp([feedback(0, arrivals, 50)], path.now)
    estimate = path.sender.estimate
    size = len(path.media[0].data)
    assert estimate.arrival_rate is not None
    assert estimate.arrival_rate == pytest.approx(45 * size * 8, rel=0.1)
    assert estimate.queueing == pytest.approx(0.039, abs=0.002)
    assert 0 < estimate.loss < 0.1
    path.sender.receive_rtcp([feedback(0, arrivals, 50)], path.now)  # the same again: nothing new arrived
    assert estimate.arrival_rate == pytest.approx(45 * size * 8, rel=0.1)


def test_feedback_about_packets_that_were_never_sent_is_harmless() -> None:
    sender = Sender(rng=Random(1), now=0.0)
    sender.receive_rtcp([feedback(60000, {60001: 1.0, 60002: 1.5}, 9)], 1.0)
    assert sender.estimate.arrival_rate is None


def test_a_closed_sender_leaves_no_subscriptions() -> None:
    path = Path()
    path.sender.close()
    assert path.sender.tracks == []
    assert path.receiver.subscribers == []
    path.sender.remove(path.track)  # again: nothing happens
    other = audio_track(SSRC)
    path.sender.add(other)
    path.sender.remove(path.track)  # not the one that has this ssrc now
    assert path.sender.tracks == [other]


def test_all_tracks_begin_again_when_the_transport_comes_up_late() -> None:
    path = Path()
    path.publish(10, vp8(1, key=True))
    path.sender.resync(path.now)
    assert path.publish(11, vp8(2)) == []
    assert len(path.publish(12, vp8(3, key=True))) == 1


def test_the_arrival_rate_is_that_of_the_last_second() -> None:
    path = Path("audio/opus", extension_ids={TRANSPORT_SEQUENCE: 5})
    for number in range(200):
        path.publish(number, bytes(80), timestamp=number * 960)
        path.now += 0.02
    for base in range(0, 200, 50):
        arrivals = {number: number * 0.02 for number in range(base, base + 50)}
        path.sender.receive_rtcp([feedback(base, arrivals, 50)], path.now)
    size = len(path.media[0].data)
    assert path.sender.estimate.arrival_rate == pytest.approx(50 * size * 8, rel=0.03)
