"""One received SSRC, that is one layer of a track: from the packet as it came to the packet as it is forwarded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket
from triosfu.media.buffer import LEAST, PacketBuffer
from triosfu.media.codecs import inspect_nothing, inspect_vp8, inspects_with_memory
from triosfu.media.keyframes import KeyframeRequests
from triosfu.media.nack import NackGenerator
from triosfu.media.rebuild import as_red, original_of
from triosfu.media.reception import MAX_DROPOUT, Reception
from triosfu.media.sequence import Exclusions, extend
from triosfu.media.stream_tracker import StreamTracker, settings_for
from triosfu.rtp.rtcp import Nack, Pli, ReportBlock, SenderReport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from triosfu.media.feedback import Feedback
    from triosfu.media.receiver import TrackReceiver
    from triosfu.media.runs import Run
    from triosfu.rtp.wire import RtpPacket

NO_PAYLOAD_TYPE = 0xFF  # that no packet has


class ReceiveStream:
    """One layer of one track, on one SSRC.

    The index of a packet is its extended sequence number less the packets that were taken out before it (padding, and
    payload types that are not the track's), so that what is forwarded has gaps only where the network made them.
    """

    __slots__ = (
        "_exclusions",
        "_fed_at",
        "_feedback",
        "_inspect",
        "_keyframe_at",
        "_number",
        "_once",
        "_own",
        "_payload_type",
        "_payload_types",
        "_receiver",
        "_red",
        "_reported",
        "_video",
        "_vp8",
        "buffer",
        "bytes",
        "duplicates",
        "foreign",
        "keyframes",
        "late",
        "nacks",
        "packets",
        "padding",
        "reception",
        "recovered",
        "reordered",
        "repaired",
        "sender_report",
        "spatial",
        "ssrc",
        "straight",
        "tracker",
    )

    def __init__(
        self,
        receiver: TrackReceiver,
        spatial: int,
        first: RtpPacket,
        *,
        feedback: Feedback,
        payload_types: Mapping[int, str],
        now: float,
    ) -> None:
        self.ssrc = first.ssrc
        self.spatial = spatial
        self.reception = Reception(first, receiver.clock_rate)
        self._once = inspects_with_memory(receiver.mime)  # each packet can be inspected only once
        self.buffer = PacketBuffer(receiver.buffer_size, descriptors=self._once)
        self.nacks = NackGenerator()
        self.keyframes = KeyframeRequests(receiver.keyframe_distance[min(spatial, 2)])
        self.tracker = StreamTracker(settings_for(spatial, screenshare=receiver.screenshare))
        self.sender_report: tuple[SenderReport, float] | None = None
        self.packets = self.bytes = self.padding = self.duplicates = self.late = self.recovered = self.foreign = 0
        self.reordered = 0  # packets that came behind newer ones, and were of use
        self.repaired = 0  # gaps filled by retransmissions, of which `reception` does not know
        self._receiver = receiver
        self._feedback = feedback
        self._inspect = receiver.inspect
        self._video = receiver.kind == "video"
        self._vp8 = receiver.inspect is inspect_vp8
        self.straight = self._vp8 or receiver.inspect is inspect_nothing
        """Whether the kernel can read it, when all is straight: it knows VP8, and what needs no look at its payload."""
        self._number = self.reception.highest  # the newest seen
        self._exclusions = Exclusions()
        self._keyframe_at = -1  # the timestamp of the last one
        self._fed_at = -math.inf  # when it last went to anybody
        self._reported = 0  # packets at the last report
        self.describe(payload_types)
        if self._video:
            self.keyframes.seed(now)
            feedback.arm(now)

    def describe(self, payload_types: Mapping[int, str]) -> None:
        """Learn which payload types are the track's codec; a renegotiation may change them."""
        mime = self._receiver.mime.lower()
        self._payload_types = payload_types
        self._own = frozenset(number for number, name in payload_types.items() if name.lower() == mime)
        self._payload_type = NO_PAYLOAD_TYPE  # of the last packet in order
        self._red = min(self._own, default=0) if mime == "audio/red" else 0

    # --- packets ---------------------------------------------------------------------------------------------------

    def receive(self, packet: RtpPacket, now: float) -> None:
        """Take a packet from the network."""
        if self.tracker.waiting:
            self._begin(now)
        self.packets += 1
        self.bytes += len(packet.data)
        number = self.reception.observe(packet)
        newest = self._number
        if number <= newest:
            self._receive_late(packet, number, now)
            return
        self._number = number
        if number != newest + 1:
            self._skip(newest, number, now)
        if packet.payload_offset == packet.payload_end:
            self.padding += 1
            self._exclusions.exclude(number)
            return
        if packet.payload_type not in self._own:
            translated = self._translate(packet)
            if translated is None:
                self._exclusions.exclude(number)
                return
            packet = translated
        else:
            self._payload_type = packet.payload_type
        packet.index = number - self._exclusions.offset
        self._deliver(packet, now)

    def expected(self, transport_id: int) -> tuple[int, int, int, int, int, int]:
        """Which packet is the next one, for `Intake.receive`."""
        level_id = self._receiver.level_id
        return self.ssrc, self._number + 1 & 0xFFFF, self._payload_type, self._vp8, transport_id, level_id

    def receive_run(self, run: Run, level: int) -> None:
        """Take packets that the kernel has read and found straight: what `receive` does with each of them.

        `level` is what they say of the loudness; -1 for nothing.
        """
        now, data = run.arrival, run.data
        if self.tracker.waiting:
            self._begin(now)
        count = len(data)
        self.packets += count
        self.bytes += sum(map(len, data))
        number = self.reception.observe_run(count, run.timestamp, now)
        self._number = self.reception.highest
        run.index = number - self._exclusions.offset
        run.vital = run.timestamp == self._keyframe_at
        run.see = self._see
        self.buffer.put_run(run.index, data, now)
        if now >= self.buffer.look_at:
            self._let_go(now)
        if level >= 0:
            self._receiver.hear(level, run.timestamp, now)
        self._receiver.burst(self.ssrc).add_run(run)

    def receive_rtx(self, packet: RtpPacket, payload_type: int, now: float) -> bool:
        """Take a retransmission, of `payload_type` once unwrapped; whether it filled a gap."""
        try:
            original = original_of(packet, self.ssrc, payload_type)
        except MalformedPacket:
            return False
        number = extend(original.sequence, self._number)
        # Newer than the newest, it is a probe that overtook its original: that one will come, or be missed in time.
        if number > self._number or original.payload_offset == original.payload_end:
            return False
        filled = self._fill(original, number, now)
        self.repaired += filled
        return filled

    def _receive_late(self, packet: RtpPacket, number: int, now: float) -> None:
        if number < 0:
            self.late += 1
        else:
            self.reordered += self._fill(packet, number, now)

    def _fill(self, packet: RtpPacket, number: int, now: float) -> bool:
        """Put a packet into the gap that it left; False when there is none, or it is too old."""
        asked = self.nacks.received(number)
        index = self._exclusions.index(number)
        if index is None or index in self.buffer:
            self.duplicates += 1
            return False
        if packet.payload_type not in self._own:
            translated = self._translate(packet)
            if translated is None:
                return False
            packet = translated
        packet.index = index
        self.recovered += asked
        return self._deliver(packet, now)

    def _deliver(self, packet: RtpPacket, now: float) -> bool:
        packet.spatial = self.spatial
        if not self.buffer.put(packet):
            self.late += 1
            return False
        if packet.arrival >= self.buffer.look_at:
            self._let_go(packet.arrival)
        self._inspect(packet)
        if self._once:
            self.buffer.describe(packet)
        if packet.keyframe:
            self.keyframes.came()
            self._keyframe_at = packet.timestamp
        packet.vital = packet.timestamp == self._keyframe_at
        self._receiver.deliver(packet, now)
        return True

    def _let_go(self, now: float) -> None:
        """Keep no packet longer than it may be asked for by who gets this stream, or got it until lately."""
        if self._receiver.feeds(self.ssrc):
            self._fed_at = now
        self.buffer.expire(now, fed=now - self._fed_at < LEAST)

    def packet(self, index: int) -> RtpPacket | None:
        """The packet with this `index`, as it was delivered; None when it is not kept any more."""
        packet = self.buffer.get(index)
        if packet is not None:
            self._see(packet)
            packet.vital = packet.timestamp == self._keyframe_at
        return packet

    def _see(self, packet: RtpPacket) -> None:
        """Fill in again what was found in a packet that is read once more."""
        packet.spatial = self.spatial
        if not self._once:
            self._inspect(packet)

    def _skip(self, newest: int, number: int, now: float) -> None:
        """Packets are missing between `newest` and `number`; or the stream began anew."""
        if number - newest > MAX_DROPOUT:
            # The hole stays, longer than anybody's history: subscribers make a new beginning of it.
            self.nacks.clear()
            self.sender_report = None
            self.request_keyframe(now)
        elif self._receiver.nack:
            given_up = self.nacks.given_up
            self.nacks.lost(newest + 1, number - 1, now)
            if self.nacks.given_up > given_up:
                self.request_keyframe(now)
            self._feedback.arm(self.nacks.next_timeout())
        else:
            self.request_keyframe(now)

    def _translate(self, packet: RtpPacket) -> RtpPacket | None:
        """A packet of a payload type that is not the track's: made fit, or None to leave it out."""
        mime = self._payload_types.get(packet.payload_type)
        if self._red and mime is not None and mime.lower() == "audio/opus":
            return as_red(packet, self._red)
        self.foreign += 1
        if mime is not None:
            self._receiver.other_codec(mime)
        return None

    def _begin(self, now: float) -> None:
        self.tracker.started(self.packets, self.bytes, now)
        self._feedback.arm(self.tracker.next_timeout())
        self._receiver.layer_changed()

    # --- feedback --------------------------------------------------------------------------------------------------

    def request_keyframe(self, now: float) -> None:
        """Ask for a keyframe now, or as soon as the throttle lets us."""
        if not self._video:
            return
        self.keyframes.want(now)
        if self.keyframes.due(now):
            self._feedback.outbox.append(Pli(self._feedback.ssrc, self.ssrc))
        self._feedback.arm(self.keyframes.next_timeout())

    def sender_reported(self, report: SenderReport, now: float) -> None:
        """Take the publisher's report on this stream."""
        self.sender_report = report, now
        self.reception.sender_reported(report, now)

    def ended(self) -> None:
        """The publisher said goodbye to this SSRC; it may come back."""
        self.tracker.reset()
        self.nacks.clear()
        self._receiver.layer_changed()

    def report(self, now: float) -> ReportBlock | None:
        """A report block, if anything came since the last one."""
        if self.packets == self._reported:
            return None
        self._reported = self.packets
        return self.reception.report(self.ssrc, now)

    def handle_timeout(self, now: float) -> None:
        """Ask for what is missing, look whether the layer is alive, and let go of packets that are too old."""
        feedback = self._feedback
        given_up = self.nacks.given_up
        if numbers := self.nacks.due(now, feedback.rtt):
            sequences = tuple(number & 0xFFFF for number in numbers)
            feedback.outbox.append(Nack(feedback.ssrc, self.ssrc, sequences))
        if self.nacks.given_up > given_up:
            self.request_keyframe(now)
        if self.keyframes.due(now):
            feedback.outbox.append(Pli(feedback.ssrc, self.ssrc))
        self._let_go(now)
        tracker = self.tracker
        if now >= tracker.next_timeout() and tracker.handle_timeout(self.packets, self.bytes, now):
            self._receiver.layer_changed()

    def next_timeout(self) -> float:
        """When `handle_timeout` has something to do."""
        return min(self.nacks.next_timeout(), self.keyframes.next_timeout(), self.tracker.next_timeout())
