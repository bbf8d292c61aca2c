from __future__ import annotations

import gc
import math
import sys
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.checks.dcep import check_datachannels
from tests.support.channels import channels, connected
from tests.support.network import Network
from triosfu.datachannel.core import (
    ChannelClosed,
    ChannelMessage,
    ChannelOpened,
    ChannelState,
    DataChannels,
    Ended,
)
from triosfu.datachannel.wire import Ack, Open, Ppid
from triosfu.errors import UsageError
from triosfu.sctp.core import Association, Established, Settings, StreamReset
from triosfu.sctp.wire import BEGIN, END, UNORDERED, Data, Packet, ReConfig


class Raw:
    """An end that speaks SCTP but leaves data channels to the test."""

    def __init__(self) -> None:
        self.core = Association(now=0.0, rng=Random(5))
        self.ours = channels(6, client=True)
        self.network = Network(self.ours, self.core)
        self.core.connect(0.0)
        self.network.run(until=1.0)

    def say(self, stream: int, data: bytes, ppid: int = Ppid.DCEP, *, ordered: bool = True) -> None:
        self.core.send(stream, data, ppid=ppid, now=self.network.now, ordered=ordered)
        self.network.run(until=self.network.now + 1.0)

    def heard(self) -> list[Any]:
        return [event for event in self.network.events[1] if not isinstance(event, Established)]

    def events(self) -> list[Any]:
        return self.network.events[0]


OPEN = Open.for_channel("x", "", ordered=True, max_retransmits=None, lifetime=None).serialize()


def test_a_channel_opens_with_its_properties_on_both_ends() -> None:
    network, left, right = connected()
    channel = left.open("label", protocol="p", ordered=False, max_retransmits=3, now=1.0)
    network.run(until=2.0)
    assert network.events == (
        [ChannelOpened(channel, "label", "p", False, False)],
        [ChannelOpened(0, "label", "p", False, True)],
    )
    ours, theirs = left.info(channel), right.info(0)
    assert (ours.stream_id, ours.max_retransmits, ours.lifetime, ours.by_peer) == (0, 3, None, False)
    assert (theirs.stream_id, theirs.max_retransmits, theirs.lifetime, theirs.by_peer) == (0, 3, None, True)
    assert ours.state is theirs.state is ChannelState.OPEN
    assert left.open("lifetime", lifetime=0.25, now=2.0) == 1
    network.run(until=3.0)
    assert right.info(1).lifetime == 0.25
    assert right.info(1).stream_id == 2


def test_the_server_takes_odd_streams() -> None:
    network, left, right = connected()
    right.open("a", now=1.0)
    right.open("b", now=1.0)
    network.run(until=2.0)
    assert [info.stream_id for info in left.channels()] == [1, 3]


def test_channels_may_be_opened_and_used_before_anything_is_known() -> None:
    """Trap: neither the role nor the association is there; nothing waits, all arrives in order."""
    left, right = channels(1, client=None), channels(2, client=None)
    channel = left.open("early", ordered=False, now=0.0)
    left.send(channel, b"one", now=0.0)
    left.send(channel, b"two", binary=False, now=0.0)
    assert left.info(channel).stream_id is None
    assert left.buffered(channel) == 6
    left.set_role(dtls_client=False, now=0.1)
    right.set_role(dtls_client=True, now=0.1)
    network = Network(left, right)
    left.connect(0.1)
    right.connect(0.1)
    network.run(until=2.0)
    assert left.info(channel).stream_id == 1
    assert network.events[1] == [
        ChannelOpened(0, "early", "", False, True),
        ChannelMessage(0, b"one", True),
        ChannelMessage(0, b"two", False),
    ]
    assert left.buffered(channel) == 0


def test_before_the_ack_an_unordered_channel_sends_ordered() -> None:
    network, left, _ = connected()
    channel = left.open("x", ordered=False, now=1.0)
    left.send(channel, b"before", now=1.0)
    network.run(until=2.0)
    left.send(channel, b"after", now=2.0)
    network.run(until=3.0)
    flags = {chunk.payload: chunk.flags for chunk in network.paths[0].chunks() if isinstance(chunk, Data)}
    assert flags[b"before"] == BEGIN | END
    assert flags[b"after"] == BEGIN | END | UNORDERED


