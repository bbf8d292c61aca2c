"""What a subscriber tells the server about the media that comes, as browsers do, from packets that are prepared.

It says as much as livekit-client in Chromium and the livekit wheel have said to a server that counted (November 2026):
a receiver report (RFC 3550, section 6.4.2) each five seconds for a sound and each second for a picture; REMB, where the
server has asked for it, twice a second in one compound with a picture's report, and never for sound alone; an ICE check
each 2.5 s; nothing else. Every 100 ms goes transport-wide feedback where the server has asked for that, and a NACK (RFC
4585, section 6.2.1) for what a counting socket has dropped with the next look.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

from triosfu.ice.transactions import Purpose
from triosfu.rtp.rtcp import Nack, Remb, TransportFeedback
from triosfu.rtp.twcc import HEAD, REFERENCE, TICK

if TYPE_CHECKING:
    from bench.sfu.counting import CountingSocket, Stream
    from bench.sfu.peer import End

EVERY = 0.1  # seconds between two pieces of transport-wide feedback
SOUND_TURNS, PICTURE_TURNS = 50, 10  # of these until a stream is reported once more
ESTIMATE_TURNS = 5  # and until REMB says once more what can come
CHECK_TURNS = 67  # until an ICE check that comes on top of those for consent: one each 2.5 s in all
REPORT = struct.Struct("!BBHIIIIIII")
JITTER = 20  # in units of the media's clock; nobody looks at it
AMPLE = 1_000_000_000  # bits per second: REMB of one whom nothing limits
FEEDBACK_HEAD = struct.Struct("!BBH")
TICK_NS, REFERENCE_NS = round(TICK * 1e9), round(REFERENCE * 1e9)
RUN_OF_SMALL = 0x2000  # a status chunk: packets that came at most 255 ticks behind each other
MAX_COVERED = 1_000  # packets in one piece of feedback, which has to fit a datagram

phases = Random(1)  # subscribers that joined together do not report at once


class Feedback:
    """One subscriber's."""

    def __init__(self, end: End, sock: CountingSocket, *, tells: bool) -> None:
        """Say all that there is to say, or, if it does not `tell` of media, ICE's checks alone."""
        self._end, self._socket = end, sock
        self.tells = tells
        self._ssrc = 1
        self.due = 0.0  # the next time
        self._turn = phases.randrange(SOUND_TURNS * CHECK_TURNS)
        self._pictures: set[int] = set()  # SSRCs
        self._sections = 0  # that these were read from
        self._count = 0  # of pieces of transport-wide feedback
        self._missing: dict[int, list[int]] = {}
        self._remb = b""

    def miss(self, stream: Stream, sequence: int) -> None:
        """Ask for a packet at the end of this look."""
        self._missing.setdefault(id(stream), []).append(sequence)

    def run(self, now: float) -> None:
        """Send what is due."""
        peer = self._end.peer
        send = peer.transport.send_rtcp
        if self._missing:
            for ssrc, stream in self._socket.streams.items():
                if sequences := self._missing.get(id(stream)):
                    send(Nack(self._ssrc, ssrc, tuple(sequences)).serialize())
            self._missing.clear()
        if now < self.due:
            return
        self.due = now + EVERY * (1 if self.due else phases.random())
        self._turn += 1
        if self._turn % CHECK_TURNS == 0:
            self._check(now)
        if not self.tells:
            return
        # Where the server has both, transport-wide feedback goes before REMB.
        remb = self._estimate() if self._turn % ESTIMATE_TURNS == 0 and not self._count else b""
        for place, (ssrc, stream) in enumerate(self._socket.streams.items()):
            if ssrc <= 0:
                continue
            picture = self._is_picture(ssrc)
            if picture and remb:
                send(self._report(ssrc, stream, now) + remb)
                remb = b""
            elif (place + self._turn) % (PICTURE_TURNS if picture else SOUND_TURNS) == 0:
                send(self._report(ssrc, stream, now))
        if arrivals := self._socket.arrivals:
            for at in range(0, len(arrivals), MAX_COVERED):
                send(self._transport_feedback(arrivals[at : at + MAX_COVERED]))
            arrivals.clear()

    def _report(self, ssrc: int, stream: Stream, now: float) -> bytes:
        middle, at = self._end.peer.heard.get(ssrc, (0, 0.0))
        delay = round((now - at) * 65_536) if middle else 0
        lost = min(stream.gone, 0x7FFFFF)
        fraction = 256 * stream.dropped // max(1, stream.packets)
        return REPORT.pack(
            0x81, 201, 7, self._ssrc, ssrc, fraction << 24 | lost, stream.highest & 0xFFFFFFFF, JITTER, middle, delay
        )

    def _is_picture(self, ssrc: int) -> bool:
        sections = self._end.peer.negotiation.sections
        if len(sections) != self._sections:
            self._sections = len(sections)
            self._pictures = {
                one
                for section in sections
                if section.kind == "video" and section.incoming
                for one in section.incoming.ssrcs
            }
        return ssrc in self._pictures

    def _check(self, now: float) -> None:
        transport = self._end.peer.transport
        ice = transport.ice
        if (path := ice._path) is not None:  # noqa: SLF001  only a benchmark asks out of turn
            ice._check(path.generation, path.pair, Purpose.KEEPALIVE, now)  # noqa: SLF001
            transport.drain_checks()

    def _estimate(self) -> bytes:
        """REMB for all streams of sections that have it."""
        if not self._remb:
            ssrcs = [
                ssrc
                for section in self._end.peer.negotiation.sections
                if section.incoming and any("goog-remb" in codec.feedback for codec in section.incoming.codecs)
                for ssrc in section.incoming.ssrcs
            ]
            if ssrcs:
                self._remb = Remb(self._ssrc, AMPLE, tuple(ssrcs[:255])).serialize()
        return self._remb

    def _transport_feedback(self, arrivals: list[tuple[int, int]]) -> bytes:
        base, first = arrivals[0]
        reference = first // REFERENCE_NS
        came = [((number - base) & 0xFFFF, nanoseconds // TICK_NS) for number, nanoseconds in arrivals]
        if any(distance != place for place, (distance, _) in enumerate(came)):
            # Some are missing or in disorder; what came behind its time by half a round is of no use to anybody.
            came = sorted((distance, ticks) for distance, ticks in dict(came).items() if distance < 1 << 15)
        covered = came[-1][0] + 1
        before = reference * REFERENCE_NS // TICK_NS
        deltas = [later - earlier for earlier, later in pairwise([before, *(ticks for _, ticks in came)])]
        self._count = self._count + 1 & 0xFF
        media = next(iter(self._socket.streams))
        if covered > len(came) or not 0 <= min(deltas) <= max(deltas) < 256:
            received = tuple((distance, delta) for (distance, _), delta in zip(came, deltas, strict=True))
            feedback = TransportFeedback(
                sender_ssrc=self._ssrc, media_ssrc=media, base_sequence=base, status_count=covered,
                reference_time=reference & 0xFFFFFF, feedback_count=self._count, received=received,
            )  # fmt: skip
            return feedback.serialize()
        body = HEAD.pack(self._ssrc, media, base, covered, (reference & 0xFFFFFF) << 8 | self._count)
        body += (RUN_OF_SMALL | covered).to_bytes(2, "big") + bytes(deltas)
        body += bytes(-len(body) % 4)
        return FEEDBACK_HEAD.pack(0x8F, 205, len(body) // 4) + body
