"""What is queued when an association ends or begins again goes at once: by reference counts, without the collector.

A client that vanished may have had 16 MiB waiting for it on each channel.
"""

from __future__ import annotations

import math
import sys
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.support.network import FULL, PLAIN, established
from triosfu.sctp.core import Association, Ended, Restarted, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.network import Network
    from triosfu.sctp.core import Settings

MESSAGES = 50


def abort_here(network: Network, left: Association, right: Association) -> None:
    del right
    left.abort("enough", network.now)


def abort_there(network: Network, left: Association, right: Association) -> None:
    right.abort("enough", network.now)
    for data in right.datagrams_to_send():
        left.receive_datagram(data, network.now)


def vanish(network: Network, left: Association, right: Association) -> None:
    """The peer hears nothing any more: after ten time-outs it is dead."""
    del right
    network.paths[0].dark = network.paths[1].dark = (network.now, math.inf)
    network.run(until=network.now + 1000, done=lambda: left.state is State.ENDED)


def begin_again(network: Network, left: Association, right: Association) -> None:
    """The peer has lost its memory."""
    del right
    other = Association(now=network.now, rng=Random(99))
    other.connect(network.now)
    for _ in range(2):
        for data in other.datagrams_to_send():
            left.receive_datagram(data, network.now)
        for data in left.datagrams_to_send():
            other.receive_datagram(data, network.now)


@pytest.mark.parametrize("settings", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize(
    ("end", "event"),
    [(abort_here, Ended), (abort_there, Ended), (vanish, Ended), (begin_again, Restarted)],
    ids=lambda value: value.__name__,
)
@pytest.mark.usefixtures("no_collector")
def test_queued_messages_go_with_the_association(
    end: Callable[[Network, Association, Association], None], event: type, settings: Settings
) -> None:
    network = established(settings=settings)
    left, right = network.ends
    assert isinstance(left, Association)
    assert isinstance(right, Association)
    data = bytes(60_000)
    before = sys.getrefcount(data)
    for number in range(MESSAGES):
        left.send(number % 5, data, ppid=53, now=network.now)
    left.datagrams_to_send()
    assert sys.getrefcount(data) >= before + MESSAGES - 2, "some are on their way, the others wait"
    end(network, left, right)
    assert any(isinstance(one, event) for one in [*left.events(), *network.events[0]])
    assert sys.getrefcount(data) == before