def test_empty_messages_have_ppids_of_their_own() -> None:
    network, left, _ = connected()
    channel = left.open("x", now=1.0)
    left.send(channel, b"", binary=True, now=1.0)
    left.send(channel, b"", binary=False, now=1.0)
    network.run(until=2.0)
    assert network.of(1, ChannelMessage) == [ChannelMessage(0, b"", True), ChannelMessage(0, b"", False)]
    sent = [(chunk.ppid, chunk.payload) for chunk in network.paths[0].chunks() if isinstance(chunk, Data)]
    assert sent[1:] == [(57, b"\0"), (56, b"\0")]


@pytest.mark.parametrize(("ppid", "binary"), [(51, False), (52, True), (53, True), (54, False)])
def test_partial_ppids_are_understood(ppid: int, binary: bool) -> None:
    raw = Raw()
    raw.say(1, OPEN)
    raw.say(1, b"data", ppid)
    assert raw.events()[-1] == ChannelMessage(0, b"data", binary)


def test_an_unknown_ppid_is_dropped() -> None:
    raw = Raw()
    raw.say(1, OPEN)
    raw.say(1, b"data", 99)
    raw.say(1, b"more", 53)
    assert raw.events()[1:] == [ChannelMessage(0, b"more", True)]


def test_the_first_message_of_the_peer_is_as_good_as_its_ack() -> None:
    raw = Raw()
    channel = raw.ours.open("x", now=raw.network.now)
    raw.say(0, b"hello", Ppid.TEXT)
    assert raw.events() == [ChannelOpened(channel, "x", "", True, False), ChannelMessage(channel, b"hello", False)]
    raw.say(0, Ack().serialize())
    assert len(raw.events()) == 2


@pytest.mark.parametrize("dark", [(0,), (1,), (0, 1)])
def test_an_open_is_over_within_ten_seconds(dark: tuple[int, ...]) -> None:
    """P2: whatever the path does, and however much is queued before it."""
    network, left, _ = connected()
    bulk = left.open("bulk", now=1.0)
    network.run(until=1.5)
    for direction in dark:
        network.paths[direction].dark = (1.5, math.inf)
    for _ in range(100):
        left.send(bulk, bytes(60_000), now=1.5)
    channel = left.open("x", now=1.5)
    network.run(until=60.0, done=lambda: bool(network.of(0, ChannelClosed)))
    assert network.of(0, ChannelClosed) == [ChannelClosed(channel, "open timed out")]
    assert network.now == pytest.approx(11.5)
    with pytest.raises(UsageError):
        left.send(channel, b"x", now=12.0)


def test_an_open_that_times_out_gives_up_what_was_sent_on_it() -> None:
    network, left, _ = connected()
    network.paths[0].dark = (1.0, math.inf)
    channel = left.open("x", now=1.0)
    for _ in range(50):
        left.send(channel, bytes(10_000), now=1.0)
    network.run(until=11.5)
    assert network.of(0, ChannelClosed) == [ChannelClosed(channel, "open timed out")]
    assert left.total_buffered <= 10_000, "of a message that has been begun the rest must follow"


def test_an_open_that_never_gets_a_role_is_over_within_ten_seconds() -> None:
    left = channels(1, client=None)
    channel = left.open("x", now=3.0)
    assert left.next_timeout() == 13.0
    left.handle_timeout(12.9)
    assert left.events() == []
    left.handle_timeout(13.0)
    assert left.events() == [ChannelClosed(channel, "open timed out")]
    assert left.next_timeout() == math.inf


def test_an_open_goes_ahead_of_queued_data() -> None:
    network, left, _ = connected()
    bulk = left.open("bulk", now=1.0)
    network.run(until=1.5)
    for _ in range(100):
        left.send(bulk, bytes(50_000), now=1.5)
    network.flush()
    left.open("x", now=1.5)
    network.run(until=20.0, done=lambda: len(network.of(1, ChannelOpened)) == 2)
    assert network.now < 2.0
    assert left.total_buffered > 1_000_000


