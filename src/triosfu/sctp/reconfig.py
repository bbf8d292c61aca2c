"""Resetting streams (RFC 6525), which is how data channels close (RFC 8831, section 6.7).

One request of ours is in flight at a time; a retry repeats it with the same sequence number. A request of the peer is
answered "in progress" until all data that was sent before it has arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.sctp.capabilities import Capability, Peer
from triosfu.sctp.events import Event, ResetDone, StreamReset
from triosfu.sctp.parameters import (
    OtherRequest,
    OutgoingReset,
    ReconfigResponse,
    ReconfigResult,
    Tlv,
    parse_reconfig,
)
from triosfu.sctp.serial import TSN_MASK, unwrap
from triosfu.sctp.wire import ReConfig

if TYPE_CHECKING:
    from triosfu.sctp.inbound import Inbound
    from triosfu.sctp.sendqueue import SendQueue

_MAX_STREAMS_PER_REQUEST = 500  # one packet holds 578 ids


class Reconfig:
    """Both halves of stream re-configuration; reports `ResetDone` and `StreamReset` into `events`."""

    __slots__ = (
        "_answers",
        "_events",
        "_expected",
        "_held",
        "_in_flight",
        "_next_request",
        "_queue",
        "_queued",
        "_supported",
        "in_progress",
    )

    def __init__(self, *, initial_tsn: int, queue: SendQueue, events: list[Event]) -> None:
        self._queue, self._events = queue, events
        self._next_request = initial_tsn & TSN_MASK
        self._expected = 0
        self._supported: bool | None = None  # None while the peer is unknown
        self._queued: dict[int, None] = {}  # streams to reset, in order
        self._in_flight: OutgoingReset | None = None
        self._answers: dict[int, Tlv] = {}  # the last two answers, for requests that come again
        self._held: OutgoingReset | None = None  # a request of the peer that waits for data
        self.in_progress = False  # the peer has said that it is working on our request

    def peer_known(self, peer: Peer) -> None:
        """The peer's first request bears its initial TSN; what was asked for before can go out if it takes requests."""
        self._expected = peer.initial_tsn
        self._supported = Capability.RECONFIG in peer.capabilities
        if not self._supported:
            self._events += [ResetDone(stream_id, False) for stream_id in self._queued]
            self._queued.clear()

    # Our requests

    def reset(self, stream_id: int) -> None:
        """Ask for a reset of our side of the stream as soon as its data is sent."""
        if self._supported is False:
            self._events.append(ResetDone(stream_id, False))
        elif not self.is_resetting(stream_id):
            self._queued[stream_id] = None

    def is_resetting(self, stream_id: int) -> bool:
        """Is the stream waiting for a reset or for the peer's answer?"""
        return stream_id in self._queued or (self._in_flight is not None and stream_id in self._in_flight.streams)

    @property
    def waiting(self) -> bool:
        """Are there streams whose reset has not been asked for yet?"""
        return bool(self._queued)

    def request(self, last_tsn: int) -> bytes | None:
        """A new request for all streams whose data is sent, if there are any and none is in flight."""
        if self._in_flight is not None or not self._queued:
            return None
        drained = [stream_id for stream_id in self._queued if self._queue.drained(stream_id)]
        if not drained:
            return None
        streams = tuple(drained[:_MAX_STREAMS_PER_REQUEST])
        for stream_id in streams:
            del self._queued[stream_id]
        answered = (self._expected - 1) & TSN_MASK
        self._in_flight = OutgoingReset(self._next_request, answered, last_tsn & TSN_MASK, streams)
        self._next_request = (self._next_request + 1) & TSN_MASK
        return self.repeat()

    def repeat(self) -> bytes | None:
        """The request in flight, unchanged."""
        return None if self._in_flight is None else ReConfig((self._in_flight.tlv(),)).serialize()

    # What the peer sends

    def receive(self, chunk: ReConfig, inbound: Inbound) -> tuple[bytes | None, bool]:
        """Act on a RE-CONFIG: the chunk to answer with, and whether it answered our own request.

        Raises:
            MalformedPacket: One of its parameters is none, or is broken; then none of them has been acted on.
        """
        answers: list[Tlv] = []
        answered = False
        for parameter in [parse_reconfig(tlv) for tlv in chunk.parameters[:2]]:
            if isinstance(parameter, ReconfigResponse):
                answered |= self._receive_response(parameter)
            else:
                answers.append(self._receive_request(parameter, inbound))
        return (ReConfig(tuple(answers)).serialize() if answers else None), answered

    def release_held(self, inbound: Inbound) -> bytes | None:
        """The answer to a request that waited for data, once that has arrived."""
        held = self._held
        if held is None or unwrap(held.last_tsn, inbound.cumulative) > inbound.cumulative:
            return None
        return ReConfig((self._perform(held, inbound),)).serialize()

    def _receive_response(self, response: ReconfigResponse) -> bool:
        request = self._in_flight
        if request is None or response.response != request.request:
            return False
        self.in_progress = response.result == ReconfigResult.IN_PROGRESS
        if not self.in_progress:
            self._in_flight = None
            ok = response.result in (ReconfigResult.NOTHING_TO_DO, ReconfigResult.PERFORMED)
            for stream_id in request.streams:
                if ok:
                    self._queue.restart(stream_id)
                self._events.append(ResetDone(stream_id, ok))
        return True

    def _receive_request(self, request: OutgoingReset | OtherRequest, inbound: Inbound) -> Tlv:
        known = self._answers.get(request.request)
        if known is not None:
            return known
        if request.request != self._expected:
            return ReconfigResponse(request.request, ReconfigResult.BAD_SEQUENCE_NUMBER).tlv()
        if isinstance(request, OtherRequest):
            # Nothing in WebRTC asks for these; to refuse is always allowed.
            return self._answer(request.request, ReconfigResult.DENIED)
        if unwrap(request.last_tsn, inbound.cumulative) > inbound.cumulative:
            self._held = request
            return ReconfigResponse(request.request, ReconfigResult.IN_PROGRESS).tlv()
        return self._perform(request, inbound)

    def _perform(self, request: OutgoingReset, inbound: Inbound) -> Tlv:
        # No stream named is every stream (RFC 6525, section 4.1): those that either end has used.
        streams = request.streams or sorted({*inbound.known_streams(), *self._queue.known_streams()})
        for stream_id in dict.fromkeys(streams):
            inbound.reset(stream_id)
            self._events.append(StreamReset(stream_id))
        return self._answer(request.request, ReconfigResult.PERFORMED)

    def _answer(self, sequence: int, result: ReconfigResult) -> Tlv:
        self._held = None
        self._expected = (sequence + 1) & TSN_MASK
        answer = self._answers[sequence] = ReconfigResponse(sequence, result).tlv()
        self._answers = {k: v for k, v in self._answers.items() if (sequence - k) & TSN_MASK < 2}
        return answer
