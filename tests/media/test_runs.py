"""The compiled kernel receives what Python would: the same packets go on, the same is reported, counted and kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.checks.runs import check_run, written
from tests.media.send_path import PUBLISHED, vp8
from tests.media.test_kernel import EgressPath, Sent
from triosfu.dtls.certificate import Certificate
from triosfu.kernel import installed
from triosfu.media.codecs import DEPENDENCY_DESCRIPTOR
from triosfu.media.ingress import TRANSPORT_WIDE_CC, Ingress
from triosfu.media.lanes import PARTS, _Parts
from triosfu.media.levels import SSRC_AUDIO_LEVEL, AudioLevel
from triosfu.media.receiver import TrackReceiver
from triosfu.media.runs import Run, intake_of
from triosfu.media.shape import ABS_CAPTURE_TIME, ABS_SEND_TIME, PLAYOUT_DELAY, Shape, playout_delay
from triosfu.net.batch import SLOT, Arena
from triosfu.net.udp import UdpMux
from triosfu.peer.state import PeerSettings
from triosfu.peer.transport import Transport
from triosfu.rtp.wire import RtpPacket, build_rtp
from triosfu.srtp import Outbound, SrtpKeys, SrtpProfile
from triosfu.srtp.binding import unprotect_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triosfu.media.runs import Datagrams
    from triosfu.peer.transport import TransportOwner

pytestmark = pytest.mark.skipif(installed() is None, reason="the kernel is not installed")

SOUND = 2000
LONGEST = 128  # datagrams that a system may hand over as one message
EXTENSIONS = {SSRC_AUDIO_LEVEL: 1, TRANSPORT_WIDE_CC: 3, ABS_CAPTURE_TIME: 6, DEPENDENCY_DESCRIPTOR: 12}
CERTIFICATE = Certificate.generate()
PROFILES = SrtpProfile.AEAD_AES_128_GCM, SrtpProfile.AES128_CM_SHA1_80


class Publisher:
    """A publisher's transport and what it feeds: three layers that four subscribers see, and a sound."""

    def __init__(self, *, compiled: bool, profile: SrtpProfile) -> None:
        self.path = path = EgressPath(compiled=True)
        self.ingress = path.ingress = Ingress(
            rng=Random(5),
            now=0.0,
            intake=intake_of(path.egress.kernel_queue, unprotect_address()) if compiled else None,
        )
        self.sound = TrackReceiver(kind="audio", mime="audio/opus", clock_rate=48000, now=0.0)
        codecs = {96: "video/VP8", 97: "video/VP8", 98: "video/H264"}
        ssrcs = [PUBLISHED + layer for layer in range(3)]
        self.ingress.add_track(path.receiver, mid="0", ssrcs=ssrcs, payload_types=codecs, extension_ids=EXTENSIONS)
        self.ingress.add_track(
            self.sound, mid="1", ssrcs=[SOUND], payload_types={111: "audio/opus"}, extension_ids=EXTENSIONS
        )
        keys = SrtpKeys.from_exporter(profile, Random(6).randbytes(profile.export_length), client=True)
        self._outbound = Outbound(keys)
        self._transport = Transport(
            mux=UdpMux([], batched=False),
            certificate=CERTIFICATE,
            owner=cast("TransportOwner", self),
            controlling=False,
            settings=PeerSettings(),
            rng=Random(7),
            now=0.0,
        )
        self._transport._secure(keys.swapped())
        self._arena = Arena(1, LONGEST * SLOT)
        self.reports: list[bytes] = []
        self.counters = self._transport.counters

    def transport_rtp(self, packet: bytes, now: float) -> None:
        self.ingress.receive_rtp(packet, now)

    def transport_run(self, session: int, datagrams: Datagrams, now: float) -> tuple[int, int]:
        return self.ingress.receive_run(session, datagrams, now)

    def protect(self, packet: bytes) -> bytes:
        return self._outbound.protect(packet)

    def batch(self, datagrams: Sequence[bytes]) -> None:
        """Take them as they come together: in runs of one length, of which the last may be shorter."""
        now = self.path.now
        place = 0
        while place < len(datagrams):
            size = len(datagrams[place])
            end = place + 1
            while (
                end < len(datagrams)
                and len(datagrams[end]) <= size == len(datagrams[end - 1])
                and end - place < LONGEST
            ):
                end += 1
            run = b"".join(datagrams[place:end])
            self._arena.memory[: len(run)] = run
            at = 0
            while at < len(run):
                length = min(size, len(run) - at)
                taken = self._transport.receive_rtp(
                    self._arena.memory[at:], self._arena.pointer + at, length, now, len(run) - at - length
                )
                at += (1 + taken) * size
            place = end
        self.ingress.forward(now)

    def wait(self, seconds: float) -> None:
        path = self.path
        path.now += seconds
        self.ingress.handle_timeout(path.now)
        path.sender.handle_timeout(path.now)
        self.reports += self.ingress.rtcp_to_send()

    @property
    def sent(self) -> list[Sent]:
        """To the first subscriber."""
        self.path.egress.flush()
        return self.path.wire.sent.get(0, [])

    def outcome(self) -> object:
        path = self.path
        path.egress.flush()
        tracks = [path.track, *path.others]
        receivers = [path.receiver, self.sound]
        streams = [stream for receiver in receivers for stream in receiver.streams.values()]
        kept = [
            [(index, packet.data, packet.arrival) for index in stream.buffer if (packet := stream.buffer.get(index))]
            for stream in streams
        ]
        counts = [
            (stream.packets, stream.bytes, stream.padding, stream.duplicates, stream.late, stream.reordered)
            for stream in streams
        ]
        newest = [
            (
                packet.data,
                packet.index,
                packet.vital,
                packet.keyframe,
                packet.temporal,
                packet.spatial,
                packet.descriptor,
            )
            for stream in streams
            if (packet := path.receiver.newest(stream.ssrc) or self.sound.newest(stream.ssrc))
        ]
        return (
            path.wire.sent,
            [replace(track.stats) for track in tracks],
            [(track.current_layer, track.left_off()) for track in tracks],
            (kept, counts, newest),
            [(stream.reception.jitter, stream.reception.report(0, path.now)) for stream in streams],
            (self.reports, self.ingress.next_timeout(), _slots(self.sound._level)),
            (self.counters, self.ingress.counters, [receiver.failed_subscribers for receiver in receivers]),
        )