def test_closing_delivers_what_was_sent_and_ends_once_on_both_ends() -> None:
    network, left, right = connected()
    channel = left.open("x", now=1.0)
    for number in range(30):
        left.send(channel, bytes([number]) * 3000, now=1.0)
    network.run(until=1.1)
    left.close(channel, 1.1)
    left.close(channel, 1.1)
    with pytest.raises(UsageError):
        left.send(channel, b"late", now=1.1)
    network.run(until=9.0)
    assert [m.data[0] for m in network.of(1, ChannelMessage)] == list(range(30))
    assert network.of(0, ChannelClosed) == [ChannelClosed(channel, "closed")]
    assert network.of(1, ChannelClosed) == [ChannelClosed(0, "closed by the peer")]
    assert left.channels() == right.channels() == []
    assert left.open("again", now=9.0) == 1
    network.run(until=10.0)
    assert left.info(1).stream_id == 0, "the stream is free again"
    left.send(1, b"anew", now=10.0)
    network.run(until=11.0)
    assert network.of(1, ChannelMessage)[-1] == ChannelMessage(1, b"anew", True)


def test_both_ends_close_at_once() -> None:
    network, left, right = connected()
    channel = left.open("x", now=1.0)
    network.run(until=2.0)
    left.close(channel, 2.0)
    right.close(0, 2.0)
    network.run(until=5.0)
    assert len(network.of(0, ChannelClosed)) == len(network.of(1, ChannelClosed)) == 1
    assert not left._by_stream
    assert not right._by_stream


def test_a_peer_that_never_answers_a_close_does_not_keep_the_channel() -> None:
    raw = Raw()
    channel = raw.ours.open("x", now=1.0)
    raw.say(0, Ack().serialize())
    raw.core.datagrams_to_send()
    raw.ours.close(channel, 3.0)
    raw.network.run(until=20.0)  # the other end answers the request but never resets its own side
    assert raw.events()[-1] == ChannelClosed(channel, "closed, without an answer of the peer")
    assert raw.network.times[0][-1] == pytest.approx(13.0)
    assert raw.ours.open("y", now=20.0) == 1
    assert raw.ours.info(1).stream_id == 2, "the stream is in quarantine"


def test_closing_at_the_deadline_of_the_open_takes_its_own_time() -> None:
    network, left, _ = connected()
    channel = left.open("x", now=1.0)
    network.run(until=9.0)
    network.paths[1].dark = (9.0, math.inf)
    left.close(channel, 9.0)
    network.run(until=18.9)
    assert network.of(0, ChannelClosed) == []
    network.run(until=19.1)
    assert len(network.of(0, ChannelClosed)) == 1


def test_closing_before_there_is_a_stream_is_immediate() -> None:
    left = channels(1, client=None)
    channel = left.open("x", now=0.0)
    left.close(channel, 1.0)
    assert left.events() == [ChannelClosed(channel, "closed")]
    left.set_role(dtls_client=True, now=2.0)
    assert left.channels() == []


def test_a_peer_that_reuses_a_stream_before_we_know_it_is_free() -> None:
    """Its answer to our reset is lost, its new OPEN is not."""
    network, left, right = connected()
    channel = left.open("x", now=1.0)
    network.run(until=2.0)
    left.close(channel, 2.0)
    answers = [0]

    def swallow(data: bytes, _now: float) -> bool:
        if any(isinstance(chunk, ReConfig) for chunk in Packet.parse(data).chunks):
            answers[0] += 1
            return answers[0] == 2  # the first is the request, the second the answer to the other end's
        return False

    network.paths[0].swallow = swallow
    network.run(until=2.3, done=lambda: bool(network.of(0, ChannelClosed)))
    again = left.open("again", now=network.now)
    left.send(again, b"hello", now=network.now)
    network.run(until=15.0)
    assert left.info(again).stream_id == 0
    assert ChannelMessage(1, b"hello", True) in network.events[1]
    assert len(right.channels()) == 1


