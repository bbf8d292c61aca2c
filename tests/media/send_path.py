"""A publisher, the server's receive side, and one subscriber's down track, on virtual time."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from triosfu.media.codecs import DEPENDENCY_DESCRIPTOR
from triosfu.media.down_track import DownTrack
from triosfu.media.ingress import Ingress
from triosfu.media.receiver import TrackReceiver
from triosfu.media.sender import Sender
from triosfu.media.shape import ABS_CAPTURE_TIME, ABS_SEND_TIME
from triosfu.rtp.rtcp import Pli, SenderReport, parse_compound
from triosfu.rtp.wire import RtpPacket, build_rtp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from triosfu.media.handover import LeftOff
    from triosfu.rtp.rtcp import RtcpPacket

SSRC, RTX_SSRC = 77, 78
MEDIA, RTX = 100, 101  # the subscriber's payload types
PUBLISHED = 1000  # ssrc of layer 0; the others follow
PUBLISHER_IDS = {ABS_CAPTURE_TIME: 6, DEPENDENCY_DESCRIPTOR: 12}
EPOCH = 3_900_000_000.0  # the publisher's clock at time 0, in seconds since 1900


class Recorder:
    """A sink that keeps what was committed."""

    compiled = None

    def __init__(self) -> None:
        self.arena = memoryview(bytearray(2048 * 4))
        self.packets: list[RtpPacket] = []
        self.vital: list[bool] = []  # which of them
        self._next = 0

    def reserve(self) -> int:
        self._next = (self._next + 2048) % len(self.arena)
        return self._next

    def commit_rtp(self, offset: int, length: int, vital: bool = False) -> None:
        self.packets.append(RtpPacket.parse(bytes(self.arena[offset : offset + length])))
        self.vital.append(vital)


class Path:
    """Everything between the publisher's RTP and the subscriber's."""

    def __init__(
        self,
        mime: str = "video/VP8",
        *,
        layers: int = 1,
        sent_as: str | None = None,
        extension_ids: Mapping[str, int] | None = None,
        rtx: bool = True,
        muted: bool = False,
        encrypted: bool = False,
        seed: int = 1,
        continuing: LeftOff | None = None,
        now: float = 0.0,
    ) -> None:
        self.now = now
        self.heard: list[RtcpPacket] = []
        self.video = mime.startswith("video")
        self.clock_rate = 90000 if self.video else 48000
        self.layers = layers
        self.ingress = Ingress(rng=Random(seed), now=0.0)
        self.receiver = TrackReceiver(
            kind="video" if self.video else "audio", mime=mime, clock_rate=self.clock_rate, now=0.0
        )
        self.ingress.add_track(
            self.receiver,
            mid="0",
            ssrcs=[PUBLISHED + layer for layer in range(layers)],
            payload_types={96: mime},
            extension_ids=PUBLISHER_IDS,
        )
        self.sink = Recorder()
        self.sender = Sender(rng=Random(seed), now=0.0)
        self.track = DownTrack(
            receiver=self.receiver,
            sink=self.sink,
            ssrc=SSRC,
            rtx_ssrc=RTX_SSRC if rtx else None,
            rng=Random(seed),
            now=0.0,
            cname="PA_x|TR_y",
            mid="3",
            encrypted=encrypted,
            continuing=continuing,
        )
        self.sender.add(self.track)
        if muted:
            self.track.set_muted(True, 0.0)
        sent_as = sent_as or mime
        self.track.bind(
            payload_types={sent_as: MEDIA},
            rtx_payload_types={sent_as: RTX} if rtx else {},
            extension_ids={ABS_SEND_TIME: 3} if extension_ids is None else extension_ids,
            now=0.0,
        )

    def publish(
        self,
        sequence: int,
        payload: bytes = b"x",
        *,
        layer: int = 0,
        timestamp: int | None = None,
        marker: bool = True,
        extensions: Mapping[int, bytes] | None = None,
        ssrc: int | None = None,
    ) -> list[RtpPacket]:
        """One packet from the publisher; what the subscriber got for it."""
        before = len(self.sink.packets)
        data = build_rtp(
            ssrc=PUBLISHED + layer if ssrc is None else ssrc,
            payload_type=96,
            sequence=sequence & 0xFFFF,
            timestamp=(sequence * 3000 if timestamp is None else timestamp) & 0xFFFFFFFF,
            marker=marker,
            payload=payload,
            extensions=extensions,
        )
        self.ingress.receive_rtp(data, self.now)
        self.ingress.forward(self.now)
        return self.sink.packets[before:]

    def report(self, layer: int, timestamp: int, *, ntp: float | None = None) -> None:
        """A sender report of the publisher: this timestamp is now."""
        ntp = EPOCH + self.now if ntp is None else ntp
        report = SenderReport(PUBLISHED + layer, int(ntp * 2**32), timestamp & 0xFFFFFFFF, 0, 0)
        self.ingress.receive_rtcp([report], self.now)

    def wait(self, seconds: float) -> list[RtcpPacket]:
        """Let time pass; what the publisher and the subscriber were told meanwhile."""
        until = self.now + seconds
        told: list[RtcpPacket] = []
        while (at := min(self.ingress.next_timeout(), self.sender.next_timeout())) <= until:
            self.now = at
            self.ingress.handle_timeout(at)
            self.sender.handle_timeout(at)
            assert self.sender.next_timeout() > at
            told += self.told()
        self.now = until
        told += self.told()
        self.heard += told
        return told

    def told(self) -> list[RtcpPacket]:
        compounds = self.ingress.rtcp_to_send() + self.sender.rtcp_to_send()
        return [packet for compound in compounds for packet in parse_compound(compound)]

    def plis(self, seconds: float = 0.0) -> list[int]:
        """Let time pass; the layers that the publisher was asked for a keyframe of."""
        return [one.media_ssrc - PUBLISHED for one in self.wait(seconds) if isinstance(one, Pli)]

    @property
    def media(self) -> list[RtpPacket]:
        """What was sent on the media's own SSRC."""
        return [packet for packet in self.sink.packets if packet.ssrc == SSRC]


def vp8(  # one packet's payload
    picture: int = 0, *, key: bool = False, start: bool = True, temporal: int = 0, sync: bool = False, tl0: int = 0
) -> bytes:
    head = bytes([0x90 if start else 0x80, 0xF0, 0x80 | picture >> 8 & 0x7F, picture & 0xFF, tl0 & 0xFF])
    return head + bytes([temporal << 6 | sync << 5 | 3]) + (b"\x00" if key else b"\x01")
