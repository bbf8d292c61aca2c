"""A publisher as the receive tests need it: packets by sequence number, an ingress that knows it, virtual time."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from triosfu.media.ingress import TRANSPORT_WIDE_CC, Ingress
from triosfu.media.receiver import TrackReceiver
from triosfu.rtp.rtcp import parse_compound
from triosfu.rtp.wire import build_rtp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from triosfu.media.burst import Burst
    from triosfu.rtp.rtcp import RtcpPacket
    from triosfu.rtp.wire import RtpPacket

MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
RID = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"
REPAIRED_RID = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"
LEVEL = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
EXTENSIONS = {LEVEL: 1, TRANSPORT_WIDE_CC: 3, MID: 4, RID: 10, REPAIRED_RID: 11}
VIDEO: dict[int, str | int] = {96: "video/VP8", 97: 96, 98: "video/VP9", 99: 98}
AUDIO: dict[int, str | int] = {63: "audio/red", 111: "audio/opus"}
KEYFRAME = b"\x10\x00" + bytes(9)  # VP8: start of partition 0, and a frame header with its lowest bit 0
DELTA = b"\x10\x01" + bytes(9)


class Recorder:
    """A subscriber that writes down what it gets."""

    def __init__(self) -> None:
        self.packets: list[RtpPacket] = []

    lane = None
    source = -1

    def take(self, burst: Burst, now: float, start: int = 0) -> None:
        self.packets += burst.packets

    @property
    def indexes(self) -> list[int]:
        """Indexes relative to the first packet's."""
        return [packet.index - self.packets[0].index for packet in self.packets]

    @property
    def payloads(self) -> list[bytes]:
        return [packet.payload for packet in self.packets]


def receive(ingress: Ingress, data: bytes, now: float) -> None:
    """A batch of one packet."""
    ingress.receive_rtp(data, now)
    ingress.forward(now)


def new_ingress() -> Ingress:
    return Ingress(rng=Random(1), now=0.0)


def new_video(mime: str = "video/VP8", *, nack: bool | None = None, screenshare: bool = False) -> TrackReceiver:
    return TrackReceiver(kind="video", mime=mime, clock_rate=90000, now=0.0, nack=nack, screenshare=screenshare)


def new_audio(mime: str = "audio/opus") -> TrackReceiver:
    return TrackReceiver(kind="audio", mime=mime, clock_rate=48000, now=0.0)


def with_video() -> tuple[Ingress, TrackReceiver, Recorder]:
    """An ingress with one video track on SSRC 1000, with RTX on 2000."""
    ingress, receiver, recorder = new_ingress(), new_video(), Recorder()
    ingress.add_track(receiver, mid="0", ssrcs=[1000], rtx={1000: 2000}, payload_types=VIDEO, extension_ids=EXTENSIONS)
    receiver.subscribe(recorder)
    return ingress, receiver, recorder


def media(
    sequence: int,
    *,
    ssrc: int = 1000,
    payload_type: int = 96,
    timestamp: int | None = None,
    payload: bytes = DELTA,
    extensions: Mapping[int, bytes] | None = None,
    marker: bool = False,
    padding: int = 0,
) -> bytes:
    """One packet; its timestamp follows its sequence number, one frame each."""
    return build_rtp(
        ssrc=ssrc,
        payload_type=payload_type,
        sequence=sequence & 0xFFFF,
        timestamp=(sequence * 3000 if timestamp is None else timestamp) & 0xFFFFFFFF,
        payload=payload,
        extensions=extensions,
        marker=marker,
        padding=padding,
    )


def rtx(original: int, *, sequence: int = 1, ssrc: int = 2000, payload: bytes = DELTA) -> bytes:
    """A retransmission of the packet that `media(original, payload=payload)` makes."""
    return build_rtp(
        ssrc=ssrc,
        payload_type=97,
        sequence=sequence & 0xFFFF,
        timestamp=original * 3000 & 0xFFFFFFFF,
        payload=(original & 0xFFFF).to_bytes(2, "big") + payload,
    )


def sent(ingress: Ingress) -> list[RtcpPacket]:
    """What the ingress wants to say, parsed."""
    return [packet for compound in ingress.rtcp_to_send() for packet in parse_compound(compound)]


def run_until(ingress: Ingress, until: float) -> list[tuple[float, RtcpPacket]]:
    """Let time pass; what was said when."""
    said: list[tuple[float, RtcpPacket]] = []
    while (at := ingress.next_timeout()) <= until:
        ingress.handle_timeout(at)
        assert ingress.next_timeout() > at
        said += [(at, packet) for packet in sent(ingress)]
    return said
