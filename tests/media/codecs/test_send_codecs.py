from __future__ import annotations

from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import VpxPayloadDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.checks import codecs as checks
from triosfu.media.codecs import DEPENDENCY_DESCRIPTOR, inspect_for
from triosfu.media.codecs.av1 import SWITCH, DependencyDescriptor
from triosfu.media.codecs.red import parse_red
from triosfu.media.codecs.vp8 import Vp8Descriptor
from triosfu.media.codecs.vp9 import Vp9Descriptor
from triosfu.rtp.wire import RtpPacket, build_rtp


def inspected(mime: str, payload: bytes) -> RtpPacket:
    packet = RtpPacket.parse(build_rtp(ssrc=1, payload_type=96, sequence=1, timestamp=1, payload=payload))
    inspect_for(mime)(packet)
    return packet


# --- VP8 -------------------------------------------------------------------------------------------------------------


@given(
    start=st.booleans(),
    picture=st.none() | st.integers(0, 0x7FFF),
    tl0=st.none() | st.integers(0, 255),
    tid=st.none() | st.tuples(st.integers(0, 3), st.integers(0, 1)),
    key=st.none() | st.integers(0, 31),
)
def test_vp8_reads_what_aiortc_writes(
    start: bool, picture: int | None, tl0: int | None, tid: tuple[int, int] | None, key: int | None
) -> None:
    foreign = VpxPayloadDescriptor(
        partition_start=int(start), partition_id=0, picture_id=picture, tl0picidx=tl0, tid=tid, keyidx=key
    )
    data = bytes(foreign) + b"\x00rest"
    found = Vp8Descriptor.parse(data, 0, len(data))
    assert found.starts_frame == found.keyframe == start
    assert found.picture_id == (-1 if picture is None else picture)
    assert found.tl0 == (-1 if tl0 is None else tl0)
    assert (found.temporal, found.layer_sync) == ((tid[0], bool(tid[1])) if tid else (0, False))
    # K without T: the foreign side writes both in one byte, as we read them.
    assert found.key_index == (-1 if key is None else key)
    assert found.size == len(bytes(foreign))


@given(
    picture=st.integers(0, 0x7FFF),
    tl0=st.integers(0, 255),
    key=st.integers(0, 31),
    shifts=st.tuples(*[st.integers(-40000, 40000)] * 3),
)
def test_aiortc_reads_what_vp8_renumbers(picture: int, tl0: int, key: int, shifts: tuple[int, int, int]) -> None:
    written = bytes(
        VpxPayloadDescriptor(
            partition_start=1, partition_id=0, picture_id=picture, tl0picidx=tl0, tid=(2, 1), keyidx=key
        )
    )
    data = bytearray(b"before" + written + b"\x01rest")
    Vp8Descriptor.parse(bytes(data), 6, len(data)).renumber(memoryview(data), 6, *shifts)
    assert data[:6] == b"before"
    foreign, rest = VpxPayloadDescriptor.parse(bytes(data[6:]))
    assert rest == b"\x01rest"
    assert foreign.picture_id == (picture + shifts[0]) % 0x8000
    assert foreign.tl0picidx == (tl0 + shifts[1]) % 256
    assert foreign.keyidx == (key + shifts[2]) % 32
    assert foreign.tid == (2, 1)


def test_vp8_keeps_a_seven_bit_picture_id_at_its_width() -> None:
    data = bytearray(b"\x90\x80\x7f\x00")
    Vp8Descriptor.parse(bytes(data), 0, 4).renumber(memoryview(data), 0, 2, 0, 0)
    assert data == b"\x90\x80\x01\x00"


def test_a_vp8_keyframe_begins_with_partition_zero_of_an_intra_frame() -> None:
    assert inspected("video/VP8", b"\x10\x00").keyframe
    assert not inspected("video/VP8", b"\x10\x01").keyframe  # an inter frame
    assert not inspected("video/VP8", b"\x00\x00").keyframe  # not its first packet
    assert not inspected("video/VP8", b"\x11\x00").keyframe  # partition 1
    assert not inspected("video/VP8", b"\x10").keyframe  # nothing to tell by


@given(st.binary(max_size=12))
def test_vp8_is_total(data: bytes) -> None:
    checks.check_vp8(data)


# --- VP9 -------------------------------------------------------------------------------------------------------------


def test_vp9_reads_every_field_of_a_non_flexible_descriptor() -> None:
    # I, L, B, E, V set; picture id 300; T2 U S1 D; TL0PICIDX 7; two layers with sizes and a group of two pictures
    data = b"\xae\x81\x2c" + bytes([2 << 5 | 0x10 | 1 << 1 | 1]) + b"\x07"
    data += bytes([1 << 5 | 0x18]) + bytes(8) + b"\x02\x04\x01\x48\x01\x02"
    found = Vp9Descriptor.parse(data + b"payload", 0, len(data) + 7)
    assert found == Vp9Descriptor(
        starts_frame=True,
        ends_frame=True,
        inter_predicted=False,
        picture_id=300,
        tl0=7,
        spatial=1,
        temporal=2,
        temporal_switch=True,
        spatial_layers=2,
        size=len(data),
    )


