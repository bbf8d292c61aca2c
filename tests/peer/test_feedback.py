"""Transport-wide feedback through a whole peer connection, with the compiled kernel and without."""

from __future__ import annotations

import pytest
import trio

from tests.support.virtual import joined, virtual_time
from triosfu.rtp.rtcp import TransportFeedback
from triosfu.srtp.core import MAX_STREAMS


@virtual_time
async def many_who_give_feedback() -> None:
    async with joined(seed=5) as both:
        await both.connect()
        ours, theirs = both.offerer.peer, both.answerer.peer
        ours.sender.sent_log.sent(1000, trio.current_time())
        inbound = ours._transport._inbound
        assert inbound is not None
        before = inbound.streams
        for ssrc in range(1, 41):
            theirs._transport.send_rtcp(TransportFeedback(ssrc, 1, 0, 1, 0, 0, ((0, 4),)).serialize())
        await trio.sleep(1)
        assert ours.sender.estimate.arrival_rate == 8000
        # libsrtp keeps a stream for each of them: they are counted, or a client could make it keep any number.
        assert inbound.streams == before + 40 < MAX_STREAMS
        ours.close("over")
        assert ours._transport._open_lane is None


@pytest.mark.parametrize("kernel", ["on", "off"])
def test_all_who_give_feedback_are_counted(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel == "off":
        monkeypatch.setattr("triosfu.net.egress.installed", lambda: None)
    many_who_give_feedback()
