"""Channels opened by either side, whoever offers: their names, their reliability, many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.interop.conversation import FIRST, conversation
from triosfu.sdp.directions import Setup

if TYPE_CHECKING:
    from tests.clients.interop.foreign import ForeignProcess

NAMES = [("", ""), ("plain", "p/1"), ("l" * 1000, "p" * 500), ("Grüße, 世界 🙂", "протокол")]
COUNTS_CHARACTERS = {"aiortc", "werift"}  # for the lengths in OPEN, where RFC 8832 has bytes
RELIABILITY: list[dict[str, Any]] = [
    {},
    {"ordered": False},
    {"maxRetransmits": 0},
    {"ordered": False, "maxRetransmits": 3},
    {"maxPacketLifeTime": 250},
    {"ordered": False, "maxPacketLifeTime": 5000},
]


@pytest.mark.parametrize(
    ("we_offer", "answers"),
    [(True, Setup.ACTIVE), (False, Setup.ACTIVE), (False, Setup.PASSIVE)],
    ids=["our offer", "their offer", "their offer, as our server answers it"],
)
async def test_either_side_offers_and_opens(process: ForeignProcess, we_offer: bool, answers: Setup) -> None:
    # It opens odd streams wherever it offers, though a DTLS client's are even: they are refused, and nothing else is.
    refused = process.kind == "werift" and answers is Setup.PASSIVE
    async with conversation(process, we_offer=we_offer, answers=answers, first_refused=refused) as both:
        # Who answers is the DTLS client, but where we would not be; and the client's streams are the even ones.
        client = both.ours.peer._transport.dtls_client
        assert client is (not we_offer and answers is Setup.ACTIVE)
        if not refused:
            first = both.ours.channels[FIRST]
            assert both.theirs.of("open", label=FIRST)[0]["stream"] in {both.stream(first), None}
            assert both.stream(first) % 2 == (0 if client is we_offer else 1)
        for we_open in (True,) if refused else (True, False):
            label = f"opened by {'us' if we_open else 'them'}"
            ours, theirs = await both.both(label, we_open=we_open)
            assert both.stream(ours) == both.theirs.of("open", label=label)[0]["stream"]
            assert both.stream(ours) % 2 == (0 if client is we_open else 1)
            await ours.send(b"there")
            await both.theirs.send(theirs, "and back")
            assert await both.theirs.received(label, 1) == [b"there"]
            assert await both.received(label, 1) == ["and back"]


@pytest.mark.parametrize("we_open", [True, False], ids=["ours", "theirs"])
async def test_labels_and_protocols_arrive_as_they_were_given(process: ForeignProcess, we_open: bool) -> None:
    async with conversation(process) as both:
        for label, protocol in NAMES:
            if not we_open and process.kind in COUNTS_CHARACTERS and not label.isascii():
                # The lengths in their OPEN are not those of what follows: that channel is refused, nothing else is.
                await both.theirs.open(label, protocol=protocol)
                await both.theirs.closed(label)
                continue
            ours, _ = await both.both(label, we_open=we_open, protocol=protocol)
            event = both.theirs.of("open", label=label)[0]
            assert (ours.label, event["label"]) == (label, label)
            assert (ours.protocol, event["protocol"]) == (protocol, protocol)
            assert event["opened_here"] is not we_open
        await both.ours.channels[FIRST].send(b"still here")
        assert await both.theirs.received(FIRST, 1) == [b"still here"]


@pytest.mark.parametrize("we_open", [True, False], ids=["ours", "theirs"])
async def test_the_other_side_learns_how_reliable_a_channel_is(process: ForeignProcess, we_open: bool) -> None:
    async with conversation(process) as both:
        for number, options in enumerate(RELIABILITY):
            label = f"channel {number}"
            ours, _ = await both.both(label, we_open=we_open, **options)
            expected = [options.get("ordered", True), options.get("maxRetransmits"), options.get("maxPacketLifeTime")]
            if not we_open and process.kind == "werift" and any(expected[1:]):
                assert both.reliability(ours) == [True, *expected[1:]]  # its OPEN cannot say both
            else:
                assert both.reliability(ours) == expected
            seen = both.theirs.of("open", label=label)[0]["reliability"]
            assert seen == (None if we_open and process.kind == "node-datachannel" else expected)


@pytest.mark.parametrize("we_open", [True, False], ids=["ours", "theirs"])
async def test_fifty_channels_at_once(process: ForeignProcess, we_open: bool) -> None:
    async with conversation(process) as both:
        labels = [f"channel {number}" for number in range(50)]
        for label in labels:
            if we_open:
                both.ours.peer.open_channel(label)
            else:
                await both.theirs.open(label)
        for label in labels:
            ours, event = await both.ours.opened(label), await both.theirs.opened(label)
            assert both.stream(ours) == event["stream"]
            await ours.send(f"to {label}".encode(), binary=False)
            await both.theirs.send(event["channel"], f"from {label}")
        for label in labels:
            assert await both.theirs.received(label, 1) == [f"to {label}"]
            assert await both.received(label, 1) == [f"from {label}"]
