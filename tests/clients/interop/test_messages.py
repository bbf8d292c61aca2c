"""Text and binary, from nothing to 256 KiB; what is too large is refused before anything is queued."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.clients.interop.conversation import conversation
from tests.clients.interop.foreign import Refused
from triosfu.errors import UsageError

if TYPE_CHECKING:
    from tests.clients.interop.foreign import ForeignProcess

KIB = 1024
LARGE = 256 * KIB
ANNOUNCED = {"aiortc": LARGE, "node-datachannel": LARGE, "werift": 64 * KIB, "chromium": LARGE}
NO_EMPTY_MESSAGES = {"werift"}  # one that it is to send holds up all behind it, on every channel


async def test_text_and_binary_and_nothing_at_all(process: ForeignProcess) -> None:
    messages: list[str | bytes] = [b"\x00\xff bytes", "Grüße, 世界 🙂", "", b"", "a\x00b", b"end"]
    async with conversation(process) as both:
        ours, theirs = await both.both("mixed")
        for message in messages:
            if isinstance(message, str):
                await ours.send(message.encode(), binary=False)
            else:
                await ours.send(message)
        assert await both.theirs.received("mixed", len(messages)) == messages
        back = [one for one in messages if one or process.kind not in NO_EMPTY_MESSAGES]
        await both.theirs.send(theirs, *back)
        assert await both.received("mixed", len(back)) == back


async def test_a_quarter_of_a_mebibyte_goes_both_ways(process: ForeignProcess) -> None:
    binary = Random(1).randbytes(LARGE)
    text = "ä" * (LARGE // 2)
    # werift says that it takes 64 KiB, and takes this too when it comes.
    async with conversation(process, max_message_size=LARGE) as both:
        ours, theirs = await both.both("large")
        await ours.send(binary)
        await ours.send(text.encode(), binary=False)
        await both.theirs.send(theirs, binary, text)
        assert await both.theirs.received("large", 2) == [binary, text]
        assert await both.received("large", 2) == [binary, text]


async def test_what_is_larger_than_the_peer_takes_is_refused_and_nothing_queued(process: ForeignProcess) -> None:
    limit = ANNOUNCED[process.kind]
    async with conversation(process) as both:
        ours, _ = await both.both("limited")
        for size in (limit + 1, KIB * KIB):
            await ours.send(bytes(limit))
            before = ours.buffered
            assert before > 0
            with pytest.raises(UsageError, match=f"a message of {size} bytes; the client takes {limit}"):
                ours.send_nowait(bytes(size), binary=False)
            assert ours.buffered == before
            with pytest.raises(UsageError, match=f"a message of {size} bytes; the client takes {limit}"):
                await ours.send(bytes(size))
            assert ours.buffered <= before
        await ours.send(b"after it", binary=False)
        assert await both.theirs.received("limited", 3) == [bytes(limit), bytes(limit), "after it"]


async def test_they_refuse_what_is_larger_than_we_take(process: ForeignProcess) -> None:
    async with conversation(process) as both:
        _, theirs = await both.both("limited")
        with pytest.raises(Refused):
            await both.theirs.send(theirs, bytes(KIB * KIB))
        await both.theirs.send(theirs, "after it")
        assert await both.received("limited", 1) == ["after it"]