def test_vp9_passes_the_references_of_a_flexible_descriptor() -> None:
    data = b"\xf8\x05\x20\x03\x05\x06"  # I P L F B; picture 5; T1 S0; references 1, 2, 3
    found = Vp9Descriptor.parse(data, 0, len(data))
    assert (found.picture_id, found.temporal, found.tl0, found.size) == (5, 1, -1, len(data))


def test_a_vp9_keyframe_begins_with_the_lowest_layer_of_an_intra_picture() -> None:
    assert inspected("video/VP9", b"\x08").keyframe
    assert inspected("video/VP9", b"\x28\x00\x00").keyframe
    assert not inspected("video/VP9", b"\x28\x02\x00").keyframe  # spatial layer 1
    assert not inspected("video/VP9", b"\x48").keyframe  # inter predicted
    assert not inspected("video/VP9", b"\x04").keyframe  # not the beginning


@given(st.binary(max_size=40))
def test_vp9_is_total(data: bytes) -> None:
    checks.check_vp9(data)


# --- AV1 -------------------------------------------------------------------------------------------------------------


class Bits:
    """Writes a descriptor field by field, as its specification lists them."""

    def __init__(self) -> None:
        self.text = ""

    def put(self, value: int, width: int) -> Bits:
        self.text += format(value, f"0{width}b")
        return self

    def __bytes__(self) -> bytes:
        padded = self.text + "0" * (-len(self.text) % 8)
        return int(padded, 2).to_bytes(len(padded) // 8, "big")


def two_by_two(
    *, template: int = 3, frame: int = 9, active: int | None = None, resolutions: bool = False, chains: int = 2
) -> bytes:
    """A keyframe's descriptor: L2T2, four templates from id 3 on, four decode targets, two or four chains."""
    bits = Bits().put(1, 1).put(1, 1).put(template, 6).put(frame, 16)
    bits.put(1, 1).put(active is not None, 1).put(0, 3)
    bits.put(3, 6).put(3, 5)  # first template id, decode targets less one
    bits.put(1, 2).put(2, 2).put(1, 2).put(3, 2)  # layers (0,0) (0,1) (1,0) (1,1)
    for row in ((2, 2, 2, 2), (0, 1, 0, 2), (0, 0, 2, 2), (0, 0, 0, 1)):
        for indication in row:
            bits.put(indication, 2)
    for differences in ((4,), (2,), (1, 4), (1, 2)):
        for difference in differences:
            bits.put(1, 1).put(difference - 1, 4)
        bits.put(0, 1)
    if chains == 2:
        bits.put(2, 2)  # ns(5): what is below 3 takes two bits
    else:
        bits.put(0b111, 3)  # 4, in three
    for _ in range(4):
        bits.put(0, chains // 2)  # protected by: ns(2), or ns(4)
    for _ in range(4 * chains):
        bits.put(1, 4)
    bits.put(resolutions, 1)
    if resolutions:
        for size in (319, 179, 639, 359):
            bits.put(size, 16)
    if active is not None:
        bits.put(active, 4)
    return bytes(bits)


def test_a_dependency_descriptor_with_its_structure() -> None:
    found = DependencyDescriptor.parse(two_by_two(active=5, resolutions=True))
    assert found.keyframe
    assert (found.frame_number, found.spatial, found.temporal, found.active_targets) == (9, 0, 0, 5)
    assert found.structure is not None
    assert [(one.spatial, one.temporal) for one in found.structure.templates] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert found.indications == (SWITCH,) * 4


def test_structures_with_more_chains_are_read_to_their_end() -> None:
    found = DependencyDescriptor.parse(two_by_two(active=9, resolutions=True, chains=4))
    assert found.active_targets == 9


def test_later_frames_refer_to_the_templates_of_the_keyframe() -> None:
    structure = DependencyDescriptor.parse(two_by_two()).structure
    short = bytes(Bits().put(0, 1).put(1, 1).put(6, 6).put(10, 16))
    found = DependencyDescriptor.parse(short, structure)
    assert (found.starts_frame, found.ends_frame, found.spatial, found.temporal) == (False, True, 1, 1)
    assert not found.keyframe
    assert not found.temporal_switch


def test_custom_indications_replace_the_templates() -> None:
    structure = DependencyDescriptor.parse(two_by_two()).structure
    bits = Bits().put(1, 1).put(1, 1).put(6, 6).put(10, 16).put(0, 2).put(0b100, 3)
    for indication in (0, 0, 0, 2):
        bits.put(indication, 2)
    assert DependencyDescriptor.parse(bytes(bits), structure).indications == (0, 0, 0, 2)


def test_the_av1_inspector_remembers_structures_by_stream() -> None:
    extension_ids: dict[str, int] = {}
    inspect = inspect_for("video/AV1", extension_ids)
    extension_ids[DEPENDENCY_DESCRIPTOR] = 12  # known only once the publisher's section is

    def packet(ssrc: int, descriptor: bytes) -> RtpPacket:
        data = build_rtp(
            ssrc=ssrc, payload_type=45, sequence=1, timestamp=1, payload=b"\x10", extensions={12: descriptor}
        )
        parsed = RtpPacket.parse(data)
        inspect(parsed)
        return parsed

    assert packet(1, two_by_two()).keyframe
    later = bytes(Bits().put(1, 1).put(1, 1).put(4, 6).put(10, 16))
    assert packet(1, later).temporal == 1
    assert packet(2, later).descriptor is None  # that stream has announced nothing yet


def test_an_av1_keyframe_without_a_descriptor_has_a_new_sequence() -> None:
    assert inspected("video/AV1", b"\x18").keyframe
    assert not inspected("video/AV1", b"\x10").keyframe


@given(
    st.binary(max_size=120)
    | st.builds(lambda a, b: bytes([len(two_by_two())]) + two_by_two() + a + b, *[st.binary(max_size=9)] * 2)
)
def test_the_dependency_descriptor_is_total(data: bytes) -> None:
    checks.check_dependency_descriptor(data)


# --- H.264, H.265 ----------------------------------------------------------------------------------------------------

SPS, PPS, IDR, DELTA = b"\x67\x42\xe0\x1f", b"\x68\xce\x3c", b"\x65\x88\x84", b"\x41\x9a\x24"


def test_h264_keyframes_in_the_packets_that_aiortc_makes() -> None:
    packets = H264Encoder._packetize([SPS, PPS, IDR + bytes(3000)])
    assert len(packets) > 2  # an aggregate, then fragments
    assert [inspected("video/H264", packet).keyframe for packet in packets][:2] == [True, True]
    assert not any(inspected("video/H264", packet).keyframe for packet in packets[2:])
    assert not any(inspected("video/H264", packet).keyframe for packet in H264Encoder._packetize([DELTA + bytes(3000)]))


def test_h264_keyframes_in_single_units() -> None:
    assert inspected("video/H264", SPS).keyframe
    assert inspected("video/H264", IDR).keyframe
    assert not inspected("video/H264", PPS).keyframe
    assert not inspected("video/H264", DELTA).keyframe
    assert not inspected("video/H264", b"\x65\x40").keyframe  # a later slice of the picture


def test_h265_keyframes_and_temporal_layers() -> None:
    vps, idr, trail = b"\x40\x01\x0c", b"\x26\x01\xaf", b"\x02\x03\xd0"
    assert inspected("video/H265", vps).keyframe
    assert inspected("video/H265", idr).keyframe
    assert not inspected("video/H265", trail).keyframe
    assert inspected("video/H265", trail).temporal == 2
    aggregate = b"\x60\x01" + b"".join(len(unit).to_bytes(2, "big") + unit for unit in (trail, vps))
    assert inspected("video/H265", aggregate).keyframe
    assert inspected("video/H265", b"\x62\x01" + bytes([0x80 | 19]) + b"\xaf").keyframe  # first fragment of an IDR
    assert not inspected("video/H265", b"\x62\x01" + bytes([19]) + b"\xaf").keyframe


@given(st.binary(max_size=30))
def test_nal_units_are_total(data: bytes) -> None:
    checks.check_nal_units(data)


# --- RED -------------------------------------------------------------------------------------------------------------


def red(*blocks: tuple[int, bytes], primary: bytes) -> bytes:
    heads = b"".join(bytes([0x80 | 111]) + (age << 10 | len(content)).to_bytes(3, "big") for age, content in blocks)
    return heads + b"\x6f" + b"".join(content for _, content in blocks) + primary


def test_red_blocks_come_oldest_first() -> None:
    data = red((1920, b"two"), (960, b"on"), primary=b"now!")
    blocks = parse_red(data, 0, len(data))
    assert [(one.payload_type, one.age, data[one.start : one.end]) for one in blocks] == [
        (111, 1920, b"two"),
        (111, 960, b"on"),
        (111, 0, b"now!"),
    ]


@given(st.binary(max_size=40))
def test_red_is_total(data: bytes) -> None:
    checks.check_red(data)


# --- all of it -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_forwarded_without_harm(data: bytes) -> None:
    checks.check_forwarding(data)
