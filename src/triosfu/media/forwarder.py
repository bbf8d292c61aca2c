"""The hot path of the server: from the packets of one track to the packets of one subscriber.

`Forwarder.forward` takes every burst of every layer of the track. For a packet of the layer that flows, next in order,
it decides nothing: the numbers are shifted, the common part (`Shape`) is written into the egress arena, and the sink
protects and queues it. All that changes the shifts goes the slow way, through `_admit`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from triosfu.media.codecs.av1 import DependencyDescriptor
from triosfu.media.codecs.vp8 import Vp8Descriptor
from triosfu.media.codecs.vp9 import Vp9Descriptor
from triosfu.media.handover import NONE, Left, LeftOff, continue_numbers, continue_time, leave
from triosfu.media.hunt import KeyframeHunt
from triosfu.media.lanes import STALLED, Lane
from triosfu.media.layers import NO_LAYER, TOP, ScalableFilter, SimulcastSelector, TemporalFilter
from triosfu.media.munger import Munger
from triosfu.media.sequencer import Sequencer
from triosfu.media.shape import HEADER_SIZE, MARKER, Shape, packer
from triosfu.media.timeline import WRAP, Change, carried_over
from triosfu.rtp.wire import PADDING, VERSION, RtpPacket, build_rtp

if TYPE_CHECKING:
    from random import Random

    from triosfu.media.burst import Burst
    from triosfu.media.munger import Shifts
    from triosfu.media.receiver import TrackReceiver
    from triosfu.media.send_reports import SendStats
    from triosfu.media.sent_log import SentLog
    from triosfu.media.shape import Part
    from triosfu.media.sink import MediaSink

ALIVE = 0.25  # seconds; a layer with a packet this fresh still flows
LAYER_PATIENCE = 1.0  # seconds that switch points are refused because timestamps do not fit yet
LULL = 0.1  # seconds without a packet, after which a sound had paused anyway
MAX_STALE = 20  # packets in a row from before the history: the publisher has started anew
PAD = bytes(3) + b"\4"
SCALABLE_FRAMES = Vp9Descriptor, DependencyDescriptor


class Forwarder:
    """Makes one continuous stream, on one SSRC, of the sources that a track has.

    Its `DownTrack` sets what may flow (`open`, `selector`, `temporal`, `layered`) and how it is written (`shape`,
    payload types); then it calls `look`, so that keyframes are asked for.
    """

    __slots__ = (
        "_gate",
        "_left",
        "_marked",
        "_receiver",
        "_refused_since",
        "_rng",
        "_rtx_sequence",
        "_sink",
        "_stale",
        "_stats",
        "_video",
        "change",
        "hunt",
        "lane",
        "last",
        "layered",
        "munger",
        "open",
        "payload_type",
        "rtx_payload_type",
        "rtx_ssrc",
        "selector",
        "sent_log",
        "sequencer",
        "shape",
        "ssrc",
        "started_at",
        "temporal",
    )

    def __init__(
        self,
        *,
        receiver: TrackReceiver,
        sink: MediaSink,
        ssrc: int,
        rtx_ssrc: int | None,
        rng: Random,
        stats: SendStats,
        continuing: LeftOff | None = None,
    ) -> None:
        self.ssrc, self.rtx_ssrc = ssrc, rtx_ssrc
        self.payload_type = 0
        self.rtx_payload_type: int | None = None
        self.shape = Shape({}, primary_only=False)
        self.sent_log: SentLog | None = None
        self.open = False
        self.selector = SimulcastSelector()
        self.temporal: TemporalFilter | None = None  # for VP8
        self.layered: ScalableFilter | None = None  # for VP9 and AV1
        self.hunt = KeyframeHunt(receiver, self.selector, stats)
        self.change = Change.RESUMED  # why the next source, after none, begins
        self.started_at = math.inf
        history = 1 << (receiver.buffer_size - 1).bit_length()  # packets that can be sent again; a power of two
        self.munger = Munger(rng=rng, history=history, start=continuing.next_out if continuing else None)
        self.sequencer = Sequencer(history)
        self.last: RtpPacket | None = None  # the newest packet of the source that flows; None while none does
        self._left: Left | None = continuing.last if continuing else None
        self._receiver = receiver
        self._sink = sink
        self.lane = None if sink.compiled is None else Lane(sink.compiled)
        self._rng = rng
        self._stats = stats
        self._video = receiver.kind == "video"
        self._marked: set[int] = set()  # sent with a marker that the publisher's packet does not have
        self._rtx_sequence = continuing.rtx_sequence if continuing else 2**15 + rng.randrange(2**14)
        # Packets of a temporal layer above the gate take the slow way; below 0 all do.
        self._gate = TOP
        self._refused_since = math.inf
        self._stale = (0, 0)  # next_index at which, and how many packets were from before the history

    @property
    def source(self) -> int:
        """The SSRC of the stream that flows; -1 while none does."""
        return self.munger.current.source

    # --- the hot path ----------------------------------------------------------------------------------------------

    def forward(self, burst: Burst, now: float, start: int = 0) -> None:
        """Send on those packets of `burst`, from the one numbered `start` on, that the subscriber should get."""
        munger = self.munger
        shifts = munger.current
        if burst.source != shifts.source and not (self.open and (burst.keyframe or not self._video)):
            if self.open:
                self._elsewhere(burst.packets[0], now)
            return
        shape = self.shape
        parts = shape.parts if shape.burst is burst else shape.take(burst, self._receiver.extension_ids)
        sink = self._sink
        sent = octets = 0
        for part in parts[start:] if start else parts:
            packet = part.packet
            index = packet.index
            if index != munger.next_index or packet.ssrc != shifts.source or packet.temporal > self._gate:
                admitted = self._admit(packet, now)
                shifts = munger.current
                if not admitted:
                    continue
            munger.next_index = index + 1
            out = index + shifts.sequence
            at = sink.reserve()
            part.pack(
                sink.arena,
                at,
                part.first,
                part.marker | self.payload_type,
                out & 0xFFFF,
                (packet.timestamp + shifts.timestamp) & 0xFFFFFFFF,
                self.ssrc,
                part.tail,
            )
            if shifts.renumbers:
                self._renumber(sink.arena, at, part, shifts)
            if part.transport_at:
                self._stamp(sink.arena, at, part, now)
            sink.commit_rtp(at, part.size, packet.vital)
            self.last = packet
            sent += 1
            octets += part.octets
        if sent:
            self._stats.packets += sent
            self._stats.octets += octets

    # --- the same, compiled ----------------------------------------------------------------------------------------

    def take(self, burst: Burst, now: float, start: int = 0) -> None:
        """Forward `burst` from the packet numbered `start` on; the kernel has sent it so far, and may go on then."""
        lane = self.lane
        if lane is None:
            self.forward(burst, now)
            return
        self._take_back(burst.packets[start - 1] if start else None)
        self.forward(burst, now, start)
        last, shifts = self.last, self.munger.current
        if not self.open:
            lane.close()
        elif last is not None and self._gate >= 0 and shifts.source == last.ssrc:
            lane.number_in(self.sent_log if self.shape.numbered else None)
            lane.arm(
                shifts,
                next_index=self.munger.next_index,
                ssrc=self.ssrc,
                payload_type=self.payload_type,
                gate=self._gate,
                arrival=last.arrival,
            )

    def settle(self) -> None:
        """Know what the kernel has sent; before anybody reads the numbers or the statistics."""
        if self.lane is not None:
            self._take_back(None)

    def disarm(self) -> None:
        """The same, and have the kernel send nothing more until a burst has gone through Python; before any change."""
        if self.lane is not None:
            self._take_back(None)
            self.lane.record.armed = 0

    def _take_back(self, last: RtpPacket | None) -> None:
        """Take over the lane's numbers; `last` is the packet sent last, if it is not the newest of its source."""
        if self.lane is None or not self.lane.record.went:
            return
        record, stats = self.lane.record, self._stats
        self.munger.next_index = record.next_index
        stats.packets += record.packets
        stats.octets += record.octets
        record.went = record.packets = record.octets = 0
        self.last = last or self._receiver.newest(record.source) or self.last

    # --- one packet ------------------------------------------------------------------------------------------------

    def _send(self, packet: RtpPacket, out: int, shifts: Shifts, now: float, marker: int = 0) -> None:
        """Send one packet that is not in order: what the loop above does, for one."""
        part, sink = self.shape.part(packet, self._receiver.extension_ids, packet.arrival), self._sink
        at = sink.reserve()
        timestamp = (packet.timestamp + shifts.timestamp) & 0xFFFFFFFF
        kind = part.marker | marker | self.payload_type
        part.pack(sink.arena, at, part.first, kind, out & 0xFFFF, timestamp, self.ssrc, part.tail)
        if shifts.renumbers:
            self._renumber(sink.arena, at, part, shifts)
        if part.transport_at:
            self._stamp(sink.arena, at, part, now)
        sink.commit_rtp(at, part.size, packet.vital)
        self._stats.packets += 1
        self._stats.octets += part.octets

    def _renumber(self, arena: memoryview, at: int, part: Part, shifts: Shifts, moved: int = 0) -> None:
        """Shift the numbers inside the payload and the extensions of the packet written at `at`."""
        descriptor = part.packet.descriptor
        if isinstance(descriptor, Vp8Descriptor) and part.octets >= descriptor.size:
            descriptor.renumber(arena, at + part.payload_at + moved, shifts.picture, shifts.tl0, shifts.key)
        if part.frame_at and shifts.frame:
            place = at + part.frame_at
            number = (arena[place] << 8 | arena[place + 1]) + shifts.frame & 0xFFFF
            arena[place], arena[place + 1] = number >> 8, number & 0xFF

    def _stamp(self, arena: memoryview, at: int, part: Part, now: float, moved: int = 0) -> None:
        """Write the transport-wide sequence number, and remember the packet under it."""
        if self.sent_log is not None:
            number = self.sent_log.sent(part.size + moved, now)
            place = at + part.transport_at
            arena[place], arena[place + 1] = number >> 8, number & 0xFF

    # --- the slow way ----------------------------------------------------------------------------------------------

    def _admit(self, packet: RtpPacket, now: float) -> bool:
        """Whether `packet` goes out as the next in order, with what are now the current shifts."""
        if not self.open:
            return False
        munger = self.munger
        if packet.ssrc != munger.current.source:
            if not self._turn(packet, now):
                return False
        elif packet.index != munger.next_index and not self._out_of_order(packet, now):
            return False
        if packet.keyframe:
            self._keyframe(packet)
        if self.layered is not None:
            return self._admit_layered(self.layered, packet, now)
        return self._admit_temporal(packet)

    def _out_of_order(self, packet: RtpPacket, now: float) -> bool:
        """Whether `packet` of the flowing source, which is not the next one, goes out as the next one."""
        munger = self.munger
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
        shifts, shape = self.munger.current, self.shape
        first = self.munger.next_index
        self.sequencer.leave_out(first + shifts.sequence, packet.index + shifts.sequence)
        self._stats.left_out += missing
        if shape.primary_only:
            part = shape.part(packet, self._receiver.extension_ids, packet.arrival)
            found = [part.recovered(distance) for distance in range(min(missing, len(part.blocks) - 1), 0, -1)]
        else:
            # Some may have come already: they overtook the keyframe that this source began with.
            found = [self._receiver.packet(packet.spatial, index) for index in range(first, packet.index)]
        for there in found:
            if there is not None and there.ssrc == packet.ssrc and self._passes_late(there, shifts):
                self._fill(there, there.index + shifts.sequence, shifts, now, made=shape.primary_only)

    def _late(self, packet: RtpPacket, now: float) -> bool:
        """Send a packet that others have overtaken, if it still has a place; whether its source must have restarted."""
        munger = self.munger
        shifts = munger.late(packet.ssrc, packet.index)
        if shifts is None:
            if munger.next_index - packet.index <= munger.history:
                return False
            at, count = self._stale
            count = count + 1 if at == munger.next_index else 1
            self._stale = munger.next_index, count
            return count >= MAX_STALE
        out = packet.index + shifts.sequence
        if self.sequencer.missing(out):
            if self._passes_late(packet, shifts):
                self._fill(packet, out, shifts, now)
            else:
                # Its number is taken: without this it would be asked for in vain.
                self._fill(_emptied(packet), out, shifts, now, made=True)
        return False

    def _fill(self, packet: RtpPacket, out: int, shifts: Shifts, now: float, *, made: bool = False) -> None:
        """Send what was left out until now; `made`, if the receiver's buffer does not have it like this."""
        self.sequencer.fill(out, packet if made else None)
        self._stats.left_out -= 1
        self._send(packet, out, shifts, now)

    def _passes_late(self, packet: RtpPacket, shifts: Shifts) -> bool:
        frame = packet.descriptor
        if self.layered is not None and isinstance(frame, SCALABLE_FRAMES):
            return frame.spatial <= self.layered.spatial and frame.temporal <= self.layered.temporal
        return packet.temporal <= shifts.temporal

    def _admit_temporal(self, packet: RtpPacket) -> bool:
        temporal, descriptor, last = self.temporal, packet.descriptor, self.last
        if temporal is None or not isinstance(descriptor, Vp8Descriptor):
            return True
        if packet.temporal <= min(temporal.current, temporal.target):
            return True
        if last is not None and last.timestamp == packet.timestamp and last.ssrc == packet.ssrc:
            return True  # a frame that has begun is finished
        before = temporal.current
        passes, first = temporal.passes(descriptor, packet.timestamp)
        if temporal.current != before:
            self.munger.limit(packet.index, temporal.current)
            self.set_gate()
        if not passes:
            self.munger.skip(packet.index, picture=-1 if first and descriptor.picture_id >= 0 else 0)
        return passes

    def _admit_layered(self, layered: ScalableFilter, packet: RtpPacket, now: float) -> bool:
        frame, munger = packet.descriptor, self.munger
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
        self.last = packet
        self._send(packet, out, munger.current, now, MARKER)
        return False

    def _keyframe(self, packet: RtpPacket) -> None:
        """A keyframe of the source that flows begins: every layer may be entered, what came before is outdated."""
        self.hunt.outdated_until = -math.inf
        if self.layered is not None:
            self.layered.restart(packet.timestamp)
        if self.temporal is not None:
            self.temporal.restart()
            if self.munger.current.temporal != self.temporal.current:
                self.munger.limit(packet.index, self.temporal.current)
        self.set_gate()

    # --- from source to source -------------------------------------------------------------------------------------

    def _turn(self, packet: RtpPacket, now: float) -> bool:
        """Whether to forward the source of `packet` from now on; then the switch has been made."""
        if not self._video:
            return self._switch(packet, now, self.change)
        selector, last = self.selector, self.last
        if not packet.keyframe:
            self._elsewhere(packet, now)
            return False
        available = self._receiver.available
        selector.retarget(available if packet.spatial in available else (*available, packet.spatial))
        restarted = last is not None and packet.spatial == last.spatial
        if not restarted and not selector.turns_to(packet.spatial):
            self._hunt_on(now)
            return False
        flows = last is not None and not restarted and now - last.arrival < ALIVE
        if not self._switch(packet, now, Change.LAYER if flows else self.change):
            self._hunt_on(now)
            return False
        selector.current = packet.spatial
        self._hunt_on(now)
        return True

    def _elsewhere(self, packet: RtpPacket, now: float) -> None:
        """Another source than the one that flows has sent `packet`, with which it cannot be turned to."""
        if self.last is None:
            self.hunt.nudge(packet.spatial, now)
        elif now - self.last.arrival > STALLED:
            self.resync(now)

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
        shifts = self.munger.switch(packet.ssrc, packet.index, (timestamp - packet.timestamp) % WRAP)
        if left is not None:
            continue_numbers(shifts, packet, left, receiver.extension_ids)
        if self.started_at == math.inf:
            self.started_at = now
        self.change = Change.RESUMED
        return True

    def _reference(self, packet: RtpPacket, left: Left) -> int | None:
        """The timestamp of `packet` on our timeline by the publisher's clock, if its reports tell."""
        if packet.ssrc == left.source:
            return (packet.timestamp + left.timestamp_shift) % WRAP
        if left.spatial in (NO_LAYER, packet.spatial):
            return None  # nothing came before; or a new source on the old layer, whose reports went with the old one
        new, old = self._receiver.sender_report(packet.spatial), self._receiver.sender_report(left.spatial)
        if new is None or old is None:
            return None
        return carried_over(packet.timestamp, new, old, left.timestamp_shift, self._receiver.clock_rate)

    def _leave(self) -> None:
        """Note the last numbers of the source that flows, if one does, before anything else is sent."""
        last = self.last
        if last is not None:
            shifts = self.munger.late(last.ssrc, last.index) or self.munger.current
            self._left = leave(last, shifts, self._receiver.extension_ids)

    def left_off(self) -> LeftOff:
        """Where this stream stands; call it after `detach`."""
        self.settle()
        # The next track has another publisher and another clock: only the numbers themselves go on.
        last = None if self._left is None else replace(self._left, source=NONE, spatial=NONE, timestamp_shift=0)
        return LeftOff(self.munger.next_out, self._rtx_sequence, last, self._stats)

    def detach(self) -> None:
        """Leave the source: the next one begins at a keyframe, or with audio's next packet."""
        self.disarm()
        self._leave()
        self.last = None
        self.munger.stop()
        self.selector.current = NO_LAYER
        self._refused_since = math.inf

    def log_sent(self, log: SentLog | None) -> None:
        """Number packets for transport-wide feedback in `log`."""
        self.disarm()
        self.sent_log = log

    def forget(self) -> None:
        """Send nothing again of what was sent so far."""
        self.settle()
        self.sequencer.clear(self.munger.next_out)

    # --- keyframes -------------------------------------------------------------------------------------------------

    @property
    def hunting(self) -> bool:
        """Whether a keyframe is needed to get where the subscriber should be."""
        if not self._video or not self.open:
            return False
        if self.last is None or not self.selector.locked or self.hunt.renewing:
            return True
        return self.layered is not None and not self.layered.locked

    def look(self, now: float) -> None:
        """Look again at what is wanted and what the publisher sends; ask for a keyframe if one is needed."""
        self.settle()
        self.selector.retarget(self._receiver.available)
        flowing = None
        if self.last is not None and now - self.last.arrival < STALLED:
            # It is alive, whatever the receiver's statistics say.
            flowing = self.selector.current = self.last.spatial
        if self.hunting:
            self.hunt.ask(now, flowing)
        else:
            self.hunt.end()
            self._refused_since = math.inf

    def resync(self, now: float) -> None:
        """Begin again at the next keyframe."""
        self.detach()
        self.look(now)

    def renew(self, now: float) -> None:
        """The subscriber lost the picture: let a keyframe pass as soon as the publisher makes one."""
        if self._video and self.open:
            self.hunt.renew(now)
            self.set_gate()
            self.look(now)

    def set_gate(self) -> None:
        """Decide which packets may take the fast way; again whenever a filter or a wish changes."""
        self.disarm()
        if self.layered is not None or self.hunt.renewing:
            self._gate = -1
        elif self.temporal is not None:
            self._gate = min(self.temporal.current, self.temporal.target)
        else:
            self._gate = TOP

    def _hunt_on(self, now: float) -> None:
        if self.hunting:
            self.hunt.keep(now)
        else:
            self.hunt.end()

    # --- resends, padding ------------------------------------------------------------------------------------------

    def resend(self, sequence: int, now: float) -> bool:
        """Send the packet with this number again, if it is in the history and was not resent too often or just now."""
        self.settle()
        out = self.munger.unwrap(sequence)
        shifts = self.munger.sent(out)
        if shifts is None:
            return False
        packet = self.sequencer.made(out) or self._receiver.sent(shifts.source, out - shifts.sequence)
        if packet is None or not self.sequencer.may_resend(out, now, self._stats.rtt):
            return False
        return self._repeat(packet, out, shifts, now)

    def _repeat(self, packet: RtpPacket, out: int, shifts: Shifts, now: float) -> bool:
        """Send `packet` as it was sent: in an RTX packet (RFC 4588, section 4), or again where there is no RTX.

        Without RTX it has the nonce of the first time, so it must be the same to the bit, or AES-GCM would give away
        its authentication key (RFC 7714, section 9.1): such a packet cannot get a new transport-wide number.
        """
        repairs = self.rtx_ssrc is not None and self.rtx_payload_type is not None
        part = self.shape.part(packet, self._receiver.extension_ids, now if repairs else packet.arrival)
        if part.transport_at and not repairs:
            return False
        sink = self._sink
        at = sink.reserve()
        marker = part.marker | (MARKER if out in self._marked else 0)
        timestamp = (packet.timestamp + shifts.timestamp) % WRAP
        ssrc, payload_type, sequence, tail = self.ssrc, self.payload_type, out & 0xFFFF, part.tail
        moved = 0
        if self.rtx_ssrc is not None and self.rtx_payload_type is not None:
            moved = 2
            extensions = part.payload_at - HEADER_SIZE
            tail = tail[:extensions] + sequence.to_bytes(2, "big") + tail[extensions:]
            ssrc, payload_type, sequence = self.rtx_ssrc, self.rtx_payload_type, self._rtx_sequence
            self._rtx_sequence = sequence + 1 & 0xFFFF
        size = HEADER_SIZE + len(tail)
        packer(len(tail))(sink.arena, at, part.first, marker | payload_type, sequence, timestamp, ssrc, tail)
        if shifts.renumbers:
            self._renumber(sink.arena, at, part, shifts, moved)
        if part.transport_at:
            self._stamp(sink.arena, at, part, now, moved)
        sink.commit_rtp(at, size)
        self._stats.resent_packets += 1
        self._stats.resent_octets += part.octets + moved
        return True

    def pad(self, now: float) -> None:
        """Send a packet of nothing but padding, on a timeline that the media will continue."""
        self.disarm()
        left = self._left
        if left is None:
            timestamp = 2**31 + self._rng.randrange(2**30)
        else:
            timestamp = (left.timestamp + round((now - left.at) * self._receiver.clock_rate)) % WRAP
        self._left = Left(timestamp, now)
        self._insert(VERSION | PADDING, PAD, timestamp)

    def fill(self, payload: bytes, duration: float, now: float) -> None:
        """Send a frame of our own, of `duration` seconds, behind what was sent last; nothing if nothing was.

        The publisher's next packet goes on from its own clock.
        """
        self.disarm()
        left = self._left
        if left is None:
            return
        passed = now - left.at
        step = duration if passed < LULL else passed
        timestamp = (left.timestamp + round(step * self._receiver.clock_rate)) % WRAP
        self._left = replace(left, timestamp=timestamp, at=left.at + step)
        self._insert(VERSION, payload, timestamp)
        self._stats.octets += len(payload)

    def _insert(self, first: int, tail: bytes, timestamp: int) -> None:
        """Send a packet that no publisher has sent; it cannot be had again."""
        out = self.munger.insert()
        at = self._sink.reserve()
        packer(len(tail))(self._sink.arena, at, first, self.payload_type, out & 0xFFFF, timestamp, self.ssrc, tail)
        self._sink.commit_rtp(at, HEADER_SIZE + len(tail))
        self._stats.packets += 1


def _emptied(packet: RtpPacket) -> RtpPacket:
    """A packet with the numbers of `packet` and nothing in it."""
    data = build_rtp(
        ssrc=packet.ssrc, payload_type=packet.payload_type, sequence=packet.sequence, timestamp=packet.timestamp
    )
    empty = RtpPacket.parse(data, packet.arrival)
    empty.index, empty.spatial = packet.index, packet.spatial
    return empty
