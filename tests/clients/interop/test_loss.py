"""Through a relay that loses one datagram in twenty and lets some overtake others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.clients.interop.conversation import conversation

if TYPE_CHECKING:
    from tests.clients.interop.foreign import ForeignProcess

LOSS, JITTER = 0.05, 0.03
MESSAGES, BATCH = 60, 15
CHANNELS: dict[str, dict[str, Any]] = {
    "reliable": {},
    "reliable unordered": {"ordered": False},
    "retransmits 0 unordered": {"ordered": False, "maxRetransmits": 0},
    "retransmits 0": {"maxRetransmits": 0},
    "lifetime": {"maxPacketLifeTime": 200},
}


def numbered(number: int) -> bytes:
    """Of one to three packets."""
    return number.to_bytes(2) + bytes(number * 37 % 2500)


def numbers(messages: list[str | bytes]) -> list[int]:
    """The numbers of messages that are whole and unchanged."""
    found = []
    for message in messages:
        assert isinstance(message, bytes)
        found.append(int.from_bytes(message[:2]))
        assert message == numbered(found[-1])
    return found


async def test_loss_and_reordering_cost_only_what_may_be_lost(process: ForeignProcess) -> None:
    # werift passes on what was complete behind a gap only when more comes on that channel, unless the channel is the
    # only one that sends: it has one at a time.
    together = [[label] for label in CHANNELS] if process.kind == "werift" else [list(CHANNELS)]
    async with conversation(process, relayed=7) as both:
        assert both.between is not None
        both.between.loss, both.between.jitter = LOSS, JITTER
        for labels in together:
            channels = {label: await both.both(label, **CHANNELS[label]) for label in labels}
            for begin in range(0, MESSAGES, BATCH):
                batch = [numbered(number) for number in range(begin, begin + BATCH)]
                for ours, theirs in channels.values():
                    for message in batch:
                        await ours.send(message)
                    await both.theirs.send(theirs, *batch)
            for label in labels:
                if label.startswith("reliable"):
                    await both.theirs.received(label, MESSAGES)
                    await both.received(label, MESSAGES)
        for label, options in CHANNELS.items():
            for heard in (numbers(both.messages(label)), numbers(both.theirs.messages(label))):
                assert len(set(heard)) == len(heard)
                if options.get("ordered", True):
                    assert heard == sorted(heard)
                if label.startswith("reliable"):
                    assert sorted(heard) == list(range(MESSAGES))
        assert both.between.counters["lost"] > 10
        assert both.between.counters["overtaken"] > 10
