"""One track on its way to one subscriber: the hot path of the server.

`DownTrack.forward` takes every packet of every layer of the track. For a packet of the layer that flows, next in order,
it decides nothing: the numbers are shifted, the common part (`Shape`) is written into the egress arena, and the sink
protects and queues it. All that changes the shifts goes the slow way, through `_admit`.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from triosfu.errors import UsageError
from triosfu.media.codecs.av1 import DependencyDescriptor
from triosfu.media.codecs.vp8 import Vp8Descriptor
from triosfu.media.codecs.vp9 import Vp9Descriptor
from triosfu.media.handover import Left, continue_numbers, continue_time, leave
from triosfu.media.layers import NO_LAYER, TOP, ScalableFilter, SimulcastSelector, TemporalFilter
from triosfu.media.munger import Munger
from triosfu.media.send_reports import PATIENCE, SendReports, SendStats
from triosfu.media.sequencer import Sequencer
from triosfu.media.shape import HEADER_SIZE, MARKER, Shape, packer
from triosfu.media.timeline import WRAP, Change, carried_over
from triosfu.rtp.reports import SenderReport
from triosfu.rtp.wire import PADDING, VERSION, RtpPacket, build_rtp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from random import Random

    from triosfu.media.munger import Shifts
    from triosfu.media.receiver import SenderReportInfo, TrackReceiver
    from triosfu.media.sent_log import SentLog
    from triosfu.rtp.reports import ReportBlock

HISTORY = {"audio": 256, "video": 512}  # packets that can be sent again; powers of two, at least 200 and 500
STALLED = 1.0  # seconds without a packet while other layers flow: the layer has gone
ALIVE = 0.25  # seconds; a layer with a packet this fresh still flows
LAYER_PATIENCE = 1.0  # seconds that switch points are refused because timestamps do not fit yet
ASK_AGAIN = 0.2, 1.0  # bounds of the time between two keyframe requests, seconds
IDLE_CHECK = 3.0  # seconds between looks at a publisher that sends nothing
PLI_SILENCE = 2.0  # seconds for which a PLI outdates NACKs, at most
MAX_STALE = 20  # packets in a row from before the history: the publisher has started anew
MUTED_START, MUTED_EVERY, MUTED_FOR = 0.1, 0.1, 5.0  # seconds: padding for subscribers of a muted track
PAD = bytes(3) + b"\4"
SCALABLE = frozenset({"video/vp9", "video/av1"})
SCALABLE_FRAMES = Vp9Descriptor, DependencyDescriptor


class MediaSink(Protocol):
    """Where outgoing packets are written, protected and queued; the peer connection gives it."""

    @property
    def arena(self) -> memoryview:
        """The writable egress arena; a slot in it has 2048 bytes."""

    def reserve(self) -> int:
        """The offset of a free slot."""

    def commit_rtp(self, offset: int, length: int) -> None:
        """Protect the packet at `offset` in place and queue it; dropped and counted while not connected."""


class Hold(Enum):
    """Why nothing is forwarded."""

    UNBOUND = "no payload type is negotiated"
    MUTED = "the publisher has muted the track"
    DISABLED = "the subscriber does not want it now"
    PAUSED = "there is no bandwidth for it"


class DownTrack:
    """Forwards one track to one subscriber, on one SSRC, continuously."""

    __slots__ = (
        "_asked_at",
        "_change",
        "_encrypted",
        "_gate",
        "_hold",
        "_keyframe_at",
        "_last",
        "_layered",
        "_left",
        "_marked",
        "_munger",
        "_outdated_until",
        "_padding_at",
        "_padding_until",
        "_payload_type",
        "_receiver",
        "_refused_since",
        "_reports",
        "_reports_from",
        "_ring",
        "_ring_mask",
        "_rng",
        "_rtx_payload_type",
        "_rtx_sequence",
        "_selector",
        "_sequencer",
        "_shape",
        "_sink",
        "_stale",
        "_started_at",
        "_temporal",
        "_video",
        "cname",
        "created_at",
        "mid",
        "mime",
        "rtx_ssrc",
        "sent_log",
        "ssrc",
        "stats",
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
    ) -> None:
        self.ssrc, self.rtx_ssrc = ssrc, rtx_ssrc
        self.cname, self.mid = cname, mid
        self.mime = ""  # of what is sent, once bound
        self.created_at = now
        self.stats = SendStats()
        self.sent_log: SentLog | None = None  # of the subscriber's transport; set by its Sender
        self._receiver = receiver
        self._sink = sink
        self._rng = rng
        self._encrypted = encrypted
        self._video = receiver.kind == "video"
        history = HISTORY[receiver.kind]
        self._munger = Munger(rng=rng, history=history)
        self._sequencer = Sequencer(history)
        self._ring, self._ring_mask = self._sequencer.ring, self._sequencer.mask
        self._reports = SendReports(receiver.clock_rate)
        self._selector = SimulcastSelector()
        self._temporal = TemporalFilter()
        self._layered: ScalableFilter | None = None
        self._hold = {Hold.UNBOUND}
        self._shape = Shape({}, primary_only=False)
        self._payload_type = 0
        self._rtx_payload_type: int | None = None
        self._marked: set[int] = set()  # sent with a marker that the publisher's packet does not have
        self._rtx_sequence = 2**15 + rng.randrange(2**14)
        # Packets of a temporal layer above the gate take the slow way; below 0 all do.
        self._gate = TOP
        self._last: RtpPacket | None = None  # the newest packet of the source that flows
        self._left: Left | None = None
        self._change = Change.RESUMED
        self._refused_since = math.inf
        self._stale = (0, 0)  # next_index at which, and how many packets were from before the history
        self._outdated_until = -math.inf  # what was sent before is not worth a resend: a keyframe was asked for
        self._reports_from = -math.inf  # older reports of the layer are those of a source that is gone
        self._started_at = math.inf
        self._asked_at = -math.inf
        self._keyframe_at = math.inf
        self._padding_at = self._padding_until = math.inf

    # --- what the room sets ----------------------------------------------------------------------------------------

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
        self._payload_type = by_mime[wanted]
        self._rtx_payload_type = {mime.lower(): number for mime, number in rtx_payload_types.items()}.get(wanted)
        self._layered = ScalableFilter() if wanted in SCALABLE and self._layered is None else self._layered
        if self._layered is not None:
            self._layered.spatial_target = self._selector.maximum
            self._layered.temporal_target = self._temporal.target
        self._shape = self._shared_shape(extension_ids, primary_only=primary_only)
        self._set_gate()
        if Hold.UNBOUND in self._hold:
            self._receiver.subscribe(self)
            self._release(Hold.UNBOUND, now)
            if Hold.MUTED in self._hold and self._started_at == math.inf:
                # Some clients learn of a track from its first packet only.
                self._padding_at, self._padding_until = now + MUTED_START, now + MUTED_START + MUTED_FOR

    def unbind(self) -> None:
        """Stop for good, or until the next `bind`; the receiver feeds this track no more."""
        self._receiver.unsubscribe(self)
        self._stop(Hold.UNBOUND, Change.RESUMED)
        self._sequencer.clear()
        self._padding_at = math.inf

    def set_max_layer(self, spatial: int, temporal: int, now: float) -> None:
        """Forward at most these layers from now on; the change happens when the stream allows it."""
        self._selector.maximum = spatial
        self._temporal.target = temporal
        if self._layered is not None:
            self._layered.spatial_target, self._layered.temporal_target = spatial, temporal
        self._set_gate()
        self.layers_changed(now)

    def layers_changed(self, now: float) -> None:
        """Look again at which layers the publisher sends."""
        self._selector.retarget(self._receiver.available)
        if self._hunting:
            self._ask(now)

    def set_muted(self, muted: bool, now: float) -> None:  # noqa: FBT001  the publisher's state, as signalled
        """Follow the publisher's mute."""
        self._set(Hold.MUTED, muted, Change.UNMUTED, now)

    def set_disabled(self, disabled: bool, now: float) -> None:  # noqa: FBT001  the subscriber's wish, as signalled
        """Follow the subscriber's wish not to get the track for now."""
        self._set(Hold.DISABLED, disabled, Change.RESUMED, now)

    def set_paused(self, paused: bool, now: float) -> None:  # noqa: FBT001  the allocator's verdict
        """Save the bandwidth of this track for now."""
        self._set(Hold.PAUSED, paused, Change.RESUMED, now)

    def resync(self, now: float) -> None:
        """Begin again at the next keyframe: what was forwarded lately did not reach the subscriber."""
        self._detach()
        self._selector.retarget(self._receiver.available)
        if self._hunting:
            self._ask(now)

    @property
    def current_layer(self) -> int:
        """The simulcast layer that flows, -1 for none."""
        return NO_LAYER if self._last is None else self._last.spatial

    @property
    def target_layer(self) -> int:
        """The simulcast layer to get to, -1 while held."""
        return NO_LAYER if self._hold else self._selector.target

    # --- the hot path ----------------------------------------------------------------------------------------------

    def forward(self, packet: RtpPacket, now: float) -> None:
        """Send `packet` on if it is one the subscriber should get."""
        munger = self._munger
        shifts = munger.current
        if packet.index != munger.next_index or packet.ssrc != shifts.source or packet.temporal > self._gate:
            if not self._admit(packet, now):
                return
            shifts = munger.current
        munger.next_index = packet.index + 1
        self._last = packet
        self._send(packet, packet.index + shifts.sequence, shifts, now)

    def _send(self, packet: RtpPacket, out: int, shifts: Shifts, now: float, marker: int = 0) -> None:
        shape = self._shape
        if shape.packet is not packet:
            shape.take(packet, self._receiver.extension_ids, now)
        sink = self._sink
        at = sink.reserve()
        shape.pack(
            sink.arena,
            at,
            shape.first,
            shape.marker | marker | self._payload_type,
            out & 0xFFFF,
            (packet.timestamp + shifts.timestamp) & 0xFFFFFFFF,
            self.ssrc,
            shape.tail,
        )
        if shifts.renumbers:
            self._renumber(sink.arena, at, packet, shifts)
        if shape.transport_at:
            self._stamp(sink.arena, at, shape.size, now)
        sink.commit_rtp(at, shape.size)
        self._ring[out & self._ring_mask] = packet
        stats = self.stats
        stats.packets += 1
        stats.octets += shape.octets

    def _renumber(self, arena: memoryview, at: int, packet: RtpPacket, shifts: Shifts, moved: int = 0) -> None:
        """Shift the numbers inside the payload and the extensions of the packet written at `at`."""
        shape = self._shape
        descriptor = packet.descriptor
        if isinstance(descriptor, Vp8Descriptor) and shape.octets >= descriptor.size:
            descriptor.renumber(arena, at + shape.payload_at + moved, shifts.picture, shifts.tl0, shifts.key)
        if shape.frame_at and shifts.frame:
            place = at + shape.frame_at
            number = (arena[place] << 8 | arena[place + 1]) + shifts.frame & 0xFFFF
            arena[place], arena[place + 1] = number >> 8, number & 0xFF

    def _stamp(self, arena: memoryview, at: int, size: int, now: float) -> None:
        """Write the transport-wide sequence number, and remember the packet under it."""
        if self.sent_log is not None:
            number = self.sent_log.sent(size, now)
            place = at + self._shape.transport_at
            arena[place], arena[place + 1] = number >> 8, number & 0xFF

    # --- the slow way ----------------------------------------------------------------------------------------------

    def _admit(self, packet: RtpPacket, now: float) -> bool:
        """Whether `packet` goes out as the next in order, with what are now the current shifts."""
        if self._hold:
            return False
        munger = self._munger
        if packet.ssrc != munger.current.source:
            if not self._turn(packet, now):
                return False
        elif packet.index != munger.next_index and not self._out_of_order(packet, now):
            return False
        if packet.keyframe:
            self._keyframe(packet)
        if self._layered is not None:
            return self._admit_layered(self._layered, packet, now)
        return self._admit_temporal(packet)

    def _out_of_order(self, packet: RtpPacket, now: float) -> bool:
        """Whether `packet` of the flowing source, which is not the next one, goes out as the next one."""
        munger = self._munger
        missing = packet.index - munger.next_index
        if missing < 0:
            if not self._late(packet, now):
                return False
            self.resync(now)
            return self._turn(packet, now)
        if missing <= munger.history:
            self._gap(packet, missing, now)
            return True
        # More is missing than could be asked for again: this is a new beginning.
        if self._video and not packet.keyframe:
            self.resync(now)
            return False
        return self._switch(packet, now, Change.RESUMED)

    def _gap(self, packet: RtpPacket, missing: int, now: float) -> None:
        """Leave room for the `missing` packets before this one, so that the subscriber asks for them."""
        munger = self._munger
        first = munger.next_out
        self._sequencer.leave_out(first, first + missing)
        shape = self._shape
        if not shape.primary_only:
            return
        shape.take(packet, self._receiver.extension_ids, now)
        found = [shape.recovered(distance) for distance in range(min(missing, len(shape.blocks) - 1), 0, -1)]
        for recovered in found:
            if recovered is not None:
                self._send(recovered, recovered.index + munger.current.sequence, munger.current, now)

    def _late(self, packet: RtpPacket, now: float) -> bool:
        """Send a packet that others have overtaken, if it still has a place; whether its source must have restarted."""
        munger = self._munger
        shifts = munger.late(packet.ssrc, packet.index)
        if shifts is None:
            if munger.next_index - packet.index <= munger.history:
                return False
            at, count = self._stale
            count = count + 1 if at == munger.next_index else 1
            self._stale = munger.next_index, count
            return count >= MAX_STALE
        out = packet.index + shifts.sequence
        if self._ring[out & self._ring_mask] is None:
            if not self._passes_late(packet, shifts):
                packet = _emptied(packet)  # its number is taken: without this it would be asked for in vain
            self._send(packet, out, shifts, now)
        return False

    def _passes_late(self, packet: RtpPacket, shifts: Shifts) -> bool:
        frame = packet.descriptor
        if self._layered is not None and isinstance(frame, SCALABLE_FRAMES):
            return frame.spatial <= self._layered.spatial and frame.temporal <= self._layered.temporal
        return packet.temporal <= shifts.temporal

    def _admit_temporal(self, packet: RtpPacket) -> bool:
        temporal, descriptor, last = self._temporal, packet.descriptor, self._last
        if packet.temporal <= min(temporal.current, temporal.target) or not isinstance(descriptor, Vp8Descriptor):
            return True
        if last is not None and last.timestamp == packet.timestamp and last.ssrc == packet.ssrc:
            return True  # a frame that has begun is finished
        before = temporal.current
        passes, first = temporal.passes(descriptor, packet.timestamp)
        if temporal.current != before:
            self._munger.limit(packet.index, temporal.current)
            self._set_gate()
        if not passes:
            self._munger.skip(packet.index, picture=-1 if first and descriptor.picture_id >= 0 else 0)
        return passes

    def _admit_layered(self, layered: ScalableFilter, packet: RtpPacket, now: float) -> bool:
        frame, munger = packet.descriptor, self._munger
        if not isinstance(frame, SCALABLE_FRAMES):
            return True
        if not layered.passes(frame, packet.timestamp):
            munger.skip(packet.index)
            return False
        out = munger.current.sequence + packet.index
        self._marked.discard(out - munger.history)
        if packet.marker or not layered.ends_picture(frame):
            return True
        self._marked.add(out)
        munger.next_index = packet.index + 1
        self._last = packet
        self._send(packet, out, munger.current, now, MARKER)
        return False

    def _keyframe(self, packet: RtpPacket) -> None:
        """A keyframe of the source that flows begins: every layer may be entered, what came before is outdated."""
        self._outdated_until = -math.inf
        if self._layered is not None:
            self._layered.restart(packet.timestamp)
        self._temporal.restart()
        if self._munger.current.temporal != self._temporal.current:
            self._munger.limit(packet.index, self._temporal.current)
        self._set_gate()
        if not self._hunting:
            self._keyframe_at = math.inf

    def _turn(self, packet: RtpPacket, now: float) -> bool:
        """Whether to forward the source of `packet` from now on; then the switch has been made."""
        if not self._video:
            return self._switch(packet, now, self._change)
        selector, last = self._selector, self._last
        if not packet.keyframe:
            if last is None:
                if now - self._asked_at > ASK_AGAIN[0]:
                    self._ask(now)
            elif now - last.arrival > STALLED:
                self.resync(now)
            return False
        available = self._receiver.available
        selector.retarget(available if packet.spatial in available else (*available, packet.spatial))
        restarted = last is not None and packet.spatial == last.spatial
        if not restarted and not selector.turns_to(packet.spatial):
            self._keep_asking(now)
            return False
        flows = last is not None and not restarted and now - last.arrival < ALIVE
        if not self._switch(packet, now, Change.LAYER if flows else self._change):
            self._keep_asking(now)
            return False
        selector.current = packet.spatial
        self._keep_asking(now)
        return True

    def _switch(self, packet: RtpPacket, now: float, change: Change) -> bool:
        """Continue with the source of `packet`, unless its timestamps do not fit yet."""
        receiver = self._receiver
        self._leave()
        left = self._left
        if left is None:
            timestamp: int | None = 2**31 + self._rng.randrange(2**30)
        else:
            timestamp = continue_time(
                change,
                left,
                now=now,
                reference=self._reference(packet, left),
                clock_rate=receiver.clock_rate,
                insist=now - self._refused_since >= LAYER_PATIENCE,
            )
        if timestamp is None:
            self._refused_since = min(self._refused_since, now)
            return False
        self._refused_since = math.inf
        shifts = self._munger.switch(packet.ssrc, packet.index, (timestamp - packet.timestamp) % WRAP)
        if left is not None:
            continue_numbers(shifts, packet, left, receiver.extension_ids)
            if left.spatial == packet.spatial and left.source != packet.ssrc:
                self._reports_from = now
            elif left.spatial != packet.spatial:
                self._reports_from = -math.inf
        if self._started_at == math.inf:
            self._started_at = now
        self._change = Change.RESUMED
        self._padding_at = math.inf
        return True

    def _reference(self, packet: RtpPacket, left: Left) -> int | None:
        """The timestamp of `packet` on our timeline by the publisher's clock, if its reports tell."""
        if packet.ssrc == left.source:
            return (packet.timestamp + left.timestamp_shift) % WRAP
        if left.spatial in (NO_LAYER, packet.spatial):
            return None  # nothing came before; or a new source on the old layer, and the report may be of either
        new, old = self._receiver.sender_report(packet.spatial), self._report(left.spatial)
        if new is None or old is None:
            return None
        return carried_over(packet.timestamp, new, old, left.timestamp_shift, self._receiver.clock_rate)

    def _report(self, spatial: int) -> SenderReportInfo | None:
        """The publisher's last report of the layer that flows or flowed last, if it is of its present source."""
        info = self._receiver.sender_report(spatial)
        return None if info is None or info.arrival < self._reports_from else info

    def _leave(self) -> None:
        """Note the last numbers of the source that flows, if one does, before anything else is sent."""
        last = self._last
        if last is not None:
            shifts = self._munger.late(last.ssrc, last.index) or self._munger.current
            self._left = leave(last, shifts, self._receiver.extension_ids)

    # --- holding, hunting ------------------------------------------------------------------------------------------

    def _set(self, hold: Hold, on: bool, change: Change, now: float) -> None:  # noqa: FBT001  passed on
        if on:
            self._stop(hold, change)
        else:
            self._release(hold, now)

    def _stop(self, hold: Hold, change: Change) -> None:
        if not self._hold or change is Change.UNMUTED:
            self._change = change
        self._hold.add(hold)
        self._detach()

    def _release(self, hold: Hold, now: float) -> None:
        if hold in self._hold:
            self._hold.discard(hold)
            self.layers_changed(now)

    def _detach(self) -> None:
        """Leave the source: the next one begins at a keyframe, or with audio's next packet."""
        self._leave()
        self._last = None
        self._munger.stop()
        self._selector.current = NO_LAYER
        self._refused_since = math.inf

    @property
    def _hunting(self) -> bool:
        """Whether a keyframe is needed to get where the subscriber should be."""
        if not self._video or self._hold:
            return False
        if self._last is None or not self._selector.locked or self._outdated_until > -math.inf:
            return True
        return self._layered is not None and not self._layered.locked

    def _keep_asking(self, now: float) -> None:
        """See to it that keyframes are asked for until the wanted layer flows."""
        if self._keyframe_at == math.inf and self._hunting:
            self._keyframe_at = now + self._ask_spacing

    @property
    def _ask_spacing(self) -> float:
        return min(max(2 * self.stats.rtt, ASK_AGAIN[0]), ASK_AGAIN[1])

    def _ask(self, now: float) -> None:
        """Ask the publisher for the keyframe that is needed, and arrange to ask again."""
        available, selector = self._receiver.available, self._selector
        if not available:
            self._keyframe_at = now + IDLE_CHECK
            return
        if self._last is not None and not selector.locked and self._outdated_until > -math.inf:
            self._receiver.request_keyframe(self._last.spatial, now)
        self._receiver.request_keyframe(selector.target, now)
        self._asked_at = now
        self._keyframe_at = now + self._ask_spacing

    def _set_gate(self) -> None:
        if self._layered is not None or self._outdated_until > -math.inf:
            self._gate = -1
        elif self.mime == "video/vp8":
            self._gate = min(self._temporal.current, self._temporal.target)
        else:
            self._gate = TOP

    def _shared_shape(self, extension_ids: Mapping[str, int], *, primary_only: bool) -> Shape:
        """The shape that another subscriber with the same identifiers already uses, or a new one."""
        for other in self._receiver.subscribers:
            if isinstance(other, DownTrack) and other._shape.matches(extension_ids, primary_only=primary_only):  # noqa: SLF001  our own kind
                return other._shape  # noqa: SLF001
        return Shape(extension_ids, primary_only=primary_only)

    # --- time ------------------------------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When `handle_timeout` has something to do; `math.inf` for never."""
        return min(self._keyframe_at, self._padding_at)

    def handle_timeout(self, now: float) -> None:
        """Ask again for the keyframe that is still missing; show a muted track to its subscriber."""
        if now >= self._keyframe_at:
            self._selector.retarget(self._receiver.available)
            if self._hunting:
                self._ask(now)
            else:
                self._keyframe_at = math.inf
        if now >= self._padding_at:
            self._padding_at = now + MUTED_EVERY
            if now >= self._padding_until or Hold.MUTED not in self._hold or self._started_at < math.inf:
                self._padding_at = math.inf
            else:
                self._pad(now)

    def _pad(self, now: float) -> None:
        """Send a packet of nothing but padding, on a timeline that the media will continue."""
        left = self._left
        if left is None:
            timestamp = 2**31 + self._rng.randrange(2**30)
        else:
            timestamp = (left.timestamp + round((now - left.at) * self._receiver.clock_rate)) % WRAP
        self._left = Left(timestamp, now)
        out = self._munger.insert()
        at = self._sink.reserve()
        packer(len(PAD))(
            self._sink.arena, at, VERSION | PADDING, self._payload_type, out & 0xFFFF, timestamp, self.ssrc, PAD
        )
        self._sink.commit_rtp(at, HEADER_SIZE + len(PAD))
        self.stats.packets += 1

    # --- what the subscriber reports -------------------------------------------------------------------------------

    def receive_nack(self, sequences: Iterable[int], now: float) -> None:
        """Send these packets again, those that are in the history and were not resent too often or just now."""
        munger, sequencer, stats = self._munger, self._sequencer, self.stats
        if now < self._outdated_until or Hold.UNBOUND in self._hold:
            return
        for sequence in sequences:
            stats.nacks += 1
            out = munger.unwrap(sequence)
            shifts = munger.sent(out)
            packet = None if shifts is None else sequencer.resend(out, now, stats.rtt)
            if packet is None or shifts is None:
                stats.nacks_missed += 1
            else:
                self._resend(packet, out, shifts, now)

    def _resend(self, packet: RtpPacket, out: int, shifts: Shifts, now: float) -> None:
        """Send `packet` as it was sent: in an RTX packet (RFC 4588, section 4), or again where there is no RTX."""
        shape, sink = self._shape, self._sink
        shape.take(packet, self._receiver.extension_ids, now)
        at = sink.reserve()
        marker = shape.marker | (MARKER if out in self._marked else 0)
        timestamp = (packet.timestamp + shifts.timestamp) % WRAP
        ssrc, payload_type, sequence, tail = self.ssrc, self._payload_type, out & 0xFFFF, shape.tail
        moved = 0
        if self.rtx_ssrc is not None and self._rtx_payload_type is not None:
            moved = 2
            extensions = shape.payload_at - HEADER_SIZE
            tail = tail[:extensions] + sequence.to_bytes(2, "big") + tail[extensions:]
            ssrc, payload_type, sequence = self.rtx_ssrc, self._rtx_payload_type, self._rtx_sequence
            self._rtx_sequence = sequence + 1 & 0xFFFF
        size = HEADER_SIZE + len(tail)
        packer(len(tail))(sink.arena, at, shape.first, marker | payload_type, sequence, timestamp, ssrc, tail)
        if shifts.renumbers:
            self._renumber(sink.arena, at, packet, shifts, moved)
        if shape.transport_at:
            self._stamp(sink.arena, at, size, now)
        sink.commit_rtp(at, size)
        self.stats.resent_packets += 1
        self.stats.resent_octets += shape.octets + moved

    def receive_pli(self, now: float) -> None:
        """The subscriber has lost the picture (RFC 4585, section 6.3.1): ask the publisher for a new one."""
        self.stats.plis += 1
        self._refresh(now)

    def receive_fir(self, now: float) -> None:
        """The subscriber wants a decoder refresh (RFC 5104, section 4.3.1), which to us is the same."""
        self.stats.firs += 1
        self._refresh(now)

    def _refresh(self, now: float) -> None:
        if self._video and not self._hold:
            self._outdated_until = now + PLI_SILENCE
            self._set_gate()
            self._ask(now)

    def receive_report(self, block: ReportBlock, now: float) -> None:
        """Take what a receiver report says about this stream."""
        self._reports.receive(block, self.stats, now)

    def sender_report(self, now: float, ntp_now: float) -> SenderReport | None:
        """The sender report to send at `now`, `ntp_now` (seconds since 1900) on our wall clock; None to send none."""
        last = self._last
        if last is None:
            return None
        info = self._report(last.spatial)
        if info is None and now - self._started_at < PATIENCE:
            return None
        shift = self._munger.current.timestamp
        times = self._reports.times(now, ntp_now, info, shift, ((last.timestamp + shift) % WRAP, last.arrival))
        if times is None:
            return None
        ntp = int(times[0] * 2**32) & 0xFFFFFFFFFFFFFFFF
        self._reports.sent(ntp, now)
        stats = self.stats
        return SenderReport(self.ssrc, ntp, times[1], stats.packets & 0xFFFFFFFF, stats.octets & 0xFFFFFFFF)


def _emptied(packet: RtpPacket) -> RtpPacket:
    """A packet with the numbers of `packet` and nothing in it."""
    data = build_rtp(
        ssrc=packet.ssrc, payload_type=packet.payload_type, sequence=packet.sequence, timestamp=packet.timestamp
    )
    empty = RtpPacket.parse(data, packet.arrival)
    empty.index, empty.spatial = packet.index, packet.spatial
    return empty
