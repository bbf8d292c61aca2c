"""AV1: the dependency descriptor extension (AV1 RTP, appendix A), and the aggregation header where there is none (4.4).

Only what selects layers is kept: frame numbers, layers, decode target indications, the structure that names templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from triosfu.rtp.wire import RtpPacket

DEPENDENCY_DESCRIPTOR = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
MAX_TEMPLATES = 64
MAX_STREAMS = 8  # structures remembered at once: more than the layers a track may have
NOT_PRESENT, DISCARDABLE, SWITCH, REQUIRED = range(4)  # decode target indications
NEXT_TEMPORAL, NEXT_SPATIAL, NO_MORE = 1, 2, 3
NEW_SEQUENCE = 0x08  # N of the aggregation header


class _Bits:
    """Reads unsigned fields of any width; past the end it raises MalformedPacket."""

    __slots__ = ("_left", "_value")

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, width: int) -> int:
        self._left -= width
        if self._left < 0:
            raise MalformedPacket("dependency descriptor: ends early")
        return self._value >> self._left & ((1 << width) - 1)

    def read_below(self, limit: int) -> int:
        """A non-symmetric number less than `limit` (AV1, section 4.10.7)."""
        width = limit.bit_length()
        short = (1 << width) - limit
        value = self.read(width - 1)
        if value < short:
            return value
        return (value << 1) - short + self.read(1)


@dataclass(frozen=True, slots=True)
class Template:
    """What frames that name this template have in common."""

    spatial: int
    temporal: int
    indications: tuple[int, ...]  # one per decode target


@dataclass(frozen=True, slots=True)
class Structure:
    """The templates that a keyframe announces; the frames up to the next keyframe refer to them."""

    first_id: int
    decode_targets: int
    templates: tuple[Template, ...]

    def template(self, number: int) -> Template:
        """The template a frame names by `number`.

        Raises:
            MalformedPacket: There is none.
        """
        index = (number - self.first_id) % MAX_TEMPLATES
        if index >= len(self.templates):
            raise MalformedPacket(f"dependency descriptor: no template {number}")
        return self.templates[index]


@dataclass(slots=True)
class DependencyDescriptor:
    """One packet's dependency descriptor."""

    starts_frame: bool
    ends_frame: bool
    template_id: int
    frame_number: int  # 16 bits
    structure: Structure | None = None  # announced by this packet
    active_targets: int | None = None  # bit mask
    spatial: int = 0
    temporal: int = 0
    indications: tuple[int, ...] = ()

    @property
    def keyframe(self) -> bool:
        """Whether this packet begins a keyframe."""
        return self.starts_frame and self.structure is not None

    @property
    def temporal_switch(self) -> bool:
        """Whether some decode target may be joined at this frame."""
        return SWITCH in self.indications

    @classmethod
    def parse(cls, data: bytes, known: Structure | None = None) -> DependencyDescriptor:
        """Read one; `known` is the structure of the last keyframe of the stream.

        Raises:
            MalformedPacket: It ends early, or names a template that no structure holds.
        """
        bits = _Bits(data)
        descriptor = cls(bool(bits.read(1)), bool(bits.read(1)), bits.read(6), bits.read(16))
        custom_indications = False
        structure = known
        if len(data) > 3:
            announces, has_active, custom = bits.read(1), bits.read(1), bits.read(3)
            custom_indications = bool(custom & 0x04)
            if announces:
                structure = descriptor.structure = _read_structure(bits)
            if has_active:
                if structure is None:
                    raise MalformedPacket("dependency descriptor: decode targets without a structure")
                descriptor.active_targets = bits.read(structure.decode_targets)
        if structure is None:
            raise MalformedPacket("dependency descriptor: no structure yet")
        template = structure.template(descriptor.template_id)
        descriptor.spatial, descriptor.temporal = template.spatial, template.temporal
        descriptor.indications = template.indications
        if custom_indications:
            descriptor.indications = tuple(bits.read(2) for _ in range(structure.decode_targets))
        return descriptor


def _read_structure(bits: _Bits) -> Structure:
    first_id = bits.read(6)
    targets = bits.read(5) + 1
    layers = [(0, 0)]
    spatial = temporal = 0
    while (step := bits.read(2)) != NO_MORE:
        if step == NEXT_TEMPORAL:
            temporal += 1
        elif step == NEXT_SPATIAL:
            spatial, temporal = spatial + 1, 0
        layers.append((spatial, temporal))
        if len(layers) > MAX_TEMPLATES:
            raise MalformedPacket("dependency descriptor: more than 64 templates")
    indications = [tuple(bits.read(2) for _ in range(targets)) for _ in layers]
    for _ in layers:
        while bits.read(1):
            bits.read(4)  # a frame difference: receivers need it, a forwarder does not
    chains = bits.read_below(targets + 1)
    if chains:
        for _ in range(targets):
            bits.read_below(chains)
        bits.read(4 * chains * len(layers))
    if bits.read(1):
        bits.read(32 * (spatial + 1))  # resolutions
    templates = tuple(Template(*layer, row) for layer, row in zip(layers, indications, strict=True))
    return Structure(first_id, targets, templates)


def with_dependency_descriptor(extension_ids: Mapping[str, int]) -> Callable[[RtpPacket], None]:
    """An inspector that reads the dependency descriptor, and the aggregation header of packets without one."""
    structures: dict[int, Structure] = {}  # by ssrc

    def inspect(packet: RtpPacket) -> None:
        number = extension_ids.get(DEPENDENCY_DESCRIPTOR)
        data = packet.extension(number) if number else None
        if data is None:
            inspect_av1(packet)
            return
        try:
            descriptor = DependencyDescriptor.parse(data, structures.get(packet.ssrc))
        except MalformedPacket:
            inspect_av1(packet)
            return
        if descriptor.structure is not None:
            if packet.ssrc not in structures and len(structures) >= MAX_STREAMS:
                del structures[next(iter(structures))]
            structures[packet.ssrc] = descriptor.structure
        packet.descriptor = descriptor
        packet.keyframe = descriptor.keyframe
        packet.temporal = descriptor.temporal

    return inspect


def inspect_av1(packet: RtpPacket) -> None:
    """Fill `keyframe` from the aggregation header: a new coded video sequence starts (AV1 RTP, section 4.4)."""
    start = packet.payload_offset
    packet.keyframe = start < packet.payload_end and bool(packet.data[start] & NEW_SEQUENCE)
