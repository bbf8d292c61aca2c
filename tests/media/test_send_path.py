"""Whatever the network and the room do, the subscriber sees one continuous stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from aiortc.codecs.vpx import VpxPayloadDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.media.send_path import MEDIA, RTX, RTX_SSRC, Path, vp8
from triosfu.media.shape import TRANSPORT_SEQUENCE
from triosfu.media.timeline import ahead
from triosfu.rtp.rtcp import Nack

FRAME = 1 / 30  # seconds
PATTERN = (0, 2, 1, 2)  # temporal layers of successive frames
LAYERS = 3


@dataclass
class Layer:
    """One simulcast stream of the model publisher."""

    number: int
    sequence: int
    timestamp: int
    picture: int
    tl0: int = 0
    frames: int = 0
    lost: set[int] = field(default_factory=set)  # sequence numbers that have not come (yet)
    strayed: set[int] = field(default_factory=set)  # that came when the stream was no longer, or not yet, the same


@dataclass(frozen=True)
class Origin:
    """Where a sent packet came from, as its payload says."""

    layer: int
    sequence: int
    frame: int

    def __bytes__(self) -> bytes:
        return bytes([self.layer]) + self.sequence.to_bytes(4, "big") + self.frame.to_bytes(4, "big")

    @classmethod
    def of(cls, rest: bytes) -> Origin:
        return cls(rest[1], int.from_bytes(rest[2:6], "big"), int.from_bytes(rest[6:10], "big"))


@dataclass(frozen=True)
class Step:
    """One frame time: what happens to the room's wishes, and to each packet of the frame."""

    action: str
    spatial: int
    temporal: int
    sizes: tuple[int, int, int]
    fates: tuple[int, ...]  # per packet: 0 lost, 1 late by some packets, else in time
    nacks: tuple[int, ...]


ACTIONS = ("", "", "", "", "", "layer", "layer", "temporal", "pause", "resume", "disable", "enable", "pli", "key")


def steps(fates: st.SearchStrategy[int]) -> st.SearchStrategy[list[Step]]:
    return st.lists(
        st.builds(
            Step,
            st.sampled_from(ACTIONS),
            st.integers(0, 2),
            st.integers(0, 3),
            st.tuples(*[st.integers(1, 4)] * 3),
            st.lists(fates, min_size=12, max_size=12).map(tuple),
            st.lists(st.integers(1, 300), max_size=3).map(tuple),
        ),
        min_size=5,
        max_size=25,
    )


Packet = tuple[int, Layer, bytes, int, bool]


