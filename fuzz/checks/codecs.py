"""Any payload is a value inside its bounds, or malformed; a down track forwards it either way."""

from __future__ import annotations

from random import Random

from triosfu.errors import MalformedPacket
from triosfu.media.codecs import DEPENDENCY_DESCRIPTOR, h264, h265, inspect_for
from triosfu.media.codecs.av1 import DependencyDescriptor
from triosfu.media.codecs.red import parse_red
from triosfu.media.codecs.vp8 import Vp8Descriptor
from triosfu.media.codecs.vp9 import Vp9Descriptor
from triosfu.media.down_track import DownTrack
from triosfu.media.receiver import TrackReceiver
from triosfu.media.shape import ABS_SEND_TIME
from triosfu.rtp.wire import RtpPacket, build_rtp

MIMES = ("video/VP8", "video/VP9", "video/AV1", "video/H264", "video/H265", "audio/red", "audio/opus")
SLOT = 2048
GUARD = bytes(SLOT)


def check_vp8(data: bytes) -> None:
    try:
        descriptor = Vp8Descriptor.parse(data, 0, len(data))
    except MalformedPacket:
        return
    assert 1 <= descriptor.size <= min(6, len(data))
    copy = bytearray(data)
    descriptor.renumber(memoryview(copy), 0, 0, 0, 0)
    assert copy == data
    descriptor.renumber(memoryview(copy), 0, 5, 6, 7)
    moved = Vp8Descriptor.parse(bytes(copy), 0, len(copy))
    width = (1 << descriptor.picture_bits) - 1
    if descriptor.picture_bits:
        assert moved.picture_id == (descriptor.picture_id + 5) & width
    if descriptor.tl0 >= 0:
        assert moved.tl0 == (descriptor.tl0 + 6) & 0xFF
    if descriptor.key_index >= 0:
        assert moved.key_index == (descriptor.key_index + 7) & 0x1F
    assert (moved.temporal, moved.layer_sync, moved.size) == (
        descriptor.temporal,
        descriptor.layer_sync,
        descriptor.size,
    )
    assert copy[descriptor.size :] == data[descriptor.size :]


def check_vp9(data: bytes) -> None:
    try:
        descriptor = Vp9Descriptor.parse(data, 0, len(data))
    except MalformedPacket:
        return
    assert 1 <= descriptor.size <= len(data)
    assert 0 <= descriptor.spatial <= 7
    assert 0 <= descriptor.temporal <= 7


def check_dependency_descriptor(data: bytes) -> None:
    """The first byte's value is the length of a first descriptor, whose structure the second may use."""
    if not data:
        return
    split = 1 + data[0]
    known = None
    for part in (data[1:split], data[split:]):
        try:
            descriptor = DependencyDescriptor.parse(part, known)
        except MalformedPacket:
            continue
        known = descriptor.structure or known
        assert known is not None
        assert len(known.templates) <= 64
        assert len(descriptor.indications) == known.decode_targets


def check_red(data: bytes) -> None:
    try:
        blocks = parse_red(data, 0, len(data))
    except MalformedPacket:
        return
    position = blocks[0].start
    for block in blocks:
        assert block.start == position <= block.end
        position = block.end
    assert position == len(data)
    assert blocks[-1].age == 0


def check_nal_units(data: bytes) -> None:
    h264.begins_keyframe(data, 0, len(data))
    h265.begins_keyframe(data, 0, len(data))


class Slot:
    """A sink with one slot, and a guard behind it."""

    compiled = None

    def __init__(self) -> None:
        self.arena = memoryview(bytearray(2 * SLOT))
        self.sent: set[int] = set()  # sequence numbers

    def reserve(self) -> int:
        """The offset of the slot."""
        return 0

    def commit_rtp(self, offset: int, length: int, vital: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        """Look at the packet."""
        packet = RtpPacket.parse(bytes(self.arena[offset : offset + length]))
        assert bytes(self.arena[SLOT:]) == GUARD
        self.sent.add(packet.sequence)


def check_forwarding(data: bytes) -> None:
    """Forward `data`, cut into payloads by length bytes, as packets of every codec, and ask for all of it again."""
    for mime in MIMES:
        audio = mime.startswith("audio")
        receiver = TrackReceiver(
            kind="audio" if audio else "video", mime=mime, clock_rate=48000 if audio else 90000, now=0.0
        )
        receiver.extension_ids.update({DEPENDENCY_DESCRIPTOR: 2})
        receiver.inspect = inspect_for(mime, receiver.extension_ids)
        receiver.available = () if audio else (0, 1)
        sink = Slot()
        track = DownTrack(receiver=receiver, sink=sink, ssrc=1, rtx_ssrc=2, rng=Random(1), now=0.0, cname="check")
        sent_as = "audio/opus" if audio else mime
        track.bind(
            payload_types={sent_as: 100},
            rtx_payload_types={sent_as: 101},
            extension_ids={ABS_SEND_TIME: 3, DEPENDENCY_DESCRIPTOR: 5},
            now=0.0,
        )
        position, number = 0, 0
        while position < len(data):
            size = data[position]
            payload = data[position + 1 : position + 1 + size]
            position += 1 + size
            number += 1 + size % 3
            packet = RtpPacket.parse(
                build_rtp(
                    ssrc=10 + size % 2,
                    payload_type=96,
                    sequence=number,
                    timestamp=number * 3000,
                    payload=payload,
                    extensions={2: payload[:16]} if size % 5 == 0 and payload else None,
                ),
                number / 50,
            )
            packet.spatial = size % 2
            receiver.inspect(packet)
            receiver.deliver(packet, number / 50)
            receiver.forward(number / 50)
            if size % 7 == 0:
                track.set_max_layer(size % 2, size % 4, number / 50)
        track.receive_nack([*sorted(sink.sent), *range(0, 65536, 4099)], number / 50)
