"""The receive side of one publisher transport: packets in, each to its stream; reports and requests out."""

from __future__ import annotations

import math
import struct
from collections import Counter, deque
from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket
from triosfu.grid import on_grid
from triosfu.media.binding import Binding, Bindings, Track
from triosfu.media.feedback import Feedback
from triosfu.media.runs import Run
from triosfu.media.stream import ReceiveStream
from triosfu.media.twcc import TwccRecorder
from triosfu.rtp.rtcp import (
    Bye,
    DelaySinceLastRr,
    Dlrr,
    ReceiverReferenceTime,
    ReceiverReport,
    SenderReport,
    Xr,
)
from triosfu.rtp.wire import MARKER, SSRC_AT, RtpPacket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from random import Random

    from triosfu.media.receiver import TrackReceiver
    from triosfu.media.runs import Datagrams, Intake
    from triosfu.rtp.rtcp import RtcpPacket

TRANSPORT_WIDE_CC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
REPORT_EVERY = 1.0  # seconds
MAX_REPORT_BLOCKS = 31
MAX_COMPOUND = 1100  # bytes
MAX_HELD_SSRCS = 16
MAX_HELD_PACKETS = 128  # of one SSRC
HOLD_FOR = 2.0  # seconds; older media is of no use to anybody
RETIRED_FOR = 2.0  # seconds in which stragglers of a replaced SSRC are not taken for a change back
MAX_RTT = 10.0

_ssrc = struct.Struct("!I")


class RtxStream:
    """The SSRC on which one layer's packets are repeated (RFC 4588)."""

    __slots__ = ("_receiver", "_repeats", "_spatial", "packets", "ssrc", "useless")

    def __init__(self, ssrc: int, binding: Binding) -> None:
        self.ssrc = ssrc
        self.packets = self.useless = 0  # most of the useless ones are probes for bandwidth
        self._receiver = binding.track.receiver
        self._spatial = binding.spatial
        self._repeats = binding.track.repeats

    def receive(self, packet: RtpPacket, now: float) -> None:
        """Unwrap a packet and give it to its layer. A layer cannot begin with a retransmission."""
        self.packets += 1
        past = self._receiver.past
        past.resent_packets += 1
        past.resent_octets += len(packet.data)
        base = self._receiver.streams.get(self._spatial)
        payload_type = self._repeats.get(packet.payload_type)
        if base is None or payload_type is None or not base.receive_rtx(packet, payload_type, now):
            self.useless += 1

    def serves(self, receiver: TrackReceiver, spatial: int | None = None) -> bool:
        """Whether this repeats packets of `receiver`, and of its layer `spatial` if one is named."""
        return self._receiver is receiver and spatial in {None, self._spatial}


