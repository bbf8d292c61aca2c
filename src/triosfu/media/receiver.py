"""One published track in one codec, as it arrives: up to three layers, and the subscribers they fan out to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from triosfu.media.burst import Burst
from triosfu.media.codecs import inspect_for
from triosfu.media.counts import MediaCounts
from triosfu.media.feedback import DEFAULT_RTT
from triosfu.media.lanes import Fan, grouped
from triosfu.media.levels import SSRC_AUDIO_LEVEL, AudioLevel, LevelSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from triosfu.media.feedback import Feedback
    from triosfu.media.forwarder import Forwarder
    from triosfu.media.lanes import Lane
    from triosfu.media.stream import ReceiveStream
    from triosfu.rtp.wire import RtpPacket

MAX_SOURCES = 16  # SSRCs whose last packet is kept

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveSettings:
    """What an operator may choose about received tracks; one value serves all of a server."""

    buffer_video: int = 500  # packets per layer that can be asked for again, for as long as `media.buffer` says
    buffer_audio: int = 200
    keyframe_distance: tuple[float, float, float] = (0.5, 1.0, 1.0)  # least seconds between requests, by layer
    levels: LevelSettings = field(default_factory=LevelSettings)


class Subscriber(Protocol):
    """What a receiver feeds: the `media.forwarder.Forwarder` of a down track."""

    @property
    def lane(self) -> Lane | None:
        """Where the compiled kernel finds its numbers, if it serves this one."""

    @property
    def source(self) -> int:
        """The SSRC of the stream that it forwards; a number that none has while it forwards nothing."""

    def take(self, burst: Burst, now: float, start: int = 0) -> None:
        """Take packets of one stream, from the one numbered `start` on.

        They must not be changed, and stay valid for as long as they are kept.
        """


@dataclass(frozen=True, slots=True)
class SenderReportInfo:
    """The last sender report of one layer, and when it came."""

    ntp: float  # seconds since 1900, the publisher's clock
    rtp_timestamp: int
    arrival: float  # seconds, our clock


class TrackReceiver:
    """One published track in one codec: its layers by spatial index, 0 the lowest, and who receives them.

    `Ingress.add_track` connects it to the packets of a publisher; until then, and after `remove_track`, it is quiet.
    """

    __slots__ = (
        "__weakref__",
        "_bursts",
        "_grouped",
        "_level",
        "_newest",
        "_own_packets",
        "available",
        "buffer_size",
        "changes",
        "clock_rate",
        "created_at",
        "extension_ids",
        "failed_subscribers",
        "feedback",
        "inspect",
        "keyframe_distance",
        "kind",
        "level_id",
        "mime",
        "nack",
        "past",
        "screenshare",
        "streams",
        "subscribers",
        "unexpected_mime",
    )

    def __init__(
        self,
        *,
        kind: str,
        mime: str,
        clock_rate: int,
        now: float,
        screenshare: bool = False,
        nack: bool | None = None,
        settings: ReceiveSettings | None = None,
        inspect: Callable[[RtpPacket], None] | None = None,
    ) -> None:
        self.kind = kind  # "audio" or "video"
        self.mime = mime
        self.clock_rate = clock_rate
        self.created_at = now
        self.screenshare = screenshare
        self.nack = mime.lower() != "audio/red" if nack is None else nack  # RED mends itself
        settings = settings or ReceiveSettings()
        self.buffer_size = settings.buffer_video if kind == "video" else settings.buffer_audio
        self.keyframe_distance = settings.keyframe_distance
        self.extension_ids: dict[str, int] = {}  # the publisher's: uri -> identifier in received packets
        self.inspect = inspect or inspect_for(mime, self.extension_ids)
        self.streams: dict[int, ReceiveStream] = {}  # by spatial index
        self.past = MediaCounts()  # of streams that others have replaced, and of retransmissions
        # Replaced, never changed in place: a packet may be on its way along it.
        self.subscribers: list[Subscriber] = []
        self.available: tuple[int, ...] = ()  # the spatial layers that media arrives on now, lowest first
        self.changes = 0  # of what is available, and of bitrates
        self.unexpected_mime: str | None = None  # a codec that came instead of `mime`
        self.failed_subscribers = 0
        self.feedback: Feedback | None = None
        self._level = AudioLevel(clock_rate, settings.levels)
        self.level_id = 0  # the publisher's identifier of a sound's level, if this is one
        self._bursts: list[Burst] = []  # what has come and is not forwarded yet, by stream
        self._newest: dict[int, Burst] = {}  # the last one of each source, by SSRC
        self._grouped: tuple[list[Fan], list[Subscriber]] | None = None  # who gets bursts how
        self._own_packets = 0  # in `mime`, when last asked

    def __repr__(self) -> str:
        return f"<TrackReceiver {self.mime} layers={sorted(self.streams)} subscribers={len(self.subscribers)}>"

    # --- for the send side -----------------------------------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber) -> None:
        """Feed `subscriber` from the next packet on; once, however often it is said."""
        if all(other is not subscriber for other in self.subscribers):
            self.subscribers = [*self.subscribers, subscriber]
            self.regroup()

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Feed `subscriber` no more; nothing happens when it was not fed."""
        self.subscribers = [other for other in self.subscribers if other is not subscriber]
        self.regroup()

    def regroup(self) -> None:
        """Look anew at which subscribers get the same: one has come, gone, or got another shape."""
        self._grouped = None

    def request_keyframe(self, spatial: int, now: float) -> None:
        """Ask the publisher for a keyframe of layer `spatial`: at once, or as soon as the layer's throttle permits.

        A wish is kept until it was sent, or a keyframe came. A layer that has not begun is asked when it does; layers
        inside one stream (SVC) share that stream's keyframes.
        """
        stream = self.streams.get(spatial)
        if stream is None and len(self.streams) == 1:
            stream = next(iter(self.streams.values()))
        if stream is None:
            return
        stream.request_keyframe(now)
        feedback = self.feedback
        if feedback is not None and feedback.wake is not None:
            feedback.wake()

    def packet(self, spatial: int, index: int) -> RtpPacket | None:
        """The packet of layer `spatial` with this `index`, for a retransmission; None when it is not kept any more."""
        stream = self.streams.get(spatial)
        return None if stream is None else stream.packet(index)

    def sent(self, source: int, index: int) -> RtpPacket | None:
        """The packet `index` of the stream that has the SSRC `source`; None when it is not kept any more."""
        for stream in self.streams.values():
            if stream.ssrc == source:
                return stream.packet(index)
        return None

    def feeds(self, source: int) -> bool:
        """Whether the stream that has the SSRC `source` goes to anybody."""
        return any(subscriber.source == source for subscriber in self.subscribers)

    def newest(self, source: int) -> RtpPacket | None:
        """The last packet that was forwarded of the stream that has the SSRC `source`."""
        burst = self._newest.get(source)
        return None if burst is None else burst.newest

    def sender_report(self, spatial: int) -> SenderReportInfo | None:
        """The last sender report of layer `spatial`; None before the first."""
        stream = self.streams.get(spatial)
        if stream is None or stream.sender_report is None:
            return None
        report, arrival = stream.sender_report
        return SenderReportInfo(report.ntp / (1 << 32), report.rtp_timestamp, arrival)

    def bitrate(self, spatial: int) -> int:
        """Bits per second that arrive on layer `spatial`; 0 before it was measured."""
        stream = self.streams.get(spatial)
        return 0 if stream is None else stream.tracker.bitrate

    @property
    def rtt(self) -> float:
        """Seconds to the publisher and back, smoothed; a guess until measured."""
        return DEFAULT_RTT if self.feedback is None else self.feedback.rtt

    # --- for the room ----------------------------------------------------------------------------------------------

    def audio_level(self, now: float) -> float:
        """How loud the track is, 0 to 1; 0 when nobody speaks."""
        return self._level.level(now)

    def speaking(self, now: float) -> bool:
        """Whether somebody speaks."""
        return self._level.active(now)

    def changed_codec(self) -> str | None:
        """The codec that came in place of `mime` since the last call; None while anything comes in `mime`.

        Layers in different codecs, or one stray packet, are no change.
        """
        own = sum(stream.packets - stream.padding - stream.foreign for stream in self.streams.values())
        before, self._own_packets = self._own_packets, own
        mime, self.unexpected_mime = self.unexpected_mime, None
        return mime if own == before else None

    def expect(self, layers: Sequence[int]) -> None:
        """The publisher was told to send these layers: those that had stopped count again from their first packet."""
        for spatial in layers:
            stream = self.streams.get(spatial)
            if stream is not None and not stream.tracker.active:
                stream.tracker.reset()

    # --- for the streams -------------------------------------------------------------------------------------------

    def deliver(self, packet: RtpPacket, now: float) -> None:
        """Have a packet forwarded when the batch has ended that it came in."""
        if self.level_id:
            value = packet.extension(self.level_id)
            if value:
                self.hear(value[0], packet.timestamp, now)
        self.burst(packet.ssrc).add(packet)

    def hear(self, level: int, timestamp: int, now: float) -> None:
        """Take the level of a sound, as its publisher has written it (RFC 6464, section 3)."""
        self._level.observe(level & 0x7F, timestamp, now)

    def burst(self, source: int) -> Burst:
        """Where the packets of the stream that has the SSRC `source` wait for the end of the batch they came in."""
        bursts = self._bursts
        for burst in bursts:
            if burst.source == source:
                return burst
        burst = Burst(source)
        bursts.append(burst)
        if len(bursts) == 1 and self.feedback is not None:
            self.feedback.ready.append(self)
        return burst

    def forward(self, now: float) -> None:
        """Hand what has come to every subscriber."""
        bursts, self._bursts = self._bursts, []
        for burst in bursts:
            if self._grouped is None:
                self._grouped = grouped(self.subscribers)
            fans, plain = self._grouped
            for fan in fans:
                for forwarder, start in self._along_lanes(fan, burst, now):
                    self._feed(forwarder, burst, now, start)
            for subscriber in plain:
                self._feed(subscriber, burst, now)
            newest = self._newest
            newest[burst.source] = burst
            if len(newest) > MAX_SOURCES:
                del newest[next(iter(newest))]

    def _along_lanes(self, fan: Fan, burst: Burst, now: float) -> list[tuple[Forwarder, int]]:
        try:
            return fan.forward(burst, now, self)
        except Exception:
            # Nor must a bug there: Python takes all of it, and leaves alone what the kernel has sent already.
            log.exception("lanes_failed", mime=self.mime)
            self.failed_subscribers += 1
            return [(forwarder, 0) for forwarder in fan.forwarders]

    def _feed(self, subscriber: Subscriber, burst: Burst, now: float, start: int = 0) -> None:
        try:
            subscriber.take(burst, now, start)
        except Exception:
            # A bug in one subscriber's path must not cost the others their media, nor the publisher its connection.
            log.exception("subscriber_failed", mime=self.mime)
            self.failed_subscribers += 1
            self.unsubscribe(subscriber)

    def attach(self, feedback: Feedback, extension_ids: Mapping[str, int]) -> None:
        """Belong to a publisher from now on."""
        self.feedback = feedback
        self.extension_ids.clear()
        self.extension_ids.update(extension_ids)
        self.level_id = self.extension_ids.get(SSRC_AUDIO_LEVEL, 0) if self.kind == "audio" else 0

    def layer_changed(self) -> None:
        """A layer came to life, dried up, or changed its bitrate."""
        self.available = tuple(sorted(spatial for spatial, stream in self.streams.items() if stream.tracker.active))
        self.changes += 1

    def other_codec(self, mime: str) -> None:
        """The publisher sends another codec than this receiver was made for."""
        self.unexpected_mime = mime