class Model:
    """Publishes three layers through a path, and remembers what it did."""

    def __init__(self) -> None:
        self.path = self.make_path()
        self.layers = [Layer(n, 65500 - 3 * n, 0xFFFF0000 + 7 * n, 32760 - n) for n in range(LAYERS)]
        self.breaks = 0  # how often the room has interrupted the stream
        self.run_number = 0  # counts those, and changes of the layer that flows
        self.flowing = -1
        self.sent_in: list[int] = []  # value of `breaks` for each media packet
        self.delayed: list[tuple[Packet, int]] = []
        self.keyframe = True
        for layer in self.layers:
            self.path.publish(layer.sequence, vp8(layer.picture), layer=layer.number, timestamp=layer.timestamp)
            self.path.report(layer.number, layer.timestamp)
            layer.sequence, layer.timestamp, layer.picture = (
                layer.sequence + 1,
                layer.timestamp + 3000,
                layer.picture + 1,
            )

    def make_path(self) -> Path:
        return Path(layers=LAYERS)

    def run(self, script: list[Step]) -> None:
        for step in script:
            self.act(step)
            fates = iter(step.fates)
            for layer in self.layers:
                self.frame(layer, step.sizes[layer.number], [next(fates) for _ in range(4)])
            self.keyframe = False
            if any(one.ssrc != 0 for one in self.path.sink.packets) and step.nacks:
                self.nack(step.nacks)
            self.path.wait(FRAME)
        while self.delayed:
            self.deliver_delayed(everything=True)

    def act(self, step: Step) -> None:
        track, now = self.path.track, self.path.now
        match step.action:
            case "layer":
                track.set_max_layer(step.spatial, step.temporal, now)
                self.keyframe = True
            case "temporal":
                track.set_max_layer(2, step.temporal, now)
            case "pause" | "resume":
                track.set_paused(step.action == "pause", now)
                self.breaks += 1
                self.run_number += 1
                self.keyframe = True
            case "disable" | "enable":
                track.set_disabled(step.action == "disable", now)
                self.breaks += 1
                self.run_number += 1
                self.keyframe = True
            case "pli":
                track.receive_pli(now)
            case "key":
                self.keyframe = True

    def frame(self, layer: Layer, size: int, fates: list[int]) -> None:
        key = self.keyframe
        temporal = 0 if key else PATTERN[layer.frames % 4]
        if key:
            layer.frames = 0
        sync = temporal > 0 and layer.frames < 4
        layer.tl0 += temporal == 0
        for part in range(size):
            head = vp8(layer.picture, key=key, start=part == 0, temporal=temporal, sync=sync, tl0=layer.tl0)
            payload = head + bytes(Origin(layer.number, layer.sequence, layer.picture))
            fate = fates[part]
            packet = (layer.sequence, layer, payload, layer.timestamp, part == size - 1)
            if fate == 0:
                layer.lost.add(layer.sequence)
            elif fate == 1:
                layer.lost.add(layer.sequence)
                self.delayed.append((packet, self.run_number))
            else:
                self.deliver(packet)
            layer.sequence += 1
        layer.picture += 1
        layer.frames += 1
        layer.timestamp += 3000
        self.deliver_delayed()

    def deliver(self, packet: Packet) -> None:
        sequence, layer, payload, timestamp, marker = packet
        layer.lost.discard(sequence)
        sent = self.path.publish(sequence, payload, layer=layer.number, timestamp=timestamp, marker=marker)
        self.sent_in += [self.breaks] * len(sent)
        if self.path.track.current_layer != self.flowing:
            self.flowing = self.path.track.current_layer
            self.run_number += 1

    def deliver_delayed(self, *, everything: bool = False) -> None:
        waiting, self.delayed = self.delayed, []
        for at, (packet, run_number) in enumerate(waiting):
            if everything or at % 2 == 0:
                self.deliver(packet)
                if self.run_number != run_number:
                    packet[1].strayed.add(packet[0])
            else:
                self.delayed.append((packet, run_number))

    def nack(self, distances: tuple[int, ...]) -> None:
        """Ask for packets by their distance from the newest; what comes must be what was sent."""
        media = self.path.media
        if not media:
            return
        newest = max(self.outs(media))
        before = len(self.path.sink.packets)
        asked = [(newest - distance) & 0xFFFF for distance in distances]
        self.path.track.receive_nack(asked, self.path.now)
        by_number = {packet.sequence: packet for packet in media}
        for resent in self.path.sink.packets[before:]:
            assert (resent.ssrc, resent.payload_type) == (RTX_SSRC, RTX)
            number = int.from_bytes(resent.payload[:2], "big")
            assert number in asked
            original = by_number[number]
            assert resent.payload[2:] == original.payload
            assert (resent.timestamp, resent.marker) == (original.timestamp, original.marker)

    @staticmethod
    def outs(media: list) -> list[int]:  # type: ignore[type-arg]
        """Extended sequence numbers, in the order sent."""
        numbers = [media[0].sequence]
        for packet in media[1:]:
            newest = numbers[-1]
            numbers.append(newest + ((packet.sequence - newest + 0x8000) & 0xFFFF) - 0x8000)
        return numbers


@dataclass(frozen=True)
class Numbers:
    """What aiortc reads in a payload."""

    picture: int
    tl0: int
    temporal: int
    key: int


def origin(payload: bytes) -> tuple[Numbers, Origin]:
    descriptor, rest = VpxPayloadDescriptor.parse(payload)
    assert descriptor.tid is not None
    numbers = Numbers(
        int(descriptor.picture_id or 0), int(descriptor.tl0picidx or 0), descriptor.tid[0], int(descriptor.keyidx or 0)
    )
    return numbers, Origin.of(rest)


