"""The sending half of one subscriber transport: its down tracks, and RTCP both ways for them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from triosfu.errors import UsageError
from triosfu.grid import on_grid
from triosfu.media.estimate import Estimate
from triosfu.media.feedback_lane import FeedbackLane
from triosfu.media.sent_log import SentLog
from triosfu.rtp.rtcp import (
    DelaySinceLastRr,
    Dlrr,
    Fir,
    Nack,
    Pli,
    ReceiverReferenceTime,
    ReceiverReport,
    Remb,
    Sdes,
    SdesChunk,
    SenderReport,
    TransportFeedback,
    Xr,
    build_compound,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random

    from triosfu.kernel import Kernel
    from triosfu.media.down_track import DownTrack
    from triosfu.rtp.rtcp import ReportBlock, RtcpPacket

REPORT_EVERY = 3.0  # seconds
REPORT_TRACKS = 30  # in one compound; the count field has five bits
REPORT_BYTES = 1200  # of one compound: it must fit a datagram
CNAME, MID = 1, 15  # SDES items (RFC 3550, section 6.5.1; RFC 9143, section 15.1)
FEEDBACK_ALONE = bytes((0x80 | 15, 205))  # how a datagram begins whose first packet is transport-wide feedback
MAX_REFERENCES = 31  # reference times remembered until the next report, one per ssrc


class Sender:
    """Routes a subscriber's RTCP to its down tracks, and reports for them."""

    def __init__(self, *, rng: Random, now: float, ntp_offset: float = 0.0, kernel: Kernel | None = None) -> None:
        """Start without tracks. `ntp_offset` is the time of day in seconds since 1900, less `now`."""
        self.estimate = Estimate()
        self.sent_log = SentLog()
        self.feedback_lane = None if kernel is None else FeedbackLane(kernel, self.sent_log, self.estimate)
        self.unknown_ssrcs = 0  # reports and requests about streams that are not (or no longer) sent
        self._ntp_offset = ntp_offset
        self._ssrc = rng.randrange(1, 2**32)
        self._tracks: dict[int, DownTrack] = {}
        self._by_rtx: dict[int, DownTrack] = {}
        # Reports of many subscribers that joined together need not be one burst.
        self._report_at = on_grid(now + rng.uniform(0.2, 1.0) * REPORT_EVERY)
        self._references: dict[int, tuple[int, float]] = {}  # ssrc -> middle of the NTP time, when it came
        self._fir_numbers: dict[int, int] = {}
        self._outbox: list[bytes] = []

    @property
    def tracks(self) -> list[DownTrack]:
        """The down tracks, in the order they were added."""
        return list(self._tracks.values())

    def add(self, track: DownTrack) -> None:
        """Send `track` on this transport.

        Raises:
            UsageError: One of its SSRCs is taken.
        """
        taken = self._tracks.keys() | self._by_rtx.keys()
        if track.ssrc in taken or track.rtx_ssrc in taken:
            raise UsageError("two tracks of a transport with one ssrc")
        self._tracks[track.ssrc] = track
        if track.rtx_ssrc is not None:
            self._by_rtx[track.rtx_ssrc] = track
        track.log_sent(self.sent_log)

    def remove(self, track: DownTrack) -> None:
        """Send `track` no more: it is unbound, and its SSRCs are free. Nothing happens when it was not sent."""
        if self._tracks.get(track.ssrc) is not track:
            return
        del self._tracks[track.ssrc]
        self._fir_numbers.pop(track.ssrc, None)
        if track.rtx_ssrc is not None:
            del self._by_rtx[track.rtx_ssrc]
        track.log_sent(None)
        track.unbind()

    def resync(self, now: float) -> None:
        """Begin every track again, because the transport has only now come up: earlier packets were not sent."""
        for track in self._tracks.values():
            track.resync(now)

    def close(self) -> None:
        """Unbind all tracks and forget what was sent; the transport is gone."""
        for track in list(self._tracks.values()):
            self.remove(track)
        if self.feedback_lane is not None:
            self.feedback_lane.forget()
        self.sent_log.forget()

    # --- RTCP in ---------------------------------------------------------------------------------------------------

    def receive_feedback(self, packet: bytes, now: float) -> bool:
        """Take a datagram if it is transport-wide feedback and nothing else; whether it was. Nothing is sent for it.

        Raises:
            MalformedPacket: It is, and not valid.
        """
        if packet[:2] != FEEDBACK_ALONE or 4 * (packet[2] << 8 | packet[3]) + 4 != len(packet):
            return False
        if self.feedback_lane is None or not self.feedback_lane.take(packet, now):
            self.estimate.receive_feedback(TransportFeedback.parse_body(packet[4:]), self.sent_log, now)
        return True

    def receive_rtcp(self, packets: Sequence[RtcpPacket], now: float) -> None:
        """Take the parsed packets of one datagram; those for the publishing half are left alone."""
        for packet in packets:
            match packet:
                case ReceiverReport(reports=blocks) | SenderReport(reports=blocks):
                    self._receive_reports(blocks, now)
                case Nack(media_ssrc=ssrc, sequences=sequences):
                    if track := self._track(ssrc):
                        track.receive_nack(sequences, now)
                case Pli(media_ssrc=ssrc):
                    if track := self._track(ssrc):
                        track.receive_pli(now)
                case Fir(entries=entries):
                    self._receive_fir(entries, now)
                case Remb():
                    self.estimate.receive_remb(packet, now)
                case TransportFeedback():
                    self.estimate.receive_feedback(packet, self.sent_log, now)
                case Xr(ssrc=ssrc, blocks=xr_blocks):
                    for block in xr_blocks:
                        if isinstance(block, ReceiverReferenceTime):
                            self._receive_reference(ssrc, block.ntp, now)

    def _track(self, ssrc: int) -> DownTrack | None:
        track = self._tracks.get(ssrc)
        if track is None:
            self.unknown_ssrcs += 1
        return track

    def _receive_reports(self, blocks: Iterable[ReportBlock], now: float) -> None:
        for block in blocks:
            if track := self._tracks.get(block.ssrc):
                track.receive_report(block, now)
            elif block.ssrc not in self._by_rtx:  # what is said of a repair stream is of no use
                self.unknown_ssrcs += 1

    def _receive_fir(self, entries: Iterable[tuple[int, int]], now: float) -> None:
        for ssrc, number in entries:
            # The same number again is the same request, sent again (RFC 5104, section 4.3.1.2).
            if (track := self._track(ssrc)) and self._fir_numbers.get(ssrc) != number:
                self._fir_numbers[ssrc] = number
                track.receive_fir(now)

    def _receive_reference(self, ssrc: int, ntp: int, now: float) -> None:
        if ssrc in self._references or len(self._references) < MAX_REFERENCES:
            self._references[ssrc] = ntp >> 16 & 0xFFFFFFFF, now

    # --- time, RTCP out --------------------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When `handle_timeout` has something to do."""
        at = self._report_at if self._tracks or self._references else math.inf
        for track in self._tracks.values():
            at = min(at, track.next_timeout())
        return at

    def handle_timeout(self, now: float) -> None:
        """Let tracks ask for keyframes, and report when it is time."""
        for track in self._tracks.values():
            if now >= track.next_timeout():
                track.handle_timeout(now)
        if now >= self._report_at and (self._tracks or self._references):
            following = self._report_at + REPORT_EVERY
            self._report_at = following if following > now else on_grid(now + REPORT_EVERY)
            self._report(now)

    def rtcp_to_send(self) -> list[bytes]:
        """The compounds to send now, in plain text; drained by the call."""
        drained, self._outbox = self._outbox, []
        return drained

    def _report(self, now: float) -> None:
        """Queue sender reports with the names of their sources, and the answers to reference times."""
        reports: list[SenderReport] = []
        chunks: list[SdesChunk] = []
        size = 0
        ntp_now = now + self._ntp_offset
        for track in self._tracks.values():
            track.layers_changed(now)  # in case the publisher has stopped a layer without another to tell of it
            report = track.sender_report(now, ntp_now)
            if report is None:
                continue
            chunk = _names(track)
            needed = 28 + 8 + sum(2 + len(text) for _, text in chunk.items)
            if reports and (len(reports) == REPORT_TRACKS or size + needed > REPORT_BYTES):
                self._outbox.append(build_compound([*reports, Sdes(tuple(chunks))]))
                reports, chunks, size = [], [], 0
            reports.append(report)
            chunks.append(chunk)
            size += needed
        if reports:
            self._outbox.append(build_compound([*reports, Sdes(tuple(chunks))]))
        if self._references:
            delays = tuple(
                DelaySinceLastRr(ssrc, middle, round((now - at) * 65536))
                for ssrc, (middle, at) in self._references.items()
            )
            self._references.clear()
            # A compound of full size begins with a report (RFC 3550, section 6.1), if an empty one.
            self._outbox.append(build_compound([ReceiverReport(self._ssrc), Xr(self._ssrc, (Dlrr(delays),))]))


def _names(track: DownTrack) -> SdesChunk:
    items = [(CNAME, track.cname.encode()[:255])]
    if track.mid:
        items.append((MID, track.mid.encode()[:255]))
    return SdesChunk(track.ssrc, tuple(items))
