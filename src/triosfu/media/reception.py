"""What a receiver must know of a stream to report on it: extended sequence, loss, jitter (RFC 3550, appendix A)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.rtp.rtcp import ReportBlock, SenderReport

if TYPE_CHECKING:
    from triosfu.rtp.wire import RtpPacket

FIRST_CYCLE = 0x10000  # numbers begin one cycle up, so that packets from before the first are not negative
MAX_DROPOUT = 3000  # a longer jump is believed only when the next packet confirms it (RFC 3550, appendix A.1)
STRAY = -1


class Reception:
    """Counts the packets of one stream, and puts each into its place."""

    __slots__ = (
        "_arrival",
        "_bad",
        "_base",
        "_clock_rate",
        "_expected_before",
        "_received_before",
        "_sender_report",
        "_timestamp",
        "highest",
        "jitter",
        "received",
        "restarts",
        "strays",
    )

    def __init__(self, first: RtpPacket, clock_rate: int) -> None:
        self._clock_rate = clock_rate
        self._timestamp, self._arrival = first.timestamp, first.arrival
        self._base = FIRST_CYCLE + first.sequence
        self._bad = -1  # the sequence that would confirm a jump
        self._expected_before = self._received_before = 0
        self._sender_report: tuple[int, float] | None = None  # middle of its NTP time, arrival
        self.highest = self._base - 1
        self.jitter = 0.0  # timestamp units
        self.received = self.strays = self.restarts = 0

    def observe(self, packet: RtpPacket) -> int:
        """Count `packet`; its extended number, or STRAY when it is too far off to be believed."""
        highest = self.highest
        step = (packet.sequence - highest) & 0xFFFF
        if step < MAX_DROPOUT:
            self.received += 1
            if not step:
                return highest
            self.highest = highest = highest + step
            # Packets of one video frame share a timestamp and are paced: only the first says something about jitter.
            if packet.timestamp != self._timestamp:
                self._measure(packet.timestamp, packet.arrival)
            return highest
        if step > 0x10000 - MAX_DROPOUT:
            self.received += 1
            return highest + step - 0x10000
        return self._jump(packet, highest + step)

    def observe_run(self, count: int, timestamp: int, arrival: float) -> int:
        """Count `count` packets of one time that are the next in order; the extended number of the first one."""
        first = self.highest + 1
        self.received += count
        self.highest += count
        if timestamp != self._timestamp:
            self._measure(timestamp, arrival)
        return first

    def _measure(self, timestamp: int, arrival: float) -> None:
        """Take the jitter of the first packet of a time."""
        sent = ((timestamp - self._timestamp + 0x80000000) & 0xFFFFFFFF) - 0x80000000
        off = (arrival - self._arrival) * self._clock_rate - sent
        self.jitter += ((off if off >= 0 else -off) - self.jitter) / 16
        self._timestamp, self._arrival = timestamp, arrival

    def _jump(self, packet: RtpPacket, number: int) -> int:
        """Believe a jump at its second packet, and count anew from there (RFC 3550, appendix A.1)."""
        if packet.sequence != self._bad:
            self._bad = (packet.sequence + 1) & 0xFFFF
            self.strays += 1
            return STRAY
        self._bad = -1
        self._base = self.highest = number
        self._timestamp, self._arrival = packet.timestamp, packet.arrival
        self._expected_before = self._received_before = 0
        self._sender_report = None
        self.received = 1
        self.restarts += 1
        return number

    def sender_reported(self, report: SenderReport, now: float) -> None:
        """Remember the sender report that the next report blocks refer to."""
        self._sender_report = report.ntp >> 16 & 0xFFFFFFFF, now

    @property
    def lost(self) -> int:
        """Packets expected and not received so far; duplicates can make it negative."""
        return self.highest - self._base + 1 - self.received

    def report(self, ssrc: int, now: float) -> ReportBlock:
        """The report block for the time since the last one (RFC 3550, section 6.4.1 and appendix A.3)."""
        expected = self.highest - self._base + 1
        expected_here, received_here = expected - self._expected_before, self.received - self._received_before
        self._expected_before, self._received_before = expected, self.received
        lost_here = expected_here - received_here
        fraction = min(0xFF, (lost_here << 8) // expected_here) if expected_here > 0 and lost_here > 0 else 0
        last_sr = delay = 0
        if self._sender_report is not None:
            last_sr, arrival = self._sender_report
            delay = min(0xFFFFFFFF, max(0, round((now - arrival) * 65536)))
        return ReportBlock(
            ssrc=ssrc,
            fraction_lost=fraction,
            cumulative_lost=max(-0x800000, min(0x7FFFFF, self.lost)),
            highest_sequence=(self.highest - FIRST_CYCLE) & 0xFFFFFFFF,
            jitter=min(0xFFFFFFFF, int(self.jitter)),
            last_sr=last_sr,
            delay_since_last_sr=delay,
        )
