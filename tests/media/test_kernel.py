"""The compiled kernel sends what Python would: the same datagrams to the same addresses, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pylibsrtp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.media.send_path import MEDIA, RTX, RTX_SSRC, SSRC, Path, Recorder, vp8
from tests.media.test_send_path import LAYERS, Model, steps
from triosfu.kernel import fits, installed
from triosfu.media.codecs import DEPENDENCY_DESCRIPTOR
from triosfu.media.down_track import DownTrack
from triosfu.media.forwarder import Forwarder
from triosfu.media.lanes import PARTS, STALLED, Fan, lane_record, part_record
from triosfu.media.layers import NO_LAYER
from triosfu.media.sender import Sender
from triosfu.media.shape import ABS_CAPTURE_TIME, ABS_SEND_TIME, TRANSPORT_SEQUENCE
from triosfu.net.batch import SLOT
from triosfu.net.egress import SLOTS, Destination, Egress
from triosfu.net.kernel_queue import KernelQueue, Sink
from triosfu.peer.sink import TransportSink
from triosfu.rtp.wire import RtpPacket, build_rtp
from triosfu.srtp import Inbound, Outbound, SrtpKeys, SrtpProfile
from triosfu.srtp.binding import InPlaceSession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.media.test_send_path import Step
    from triosfu.media.burst import Burst

pytestmark = pytest.mark.skipif(installed() is None, reason="the kernel is not installed")

GCM = SrtpProfile.AEAD_AES_128_GCM
Sent = tuple[bytes, bool]  # a datagram, and whether it would be held back for a full socket

# What the other subscribers have negotiated.
OTHERS: tuple[Mapping[str, int], ...] = (
    {ABS_SEND_TIME: 3},
    {ABS_SEND_TIME: 3, DEPENDENCY_DESCRIPTOR: 4, ABS_CAPTURE_TIME: 5},
    {TRANSPORT_SEQUENCE: 9},
)


class Wire:
    """An outlet that keeps what it is told to send, by where to."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self.sent: dict[int, list[Sent]] = {}  # by port
        self.full = False

    def send(self, slots: range) -> Sequence[int]:
        egress = self._egress
        if self.full:
            return slots
        for slot in slots:
            data = egress._large.get(slot) or bytes(egress._slots.datagram(slot))
            destination = egress._queued[slot]
            self.sent.setdefault(destination.address[1], []).append((data, bool(egress._kept[slot])))
            if egress.kernel_queue is not None:
                assert egress.kernel_queue.ways[slot] == destination.way_address
        return ()

    def send_one(self, data: bytes, address: object) -> bool:
        raise AssertionError("nothing is held back")

    def probe(self, data: bytes, address: object) -> None:
        raise AssertionError("nothing is probed")

    def close(self) -> None:
        raise AssertionError("nothing is closed")


class Subscriber:
    """One of an egress's transports, with keys of its own, and what was sent to it."""

    def __init__(self, egress: Egress, wire: Wire, port: int, profile: SrtpProfile) -> None:
        keys = SrtpKeys.from_exporter(profile, Random(port).randbytes(profile.export_length), client=True)
        self._egress, self._wire, self._port = egress, wire, port
        self._inbound = Inbound(keys.swapped())
        self._opened: list[RtpPacket] = []
        self.sink = TransportSink(egress)
        self.sink.outbound = Outbound(keys, compiled=egress.kernel_queue is not None)
        self.connect()

    def connect(self) -> None:
        self.sink.destination = Destination(("127.0.0.1", self._port), self._wire, self._egress._kernel)

    @property
    def sent(self) -> list[Sent]:
        self._egress.flush()
        return self._wire.sent.setdefault(self._port, [])

    @property
    def packets(self) -> list[RtpPacket]:
        for data, _ in self.sent[len(self._opened) :]:
            self._opened.append(RtpPacket.parse(self._inbound.unprotect(data)))
        return self._opened


