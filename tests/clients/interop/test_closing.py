"""The end of channels and of connections, from either side."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.clients.interop.conversation import FIRST, conversation
from tests.clients.interop.foreign import foreign_process
from triosfu.peer import ChannelState, PeerSettings, PeerState

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.interop.foreign import ForeignProcess

IMPATIENT = PeerSettings(disconnected_after=1, failed_after=3)
# These close DTLS when a connection is closed. node-datachannel shuts SCTP down, and closes DTLS if that is answered
# before it goes; werift just falls silent.
SAYS_GOODBYE = {"aiortc", "chromium"}
MAY_SAY_GOODBYE = {"node-datachannel"}


@pytest.mark.parametrize("we_open", [True, False], ids=["ours", "theirs"])
@pytest.mark.parametrize("we_close", [True, False], ids=["we close", "they close"])
async def test_a_closed_channel_is_closed_on_both_sides_and_its_stream_is_free(
    process: ForeignProcess, we_open: bool, we_close: bool
) -> None:
    async with conversation(process) as both:
        streams = []
        for label in ("one", "two", "three"):
            ours, theirs = await both.both(label, we_open=we_open)
            streams.append(both.stream(ours))
            if we_close:
                await ours.send(bytes(20_000))
                await ours.send(b"last words", binary=False)
                ours.close()
            else:
                await both.theirs.send(theirs, bytes(20_000), "last words")
                await both.theirs.close_channel(theirs)
            await both.closed(label)
            assert ours.state is ChannelState.CLOSED
            expected = [bytes(20_000), "last words"]
            if not we_close:
                assert both.messages(label) == expected
            elif process.kind != "node-datachannel":  # which may drop, at a close, what it has not yet passed on
                assert await both.theirs.received(label, 2) == expected
            await both.is_free(streams[-1])
        assert len(set(streams)) == 1
        # The others know nothing of it.
        await both.ours.channels[FIRST].send(b"still here")
        assert await both.theirs.received(FIRST, 1) == [b"still here"]


async def test_when_they_end_ours_ends(process: ForeignProcess) -> None:
    async with conversation(process, settings=IMPATIENT) as both:
        began = time.monotonic()
        await both.theirs.close()
        if process.kind != "werift":
            await both.ours.until(lambda side: FIRST in side.ended)
            assert time.monotonic() - began < 1
        await both.ours.until(lambda side: side.peer.state in {PeerState.CLOSED, PeerState.FAILED})
        closed = both.ours.states[-1] is PeerState.CLOSED
        assert closed or process.kind not in SAYS_GOODBYE
        if closed and process.kind in SAYS_GOODBYE | MAY_SAY_GOODBYE:
            assert both.ours.reasons[-1] == "close_notify"
            assert time.monotonic() - began < 1
        else:
            assert both.ours.states[-2:] == [PeerState.DISCONNECTED, PeerState.FAILED]


async def test_when_we_end_they_learn_it_at_once(process: ForeignProcess) -> None:
    async with conversation(process) as both:
        began = time.monotonic()
        both.ours.peer.close("goodbye")
        await both.theirs.closed(FIRST)
        assert time.monotonic() - began < 2


async def test_a_peer_that_is_killed_is_missed_in_time(network: None, artifacts: Path) -> None:
    with foreign_process("werift", artifacts / "interop-killed.log") as process:
        async with conversation(process, settings=IMPATIENT) as both:
            process.kill()
            began = time.monotonic()
            await both.ours.until(lambda side: side.peer.state is PeerState.FAILED)
            assert both.ours.states[-2:] == [PeerState.DISCONNECTED, PeerState.FAILED]
            assert time.monotonic() - began < 6
