"""The sending half of an association alone: what it sends is taken from it, what it is told is made up."""

from __future__ import annotations

import copy
import math

from triosfu.sctp.outbound import Acknowledged, Outbound
from triosfu.sctp.rto import RetransmissionTimeout
from triosfu.sctp.sendqueue import OutMessage
from triosfu.sctp.wire import Data, Sack, parse_chunks

UNIT = 1176
FIRST = 0xFFFFFFF0  # TSNs wrap soon
MAX_BURST = 4
MAX_PIECES = 3  # of one chunk: header, data, padding


def make(tsn: int = FIRST, *, rwnd: int = 1 << 20) -> Outbound:
    outbound = Outbound(initial_tsn=tsn, unit=UNIT, rto=RetransmissionTimeout(initial=1.0, minimum=0.4, maximum=3.0))
    outbound.a_rwnd = rwnd
    outbound.partial_reliability = True
    return outbound


def queue(
    outbound: Outbound, size: int, *, max_retransmits: int | None = None, expires_at: float = math.inf
) -> OutMessage:
    message = OutMessage(
        outbound.queue.stream(0),
        bytes(size),
        ppid=53,
        unordered=False,
        max_retransmits=max_retransmits,
        expires_at=expires_at,
        urgent=False,
    )
    outbound.queue.append(message)
    return message


def transmit(outbound: Outbound, now: float = 0.0, *, packets: int = 100, unit: int = UNIT) -> list[list[Data]]:
    """The DATA of up to so many packets."""
    sent: list[list[Data]] = []
    while len(sent) < packets:
        pieces: list[bytes] = []
        room = outbound.fill(pieces, unit, now)
        assert room >= 0 or len(pieces) <= MAX_PIECES, "only a chunk from larger packets is too large, and goes alone"
        if not pieces:
            break
        body = b"".join(pieces)
        assert len(body) == unit - room
        sent.append([chunk for chunk in parse_chunks(bytes(12) + body) if isinstance(chunk, Data)])
    return sent


def sack(outbound: Outbound, offset: int, *gaps: int, now: float = 0.1, rwnd: int = 1 << 20) -> Acknowledged | None:
    """A SACK whose cumulative TSN is `offset` TSNs after the first."""
    return outbound.receive_sack(Sack((FIRST - 1 + offset) & 0xFFFFFFFF, rwnd, gaps), now)


def newly(outbound: Outbound, offset: int, *gaps: int) -> int:
    result = sack(outbound, offset, *gaps)
    assert result is not None
    return result.size


def tsns(packets: list[list[Data]]) -> list[int]:
    return [(chunk.tsn - FIRST) & 0xFFFFFFFF for packet in packets for chunk in packet]


def snapshot(outbound: Outbound) -> object:
    fields = ("cumulative", "flight", "in_flight", "a_rwnd", "next_tsn", "_gaps", "_lost", "_advanced")
    states = {tsn: (sent.state, sent.misses) for tsn, sent in outbound._outstanding.items()}
    window = (outbound.congestion.bytes, outbound.congestion.ssthresh, outbound.congestion.recovery_exit)
    return copy.deepcopy([getattr(outbound, name) for name in fields]), states, window