@pytest.mark.parametrize(
    ("stream", "what"),
    [
        (0, OPEN),  # wrong parity
        (1, OPEN + b"x"),  # lengths disagree
        (1, b"\7nonsense"),
        (65534, OPEN),  # wrong parity again, at the edge
    ],
)
def test_a_bad_open_resets_its_stream_only(stream: int, what: bytes) -> None:
    raw = Raw()
    raw.say(stream, what)
    assert raw.events() == []
    assert raw.heard() == [StreamReset(stream)]
    raw.say(3, OPEN)
    assert raw.events() == [ChannelOpened(0, "x", "", True, True)]


def test_a_second_open_on_a_stream_closes_its_channel() -> None:
    raw = Raw()
    raw.say(1, OPEN)
    raw.say(1, OPEN)
    assert raw.events()[1:] == [ChannelClosed(0, "the peer opened a stream that is in use")]
    assert StreamReset(1) in raw.heard()


def test_data_without_an_open_is_dropped_and_its_stream_reset() -> None:
    raw = Raw()
    for _ in range(20):
        raw.say(5, b"stray", Ppid.BINARY)
    assert raw.events() == []
    assert StreamReset(5) in raw.heard()


def test_a_little_unordered_data_may_overtake_its_open() -> None:
    raw = Raw()
    raw.say(5, b"ahead", Ppid.BINARY, ordered=False)
    raw.say(5, OPEN)
    raw.say(5, b"after", Ppid.BINARY, ordered=False)
    assert raw.events() == [ChannelOpened(0, "x", "", True, True), ChannelMessage(0, b"after", True)]
    assert [event for event in raw.heard() if isinstance(event, StreamReset)] == []


def test_a_stream_that_is_being_reset_is_not_used() -> None:
    raw = Raw()
    raw.network.paths[1].swallow = lambda data, _now: any(isinstance(c, ReConfig) for c in Packet.parse(data).chunks)
    raw.say(0, OPEN)  # wrong parity: we reset our side, and the answer never comes
    raw.say(1, b"nonsense")
    channel = raw.ours.open("x", now=raw.network.now)
    assert raw.ours.info(channel).stream_id == 2
    raw.say(1, OPEN)
    assert [event for event in raw.events() if isinstance(event, ChannelOpened)] == []


def test_a_stream_of_ours_that_the_peer_has_used_is_free_when_it_has_reset_it_too() -> None:
    raw = Raw()
    raw.say(0, OPEN)  # wrong parity; our side is reset and confirmed, the peer's end of it is still to come
    first = raw.ours.open("x", now=raw.network.now)
    assert raw.ours.info(first).stream_id == 2
    raw.core.reset_stream(0, raw.network.now)
    raw.network.run(until=raw.network.now + 1.0)
    second = raw.ours.open("y", now=raw.network.now)
    assert raw.ours.info(second).stream_id == 0
    assert [event for event in raw.events() if isinstance(event, ChannelClosed)] == []


@pytest.mark.parametrize("streams", [10, 300])
def test_streams_that_the_peer_has_used_are_remembered_with_a_bound(streams: int) -> None:
    raw = Raw()
    for stream in range(0, 2 * streams, 2):
        raw.core.send(stream, OPEN, ppid=Ppid.DCEP, now=raw.network.now)
    raw.network.run(until=raw.network.now + 20.0)
    assert len(raw.ours._refused) == min(streams, 256)


def test_a_peer_opens_so_many_channels_and_no_more() -> None:
    left, right = channels(1, client=True), channels(2, client=False, limit=10)
    network = Network(left, right)
    left.connect(0.0)
    network.run(until=1.0)
    for number in range(30):
        left.open(str(number), now=1.0)
    network.run(until=15.0)
    assert len(right.channels()) == 10
    assert len(network.of(0, ChannelClosed)) == 20
    assert len(network.of(0, ChannelOpened)) == 10