class Ingress:
    """One publisher's media: which SSRC belongs to which receiver, and everything that is reported back."""

    def __init__(
        self, *, rng: Random, now: float, counters: Counter[str] | None = None, intake: Intake | None = None
    ) -> None:
        """Make one without tracks; with the kernel's `intake` it can also `receive_run`."""
        self._intake = intake
        self.counters: Counter[str] = Counter() if counters is None else counters
        self._feedback = Feedback(rng.randrange(1, 1 << 32))
        self._bindings = Bindings()
        self._tracks: list[Track] = []
        self._streams: dict[int, ReceiveStream | RtxStream] = {}
        self._held: dict[int, deque[RtpPacket]] = {}
        self._retired: dict[int, float] = {}
        self._recorder = TwccRecorder()
        self._twcc_id = 0
        self._report_at = math.inf
        self._now = now

    # --- tracks ----------------------------------------------------------------------------------------------------

    def add_track(
        self,
        receiver: TrackReceiver,
        *,
        mid: str | None,
        rids: Sequence[str] = (),
        ssrcs: Sequence[int] = (),
        rtx: Mapping[int, int] | None = None,
        payload_types: Mapping[int, str | int],
        extension_ids: Mapping[str, int],
    ) -> None:
        """Feed `receiver` from the section `mid`, also with what came before it was known, at the next `forward`.

        `rids` and `ssrcs` stand in the order of quality, lowest first. `rtx` maps an SSRC to that of its
        retransmissions; `payload_types` maps each number to a mime, or that of retransmissions to the number they
        repeat. A receiver that is added again keeps its streams, described anew.
        """
        self._detach(receiver)
        track = Track(receiver, mid, tuple(rids), tuple(ssrcs), dict(rtx or {}))
        for number, meaning in payload_types.items():
            if isinstance(meaning, str):
                track.codecs[number] = meaning
            else:
                track.repeats[number] = meaning
        self._tracks.append(track)
        self._bindings.add(track, extension_ids)
        self._twcc_id = self._bindings.extension_ids.get(TRANSPORT_WIDE_CC, 0)
        receiver.attach(self._feedback, extension_ids)
        for stream in receiver.streams.values():
            stream.describe(track.codecs)
            self._streams[stream.ssrc] = stream
        for ssrc, held in list(self._held.items()):
            for packet in held:
                if (binding := self._bindings.resolve(packet)) is not None:
                    self._release(ssrc, binding)
                    break

    def remove_track(self, receiver: TrackReceiver) -> None:
        """Feed `receiver` no more; its buffered packets stay with it."""
        self._detach(receiver)

    def _detach(self, receiver: TrackReceiver) -> None:
        self._bindings.remove(receiver)
        self._tracks = [track for track in self._tracks if track.receiver is not receiver]
        mine = {stream.ssrc for stream in receiver.streams.values()}
        self._streams = {
            ssrc: stream
            for ssrc, stream in self._streams.items()
            if ssrc not in mine and not (isinstance(stream, RtxStream) and stream.serves(receiver))
        }

    def close(self) -> None:
        """Let go of all tracks and of what is held for those to come; the transport is gone."""
        self.wake = None
        self._bindings = Bindings()
        self._tracks.clear()
        self._streams.clear()
        self._held.clear()
        self._feedback.ready.clear()
        self._recorder = TwccRecorder()

    # --- packets in ------------------------------------------------------------------------------------------------

    def receive_rtp(self, data: bytes, now: float) -> None:
        """Take one decrypted RTP packet, for the next `forward`; what is not one is counted and dropped."""
        self._now = now
        try:
            packet = RtpPacket.parse(data, now)
        except MalformedPacket:
            self.counters["malformed"] += 1
            return
        if self._twcc_id:
            value = packet.extension(self._twcc_id)
            if value is not None and len(value) == 2:
                self._record(packet.ssrc, value[0] << 8 | value[1], now, marker=packet.marker)
        stream = self._streams.get(packet.ssrc)
        if stream is not None:
            stream.receive(packet, now)
        else:
            self._receive_unknown(packet, now)

    def receive_run(self, session: int, datagrams: Datagrams, now: float) -> tuple[int, int]:
        """Take the first of these SRTP packets, as far as the kernel can read them, for the next `forward`; how many.

        `session` is libsrtp's, which knows their stream. Those that it refuses are dropped; how many comes second.
        """
        intake = self._intake
        arena, _, length, size = datagrams
        stream = self._streams.get(_ssrc.unpack_from(arena, SSRC_AT)[0])
        if intake is None or not isinstance(stream, ReceiveStream) or not stream.straight:
            return 0, 0
        place, count, found = intake.receive(session, datagrams, now, stream.expected(self._twcc_id))
        level, levelled, timestamp, transport, overhead, left, refused = found
        at = count * size
        if count:
            self._now = now
            if transport >= 0:
                self._record_run(stream.ssrc, transport, count, now, marker=arena[at - size + 1] >= MARKER)
            data = [bytes(arena[start : min(start + size, length) - overhead]) for start in range(0, at, size)]
            stream.receive_run(Run(intake, place, data, timestamp, now), level if levelled else -1)
        if left:
            self.receive_rtp(bytes(arena[at : at + left]), now)
            count += 1
        return count + refused, refused

    def forward(self, now: float) -> None:
        """Send on what has come; called after every batch, and after every other call that may release packets."""
        feedback = self._feedback
        while feedback.ready:
            ready, feedback.ready = feedback.ready, []
            for receiver in ready:
                receiver.forward(now)

    def _record(self, ssrc: int, sequence: int, now: float, *, marker: bool) -> None:
        recorder, feedback = self._recorder, self._feedback
        if recorder.record(sequence, now, marker=marker):
            feedback.outbox += recorder.build(feedback.ssrc, ssrc, now)
        elif recorder.deadline < feedback.deadline:
            feedback.deadline = recorder.deadline

    def _record_run(self, ssrc: int, first: int, count: int, now: float, *, marker: bool) -> None:
        """The same for packets that are numbered in turn; `marker` is that of the last one."""
        last = first + count - 1
        if count > 1 and not self._recorder.record_run(first, count - 1, now):
            for sequence in range(first, last):
                self._record(ssrc, sequence & 0xFFFF, now, marker=False)
        self._record(ssrc, last & 0xFFFF, now, marker=marker)

    def _receive_unknown(self, packet: RtpPacket, now: float) -> None:
        """Bind the SSRC of a packet, or hold the packet until somebody can."""
        ssrc = packet.ssrc
        retired = self._retired.get(ssrc)
        if retired is not None:
            if now - retired < RETIRED_FOR:
                self.counters["retired"] += 1
                return
            del self._retired[ssrc]
        held = self._held.get(ssrc)
        if held is None:
            held = self._held[ssrc] = deque(maxlen=MAX_HELD_PACKETS)
            if len(self._held) > MAX_HELD_SSRCS:
                self.counters["unbound"] += len(self._held.pop(next(iter(self._held))))
        if len(held) == MAX_HELD_PACKETS:
            self.counters["unbound"] += 1
        held.append(packet)
        if (binding := self._bindings.resolve(packet)) is not None:
            self._release(ssrc, binding)

    def _release(self, ssrc: int, binding: Binding) -> None:
        """Give the held packets of `ssrc` to its stream."""
        held = self._held.pop(ssrc)
        fresh = [packet for packet in held if self._now - packet.arrival <= HOLD_FOR]
        if len(fresh) < len(held):
            self.counters["unbound"] += len(held) - len(fresh)
        if not fresh:
            return
        stream = self._bind(binding, fresh[0])
        for packet in fresh:
            stream.receive(packet, self._now)

    def _bind(self, binding: Binding, first: RtpPacket) -> ReceiveStream | RtxStream:
        receiver, now = binding.track.receiver, self._now
        if binding.repairs:
            # One for each layer: a publisher may change it, not add to it.
            for ssrc, other in list(self._streams.items()):
                if isinstance(other, RtxStream) and other.serves(receiver, binding.spatial):
                    del self._streams[ssrc]
            rtx = self._streams[first.ssrc] = RtxStream(first.ssrc, binding)
            return rtx
        previous = receiver.streams.get(binding.spatial)
        stream = ReceiveStream(
            receiver,
            binding.spatial,
            first,
            feedback=self._feedback,
            payload_types=binding.track.codecs,
            now=now,
        )
        if previous is not None:
            receiver.past.add_stream(previous)
            self._streams.pop(previous.ssrc, None)
            self._retired[previous.ssrc] = now
            if len(self._retired) > MAX_HELD_SSRCS:
                del self._retired[next(iter(self._retired))]
            self.counters["replaced"] += 1
        self._streams[first.ssrc] = receiver.streams[binding.spatial] = stream
        if self._report_at == math.inf:
            self._report_at = on_grid(now + REPORT_EVERY)
            self._feedback.arm(self._report_at)
        return stream

    # --- reports in ------------------------------------------------------------------------------------------------

    def receive_rtcp(self, packets: Iterable[RtcpPacket], now: float) -> None:
        """Take what a compound says about the publisher's streams; the rest is the send side's."""
        for packet in packets:
            if isinstance(packet, SenderReport):
                stream = self._streams.get(packet.ssrc)
                if isinstance(stream, ReceiveStream):
                    stream.sender_reported(packet, now)
            elif isinstance(packet, Bye):
                for ssrc in packet.ssrcs:
                    stream = self._streams.get(ssrc)
                    if isinstance(stream, ReceiveStream):
                        stream.ended()
            elif isinstance(packet, Xr):
                self._receive_xr(packet, now)

    def _receive_xr(self, packet: Xr, now: float) -> None:
        for block in packet.blocks:
            if isinstance(block, ReceiverReferenceTime):
                # We answer at once, hence without delay (RFC 3611, section 4.5).
                answer = DelaySinceLastRr(packet.ssrc, block.ntp >> 16 & 0xFFFFFFFF, 0)
                self._feedback.outbox.append(Xr(self._feedback.ssrc, (Dlrr((answer,)),)))
            elif isinstance(block, Dlrr):
                for report in block.reports:
                    rtt = (middle(now) - report.last_rr - report.delay & 0xFFFFFFFF) / 65536
                    if report.ssrc == self._feedback.ssrc and report.last_rr and rtt < MAX_RTT:
                        self._feedback.measured_rtt(rtt)

    # --- time and reports out --------------------------------------------------------------------------------------

    @property
    def rtt(self) -> float:
        """Seconds to the publisher and back, smoothed; 0.07 until measured."""
        return self._feedback.rtt

    @property
    def wake(self) -> Callable[[], None] | None:
        """Called when somebody else's request made feedback due: drain `rtcp_to_send` and ask `next_timeout` anew."""
        return self._feedback.wake

    @wake.setter
    def wake(self, wake: Callable[[], None] | None) -> None:
        self._feedback.wake = wake

    @property
    def reports_due(self) -> bool:
        """Whether `rtcp_to_send` has something."""
        return bool(self._feedback.outbox)

    def next_timeout(self) -> float:
        """When `handle_timeout` has something to do."""
        return self._feedback.deadline

    def handle_timeout(self, now: float) -> None:
        """Report, ask for what is missing, and look which layers are alive."""
        feedback = self._feedback
        if now < feedback.deadline:
            return
        self._now = now
        if now >= self._report_at:
            self._report(now)
            following = self._report_at + REPORT_EVERY
            self._report_at = following if following > now else on_grid(now + REPORT_EVERY)
        if now >= self._recorder.deadline:
            feedback.outbox += self._recorder.build(feedback.ssrc, self._media_ssrc(), now)
        deadline = min(self._report_at, self._recorder.deadline)
        for track in self._tracks:
            for stream in track.receiver.streams.values():
                stream.handle_timeout(now)
                deadline = min(deadline, stream.next_timeout())
        feedback.deadline = deadline

    def rtcp_to_send(self) -> list[bytes]:
        """Plaintext compounds, drained. Feedback goes in reduced-size ones (RFC 5506)."""
        outbox = self._feedback.outbox
        compounds: list[bytes] = []
        compound = b""
        while outbox:
            data = outbox.popleft().serialize()
            if compound and len(compound) + len(data) > MAX_COMPOUND:
                compounds.append(compound)
                compound = b""
            compound += data
        if compound:
            compounds.append(compound)
        return compounds

    def _report(self, now: float) -> None:
        blocks = [
            block
            for track in self._tracks
            for stream in track.receiver.streams.values()
            if (block := stream.report(now)) is not None
        ]
        outbox, ssrc = self._feedback.outbox, self._feedback.ssrc
        for first in range(0, len(blocks), MAX_REPORT_BLOCKS):
            outbox.append(ReceiverReport(ssrc, tuple(blocks[first : first + MAX_REPORT_BLOCKS])))
        if blocks:
            outbox.append(Xr(ssrc, (ReceiverReferenceTime(int(now * (1 << 32)) & (1 << 64) - 1),)))

    def _media_ssrc(self) -> int:
        return next(iter(self._streams), 0)


def middle(now: float) -> int:
    """The middle 32 bits of `now` as an NTP time; the epoch does not matter, only we read it."""
    return int(now * 65536) & 0xFFFFFFFF
