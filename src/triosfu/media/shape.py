"""The part of an outgoing packet that is the same for every subscriber with the same negotiated extensions.

A burst goes to all subscribers of a track, one after the other. What does not differ between them is made once, for the
first of them: the extension block under the subscribers' identifiers, the payload, and the packer that writes both
behind the header in a single call.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket
from triosfu.media.codecs import DEPENDENCY_DESCRIPTOR
from triosfu.media.codecs.red import Block, parse_red
from triosfu.rtp.wire import EXTENSION, ONE_BYTE, TWO_BYTE, VERSION, RtpPacket, build_rtp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from triosfu.media.burst import Burst

ABS_SEND_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
TRANSPORT_SEQUENCE = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
ABS_CAPTURE_TIME = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time"
VIDEO_ORIENTATION = "urn:3gpp:video-orientation"
PLAYOUT_DELAY = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
# What is passed on as the publisher wrote it. All else is about the publisher's own transport or sections.
FORWARDED = (DEPENDENCY_DESCRIPTOR, ABS_CAPTURE_TIME, VIDEO_ORIENTATION)
MAX_PACKET = 1456  # bytes before protection: with RTX, SRTP, UDP and IPv4 it still fits 1500
HEADER_SIZE = 12
MARKER = 0x80
HIGHEST_ONE_BYTE = 14

_extension_header = struct.Struct("!HH")
form_record = struct.Struct("@16sBBBB15s")  # struct form of kernel/records.h


def playout_delay(least: int, most: int) -> bytes:
    """The playout-delay extension's value: the bounds of a receiver's delay in milliseconds, as steps of ten."""
    return (min(least // 10, 0xFFF) << 12 | min(most // 10, 0xFFF)).to_bytes(3, "big")


@cache
def packer(tail: int) -> Callable[..., None]:
    """Writes a fixed RTP header and `tail` bytes behind it, in one call."""
    return struct.Struct(f"!BBHII{tail}s").pack_into


class Part:
    """What all subscribers of one shape get of one packet."""

    __slots__ = (
        "blocks",
        "first",
        "frame_at",
        "marker",
        "octets",
        "pack",
        "packet",
        "payload_at",
        "size",
        "tail",
        "transport_at",
    )

    def __init__(self, packet: RtpPacket) -> None:
        self.packet = packet
        self.first = VERSION
        self.marker = MARKER if packet.marker else 0
        self.tail = b""
        self.pack = packer(0)
        self.size = HEADER_SIZE
        self.octets = 0  # of payload
        self.payload_at = HEADER_SIZE
        self.frame_at = 0  # where the dependency descriptor's frame number stands; 0 without one
        self.transport_at = 0  # where the transport-wide sequence number goes; 0 without one
        self.blocks: list[Block] = []  # of RED of which the last one goes out

    def recovered(self, distance: int) -> RtpPacket | None:
        """The packet `distance` before this one, from the redundancy that it carries; None if it carries none.

        Senders put the packets directly before into the redundant blocks, the nearest last.
        """
        held = self.packet
        if distance >= len(self.blocks):
            return None
        block = self.blocks[-1 - distance]
        if block.start == block.end:
            return None
        data = build_rtp(
            ssrc=held.ssrc,
            payload_type=held.payload_type,
            sequence=(held.sequence - distance) & 0xFFFF,
            timestamp=(held.timestamp - block.age) & 0xFFFFFFFF,
            payload=bytes([block.payload_type]) + held.data[block.start : block.end],
        )
        packet = RtpPacket.parse(data, held.arrival)
        packet.index = held.index - distance
        packet.spatial = held.spatial
        return packet


class Shape:
    """Makes the parts of a track's packets, those of one burst once."""

    __slots__ = (
        "_form",
        "_pairs",
        "_pairs_from",
        "burst",
        "delay",
        "extension_ids",
        "oversized",
        "parts",
        "primary_only",
    )

    def __init__(self, extension_ids: Mapping[str, int], *, primary_only: bool, delay: bytes = b"") -> None:
        self.extension_ids = {uri: number for uri, number in extension_ids.items() if 0 < number < 256}
        self.primary_only = primary_only  # of RED: its last block, which is plain Opus
        self.delay = delay  # the value of the playout-delay extension; empty writes none
        self.oversized = 0  # packets that went out without their payload
        self.burst: Burst | None = None
        self.parts: list[Part] = []  # of its packets
        self._pairs_from: Mapping[str, int] = {}
        self._pairs: dict[int, tuple[int, bool]] = {}
        self._form: bytes | None = None

    @property
    def numbered(self) -> bool:
        """Whether packets carry transport-wide sequence numbers."""
        return TRANSPORT_SEQUENCE in self.extension_ids

    def matches(self, extension_ids: Mapping[str, int], *, primary_only: bool, delay: bytes = b"") -> bool:
        """Whether a subscriber with these identifiers gets the same bytes."""
        return (self.primary_only, self.delay, self.extension_ids) == (primary_only, delay, extension_ids)

    def take(self, burst: Burst, publisher_ids: Mapping[str, int]) -> list[Part]:
        """Make the parts of all packets of `burst`, as sent when they came."""
        self.burst = burst
        self.parts = [self.part(packet, publisher_ids, packet.arrival) for packet in burst.packets]
        return self.parts

    def part(self, packet: RtpPacket, publisher_ids: Mapping[str, int], now: float) -> Part:
        """The part of one packet, as sent at `now`."""
        if publisher_ids != self._pairs_from:
            self._pair(publisher_ids)
        part = Part(packet)
        block = self._extensions(part, now)
        data, start, end = packet.data, packet.payload_offset, packet.payload_end
        if self.primary_only:
            start, end = _primary(part, start, end)
        if HEADER_SIZE + len(block) + end - start > MAX_PACKET:
            self.oversized += 1
            end = start
        part.tail = tail = block + data[start:end]
        part.pack = packer(len(tail))
        part.size = HEADER_SIZE + len(tail)
        part.payload_at = HEADER_SIZE + len(block)
        part.octets = end - start
        return part

    def form(self, publisher_ids: Mapping[str, int]) -> bytes:
        """What `part` makes of extensions, as the kernel wants to know it: a struct form.

        Empty if they do not all fit the one-byte form, or if there is more to do.
        """
        if publisher_ids != self._pairs_from or self._form is None:
            self._pair(publisher_ids)
            self._form = self._made_form()
        return self._form

    def _made_form(self) -> bytes:
        ids = self.extension_ids
        if self.primary_only or max(ids.values(), default=0) > HIGHEST_ONE_BYTE:
            return b""
        begin = _one_byte(self._first_elements(0.0))
        numbers = bytearray(HIGHEST_ONE_BYTE + 1)
        descriptor = 0
        for number, (ours, is_descriptor) in self._pairs.items():
            if number <= HIGHEST_ONE_BYTE:
                numbers[number] = ours
                descriptor = number if is_descriptor else descriptor
        send_time = ABS_SEND_TIME in ids and not self.numbered
        return form_record.pack(begin, len(begin), self.numbered, send_time, descriptor, numbers)

    def _pair(self, publisher_ids: Mapping[str, int]) -> None:
        """Find out which of the publisher's extensions go on, and under which identifier."""
        self._pairs_from = dict(publisher_ids)
        self._form = None
        self._pairs = {
            publisher_ids[uri]: (self.extension_ids[uri], uri == DEPENDENCY_DESCRIPTOR)
            for uri in FORWARDED
            if uri in publisher_ids and uri in self.extension_ids
        }

    def _first_elements(self, now: float) -> list[tuple[int, bytes]]:
        """The extension elements that each packet has, as sent at `now`."""
        # One of the two serves the estimate of the way to the subscriber; with both negotiated the newer does.
        ids = self.extension_ids
        elements: list[tuple[int, bytes]] = []
        if transport := ids.get(TRANSPORT_SEQUENCE, 0):
            elements.append((transport, b"\0\0"))
        elif send_time := ids.get(ABS_SEND_TIME, 0):
            elements.append((send_time, (int(now * 262144) & 0xFFFFFF).to_bytes(3, "big")))
        if self.delay and (delay := ids.get(PLAYOUT_DELAY, 0)):
            elements.append((delay, self.delay))
        return elements

    def _extensions(self, part: Part, now: float) -> bytes:
        """The extension block with its header; sets `first`, `frame_at` and `transport_at`."""
        packet, elements = part.packet, self._first_elements(now)
        transport = self.numbered
        descriptor = -1
        if self._pairs and packet.extension_profile:
            for number, start, end in packet.elements():
                if pair := self._pairs.get(number):
                    if pair[1] and end - start >= 3:
                        descriptor = len(elements)
                    elements.append((pair[0], packet.data[start:end]))
        if not elements:
            return b""
        part.first = VERSION | EXTENSION
        if all(number <= HIGHEST_ONE_BYTE and 0 < len(value) <= 16 for number, value in elements):
            profile, head = ONE_BYTE, 1
            block = _one_byte(elements)
        else:
            profile, head = TWO_BYTE, 2
            block = b"".join(bytes([number, len(value)]) + value for number, value in elements)
        if transport:
            part.transport_at = HEADER_SIZE + 4 + head
        if descriptor >= 0:
            before = sum(head + len(value) for _, value in elements[:descriptor])
            part.frame_at = HEADER_SIZE + 4 + before + head + 1
        block += bytes(-len(block) % 4)
        return _extension_header.pack(profile, len(block) // 4) + block


def _one_byte(elements: list[tuple[int, bytes]]) -> bytes:
    return b"".join(bytes([number << 4 | len(value) - 1]) + value for number, value in elements)


def _primary(part: Part, start: int, end: int) -> tuple[int, int]:
    """Where the last block of RED begins and ends."""
    try:
        part.blocks = parse_red(part.packet.data, start, end)
    except MalformedPacket:
        return end, end  # an empty packet keeps the sequence whole
    return part.blocks[-1].start, part.blocks[-1].end