def _slots(thing: RtpPacket | AudioLevel) -> dict[str, object]:
    return {name: getattr(thing, name) for name in thing.__slots__}


@dataclass(frozen=True)
class Frame:
    """What a publisher sends in one go, of one layer or (3) of its sound."""

    layer: int
    sizes: tuple[int, ...]  # of the payloads behind their descriptors
    fates: tuple[str, ...]  # of these packets
    extensions: str
    payload: str
    marker: bool
    wait: float  # seconds before the next batch; 0 for the same


BLOCKS = "few", "all", "large", "twice", "odd", "damaged", "ended", "broken", "two byte", "none"
GOOD = ("",) * 8
FATES = (*GOOD, "lost", "late", "twice", "forged", "padded", "other type", "no extension", "csrc", "marked")
frames = st.builds(
    Frame,
    st.sampled_from((0, 1, 2, 2, 2, 3, 3)),
    st.lists(st.sampled_from((200, 200, 200, 200, 80, 0, 1400)), min_size=1, max_size=8).map(tuple),
    st.lists(st.sampled_from(FATES), min_size=8, max_size=8).map(tuple),
    st.sampled_from(
        ("few", "few", "few", "all", "large", "twice", "odd", "damaged", "ended", "broken", "two byte", "none")
    ),
    st.sampled_from(("", "", "", "key", "short", "short", "damaged", "plain")),
    st.booleans(),
    st.sampled_from((0.0, 0.0, 0.01, 0.03, 0.2, 1.1)),
)


def element(number: int, value: bytes) -> bytes:
    return bytes([number << 4 | len(value) - 1]) + value


