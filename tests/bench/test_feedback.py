"""What the benchmark's subscribers say is what a parser reads from it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from bench.sfu.counting import ABSENT, CountingSocket, Stream, extension_at
from bench.sfu.feedback import Feedback
from bench.sfu.peer import End, Waiting
from triosfu.net.udp import UdpMux
from triosfu.rtp.rtcp import ReceiverReport, TransportFeedback, parse_compound
from triosfu.rtp.wire import build_rtp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = 1_795_668_731_459_971_123  # nanoseconds since 1970
TICK = 250_000  # nanoseconds


@asynccontextmanager
async def subscriber(*, tells: bool = True) -> AsyncIterator[tuple[Feedback, CountingSocket]]:
    sock = CountingSocket("127.0.0.1")
    try:
        mux = UdpMux([sock], batched=False, wait_readable=sock.readable)
        end = End("one", mux, offerer=False, owner=Waiting("one"))
        sock.streams[77] = Stream(5, repairs=False)
        yield Feedback(end, sock, tells=tells), sock
        end.peer.close("over")
    finally:
        sock.close()


@pytest.mark.parametrize(
    "came",
    [
        [(65_534, 0), (65_535, 1), (0, 1), (1, 200)],  # all of them, over the wrap
        [(10, 0), (13, 5), (14, 5)],  # with a gap
        [(10, 0), (11, 400), (12, 401)],  # with a pause
        [(10, 0), (12, 3), (11, 4), (13, 4)],  # in disorder
    ],
)
async def test_transport_wide_feedback_tells_when_what_came(came: list[tuple[int, int]]) -> None:
    async with subscriber() as (feedback, _):
        arrivals = [(number, NOW + ticks * TICK) for number, ticks in came]
        (told,) = parse_compound(feedback._transport_feedback(arrivals))
        assert isinstance(told, TransportFeedback)
        assert told.media_ssrc == 77
        read = dict(told.arrivals())
        assert list(read) == [number for number, _ in sorted(came, key=lambda pair: (pair[0] - came[0][0]) & 0xFFFF)]
        first = read[came[0][0]]
        assert [round((read[number] - first) / 0.00025) for number, _ in came] == [ticks for _, ticks in came]


async def test_a_report_says_what_came_and_what_is_gone() -> None:
    async with subscriber() as (feedback, sock):
        stream = sock.streams[77]
        stream.highest, stream.packets, stream.dropped = 14, 9, 1  # ten numbers: one was lost, one of nine dropped
        feedback._end.peer.heard[77] = (0x12345678, 1.0)
        (told,) = parse_compound(feedback._report(77, stream, 1.5))
        assert isinstance(told, ReceiverReport)
        (block,) = told.reports
        assert (block.ssrc, block.highest_sequence, block.cumulative_lost) == (77, 14, 2)
        assert (block.last_sr, block.delay_since_last_sr) == (0x12345678, 1 << 15)
        stream.begin()
        assert (stream.lost, stream.gone) == (0, 2)


@pytest.mark.parametrize("tells", [True, False])
async def test_who_is_not_to_tell_of_media_says_nothing_of_it(tells: bool) -> None:
    async with subscriber(tells=tells) as (feedback, _):
        for _ in range(1000):
            feedback.run(feedback.due)
        assert bool(feedback._end.peer.transport.counters["rtcp_unsent"]) is tells  # there is nobody to send it to


def test_the_number_of_a_packet_is_found_behind_other_extensions() -> None:
    for before in ({}, {1: b"\xa0"}, {1: b"abc", 2: b"defg"}):
        packet = memoryview(
            build_rtp(ssrc=1, payload_type=96, sequence=1, timestamp=1, extensions={**before, 3: b"no"})
        )
        at = extension_at(packet, 3)
        assert bytes(packet[at : at + 2]) == b"no"
        assert extension_at(packet, 4) == ABSENT
    assert extension_at(memoryview(build_rtp(ssrc=1, payload_type=96, sequence=1, timestamp=1)), 3) == ABSENT