class Secured(Recorder):
    """The sink of the model's subscriber: real SRTP, and the packets as they are once opened."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self.compiled = subscriber.sink.compiled  # type: ignore[assignment]
        self.arena = subscriber.sink.arena
        self.reserve = subscriber.sink.reserve  # type: ignore[method-assign]
        self.commit_rtp = subscriber.sink.commit_rtp  # type: ignore[method-assign]

    @property
    def packets(self) -> list[RtpPacket]:  # type: ignore[override]
        return self._subscriber.packets


class EgressPath(Path):
    """A path through a real egress, to the model's subscriber and to others that want other things."""

    def __init__(self, *, compiled: bool) -> None:
        super().__init__(layers=LAYERS)
        self.egress = Egress(compiled=compiled)
        assert (self.egress.kernel_queue is not None) == compiled
        self.wire = Wire(self.egress)
        profiles = GCM, SrtpProfile.AES128_CM_SHA1_80
        self.subscribers = [Subscriber(self.egress, self.wire, port, profiles[port % 2]) for port in range(4)]
        self.sender.remove(self.track)
        self.sink = Secured(self.subscribers[0])
        mime = self.receiver.mime
        tracks = []
        for number, extension_ids in enumerate(({ABS_SEND_TIME: 3}, *OTHERS)):
            track = DownTrack(
                receiver=self.receiver,
                sink=self.sink if not number else self.subscribers[number].sink,
                ssrc=SSRC + 2 * number,
                rtx_ssrc=RTX_SSRC + 2 * number if number != 1 else None,
                rng=Random(number),
                now=0.0,
                cname="c",
            )
            self.sender.add(track)
            rtx = {mime: RTX} if number != 1 else {}
            track.bind(
                payload_types={mime: MEDIA + number}, rtx_payload_types=rtx, extension_ids=extension_ids, now=0.0
            )
            tracks.append(track)
        self.track, *self.others = tracks
        self.others[1].set_max_layer(0, 1, 0.0)


class EgressModel(Model):
    """The model publisher of the other tests; others lose their connection, their tracks, and ask for packets."""

    def __init__(self, *, compiled: bool) -> None:
        self._compiled = compiled
        super().__init__()

    def make_path(self) -> Path:
        return EgressPath(compiled=self._compiled)

    def act(self, step: Step) -> None:
        super().act(step)
        path = self.path
        assert isinstance(path, EgressPath)
        other, now = path.others[step.spatial], path.now
        match step.temporal, step.action:
            case 0, "layer":
                path.subscribers[step.spatial + 1].sink.destination = None
            case 1, "layer":
                path.subscribers[step.spatial + 1].connect()
            case 2, "layer":
                other.set_muted(True, now)
            case 3, "layer":
                other.set_muted(False, now)
            case _, "key":
                other.set_max_layer(step.temporal, step.sizes[0], now)
        if step.nacks:
            newest = other.left_off().next_out
            other.receive_nack([(newest - distance) & 0xFFFF for distance in step.nacks], now)


def outcome(model: EgressModel) -> object:
    path = model.path
    assert isinstance(path, EgressPath)
    path.egress.flush()
    tracks = [path.track, *path.others]
    stats = [replace(track.stats) for track in tracks]
    places = [(track.current_layer, track.left_off()) for track in tracks]
    log = path.sender.sent_log
    logged = [list(numbers) for numbers in (log._sent, log._sizes, log._next)]
    return path.wire.sent, stats, places, logged, [subscriber.sink.dropped for subscriber in path.subscribers]


@settings(max_examples=60, deadline=None)
@given(steps(st.sampled_from((0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2))))
def test_the_kernel_sends_what_python_sends(script: list[Step]) -> None:
    outcomes = []
    for compiled in (False, True):
        model = EgressModel(compiled=compiled)
        model.run(script)
        outcomes.append(outcome(model))
    assert outcomes[0] == outcomes[1]


class Straight:
    """One track, some subscribers, everything in order."""

    def __init__(self, *, compiled: bool, mime: str, subscribers: int = 3, extension_ids: Mapping[str, int]) -> None:
        self.path = Path(mime, layers=LAYERS, extension_ids=extension_ids)
        self.egress = Egress(compiled=compiled)
        self.wire = Wire(self.egress)
        self.subscribers = [Subscriber(self.egress, self.wire, port, GCM) for port in range(subscribers)]
        self.path.sender.remove(self.path.track)
        self.tracks = []
        for number, subscriber in enumerate(self.subscribers):
            track = DownTrack(
                receiver=self.path.receiver,
                sink=subscriber.sink,
                ssrc=SSRC + number,
                rtx_ssrc=None,
                rng=Random(number),
                now=0.0,
                cname="c",
            )
            track.bind(payload_types={mime: MEDIA}, rtx_payload_types={}, extension_ids=extension_ids, now=0.0)
            Sender(rng=Random(number), now=0.0).add(track)  # a transport of its own
            self.tracks.append(track)

    def burst(self, first: int, count: int, payload: bytes, *, layer: int = 0) -> None:
        """Packets that come in one batch."""
        path = self.path
        forward, path.ingress.forward = path.ingress.forward, lambda now: None  # type: ignore[method-assign]
        for number in range(first, first + count):
            path.publish(
                number, payload, layer=layer, timestamp=number * 3000, extensions={12: number.to_bytes(3, "big")}
            )
        path.ingress.forward = forward  # type: ignore[method-assign]
        forward(path.now)


