"""P11: a restart of the peer is visible, once, and nothing of the old association gets into the new."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.support.channels import channels, connected
from tests.support.network import Network, established
from tests.support.schedules import both, seeds
from triosfu.datachannel.core import ChannelClosed, ChannelMessage, ChannelOpened
from triosfu.sctp.core import Association, Ended, Message, Restarted, State


def test_p11_a_restart_of_the_peer_closes_every_channel_once() -> None:
    network, left, right = connected()
    channel = right.open("mine", now=1.0)
    network.run(until=2.0)
    right.send(channel, b"x" * 30_000, now=2.0)
    reborn = channels(77, client=True)
    again = Network(reborn, right)
    again.now = 2.0
    reborn.connect(2.0)
    again.run(until=4.0)
    assert again.of(1, ChannelClosed) == [ChannelClosed(channel, "the peer restarted")]
    assert again.of(0, ChannelMessage) == []
    anew = right.open("anew", now=4.0)
    again.run(until=5.0)
    assert again.of(1, ChannelOpened) == [ChannelOpened(anew, "anew", "", True, False)]
    del left


def test_p11_a_restart_resets_everything_and_is_reported() -> None:
    """P11: nothing of the old association arrives in the new one."""
    network = established()
    left, right = network.ends
    assert isinstance(right, Association)
    right.send(5, b"old" * 1000, ppid=53, now=1.0)
    reborn = Association(now=1.0, rng=Random(99))
    again = Network(reborn, right, seed=3)
    again.now = 1.0
    reborn.connect(1.0)
    again.run(until=3.0)
    assert reborn.state is right.state is State.ESTABLISHED
    assert again.of(1, Restarted) == [Restarted()]
    assert again.of(1, Ended) == []
    assert right.total_buffered == 0
    assert again.of(0, Message) == []
    reborn.send(5, b"new", ppid=53, now=3.0)
    right.send(5, b"new", ppid=53, now=3.0)
    again.run(until=4.0)
    assert [m.data for m in again.of(0, Message)] == [m.data for m in again.of(1, Message)] == [b"new"]
    del left


@given(seed=seeds, after=st.floats(0, 0.5), sizes=st.lists(st.integers(1, 30_000), min_size=1, max_size=8))
def test_p11_a_restart_at_any_moment_drops_all_that_was_under_way(seed: int, after: float, sizes: list[int]) -> None:
    """The old packets come late, after the restart, and once more."""
    network = established(seed)
    left, right = both(network)
    for size in sizes:
        left.send(5, b"o" * size, ppid=53, now=1.0)
        right.send(5, b"o" * size, ppid=53, now=1.0)
    network.run(until=1.0 + after)
    old = [data for _, data in network.paths[0].sent]
    right.events()
    reborn = Association(now=network.now, rng=Random(seed + 99))
    again = Network(reborn, right, seed=seed)
    again.now = network.now
    reborn.connect(again.now)
    again.run(until=again.now + 0.5)
    assert again.of(1, Restarted) == [Restarted()]
    for data in old:
        right.receive_datagram(data, again.now)
    reborn.send(5, b"new", ppid=53, now=again.now)
    right.send(5, b"new", ppid=53, now=again.now)
    again.run(until=again.now + 10.0)
    assert again.of(0, Ended) == again.of(1, Ended) == []
    restarted = again.events[1].index(Restarted())
    arrived = [event for event in again.events[1][restarted:] if isinstance(event, Message)]
    assert [message.data for message in again.of(0, Message)] == [message.data for message in arrived] == [b"new"]
