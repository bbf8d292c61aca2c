"""Channels that both ends have agreed on elsewhere: no OPEN, no ACK."""

from __future__ import annotations

import pytest

from tests.support.channels import channels, connected
from tests.support.network import Network
from triosfu.datachannel.core import ChannelClosed, ChannelMessage, ChannelOpened, DataChannels
from triosfu.datachannel.wire import Open, Ppid
from triosfu.errors import UsageError
from triosfu.sctp.core import StreamReset
from triosfu.sctp.wire import Data


def opened_at_both_ends(stream: int = 6) -> tuple[Network, DataChannels, DataChannels]:
    left, right = channels(1, client=True), channels(2, client=False)
    network = Network(left, right)
    for end in (left, right):
        assert end.open("agreed", negotiated=stream, ordered=False, now=0.0) == 0
        end.connect(0.0)
    return network, left, right


def test_it_is_open_when_the_association_is_up_and_nothing_is_sent_for_it() -> None:
    network, left, right = opened_at_both_ends()
    left.send(0, b"before", now=0.0)
    network.run(until=1.0)
    right.send(0, b"after", now=1.0)
    network.run(until=2.0)
    for end in range(2):
        assert network.of(end, ChannelOpened) == [ChannelOpened(0, "agreed", "", False, False)]
    assert network.of(1, ChannelMessage) == [ChannelMessage(0, b"before", True)]
    assert network.of(0, ChannelMessage) == [ChannelMessage(0, b"after", True)]
    assert {c.ppid for path in network.paths for c in path.chunks() if isinstance(c, Data)} == {Ppid.BINARY}


def test_it_is_open_at_once_on_an_association_that_is_up() -> None:
    _, left, _ = connected()
    channel = left.open("late", negotiated=7, now=1.0)
    assert left.events() == [ChannelOpened(channel, "late", "", True, False)]


def test_without_an_association_it_is_closed_in_time() -> None:
    left = channels(1, client=None)
    left.open("agreed", negotiated=3, now=0.0)
    left.handle_timeout(10.0)
    assert left.events() == [ChannelClosed(0, "open timed out")]


def test_an_open_on_its_stream_is_ignored() -> None:
    network, left, right = opened_at_both_ends()
    network.run(until=1.0)
    request = Open.for_channel("x", "", ordered=True, max_retransmits=None, lifetime=None)
    left._association.send(6, request.serialize(), ppid=Ppid.DCEP, now=1.0)
    network.run(until=2.0)
    right.send(0, b"still here", now=2.0)
    network.run(until=3.0)
    assert network.of(0, ChannelMessage) == [ChannelMessage(0, b"still here", True)]
    assert network.of(1, ChannelClosed) == []


def test_it_closes_as_others_do_and_its_stream_is_free_again() -> None:
    network, left, right = opened_at_both_ends()
    network.run(until=1.0)
    left.close(0, 1.0)
    network.run(until=2.0)
    for end in range(2):
        assert [event.id for event in network.of(end, ChannelClosed)] == [0]
    assert left.open("again", negotiated=6, now=2.0) == right.open("again", negotiated=6, now=2.0) == 1
    assert network.of(0, StreamReset) == []


def test_the_stream_of_another_channel_is_refused_and_others_step_aside() -> None:
    _, left, _ = connected()
    left.open("agreed", negotiated=0, now=1.0)
    for stream in (0, -1, 65535):
        with pytest.raises(UsageError):
            left.open("again", negotiated=stream, now=1.0)
    other = left.open("other", now=1.0)
    assert left.info(other).stream_id == 2
