"""Any bytes are transport-wide feedback to Python and to the compiled kernel alike, or left to Python by the latter.

Both learn the same from it of the way to a subscriber, and neither keeps more of it than there is room for.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket
from triosfu.kernel import installed
from triosfu.media.estimate import KEPT, Estimate
from triosfu.media.feedback_lane import FeedbackLane
from triosfu.media.sent_log import SentLog
from triosfu.rtp.rtcp import TransportFeedback, parse_compound

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = 1.5


class Way:
    """What is known of the way to a subscriber, to whom `sent` packets have gone, the first of them with `begun`."""

    def __init__(self, sent: int, begun: int) -> None:
        self.log, self.estimate = SentLog(), Estimate()
        self.log._next[0] = begun & 0xFFFF  # noqa: SLF001
        for number in range(sent):
            self.log.sent(number % 1400 + 1, number / 300)

    @property
    def state(self) -> object:
        """All of it."""
        estimate = self.estimate
        numbers = [repr(number) for number in estimate._numbers]  # noqa: SLF001  nan is nan
        first, count = estimate._places  # noqa: SLF001
        assert count <= KEPT
        shares = [estimate._shares[2 * (place % KEPT) :][:2] for place in range(first, first + count)]  # noqa: SLF001
        return self.log._sizes, self.log._next, numbers, count, shares  # noqa: SLF001

    def take(self, packet: bytes) -> bool:
        """Have Python take `packet` if it is feedback alone and well-formed; whether it was."""
        try:
            packets = parse_compound(packet)
        except MalformedPacket:
            return False
        if len(packets) != 1 or not isinstance(packets[0], TransportFeedback):
            return False
        self.estimate.receive_feedback(packets[0], self.log, NOW)
        return True


def taken_alike(packets: Sequence[bytes], sent: int, begun: int) -> list[bool]:
    """Which of `packets` the kernel takes; then all is as Python would have it, and otherwise as it was."""
    kernel = installed()
    ours, theirs = Way(sent, begun), Way(sent, begun)
    assert kernel is not None
    lane = FeedbackLane(kernel, theirs.log, theirs.estimate)
    taken = []
    for packet in packets:
        before = deepcopy(theirs.state)
        taken.append(lane.take(packet, NOW))
        if taken[-1]:
            assert ours.take(packet)
            assert theirs.state == ours.state
        else:
            assert theirs.state == before, "it has changed what it has not understood"
    return taken


def check_feedback(data: bytes) -> None:
    begun = int.from_bytes(data[12:14], "big") - 10  # so that it is about packets that were sent
    way = Way(60, begun)
    way.take(data)
    assert way.state
    if installed() is not None:
        taken_alike([data, data], 60, begun)