@settings(max_examples=50, deadline=None)
@given(steps(st.sampled_from((0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2))))
def test_numbers_are_continuous_and_gaps_are_real_losses(script: list[Step]) -> None:
    model = Model()
    model.run(script)
    media = model.path.media
    if not media:
        return
    outs = Model.outs(media)
    assert len(set(outs)) == len(outs)
    assert all(packet.payload_type == MEDIA for packet in media)
    ordered = sorted(zip(outs, media, model.sent_in, strict=True), key=lambda one: one[0])
    for (out, packet, broken), (next_out, next_packet, next_broken) in pairwise(ordered):
        assert ahead(next_packet.timestamp, packet.timestamp) >= 0
        if not packet.payload or not next_packet.payload:
            continue  # the place of a late packet of a layer that is not wanted
        _, here = origin(packet.payload)
        _, there = origin(next_packet.payload)
        missing = next_out - out - 1
        layer = model.layers[here.layer]
        if here.layer == there.layer:
            between = range(here.sequence + 1, there.sequence)
            lost = len(layer.lost.intersection(between))
            allowed = set(range(lost, lost + len(layer.strayed.intersection(between)) + 1))
            if broken != next_broken or not between:
                allowed.update(range(lost))
            same_frame = here.frame == there.frame
            assert same_frame == (packet.timestamp == next_packet.timestamp)
        else:
            # What the old layer lost last may have been seen as a gap in front of a packet that was dropped.
            allowed = set(range(sum(number > here.sequence for number in layer.lost | layer.strayed) + 1))
            assert ahead(next_packet.timestamp, packet.timestamp) > 0
        assert missing in allowed


@settings(max_examples=50, deadline=None)
@given(steps(st.just(2)))
def test_without_loss_vp8_numbers_are_consecutive(script: list[Step]) -> None:
    model = Model()
    model.run(script)
    media = model.path.media
    for packet, following in pairwise(media):
        assert (following.sequence - packet.sequence) & 0xFFFF == 1
        before, here = origin(packet.payload)
        after, there = origin(following.payload)
        same_frame = (here.layer, here.frame) == (there.layer, there.frame)
        assert packet.marker != same_frame  # a frame that was begun is finished
        assert (after.picture - before.picture) & 0x7FFF == (0 if same_frame else 1)
        tl0 = (after.tl0 - before.tl0) & 0xFF
        if same_frame:
            assert tl0 == 0
        elif here.layer == there.layer:
            assert tl0 == (1 if after.temporal == 0 else 0)
        else:
            assert tl0 == 1  # a switch happens at a keyframe
        if here.layer != there.layer:
            assert (after.key - before.key) & 0x1F == 1


@settings(max_examples=25, deadline=None)
@given(steps(st.just(2)), st.integers(0, 2))
def test_temporal_layers_above_the_wish_stay_behind(script: list[Step], temporal: int) -> None:
    model = Model()
    model.path.track.set_max_layer(2, temporal, 0.0)
    model.run([step for step in script if step.action not in {"layer", "temporal"}])
    for packet in model.path.media:
        numbers, _ = origin(packet.payload)
        assert numbers.temporal <= temporal


def test_every_packet_of_the_history_can_be_had_again_without_rtx() -> None:
    path = Path(rtx=False)
    path.publish(10, vp8(1, key=True))
    for number in range(11, 600):
        path.now += 0.001
        path.publish(number, vp8(number))
    originals = {packet.sequence: packet for packet in path.media}
    newest = path.media[-1].sequence
    history = [(newest - distance) & 0xFFFF for distance in range(500)]
    path.sink.packets.clear()
    path.sender.receive_rtcp([Nack(1, 77, tuple(history))], path.now)
    assert [packet.sequence for packet in path.media] == history
    for packet in path.media:
        original = originals[packet.sequence]
        assert packet.data == original.data  # the same nonce: with another header GCM would give its key away


def test_without_rtx_a_packet_with_a_transport_wide_number_is_not_sent_again() -> None:
    path = Path(rtx=False, extension_ids={TRANSPORT_SEQUENCE: 3})
    path.publish(10, vp8(1, key=True))
    (sent,) = path.media
    path.sink.packets.clear()
    path.sender.receive_rtcp([Nack(1, 77, (sent.sequence,))], path.now)
    assert path.media == []