def extended(packet: bytes, kind: str, number: int) -> bytes:
    """The packet with a block of extensions in front of its payload, well-formed or not."""
    transport, profile = element(3, (number & 0xFFFF).to_bytes(2, "big")), 0xBEDE
    match kind:
        case "few":
            block = transport + element(1, bytes([number & 0xFF]))
        case "all":
            block = element(1, b"\xa0\1") + element(6, bytes(8)) + b"\0" + element(12, number.to_bytes(4, "big"))
            block += element(13, b"x") + transport
        case "large":
            block = element(12, bytes(16)) + element(6, bytes(range(16))) + transport
        case "twice":
            block = transport + element(3, b"??") + element(1, b"\x10") + element(1, b"\xff")
            block += element(12, bytes(5)) + element(12, b"ab") + element(6, b"c") * 2
        case "odd":
            block = element(3, b"xyz") + transport + element(12, b"ab")
        case "damaged":
            block = transport + element(6, b"whole") + b"\xc7no"
        case "ended":
            block = element(6, b"seen") + b"\xf0\0" + transport + element(12, b"not seen")
        case "broken":
            block = element(6, b"seen") + b"\x01xy" + element(12, b"not seen") + transport
        case "two byte":
            profile, block = 0x1000, b"\3\2" + transport[1:] + b"\6\1x\x14\0"
        case _:
            return packet
    block += bytes(-len(block) % 4)
    head = bytes([packet[0] | 0x10]) + packet[1:12] + profile.to_bytes(2, "big") + (len(block) // 4).to_bytes(2, "big")
    return head + block + packet[12:]


def payload(kind: str, picture: int, size: int, *, first: bool) -> bytes:
    high, low = picture >> 8 & 0x7F, picture & 0xFF
    match kind:
        case "key":
            head = vp8(picture, key=first, tl0=low)
        case "short":  # seven bits of picture id, and temporal layers
            head = bytes([0x80, 0xF0, picture & 0x7F, low, picture << 6 & 0xC0 | 0x20 | picture & 0x1F])
        case "damaged":
            return bytes([0x90, 0x80])[: 1 + size % 2]
        case "plain":
            head = b"\x00"
        case _:
            head = bytes([0x90 if first else 0x80, 0x80, 0x80 | high, low, 0x01])
    return head + bytes(size)


class Script:
    """Makes the datagrams of frames, the same for everybody who is told the same."""

    def __init__(self) -> None:
        self.sequences = [65_500, 65_530, 10, 65_534]
        self.timestamps = [0xFFFFFF00, 5, 100_000, 0xFFFFFF00]
        self.number = 65_400  # the transport's
        self.late: list[bytes] = []

    def datagrams(self, frame: Frame, publisher: Publisher) -> list[bytes]:
        layer = frame.layer
        self.timestamps[layer] += 960 if layer == 3 else 3000
        made: list[bytes] = []
        for place, (size, fate) in enumerate(zip(frame.sizes, frame.fates, strict=False)):
            self.sequences[layer] += 1
            self.number += 1
            data = build_rtp(
                ssrc=SOUND if layer == 3 else PUBLISHED + layer,
                payload_type=(98 if fate == "other type" else 96) if layer < 3 else 111,
                sequence=self.sequences[layer] & 0xFFFF,
                timestamp=self.timestamps[layer] & 0xFFFFFFFF,
                marker=fate == "marked" or (frame.marker and place == len(frame.sizes) - 1),
                payload=payload(frame.payload, self.sequences[layer] // 4, size, first=not place)
                if layer < 3
                else bytes(size),
                csrcs=(7,) if fate == "csrc" else (),
                padding=9 if fate == "padded" else 0,
            )
            if fate not in {"no extension", "csrc"}:
                data = extended(data, frame.extensions, self.number)
            protected = publisher.protect(data)
            if fate == "late":
                self.late.append(protected)
            elif fate == "forged":
                made.append(protected[:-1] + bytes([protected[-1] ^ 1]))
            elif fate != "lost":
                made += [protected] * (2 if fate == "twice" else 1)
        if self.late and len(frame.sizes) > 4:
            made.append(self.late.pop(0))
        return made


def begun(profile: SrtpProfile = PROFILES[0], *, compiled: bool = True) -> tuple[Publisher, Script]:
    """Everything flows, in the best layer."""
    publisher, script = Publisher(compiled=compiled, profile=profile), Script()
    for _ in range(2):
        for layer in range(4):
            first = Frame(layer, (200, 200), GOOD, "few", "key", marker=True, wait=0.01)
            publisher.batch(script.datagrams(first, publisher))
            if layer < 3:
                publisher.path.report(layer, script.timestamps[layer])
            publisher.wait(0.01)
    return publisher, script


def run(frames: Sequence[Frame], profile: SrtpProfile = PROFILES[0], *, compiled: bool = True) -> object:
    """What has become of these frames."""
    publisher, script = begun(profile, compiled=compiled)
    waiting: list[bytes] = []
    for frame in frames:
        waiting += script.datagrams(frame, publisher)
        if frame.wait:
            publisher.batch(waiting)
            waiting = []
            publisher.wait(frame.wait)
    publisher.batch(waiting)
    publisher.wait(0.05)
    return publisher.outcome()


@settings(max_examples=150, deadline=None)
@given(st.lists(frames, min_size=3, max_size=25), st.sampled_from(PROFILES))
def test_the_kernel_receives_what_python_receives(script: list[Frame], profile: SrtpProfile) -> None:
    assert run(script, profile, compiled=False) == run(script, profile, compiled=True)


def test_what_is_straight_does_not_pass_through_python(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher, script = begun()
    before = len(publisher.sent)
    assert publisher.path.track.current_layer == 2
    for name in ("media.ingress.Ingress.receive_rtp", "media.shape.Shape.take", "rtp.wire.RtpPacket.parse"):
        monkeypatch.setattr(f"triosfu.{name}", None)
    for kind in ("few", "all", "large", "none"):
        for layer in range(4):
            frame = Frame(layer, (200, 200, 200, 200, 80), GOOD, kind, "", marker=True, wait=0.01)
            publisher.batch(script.datagrams(frame, publisher))
            publisher.path.now += 0.01
    assert len(publisher.sent) == before + 4 * 5
    assert publisher.path.receiver.failed_subscribers == 0


def test_what_the_kernel_has_forgotten_is_read_again_by_python(monkeypatch: pytest.MonkeyPatch) -> None:
    script = [Frame(2, (200, 200, 200, 80), GOOD, "all", "", marker=True, wait=0.01)] * 5
    kept = run(script)
    monkeypatch.setattr(Run, "intake", None)  # as if others had needed the room before the batch has ended
    assert run(script) == kept


def test_a_run_that_is_longer_than_the_kernel_takes_at_a_time() -> None:
    publisher, script = begun()
    before = len(publisher.sent)
    frame = Frame(2, (200,) * 100, ("",) * 100, "few", "", marker=True, wait=0.0)
    publisher.batch(script.datagrams(frame, publisher))
    assert max(len(run.data) for run in publisher.path.receiver._newest[PUBLISHED + 2].runs) == PARTS
    assert len(publisher.sent) == before + 100


def test_when_the_store_is_full_it_is_emptied_and_begun_anew() -> None:
    publisher, script = begun()
    before = len(publisher.sent)
    frame = Frame(2, (1300,) * 8, GOOD, "few", "", marker=False, wait=0.0)
    waiting = [datagram for _ in range(160) for datagram in script.datagrams(frame, publisher)]
    publisher.batch(waiting)
    assert len(publisher.sent) == before + len(waiting)


IDS = st.dictionaries(
    st.sampled_from((TRANSPORT_WIDE_CC, ABS_SEND_TIME, PLAYOUT_DELAY, ABS_CAPTURE_TIME, DEPENDENCY_DESCRIPTOR)),
    st.sampled_from((2, 5, 9, 14, 15, 20)),
)


@settings(max_examples=200, deadline=None)
@given(IDS, st.booleans(), st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4), st.sampled_from((5, 1396, 1430)))
def test_the_kernel_makes_the_parts_that_python_makes(
    ids: dict[str, int], delayed: bool, blocks: list[str], size: int
) -> None:
    publisher, script = begun()
    shape = Shape(ids, primary_only=False, delay=playout_delay(0, 400) if delayed else b"")
    queue = publisher.path.egress.kernel_queue
    assert queue is not None
    parts = _Parts(queue)
    for block in blocks:
        publisher.path.now += 1 / 3
        publisher.batch(script.datagrams(Frame(2, (size, size, 3), GOOD, block, "", marker=True, wait=0.0), publisher))
        burst = publisher.path.receiver._newest[PUBLISHED + 2]
        (run,) = burst.runs or (None,)
        form = shape.form(EXTENSIONS)
        if run is None or not parts._read(run, form):
            assert block == "two byte" or max(ids.values()) > 14 or size > 1390
            continue
        kernel = written(parts, 3)
        assert parts._write(shape.take(burst, EXTENSIONS)) == 3
        assert kernel == written(parts, 3)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(BLOCKS), st.sampled_from(("", "short", "key", "damaged"))), min_size=1, max_size=4
    ),
    st.sampled_from((0, 8)),
    st.data(),
)
def test_damaged_packets_are_the_same_to_the_kernel_or_left_to_python(
    kinds: list[tuple[str, str]], levelled: int, data: st.DataObject
) -> None:
    packets = bytearray()
    size = 100
    for number, (block, kind) in enumerate(kinds):
        packet = build_rtp(ssrc=1, payload_type=96, sequence=65534 + number & 0xFFFF, timestamp=7)
        packet = extended(packet + payload(kind, 40_000 + number, 90, first=not number), block, number)
        packets += packet[:size].ljust(size, b"\0")
    for _ in range(data.draw(st.integers(0, 3))):
        packets[data.draw(st.integers(0, len(packets) - 1))] = data.draw(st.integers(0, 255))
    check_run(bytes([size >> 3, size & 7 | levelled]) + packets[: data.draw(st.integers(0, len(packets)))])
