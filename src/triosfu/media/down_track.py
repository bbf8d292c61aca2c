"""One track on its way to one subscriber: what may flow, what the subscriber asks for, what it is told.

The packets themselves go through the track's `Forwarder`, straight from the receiver.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING

from triosfu.errors import UsageError
from triosfu.media.codecs.silence import FRAME_DURATION, silence
from triosfu.media.forwarder import Forwarder
from triosfu.media.layers import NO_LAYER, TOP, ScalableFilter, TemporalFilter
from triosfu.media.send_reports import PATIENCE, SendReports, SendStats
from triosfu.media.shape import Shape
from triosfu.media.sink import MediaSink
from triosfu.media.timeline import WRAP, Change
from triosfu.rtp.reports import SenderReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from random import Random

    from triosfu.media.handover import LeftOff
    from triosfu.media.receiver import TrackReceiver
    from triosfu.media.sent_log import SentLog
    from triosfu.rtp.reports import ReportBlock

__all__ = ["DownTrack", "Hold", "MediaSink"]

MUTED_START, MUTED_EVERY, MUTED_FOR = 0.1, 0.1, 5.0  # seconds: padding for those who subscribe to a muted track
SILENT = 50  # frames of silence behind a sound that stops: a second
MAX_NACKED = 1024  # packets looked for in one request
SCALABLE = frozenset({"video/vp9", "video/av1"})


class Hold(Enum):
    """Why nothing is forwarded."""

    UNBOUND = "no payload type is negotiated"
    MUTED = "the publisher has muted the track"
    DISABLED = "the subscriber does not want it now"
    PAUSED = "there is no bandwidth for it"


class DownTrack:
    """Forwards one track to one subscriber, on one SSRC, continuously. It flows while there is no `Hold`."""

    __slots__ = (
        "_delay",
        "_encrypted",
        "_forwarder",
        "_holds",
        "_max_spatial",
        "_max_temporal",
        "_padding_at",
        "_padding_until",
        "_receiver",
        "_reports",
        "_silence",
        "_silent_at",
        "_silent_left",
        "_stats",
        "cname",
        "created_at",
        "mid",
        "mime",
    )

    def __init__(
        self,
        *,
        receiver: TrackReceiver,
        sink: MediaSink,
        ssrc: int,
        rtx_ssrc: int | None,
        rng: Random,
        now: float,
        cname: str,
        mid: str = "",
        encrypted: bool = False,
        playout_delay: bytes = b"",
        continuing: LeftOff | None = None,
    ) -> None:
        self.cname, self.mid = cname, mid
        self.mime = ""  # of what is sent, in lower case, once bound
        self.created_at = now
        self._stats = continuing.stats.following() if continuing else SendStats()
        self._receiver = receiver
        self._encrypted = encrypted
        self._delay = playout_delay
        self._holds = {Hold.UNBOUND}
        self._forwarder = Forwarder(
            receiver=receiver,
            sink=sink,
            ssrc=ssrc,
            rtx_ssrc=rtx_ssrc,
            rng=rng,
            stats=self._stats,
            continuing=continuing,
        )
        self._reports = SendReports(receiver.clock_rate)
        self._max_spatial = self._max_temporal = TOP
        self._padding_at = self._padding_until = math.inf
        self._silence = b""  # one frame of it, where it may be made: not where only clients have the key
        self._silent_at, self._silent_left = math.inf, 0  # when the next one is due, and how many there are to come

    @property
    def stats(self) -> SendStats:
        """What was sent until now, and what the subscriber says of it."""
        self._forwarder.settle()
        return self._stats

    @property
    def ssrc(self) -> int:
        """The one of the media."""
        return self._forwarder.ssrc

    @property
    def rtx_ssrc(self) -> int | None:
        """The one of retransmissions; None without RTX."""
        return self._forwarder.rtx_ssrc

    @property
    def holds(self) -> frozenset[Hold]:
        """Why nothing flows; empty while it does."""
        return frozenset(self._holds)

    @property
    def current_layer(self) -> int:
        """The simulcast layer that flows, -1 for none."""
        self._forwarder.settle()
        last = self._forwarder.last
        return NO_LAYER if last is None else last.spatial

    @property
    def target_layer(self) -> int:
        """The simulcast layer to get to, -1 while held."""
        return NO_LAYER if self._holds else self._forwarder.selector.target

    # --- binding ---------------------------------------------------------------------------------------------------

    def bind(
        self,
        *,
        payload_types: Mapping[str, int],
        rtx_payload_types: Mapping[str, int],
        extension_ids: Mapping[str, int],
        now: float,
    ) -> None:
        """Start forwarding with what the subscriber negotiated (mime -> payload type); again when it changes.

        Raises:
            UsageError: The subscriber has no payload type for the track's codec, and it cannot be turned into another.
        """
        wanted = self._receiver.mime.lower()
        by_mime = {mime.lower(): number for mime, number in payload_types.items()}
        primary_only = wanted == "audio/red" and wanted not in by_mime and not self._encrypted
        if primary_only:
            wanted = "audio/opus"
        if wanted not in by_mime:
            raise UsageError(f"the subscriber did not negotiate {wanted}")
        self.mime = wanted
        forwarder = self._forwarder
        forwarder.disarm()
        forwarder.payload_type = by_mime[wanted]
        forwarder.rtx_payload_type = {mime.lower(): number for mime, number in rtx_payload_types.items()}.get(wanted)
        forwarder.shape = self._shared_shape(extension_ids, primary_only=primary_only)
        self._silence = b"" if self._encrypted else silence(wanted, by_mime.get("audio/opus"))
        if wanted == "video/vp8" and forwarder.temporal is None:
            forwarder.temporal = TemporalFilter()
        if wanted in SCALABLE and forwarder.layered is None:
            forwarder.layered = ScalableFilter()
        self._limit_layers()
        self._receiver.regroup()
        if Hold.UNBOUND in self._holds:
            self._receiver.subscribe(forwarder)
            self._release(Hold.UNBOUND, now)
            self._introduce(now)

    def unbind(self) -> None:
        """Stop for good, or until the next `bind`; the receiver feeds this track no more."""
        self._receiver.unsubscribe(self._forwarder)
        self._stop(Hold.UNBOUND, Change.RESUMED)
        self._forwarder.forget()
        self._padding_at = self._silent_at = math.inf

    def left_off(self) -> LeftOff:
        """Where the stream stands, for a track that goes on from there; call it after `unbind`."""
        return self._forwarder.left_off()

    def log_sent(self, log: SentLog | None) -> None:
        """Number packets for transport-wide feedback in `log`, that of the subscriber's transport."""
        self._forwarder.log_sent(log)

    def _shared_shape(self, extension_ids: Mapping[str, int], *, primary_only: bool) -> Shape:
        """The shape that another subscriber with the same identifiers already uses, or a new one."""
        for other in self._receiver.subscribers:
            if isinstance(other, Forwarder) and other.shape.matches(
                extension_ids, primary_only=primary_only, delay=self._delay
            ):
                return other.shape
        return Shape(extension_ids, primary_only=primary_only, delay=self._delay)

    # --- what may flow ---------------------------------------------------------------------------------------------

    def set_max_layer(self, spatial: int, temporal: int, now: float) -> None:
        """Forward at most these layers from now on; the change happens when the stream allows it."""
        self._max_spatial, self._max_temporal = spatial, temporal
        self._limit_layers()
        self._forwarder.look(now)

    def layers_changed(self, now: float) -> None:
        """Look again at which layers the publisher sends."""
        self._forwarder.look(now)

    def set_muted(self, muted: bool, now: float) -> None:  # noqa: FBT001  the publisher's state, as signalled
        """Follow the publisher's mute."""
        self._set(Hold.MUTED, muted, Change.UNMUTED, now)
        self._introduce(now)

    def set_disabled(self, disabled: bool, now: float) -> None:  # noqa: FBT001  the subscriber's wish, as signalled
        """Follow the subscriber's wish not to get the track for now."""
        self._set(Hold.DISABLED, disabled, Change.RESUMED, now)

    def set_paused(self, paused: bool, now: float) -> None:  # noqa: FBT001  the allocator's verdict
        """Save the bandwidth of this track for now."""
        self._set(Hold.PAUSED, paused, Change.RESUMED, now)

    def resync(self, now: float) -> None:
        """Begin again at the next keyframe: what was forwarded lately did not reach the subscriber."""
        self._forwarder.resync(now)
        self._introduce(now)

    def _introduce(self, now: float) -> None:
        """Plan padding for a muted track that has sent nothing: some clients learn of it by a packet only (trap 43)."""
        if Hold.MUTED in self._holds and Hold.UNBOUND not in self._holds and self._forwarder.started_at == math.inf:
            self._padding_at, self._padding_until = now + MUTED_START, now + MUTED_START + MUTED_FOR

    def _limit_layers(self) -> None:
        forwarder = self._forwarder
        forwarder.selector.maximum = self._max_spatial
        if forwarder.temporal is not None:
            forwarder.temporal.target = self._max_temporal
        if forwarder.layered is not None:
            forwarder.layered.spatial_target = self._max_spatial
            forwarder.layered.temporal_target = self._max_temporal
        forwarder.set_gate()

    def _set(self, hold: Hold, on: bool, change: Change, now: float) -> None:  # noqa: FBT001  passed on
        if on:
            flowed = not self._holds
            self._stop(hold, change)
            if flowed and self._silence:
                # Otherwise the receiver makes up some more of what it heard last.
                self._silent_at, self._silent_left = now, SILENT
        else:
            self._release(hold, now)

    def _stop(self, hold: Hold, change: Change) -> None:
        if hold in self._holds:
            return
        if not self._holds or change is Change.UNMUTED:
            self._forwarder.change = change
        self._holds.add(hold)
        self._forwarder.open = False
        self._forwarder.detach()

    def _release(self, hold: Hold, now: float) -> None:
        if hold in self._holds:
            self._holds.discard(hold)
            self._forwarder.disarm()
            self._forwarder.open = not self._holds
            if not self._holds:
                self._silent_at = math.inf
            self._forwarder.look(now)

    # --- time ------------------------------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When `handle_timeout` has something to do; `math.inf` for never."""
        return min(self._forwarder.hunt.at, self._padding_at, self._silent_at)

    def handle_timeout(self, now: float) -> None:
        """Ask again for the keyframe that is still missing; show a muted track to its subscriber; let a sound end."""
        forwarder = self._forwarder
        if now >= forwarder.hunt.at:
            forwarder.look(now)
        if now >= self._padding_at:
            if now >= self._padding_until or Hold.MUTED not in self._holds or forwarder.started_at < math.inf:
                self._padding_at = math.inf
            else:
                self._padding_at = now + MUTED_EVERY
                forwarder.pad(now)
        while now >= self._silent_at:
            forwarder.fill(self._silence, FRAME_DURATION, now)
            self._silent_left -= 1
            self._silent_at = self._silent_at + FRAME_DURATION if self._silent_left else math.inf

    # --- RTCP ------------------------------------------------------------------------------------------------------

    def receive_nack(self, sequences: Iterable[int], now: float) -> None:
        """Send these packets again, those that are in the history and were not resent too often or just now.

        After a lost picture (PLI) nothing is resent until its keyframe: it would only use up bandwidth.
        """
        if now < self._forwarder.hunt.outdated_until or Hold.UNBOUND in self._holds:
            return
        stats = self._stats
        for sequence, _ in zip(sequences, range(MAX_NACKED), strict=False):
            stats.nacks += 1
            if not self._forwarder.resend(sequence, now):
                stats.nacks_missed += 1

    def receive_pli(self, now: float) -> None:
        """The subscriber has lost the picture (RFC 4585, section 6.3.1): ask the publisher for a new one."""
        self._stats.plis += 1
        self._forwarder.renew(now)

    def receive_fir(self, now: float) -> None:
        """The subscriber wants a decoder refresh (RFC 5104, section 4.3.1), which to us is the same."""
        self._stats.firs += 1
        self._forwarder.renew(now)

    def receive_report(self, block: ReportBlock, now: float) -> None:
        """Take what a receiver report says about this stream."""
        self._reports.receive(block, self._stats, now)

    def sender_report(self, now: float, ntp_now: float) -> SenderReport | None:
        """The sender report to send at `now`, `ntp_now` (seconds since 1900) on our wall clock; None to send none."""
        self._forwarder.settle()
        forwarder, last = self._forwarder, self._forwarder.last
        if last is None:
            return None
        info = self._receiver.sender_report(last.spatial)
        if info is None and now - forwarder.started_at < PATIENCE:
            return None
        shift = forwarder.munger.current.timestamp
        times = self._reports.times(now, ntp_now, info, shift, ((last.timestamp + shift) % WRAP, last.arrival))
        if times is None:
            return None
        ntp = int(times[0] * 2**32) & 0xFFFFFFFFFFFFFFFF
        self._reports.sent(ntp, now)
        stats = self._stats
        packets, octets = stats.earlier_packets + stats.packets, stats.earlier_octets + stats.octets
        return SenderReport(self.ssrc, ntp, times[1], packets & 0xFFFFFFFF, octets & 0xFFFFFFFF)