VP8_SHORT = bytes([0x90, 0xF0, 0x7F, 0xFF, 0x1F, 0])  # a keyframe; seven bits of picture id, and numbers about to wrap
H264_KEY = b"\x67" + bytes(30)


@pytest.mark.parametrize(
    ("mime", "payload"),
    [
        ("audio/opus", b"sound"),
        ("video/VP8", vp8(0x1234, key=True, tl0=0xFF)),
        ("video/VP8", VP8_SHORT),
        ("video/H264", H264_KEY),
    ],
)
@pytest.mark.parametrize("count", [1, PARTS, PARTS + 1, SLOTS + 5])
def test_bursts_of_any_length_do_not_pass_through_python(
    mime: str, payload: bytes, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for compiled in (False, True):
        with monkeypatch.context() as patched:
            one = Straight(
                compiled=compiled, mime=mime, extension_ids={DEPENDENCY_DESCRIPTOR: 4, TRANSPORT_SEQUENCE: 5}
            )
            video = mime != "audio/opus"
            for number in (100, 101):  # when the layer has changed, all numbers have to be shifted
                one.path.now += 1 / 30
                for layer in range(LAYERS if video else 1):
                    one.burst(number, 1, payload, layer=layer)
                    one.path.report(layer, number * 3000)
            assert {track.current_layer for track in one.tracks} == {layer}
            if compiled:
                for name in ("forward", "_send"):
                    patched.setattr(f"triosfu.media.forwarder.Forwarder.{name}", None)
            one.burst(102, count, payload, layer=layer)
            one.egress.flush()
            outcomes.append((one.wire.sent, [(replace(track.stats), track.current_layer) for track in one.tracks]))
            assert one.path.receiver.failed_subscribers == 0
    assert outcomes[0] == outcomes[1]
    assert min(len(sent) for sent in outcomes[0][0].values()) > count


def test_packets_of_the_kernel_and_datagrams_of_python_leave_together() -> None:
    outcomes = []
    for compiled in (False, True):
        one = Straight(compiled=compiled, mime="audio/opus", extension_ids={})
        destinations = [subscriber.sink.destination for subscriber in one.subscribers]
        assert None not in destinations
        for number, size in enumerate((40, SLOT, 9_000, 41, 1)):
            one.burst(100 + 3 * number, 3, b"sound" * (1 + 50 * number))
            for destination in destinations[: number % 3]:
                one.egress.send(bytes([number]) * size, destination)  # type: ignore[arg-type]
        assert one.egress.queued
        one.egress.flush()
        one.burst(200, 3, b"sound")
        one.egress.flush()
        for destination in destinations:
            one.egress.send(b"the end", destination)  # type: ignore[arg-type]
        one.egress.flush()
        outcomes.append(one.wire.sent)
    assert outcomes[0] == outcomes[1]


def test_what_a_full_socket_leaves_of_the_kernels_packets_is_held_back() -> None:
    outcomes = []
    for compiled in (False, True):
        one = Straight(compiled=compiled, mime="video/VP8", extension_ids={})
        for number in (100, 101):
            one.path.now += 1 / 30
            one.burst(number, 1, vp8(number, key=True))
        one.egress.flush()
        one.wire.full = True
        one.burst(102, 3, vp8(102, key=True))
        one.egress.flush()
        held = [(data, destination.address) for data, destination in one.egress._held]
        assert held
        one.egress.drop_held()
        one.wire.full = False
        one.burst(105, 3, vp8(105))
        one.egress.flush()
        outcomes.append((held, one.wire.sent, one.egress.counters))
    assert outcomes[0] == outcomes[1]


def test_what_libsrtp_refuses_is_dropped_and_counted() -> None:
    one = Straight(compiled=True, mime="audio/opus", subscribers=1, extension_ids={})
    one.burst(100, 3, b"sound")
    sink = one.subscribers[0].sink
    keys = SrtpKeys.from_exporter(SrtpProfile.AES128_CM_SHA1_80, bytes(60), client=True)
    policy = pylibsrtp.Policy(keys.local_key + keys.local_salt, ssrc_type=pylibsrtp.Policy.SSRC_SPECIFIC, ssrc_value=1)
    another = InPlaceSession(pylibsrtp.Session(policy))  # it has no stream for our SSRC
    assert sink.compiled is not None
    sink.compiled.lead(sink.destination, gcm=None, session=another.address)
    one.burst(103, 2, b"sound")
    assert one.subscribers[0].sink.dropped == 2
    assert one.tracks[0].stats.packets == 5
    assert len(one.subscribers[0].sent) == 3


def test_what_the_kernel_cannot_protect_is_dropped_and_counted() -> None:
    one = Straight(compiled=True, mime="audio/opus", subscribers=1, extension_ids={})
    one.burst(100, 3, b"sound")
    outbound = one.subscribers[0].sink.outbound
    gcm = None if outbound is None else outbound.gcm
    if gcm is None:
        pytest.skip("libsrtp protects all")
    for place in range(gcm.mask + 1):
        gcm.streams[place].index += 5000  # as if others had been sent since, and those that come were very late
    one.burst(103, 2, b"sound")
    assert one.subscribers[0].sink.dropped == 2
    assert one.tracks[0].stats.packets == 5
    assert len(one.subscribers[0].sent) == 3


@pytest.mark.parametrize("compiled", [False, True])
def test_while_nothing_is_connected_packets_are_dropped_and_counted(compiled: bool) -> None:
    one = Straight(compiled=compiled, mime="audio/opus", subscribers=2, extension_ids={})
    one.burst(100, 3, b"sound")
    first, second = (subscriber.sink for subscriber in one.subscribers)
    first.outbound = None
    second.destination = None
    one.burst(103, 2, b"sound")
    assert (first.dropped, second.dropped) == (2, 2)
    assert [len(subscriber.sent) for subscriber in one.subscribers] == [3, 3]


def test_what_the_kernel_wrote_and_nobody_has_queued_is_in_the_way_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Straight(compiled=True, mime="audio/opus", subscribers=2, extension_ids={})
    one.burst(100, 2, b"sound")

    def failing(queue: KernelQueue, sinks: Sequence[Sink]) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(KernelQueue, "wrote", failing)
        one.burst(102, 2, b"sound")
    for number in range(8):
        destination = one.subscribers[number % 2].sink.destination
        assert destination is not None
        one.egress.send(b"\x16" + bytes([number]) * 200, destination)
        one.burst(104 + number, 1, b"sound")
    for port, subscriber in enumerate(one.subscribers):
        control = [data for data, _ in subscriber.sent if data[0] == 0x16]
        assert control == [b"\x16" + bytes([number]) * 200 for number in range(port, 8, 2)]
        media = [RtpPacket.parse(subscriber._inbound.unprotect(data)) for data, _ in subscriber.sent if data[0] != 0x16]
        assert {packet.payload for packet in media} == {b"sound"}


def test_a_bug_on_the_lanes_costs_nobody_a_packet_or_sends_it_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Straight(compiled=True, mime="audio/opus", subscribers=2, extension_ids={})
    one.burst(100, 2, b"sound")
    wrote = KernelQueue.wrote

    def failing(queue: KernelQueue, sinks: Sequence[Sink]) -> None:
        wrote(queue, sinks)
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(KernelQueue, "wrote", failing)  # the kernel has sent the burst
        one.burst(102, 2, b"sound")
    with monkeypatch.context() as patched:
        patched.setattr(Fan, "forward", None)  # it has not
        one.burst(104, 2, b"sound")
    assert [len(subscriber.packets) for subscriber in one.subscribers] == [6, 6]
    one.burst(106, 2, b"sound")
    assert one.path.receiver.failed_subscribers == 2
    for subscriber in one.subscribers:
        sequences = [packet.sequence for packet in subscriber.packets]
        assert sequences == list(range(sequences[0], sequences[0] + 8))


def test_a_kernel_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    found = installed()
    assert found is not None
    assert fits(found)
    assert not fits(SimpleNamespace(ffi=found.ffi, lib=SimpleNamespace(KERNEL_VERSION=0)))
    for other in (lambda _: found.ffi.sizeof("struct none"), lambda _: 8):
        assert not fits(SimpleNamespace(ffi=SimpleNamespace(sizeof=other, error=found.ffi.error), lib=found.lib))
    monkeypatch.setenv("TRIOSFU_KERNEL", "off")
    installed.cache_clear()
    assert installed() is None
    monkeypatch.undo()
    installed.cache_clear()
    assert installed() is found


def test_the_records_are_laid_out_as_in_c() -> None:
    kernel = installed()
    assert kernel is not None
    assert kernel.ffi.sizeof("struct lane") == lane_record.size
    assert kernel.ffi.sizeof("struct part") == part_record.size


def layered(*, compiled: bool) -> Straight:
    """Three layers, of which the highest flows."""
    one = Straight(compiled=compiled, mime="video/VP8", extension_ids={})
    for number in (100, 101):
        one.path.now += 1 / 30
        for layer in range(LAYERS):
            one.burst(number, 1, VP8_SHORT, layer=layer)
            one.path.report(layer, number * 3000)
    return one


@pytest.mark.parametrize("compiled", [False, True])
def test_a_layer_that_has_dried_up_is_left(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    one = layered(compiled=compiled)
    delta = bytes([*VP8_SHORT[:-1], 1])
    with monkeypatch.context() as patched:
        if compiled:
            patched.setattr("triosfu.media.forwarder.Forwarder.forward", None)
        for number in range(102, 142):  # more than a second, in which the others change nothing
            one.path.now += 1 / 30
            for layer in range(LAYERS):
                one.burst(number, 1, delta, layer=layer)
    assert {track.current_layer for track in one.tracks} == {LAYERS - 1}
    one.path.now += STALLED + 0.01
    one.burst(142, 1, delta, layer=0)
    assert {track.current_layer for track in one.tracks} == {NO_LAYER}


def test_a_track_that_is_held_costs_python_nothing_until_it_flows_again(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Straight(compiled=True, mime="audio/opus", extension_ids={})
    one.burst(100, 1, b"sound")
    for track in one.tracks:
        track.set_disabled(True, one.path.now)
    one.burst(101, 1, b"sound")
    with monkeypatch.context() as patched:
        patched.setattr(Forwarder, "forward", None)
        one.burst(102, 5, b"sound")
    assert one.path.receiver.failed_subscribers == 0
    for track in one.tracks:
        track.set_disabled(False, one.path.now)
    one.burst(107, 2, b"sound")
    assert [len(subscriber.sent) for subscriber in one.subscribers] == [3, 3, 3]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_sound_goes_on_from_another_source(compiled: bool) -> None:
    one = Straight(compiled=compiled, mime="audio/opus", extension_ids={})
    for number in (1, 2, 3):
        one.burst(number, 1, b"sound")
    receiver = one.path.receiver
    again = RtpPacket.parse(build_rtp(ssrc=7, payload_type=96, sequence=9, timestamp=9, payload=b"again"))
    again.index, again.spatial = 9, 0
    receiver.deliver(again, one.path.now)
    receiver.forward(one.path.now)
    assert [packet.payload for packet in one.subscribers[0].packets] == [b"sound"] * 3 + [b"again"]


def count_taken(patched: pytest.MonkeyPatch) -> list[int]:
    """How many packets of each burst Python forwards."""
    taken: list[int] = []
    forward = Forwarder.forward

    def counting(forwarder: Forwarder, burst: Burst, now: float, start: int = 0) -> None:
        taken.append(len(burst.packets) - start)
        forward(forwarder, burst, now, start)

    patched.setattr(Forwarder, "forward", counting)
    return taken


def test_what_python_has_taken_over_it_finishes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first packets of a long burst end with one that is late; the kernel could go on behind it, and must not."""
    outcomes = []
    for compiled in (False, True):
        one = layered(compiled=compiled)
        one.burst(103, 1, VP8_SHORT, layer=LAYERS - 1)
        forward, one.path.ingress.forward = one.path.ingress.forward, lambda now: None  # type: ignore[method-assign]
        one.burst(104, PARTS - 1, VP8_SHORT, layer=LAYERS - 1)
        one.burst(102, 1, VP8_SHORT, layer=LAYERS - 1)
        one.burst(103 + PARTS, 10, VP8_SHORT, layer=LAYERS - 1)
        one.path.ingress.forward = forward  # type: ignore[method-assign]
        with monkeypatch.context() as patched:
            taken = count_taken(patched)
            if compiled:
                forward(one.path.now)
                assert taken == [11] * len(one.tracks)
        forward(one.path.now)
        one.egress.flush()
        outcomes.append((one.wire.sent, [replace(track.stats) for track in one.tracks]))
    assert outcomes[0] == outcomes[1]


def test_without_a_log_the_place_of_the_number_stays_empty() -> None:
    outcomes = []
    for compiled in (False, True):
        one = Straight(compiled=compiled, mime="audio/opus", extension_ids={TRANSPORT_SEQUENCE: 5})
        one.burst(100, 3, b"sound")
        for track in one.tracks:
            track.log_sent(None)
        for number in range(103, 106):
            one.burst(number, 1, b"sound")
        one.egress.flush()
        outcomes.append(one.wire.sent)
    assert outcomes[0] == outcomes[1]
