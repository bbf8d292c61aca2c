"""Resetting streams (RFC 6525), which is how data channels close (RFC 8831, section 6.7).

One request of ours is in flight at a time; a retry repeats it with the same sequence number. A request of the peer is
answered "in progress" until all data that was sent before it has arrived.
"""

from __future__ import annotations

from typing import NamedTuple

from triosfu.sctp.parameters import OtherRequest, OutgoingReset, ReconfigResponse, ReconfigResult, Tlv
from triosfu.sctp.serial import TSN_MASK, unwrap

_MAX_STREAMS_PER_REQUEST = 500  # one packet holds 578 ids


class Answered(NamedTuple):
    """The end of a request of ours."""

    streams: tuple[int, ...]
    ok: bool


class Reconfig:
    """Both halves of stream re-configuration."""

    __slots__ = ("_answers", "_expected", "_held", "_next_request", "_queued", "in_flight", "in_progress")

    def __init__(self, *, initial_tsn: int, peer_initial_tsn: int) -> None:
        self._next_request = initial_tsn & TSN_MASK
        self._expected = peer_initial_tsn & TSN_MASK
        self._queued: dict[int, None] = {}  # streams to reset, in order
        self._answers: dict[int, Tlv] = {}  # the last two answers, for requests that come again
        self._held: OutgoingReset | None = None  # a request of the peer that waits for data
        self.in_flight: OutgoingReset | None = None
        self.in_progress = False  # the peer has said that it is working on ours

    # Our requests

    def reset(self, stream_id: int) -> None:
        """Ask for a reset of our side of the stream as soon as its data is sent."""
        self._queued[stream_id] = None

    def is_resetting(self, stream_id: int) -> bool:
        """Is the stream waiting for a reset or for the peer's answer?"""
        return stream_id in self._queued or (self.in_flight is not None and stream_id in self.in_flight.streams)

    @property
    def waiting(self) -> bool:
        """Could a request be sent if its streams were drained?"""
        return self.in_flight is None and bool(self._queued)

    @property
    def queued(self) -> tuple[int, ...]:
        """The streams that wait for their request."""
        return tuple(self._queued)

    def request(self, streams: list[int], last_tsn: int) -> None:
        """Put the request for these streams in flight."""
        chosen = tuple(streams[:_MAX_STREAMS_PER_REQUEST])
        for stream_id in chosen:
            del self._queued[stream_id]
        self.in_flight = OutgoingReset(self._next_request, (self._expected - 1) & TSN_MASK, last_tsn & TSN_MASK, chosen)
        self.in_progress = False
        self._next_request = (self._next_request + 1) & TSN_MASK

    def receive_response(self, response: ReconfigResponse) -> Answered | None:
        """The peer's answer; None unless it ends the request in flight."""
        request = self.in_flight
        if request is None or response.response != request.request:
            return None
        self.in_progress = response.result == ReconfigResult.IN_PROGRESS
        if self.in_progress:
            return None
        self.in_flight = None
        ok = response.result in (ReconfigResult.NOTHING_TO_DO, ReconfigResult.PERFORMED)
        return Answered(request.streams, ok)

    # The peer's requests

    def receive_request(
        self, request: OutgoingReset | OtherRequest, cumulative: int
    ) -> tuple[Tlv, OutgoingReset | None]:
        """The answer to a request, and the request itself if it is to be carried out now."""
        known = self._answers.get(request.request)
        if known is not None:
            return known, None
        if request.request != self._expected:
            return ReconfigResponse(request.request, ReconfigResult.BAD_SEQUENCE_NUMBER).tlv(), None
        if isinstance(request, OtherRequest):
            # Nothing in WebRTC asks for these; to refuse is always allowed.
            return self._answer(request.request, ReconfigResult.DENIED), None
        if unwrap(request.last_tsn, cumulative) > cumulative:
            self._held = request
            return ReconfigResponse(request.request, ReconfigResult.IN_PROGRESS).tlv(), None
        return self._answer(request.request, ReconfigResult.PERFORMED), request

    def release_held(self, cumulative: int) -> tuple[Tlv, OutgoingReset] | None:
        """A held request whose data has now arrived, with its answer."""
        held = self._held
        if held is None or unwrap(held.last_tsn, cumulative) > cumulative:
            return None
        return self._answer(held.request, ReconfigResult.PERFORMED), held

    def _answer(self, sequence: int, result: ReconfigResult) -> Tlv:
        self._held = None
        self._expected = (sequence + 1) & TSN_MASK
        answer = self._answers[sequence] = ReconfigResponse(sequence, result).tlv()
        self._answers = {k: v for k, v in self._answers.items() if (sequence - k) & TSN_MASK < 2}
        return answer