def test_a_peer_with_few_streams_gets_low_ones_and_no_others() -> None:
    left = channels(1, client=True)
    other = Association(now=0.0, rng=Random(2), settings=Settings(streams=4))
    right = DataChannels(other, dtls_client=False)
    network = Network(left, right)
    for number in range(4):
        left.open(str(number), now=0.0)
    left.connect(0.0)
    network.run(until=2.0)
    assert len(network.of(0, ChannelOpened)) == 2
    assert [event.reason for event in network.of(0, ChannelClosed)] == ["the peer accepts no more streams"] * 2
    assert left.open("later", now=2.0) == 4
    network.run(until=3.0)
    assert network.events[0][-1] == ChannelClosed(4, "no stream is free")


def test_messages_larger_than_the_peer_takes_are_refused_and_not_queued() -> None:
    network, left, _ = connected()
    channel = left.open("x", now=1.0)
    left.send(channel, bytes(65_536), now=1.0)
    before = left.buffered(channel)
    with pytest.raises(UsageError):
        left.send(channel, bytes(65_537), now=1.0)
    assert left.buffered(channel) == before
    left.remote_max_message_size = 0
    left.send(channel, bytes(200_000), now=1.0)
    network.run(until=20.0)
    assert [len(m.data) for m in network.of(1, ChannelMessage)] == [65_536, 200_000]


@pytest.mark.parametrize(
    "options", [{"label": "x" * 65_536}, {"protocol": "x" * 65_536}, {"max_retransmits": 1, "lifetime": 1.0}]
)
def test_an_impossible_channel_is_refused(options: dict[str, Any]) -> None:
    left = channels(1, client=True)
    with pytest.raises(UsageError):
        left.open(**{"label": "x", **options}, now=0.0)
    assert left.channels() == []


def test_the_end_of_the_association_closes_every_channel_once() -> None:
    network, left, right = connected()
    first = left.open("a", now=1.0)
    network.run(until=2.0)
    second = left.open("b", now=2.0)
    left.abort("bye", 2.0)
    left.abort("bye", 2.0)
    network.run(until=20.0)
    assert network.events[0][1:] == [ChannelClosed(first, "bye"), ChannelClosed(second, "bye"), Ended("bye")]
    reason = "aborted by the peer: user abort (bye)"
    assert network.events[1][1:] == [ChannelClosed(0, reason), Ended(reason)]
    assert left.next_timeout() == right.next_timeout() == math.inf
    with pytest.raises(UsageError):
        left.open("c", now=20.0)
    left.close(first, 20.0)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_messages_on_any_streams(data: bytes) -> None:
    check_datachannels(data)


def test_an_abort_lets_go_of_what_was_queued_at_once() -> None:
    # By reference counts, without the collector: a client that vanished may have had 16 MiB waiting for it.
    network, left, _ = connected()
    channel = left.open("label", now=1.0)
    network.run(until=2.0)
    data = bytes(60_000)
    gc.collect()
    gc.disable()
    try:
        before = sys.getrefcount(data)
        for _ in range(50):
            left.send(channel, data, now=2.0)
        assert sys.getrefcount(data) >= before + 50
        left.abort("gone", 2.0)
        assert sys.getrefcount(data) <= before + 1, "but for the one that is being sent"
    finally:
        gc.enable()


def test_a_channel_that_was_opened_and_closed_before_the_last_ones_end_was_confirmed_ends_as_well() -> None:
    """Both use one stream, and the answer to our reset is lost: what comes of the second channel has to wait."""
    network, left, right = connected()
    first = left.open("first", now=network.now)
    network.run(until=2.0)
    lost: list[bytes] = []

    def swallow(data: bytes, _now: float) -> bool:
        resets = any(isinstance(chunk, ReConfig) for chunk in Packet.parse(data).chunks)
        if resets and not lost and not left.channels():
            lost.append(data)  # the answer to the reset of the right side
            return True
        return False

    network.paths[0].swallow = swallow
    left.close(first, network.now)
    network.run(until=2.15)
    assert lost
    second = left.open("second", now=network.now)
    assert left._channels[second].stream_id == 0
    left.close(second, network.now)
    network.run(until=20.0)
    ids = [[event.id for event in events if isinstance(event, ChannelClosed)] for events in network.events]
    assert ids == [[first, second], [0, 1]]
    assert not left._by_stream
    assert not right._by_stream
